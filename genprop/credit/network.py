"""A feed-forward network from x to y, in which credit is to be assigned."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from genprop.credit.block import UNITS, Block

COSTS = ("cross-entropy", "squared")


class CreditNetwork(nn.Module):
    r"""Layers h_0 = x, h_l = F_l(h_{l-1}), of which the last is the output o.

    The cost of a row is -log softmax(o)_y, or ½‖o - y‖², where a class y stands for its one-hot
    vector.

    Args:
        blocks: F_1 to F_L.
        cost: ``"cross-entropy"`` for classes, or ``"squared"`` for classes or vectors.

    Raises:
        ValueError: an unknown cost, or blocks that do not fit on one another.

    >>> network = CreditNetwork.build(4, (8, 8), 3, unit="relu")
    >>> network(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, blocks: Iterable[Block], cost: str = "cross-entropy") -> None:
        super().__init__()
        if cost not in COSTS:
            raise ValueError(f"cost must be one of {', '.join(COSTS)}, but is {cost!r}")
        self.blocks, self.cost = nn.ModuleList(blocks), cost
        _check_blocks(self.layers)

    @classmethod
    def build(
        cls,
        inputs: int,
        widths: Sequence[int],
        outputs: int,
        unit: str = "tanh",
        cost: str = "cross-entropy",
        residual: bool = False,
        last: str = "identity",
    ) -> "CreditNetwork":
        """A perceptron.

        Args:
            inputs: elements of x.
            widths: of the hidden layers.
            outputs: classes, or elements of y.
            unit: of the hidden layers.
            cost: as of the class.
            residual: adds its input to every hidden layer but the first, whose own value is then
                scaled by 1/√L, so that depth does not blow values up.
            last: unit of the output.
        """
        blocks: list[Block] = []
        sends = "value"
        scale = max(len(widths), 1) ** -0.5
        for below, above in pairwise((inputs, *widths)):
            jumps = residual and bool(blocks)
            blocks.append(Block((below,), above, unit, sends, jumps, scale if jumps else 1.0))
            sends = UNITS[unit].sends
        blocks.append(Block(((inputs, *widths)[-1],), outputs, last, sends))
        return cls(blocks, cost)

    @property
    def layers(self) -> list[Block]:
        """The blocks F_1 to F_L, with their type."""
        return [block for block in self.blocks if isinstance(block, Block)]

    @property
    def outputs(self) -> int:
        """Classes, or elements of y."""
        return self.layers[-1].outputs

    def forward(self, x: Tensor, straight: bool = False) -> Tensor:
        """The output o of ``(rows, *shape)``."""
        for block in self.blocks:
            x = block(x, straight=straight)
        return x

    @torch.no_grad()
    def path(self, x: Tensor) -> list[Tensor]:
        """The values h_0 to h_L, as constants."""
        path = [x]
        for block in self.blocks:
            path.append(block(path[-1]))
        return path

    def wanted(self, y: Tensor) -> Tensor:
        """What the output ought to be: y itself, or the one-hot vector of a class."""
        dtype = self.layers[-1].weight.dtype
        if y.dtype.is_floating_point:
            return y.to(dtype)
        return functional.one_hot(y, self.outputs).to(dtype)

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """The cost of each row, of a complex output analytic in it."""
        wanted = self.wanted(y)
        if self.cost == "squared":
            return 0.5 * (output - wanted).square().sum(-1)
        highest = output.detach().real.amax(-1, keepdim=True)
        total = (output - highest).exp().sum(-1).log() + highest[..., 0]
        return total - (output * wanted).sum(-1)

    def score(self, output: Tensor, y: Tensor) -> Tensor:
        """The derivative of a row's cost by its output: o - y, or softmax(o) - y."""
        given = output if self.cost == "squared" else output.softmax(-1)
        return given - self.wanted(y)

    def check(self, x: Tensor, y: Tensor) -> None:
        """Raises ValueError where data do not fit the network."""
        if x.shape[1:] != self.layers[0].shape or len(x) != len(y):
            raise ValueError(
                f"expected x of shape (rows, {', '.join(map(str, self.layers[0].shape))}) and as "
                f"many rows of y, but got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if y.dtype.is_floating_point:
            _check_vectors(self, y)
        elif y.ndim != 1 or int(y.min()) < 0 or int(y.max()) >= self.outputs:
            raise ValueError(
                f"classes are whole numbers 0 to {self.outputs - 1}, one a row; got shape "
                f"{tuple(y.shape)} with values from {int(y.min())} to {int(y.max())}"
            )


def named(network: CreditNetwork) -> list[tuple[str, Block]]:
    """Each block with its name in terms, ``layer.1`` to ``layer.L``."""
    return [(f"layer.{number}", block) for number, block in enumerate(network.layers, 1)]


def needs_derivative(network: CreditNetwork) -> list[str]:
    """The names of the layers that receive signs or samples, through which no gradient passes."""
    return [name for name, block in named(network) if block.receives != "value"]


def _check_blocks(blocks: Sequence[Block]) -> None:
    if not blocks:
        raise ValueError("a network needs at least one block")
    for number, (low, high) in enumerate(pairwise(blocks), 1):
        flat = (torch.Size(low.out_shape).numel(),)
        if high.shape not in (low.out_shape, flat):
            raise ValueError(
                f"layer {number} gives {low.out_shape}, but layer {number + 1} expects {high.shape}"
            )
        if high.receives != UNITS[low.unit].sends:
            raise ValueError(
                f"layer {number} of {low.unit} units sends its {UNITS[low.unit].sends}, but layer "
                f"{number + 1} is built with receives={high.receives!r}"
            )
    if len(blocks[-1].out_shape) != 1:
        raise ValueError("the last block must be a matrix: its outputs are classes or elements")


def _check_vectors(network: CreditNetwork, y: Tensor) -> None:
    if network.cost != "squared" or y.shape[1:] != (network.outputs,):
        raise ValueError(
            f"a network of cost {network.cost!r} and {network.outputs} outputs cannot learn from "
            f"real y of shape {tuple(y.shape)}; use cost='squared' and (rows, {network.outputs})"
        )

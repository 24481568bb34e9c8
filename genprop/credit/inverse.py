"""Learned inverses of a network's blocks, for rules that bring targets down."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from genprop.credit.block import UNITS, Block, sent
from genprop.credit.network import CreditNetwork


class Inverse(nn.Module):
    r"""The way back through one block, G(h) = unit(V·h + c), or h + scale · (V h + c).

    The unit is that of the layer below, and the second form that of a residual block; V is a
    matrix, or a transposed convolution, which fills pooled squares evenly. Of signs only the sign
    of h comes down, as it goes up, unless the way back is graded; of stochastic units the
    probability.

    Args:
        block: what is inverted; shapes, residual path and kernel are its own.
        unit: of the layer below.
        shape: of the layer below, where that is not the block's own, flat as a matrix takes it.
        graded: whether of signs the value comes down.

    >>> Inverse(Block((3, 4, 4), 5, kernel=3, pool="max"), "tanh")(torch.zeros(2, 5, 2, 2)).shape
    torch.Size([2, 3, 4, 4])
    """

    def __init__(
        self, block: Block, unit: str, shape: tuple[int, ...] | None = None, graded: bool = False
    ) -> None:
        super().__init__()
        self.shape = shape or block.shape
        self.unit = "identity" if block.residual else unit
        # a difference of two draws would be noise
        self.sends = "sign" if UNITS[block.unit].sends == "sign" and not graded else "value"
        self.kernel, self.pool = block.kernel, block.pool
        self.residual, self.scale = block.residual, block.scale if block.residual else 1.0
        start = block.fresh()
        self.weight = nn.Parameter(start if block.kernel else start.mT.contiguous())
        self.bias = nn.Parameter(start.new_zeros(self.shape[0] if block.kernel else start.shape[1]))

    def forward(self, h: Tensor) -> Tensor:
        """G(h) of ``(rows, *out_shape)`` of the block."""
        value = UNITS[self.unit].act(self._map(sent(h, self.sends)))
        value = self.scale * value.reshape(-1, *self.shape)
        return h + value if self.residual else value

    def _map(self, h: Tensor) -> Tensor:
        if self.kernel is None:
            return functional.linear(h, self.weight, self.bias)
        if self.pool != "none":
            h = h.repeat_interleave(2, -1).repeat_interleave(2, -2)
            h = h / 4 if self.pool == "mean" else h
        return functional.conv_transpose2d(h, self.weight, self.bias, padding=self.kernel // 2)


class Inverses(nn.Module):
    """The inverses G_2 to G_L of a network's blocks; no layer needs targets for x.

    Args:
        network: whose blocks are inverted.
        top: whether the output layer has an inverse too.
        graded: as of ``Inverse``.

    >>> len(Inverses(CreditNetwork.build(4, (3, 3), 2)))
    1
    """

    def __init__(self, network: CreditNetwork, top: bool = False, graded: bool = False) -> None:
        super().__init__()
        blocks = network.layers
        last = len(blocks) if top else len(blocks) - 1
        self.maps = nn.ModuleList(
            Inverse(blocks[level], blocks[level - 1].unit, blocks[level - 1].out_shape, graded)
            for level in range(1, last)
        )

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, layer: int) -> Inverse:
        """G_l, for l from 2."""
        made = self.maps[layer - 2]
        assert isinstance(made, Inverse)
        return made

    def numbered(self) -> Iterator[tuple[int, Inverse]]:
        """Each l with G_l, from 2 up."""
        for layer in range(2, len(self) + 2):
            yield layer, self[layer]

    def check(self, network: CreditNetwork) -> None:
        """Raises ValueError where they were made for another network."""
        blocks = network.layers
        fits = len(blocks) - 2 <= len(self) <= max(len(blocks) - 1, 0) and all(
            inverse.shape == blocks[layer - 2].out_shape
            and inverse.weight.numel() == blocks[layer - 1].weight.numel()
            for layer, inverse in self.numbered()
        )
        if not fits:
            raise ValueError(
                "these inverses were made for another network; make the rule anew for this one"
            )


@torch.no_grad()
def reconstruction_errors(
    network: CreditNetwork, inverses: Inverses, x: Tensor
) -> dict[str, float]:
    """‖G_l(F_l(h)) - h‖² / ‖h - mean h‖² of each layer that has an inverse, over all rows.

    Args:
        network: whose layers are visited.
        inverses: what is to bring them back.
        x: rows, two at least.
    """
    path = network.path(x)
    found = {}
    for layer, inverse in inverses.numbered():
        below = path[layer - 1]
        error = (inverse(path[layer]) - below).square().sum()
        found[f"layer.{layer}"] = float(error / (below - below.mean(0)).square().sum())
    return found

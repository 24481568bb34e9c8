"""One step of a feed-forward network: an affine map, a unit, and how the layer below speaks."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Unit(NamedTuple):
    """What a layer's units do with their input, and what of their value reaches the next layer.

    Attributes:
        act: the value of a unit, elementwise.
        sends: ``"value"``, ``"sign"`` (of the value, ±1) or ``"sample"`` (0 or 1, the value being
            the probability of 1).
    """

    act: Callable[[Tensor], Tensor]
    sends: str = "value"


def identity(a: Tensor) -> Tensor:
    """The input itself."""
    return a


def clip(a: Tensor) -> Tensor:
    """The input held within [0, 1]."""
    return a.clamp(0, 1)


UNITS: dict[str, Unit] = {
    "identity": Unit(identity),
    "tanh": Unit(torch.tanh),
    "relu": Unit(torch.relu),
    "elu": Unit(functional.elu),
    "sigmoid": Unit(torch.sigmoid),
    "clip": Unit(clip),
    "sign": Unit(torch.tanh, "sign"),
    "bernoulli": Unit(torch.sigmoid, "sample"),
}
SENDS = ("value", "sign", "sample")
POOLS = ("none", "max", "mean")


def sent(h: Tensor, sends: str, straight: bool = False) -> Tensor:
    """What reaches the next layer of a value h; ``straight`` gives it the derivative 1."""
    if sends == "value":
        return h
    h = h if straight else h.detach()
    discrete = torch.where(h < 0, -1.0, 1.0) if sends == "sign" else torch.bernoulli(h.clamp(0, 1))
    return h + (discrete.to(h.dtype) - h).detach()


class Block(nn.Module):
    r"""One step of a network, F(h) = [h +] scale · unit(W·sent(h) + b).

    W is a matrix, or a convolution over images whose sides stay or, pooled, halve. The weights
    start uniform within ±√(6 / (inputs + outputs)), the biases at zero.

    Args:
        shape: ``(elements,)`` of h, or ``(channels, height, width)`` of its images.
        outputs: elements, or with a kernel channels, that come out.
        unit: a name of ``UNITS``: ``identity``, ``tanh``, ``relu``, ``elu``, ``sigmoid``, ``clip``,
            ``sign`` (tanh whose sign is sent on) or ``bernoulli`` (probabilities, of which a draw
            is sent on).
        receives: what of h arrives: its ``"value"``, its ``"sign"`` or a ``"sample"``.
        residual: whether h itself is added, which needs as many outputs as inputs.
        scale: factor on the unit's value.
        kernel: side of the convolution's kernel, odd; None for a matrix.
        pool: ``"none"``, ``"max"`` or ``"mean"`` over squares of 2 × 2, before the unit.

    Raises:
        ValueError: an unknown name, or sizes that do not fit.

    References:
        Glorot, Bengio, 2010, Understanding the difficulty of training deep feedforward networks.

    >>> Block((3, 8, 8), 5, "relu", kernel=3, pool="max").out_shape
    (5, 4, 4)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        unit: str = "tanh",
        receives: str = "value",
        residual: bool = False,
        scale: float = 1.0,
        kernel: int | None = None,
        pool: str = "none",
    ) -> None:
        super().__init__()
        self.shape, self.outputs, self.unit, self.receives = tuple(shape), outputs, unit, receives
        self.residual, self.scale, self.kernel, self.pool = residual, scale, kernel, pool
        _check(self)
        size = torch.Size(shape).numel() if kernel is None else shape[0]
        window = () if kernel is None else (kernel, kernel)
        self.weight = nn.Parameter(torch.empty(outputs, size, *window))
        self.weight.data = self.fresh()
        self.bias = nn.Parameter(torch.zeros(outputs))

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of F(h) of one row."""
        if self.kernel is None:
            return (self.outputs,)
        share = 1 if self.pool == "none" else 2
        return (self.outputs, self.shape[1] // share, self.shape[2] // share)

    @torch.no_grad()
    def fresh(self) -> Tensor:
        """Weights of W's shape as they are drawn at the start."""
        window = 1 if self.kernel is None else self.kernel**2
        bound = (6 / (self.weight[0].numel() + self.outputs * window)) ** 0.5
        return torch.empty_like(self.weight).uniform_(-bound, bound)

    def forward(self, h: Tensor, back: Tensor | None = None, straight: bool = False) -> Tensor:
        """F(h) of ``(rows, *shape)``.

        Args:
            h: the layer below.
            back: weights in place of W on the way down to h, if not W; the value has W.
            straight: whether signs and samples are given the derivative 1.
        """
        value: Tensor = UNITS[self.unit].act(self.affine(sent(h, self.receives, straight), back))
        return self.scale * value + h if self.residual else self.scale * value

    def affine(self, h: Tensor, back: Tensor | None = None) -> Tensor:
        """W h + b, pooled."""
        bias = self.bias.to(h.dtype)
        if back is None:
            return self._pooled(self._map(h, self.weight, bias))
        through = self._map(h, back, None)
        value = self._map(h.detach(), self.weight, bias)
        return self._pooled(value + (through - through.detach()))

    def _map(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = weight.to(h.dtype)  # states of holomorphic nudging are complex
        if self.kernel is None:
            return functional.linear(h.flatten(1), weight, bias)
        return functional.conv2d(h, weight, bias, padding=self.kernel // 2)

    def _pooled(self, a: Tensor) -> Tensor:
        if self.pool == "none":
            return a
        squares: Tensor = a.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
        return squares.amax((-3, -1)) if self.pool == "max" else squares.mean((-3, -1))


def _check(block: Block) -> None:
    for name, value, known in (
        ("unit", block.unit, tuple(UNITS)),
        ("receives", block.receives, SENDS),
        ("pool", block.pool, POOLS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, but is {value!r}")
    if min(*block.shape, block.outputs) < 1:
        raise ValueError(f"a block needs positive sizes, got {block.shape} and {block.outputs}")
    if block.kernel is None and block.pool != "none":
        raise ValueError("only a convolution can be pooled; give kernel=3, or leave pool out")
    if block.kernel is not None:
        _check_images(block)
    if block.residual and block.out_shape != block.shape:
        raise ValueError(
            f"a residual block needs outputs like its inputs, {block.shape}, but gives "
            f"{block.out_shape}"
        )


def _check_images(block: Block) -> None:
    if len(block.shape) != 3 or block.kernel is None or block.kernel % 2 == 0:
        raise ValueError(
            f"a convolution needs a shape (channels, height, width) and an odd kernel, got "
            f"{block.shape} and kernel={block.kernel}"
        )
    if block.pool != "none" and (block.shape[1] % 2 or block.shape[2] % 2):
        raise ValueError(f"images of odd sides {block.shape[1:]} cannot be pooled by squares of 2")

"""Data of finitely many levels as continuous values, and back."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.special import erfcx

from genprop.conditional import Conditional, Family
from genprop.distributions import Continuous, Product, Scale
from genprop.nets import Identity
from genprop.shapes import Elements, PerRow
from genprop.stack import Layer

NODES = 32  # of the quadrature where noise is wide
WIDE, STEEP = 4.0, 8.0  # up to which it is exact: width in noise scales, and tilt across it


class IndependentUniform(Continuous):
    """x_j ~ U[low_j, low_j + width_j).

    Args:
        low: the lower ends.
        width: positive, one for each element, the same for all rows or not.

    >>> law = IndependentUniform(torch.zeros(2), torch.tensor([0.5, 0.25]))
    >>> law.log_prob(torch.tensor([[0.1, 0.1], [0.1, 0.3]])).exp()
    tensor([8., 0.])
    """

    def __init__(self, low: Elements, width: Elements) -> None:
        self.low, self.width = low, width
        self._setup(low)

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return self.low, self.width

    def with_parameters(self, *parameters: Elements) -> "IndependentUniform":
        return IndependentUniform(*parameters)

    @property
    def mean(self) -> Tensor:
        return self.low + 0.5 * self.width

    @property
    def mode(self) -> Tensor:
        """The middle; every value is as probable."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        return (self.width.square() / 12).expand_as(self.low)

    def elements(self, x: Elements) -> Elements:
        inside = (x >= self.low) & (x < self.low + self.width)
        return torch.where(inside, -self.width.log(), -math.inf)

    def total(self, x: Elements) -> PerRow:
        return self.elements(x).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        low, high = self.low, (self.low + self.width).expand_as(self.low)
        u = torch.rand((*shape, *low.shape), dtype=low.dtype, device=low.device)
        # a sum may be rounded up to the end, which is outside
        return torch.minimum(low + self.width * u, torch.nextafter(high, low).detach())

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """The mean of a normal law about y that is cut off at both ends."""
        low, width = torch.broadcast_tensors(self.low, self.width)
        s = torch.as_tensor(scale, dtype=y.dtype, device=y.device).expand_as(y)
        from_middle = (low + 0.5 * width - y) / s
        span = width / s
        closed = _cut_off_mean(from_middle.abs(), span).copysign(from_middle)
        narrow = (span < WIDE) & (from_middle.abs() * span < STEEP)
        inside = torch.where(narrow, _by_quadrature(from_middle, span), y + s * closed - low)
        above: Tensor = torch.where(narrow, inside * width, inside).clamp_min(0)
        mean: Tensor = low + torch.minimum(above, width)
        return mean

    def entropy(self) -> PerRow:
        total: Tensor = self.width.log().expand_as(self.low).sum(-1)
        return total


class IndependentPoints(Product):
    """x_j = value_j with probability one.

    Args:
        value: the points.
        step: the distance to the next value that x_j could have; what is nearer than half of it is
            the point, up to rounding.

    >>> law = IndependentPoints(torch.tensor([0.25, 0.5]), 0.25)
    >>> law.log_prob(torch.tensor([[0.25, 0.5], [0.25, 0.75]]))
    tensor([0., -inf])
    """

    def __init__(self, value: Elements, step: float) -> None:
        self.value, self.step = value, step
        self._setup(value)

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return (self.value,)

    def with_parameters(self, *parameters: Elements) -> "IndependentPoints":
        (value,) = parameters
        return IndependentPoints(value, self.step)

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def mode(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.value)

    def elements(self, x: Elements) -> Elements:
        near = (x - self.value).abs() < 0.5 * self.step
        return torch.where(near, torch.zeros_like(x), -math.inf)

    def total(self, x: Elements) -> PerRow:
        return self.elements(x).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        return self.value.expand(*shape, *self.value.shape)

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        return self.value.expand_as(y)

    def entropy(self) -> PerRow:
        return self.value.new_zeros(self.value.shape[:-1])


class UniformBin(Family):
    """h_j ~ U[x_j, x_j + 1 / levels) for x_j among 0, 1 / levels, …, (levels - 1) / levels.

    Args:
        elements: values of one event.
        levels: how many values each can have.

    Raises:
        ValueError: no element, fewer than two levels, or (when called) an x that is none of these
            values.

    >>> UniformBin(2, levels=4)(torch.tensor([0.0, 0.75])).mean
    tensor([0.1250, 0.8750])
    """

    def __init__(self, elements: int, levels: int) -> None:
        super().__init__()
        _check_sizes(elements, levels)
        self.elements = self.outputs = elements
        self.levels = levels

    def forward(self, outputs: Elements) -> IndependentUniform:
        number = (outputs * self.levels).round()
        _check_levels(outputs, number, self.levels)
        low = number / self.levels
        # so that low + width is the next bin's lower end to the last bit
        return IndependentUniform(low, (number + 1) / self.levels - low)


class BinOf(Family):
    """x_j = ⌊levels·h_j⌋ / levels, the lower end of the bin that h_j is in, with certainty.

    Below 0 and from 1 on it is the first and the last bin's.

    Args:
        elements: values of one event.
        levels: how many values each can have.

    Raises:
        ValueError: no element, or fewer than two levels.

    >>> BinOf(3, levels=4)(torch.tensor([-0.1, 0.3, 0.99])).mean
    tensor([0.0000, 0.2500, 0.7500])
    """

    def __init__(self, elements: int, levels: int) -> None:
        super().__init__()
        _check_sizes(elements, levels)
        self.elements = self.outputs = elements
        self.levels = levels

    def forward(self, outputs: Elements) -> IndependentPoints:
        number = (outputs.detach() * self.levels).floor()
        # a product may be rounded to the wrong side of an end
        number = number - (outputs < number / self.levels).to(number.dtype)
        number = number + (outputs >= (number + 1) / self.levels).to(number.dtype)
        return IndependentPoints(
            number.clamp(0, self.levels - 1) / self.levels, step=1 / self.levels
        )


def dequantising(elements: int, levels: int = 256) -> Layer:
    r"""A layer from data of finitely many levels to continuous values, and back.

    Q(h | x) = ∏_j U[x_j, x_j + 1 / levels) and P(x | h) = 1 where x is the bin of h::

        log P(x) = log ∫_bin P(h) dh ≥ E_Q log P(h) - elements·log(levels)

    is the likelihood of discrete data, and its negative over elements·log 2 is bits per dimension.
    Nothing in it learns.

    Args:
        elements: of x and of h.
        levels: how many values each can have: 0, 1 / levels, …, (levels - 1) / levels.

    Raises:
        ValueError: no element, or fewer than two levels.

    References:
        Theis, van den Oord, Bethge, 2016, A note on the evaluation of generative models. Dinh,
        Krueger, Bengio, 2015, NICE (arXiv 1410.8516).

    >>> layer = dequantising(2, levels=4)
    >>> x = torch.tensor([0.25, 0.5])
    >>> layer.decoder(layer.encoder(x).sample()).mean
    tensor([0.2500, 0.5000])
    """
    up = Conditional(Identity(), UniformBin(elements, levels))
    return Layer(up, Conditional(Identity(), BinOf(elements, levels)))


def _cut_off_mean(middle: Tensor, span: Tensor) -> Tensor:
    """The mean of N(0, 1) on middle ± span / 2, middle ≥ 0, where the ends differ in density."""
    near, far = middle - 0.5 * span, middle + 0.5 * span
    drop = middle * span  # of the log-density from the near end to the far one
    root = math.sqrt(0.5)
    mass = erfcx(near * root) - erfcx(far * root) * torch.exp(-drop)
    mean: Tensor = -math.sqrt(2 / math.pi) * torch.expm1(-drop) / mass
    return mean


def _by_quadrature(middle: Tensor, span: Tensor) -> Tensor:
    """The mean of N(0, 1) on middle ± span / 2, as a share of the way from end to end."""
    t, w = _nodes(middle)
    z = middle[..., None] + span[..., None] * (t - 0.5)
    weights = (w.log() - 0.5 * z.square()).softmax(-1)
    return (weights * t).sum(-1)


def _nodes(like: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    t, w = np.polynomial.legendre.leggauss(NODES)
    return torch.as_tensor(0.5 * (t + 1)).to(like), torch.as_tensor(0.5 * w).to(like)


def _check_sizes(elements: int, levels: int) -> None:
    if elements < 1 or levels < 2:
        raise ValueError(
            f"quantised data needs at least one element and two levels, but got {elements} and "
            f"{levels}"
        )


def _check_levels(x: Tensor, number: Tensor, levels: int) -> None:
    off = ~((x * levels - number).abs() < 0.01) | (number < 0) | (number >= levels)
    if bool(off.any()):
        raise ValueError(
            f"data of {levels} levels has the values 0, 1/{levels}, …, {levels - 1}/{levels}, but "
            f"holds {x[off][0].item():g}; divide whole numbers from 0 to {levels - 1} by {levels}"
        )

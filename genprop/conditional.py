"""Conditional laws: modules whose forward pass returns a distribution."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genprop.autoregressive import AutoregressiveBernoulli
from genprop.distributions import (
    IndependentBernoulli,
    IndependentCategorical,
    IndependentNormal,
    Product,
)
from genprop.logistic import IndependentLogistic
from genprop.shapes import Elements, Seen
from genprop.student import IndependentStudent

LOG_SCALE_LIMIT = 6.0


class Family(nn.Module, ABC):
    """What turns a net's outputs into a law of ``elements`` values.

    Attributes:
        elements: values of one event.
        outputs: numbers the net has to give for them.
    """

    elements: int
    outputs: int

    @abstractmethod
    def forward(self, outputs: Elements) -> Product:
        """The law with these parameters."""


class LocationScale(Family, ABC):
    """A family with a location from the net and a scale that is learned, from the net, or fixed.

    The scale is exp(c·tanh(s / c)) with c = 6, that is, between 0.0025 and 403: no training can
    make it zero or infinite.
    """

    scale: str | float

    def __init__(self, elements: int, scale: str | float = "learned") -> None:
        super().__init__()
        if elements < 1:
            raise ValueError(f"a family needs at least one element, but got {elements}")
        known = scale in ("learned", "net") if isinstance(scale, str) else 0 < scale < math.inf
        if not known:
            raise ValueError(
                f"scale must be 'learned' (one a dimension), 'net' (it depends on what is given) "
                f"or a positive number, but is {scale!r}"
            )
        self.elements, self.scale = elements, scale
        self.outputs = 2 * elements if scale == "net" else elements
        self.log_scale = nn.Parameter(torch.zeros(elements)) if scale == "learned" else None
        if isinstance(scale, (int, float)):
            self.register_buffer("fixed", torch.full((elements,), float(scale)))

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale == "net":
            loc, raw = outputs.chunk(2, dim=-1)
            return loc, bounded_scale(raw)
        if self.log_scale is not None:
            return outputs, bounded_scale(self.log_scale)
        return outputs, self.get_buffer("fixed")


class Gaussian(LocationScale):
    """x_j ~ N(μ_j, σ_j²).

    Args:
        elements: dimensions.
        scale: ``"learned"`` (one σ a dimension), ``"net"`` (σ depends on what is given), or a
            fixed positive number.

    Raises:
        ValueError: no element, or a scale that is none of these.

    >>> Gaussian(3, scale="net").outputs
    6
    """

    def forward(self, outputs: Elements) -> Product:
        return IndependentNormal(*self._split(outputs))


class Logistic(LocationScale):
    """x_j ~ Logistic(μ_j, s_j), heavier in the tails than a Gaussian.

    Args:
        elements: dimensions.
        scale: ``"learned"`` (one s a dimension), ``"net"`` (s depends on what is given), or a
            fixed positive number.

    Raises:
        ValueError: no element, or a scale that is none of these.

    >>> Logistic(3).outputs
    3
    """

    def forward(self, outputs: Elements) -> IndependentLogistic:
        return IndependentLogistic(*self._split(outputs))


class StudentT(LocationScale):
    """x_j = μ_j + s_j·t_j with t_j of Student's law, far out less improbable than a Gaussian.

    Its degrees of freedom are learned for each dimension, above 2 and at first 5.

    Args:
        elements: dimensions.
        scale: ``"learned"`` (one s a dimension), ``"net"`` (s depends on what is given), or a
            fixed positive number.

    Raises:
        ValueError: no element, or a scale that is none of these.

    >>> StudentT(3)(torch.zeros(3)).df
    tensor([5., 5., 5.], grad_fn=<AddBackward0>)
    """

    def __init__(self, elements: int, scale: str | float = "learned") -> None:
        super().__init__(elements, scale)
        self.log_df = nn.Parameter(torch.zeros(elements))

    def forward(self, outputs: Elements) -> IndependentStudent:
        return IndependentStudent(*self._split(outputs), 2 + 3 * bounded_scale(self.log_df))


class Bernoulli(Family):
    """x_j = 1 with probability sigmoid(output_j), else 0.

    Args:
        elements: dimensions.

    >>> Bernoulli(2)(torch.zeros(2)).mean
    tensor([0.5000, 0.5000])
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        if elements < 1:
            raise ValueError(f"a family needs at least one element, but got {elements}")
        self.elements = self.outputs = elements

    def forward(self, outputs: Elements) -> IndependentBernoulli:
        return IndependentBernoulli(outputs)


class Categorical(Family):
    """Groups of one-hot elements, x_g ~ softmax(outputs_g).

    Args:
        sizes: how many categories each group has.

    Raises:
        ValueError: no group, or one without a category.

    >>> Categorical((2, 3)).elements
    5
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(
                f"a categorical family needs at least one group, each of at least one category, "
                f"but got sizes {tuple(sizes)}"
            )
        self.sizes = tuple(int(n) for n in sizes)
        self.elements = self.outputs = sum(self.sizes)

    def forward(self, outputs: Elements) -> IndependentCategorical:
        return IndependentCategorical(outputs, self.sizes)


class Autoregressive(Family):
    r"""P(x) = ∏_j P(x_j | x_<j) over zeros and ones, by hidden units that read x in order (NADE).

    With outputs c and b, and weights W and V that all rows share,
    P(x_j = 1 | x_<j) = sigmoid(b_j + V_j · sigmoid(c + Σ_{i<j} W_i x_i)). It may be the family of
    an encoder, of a decoder, and of the data.

    Args:
        elements: dimensions.
        units: hidden units.
        particles: the most vectors that a sum over unseen elements may look at; such sums are exact
            for log2(particles) unseen elements, and estimates for more.

    Raises:
        ValueError: no element, unit or particle.

    References:
        Larochelle, Murray, 2011, The neural autoregressive distribution estimator. Bornschein,
        Bengio, 2015, Reweighted wake-sleep (arXiv 1406.2751), whose layers may be of this family.

    >>> Autoregressive(3, units=5).outputs
    8
    """

    def __init__(self, elements: int, units: int = 64, particles: int = 64) -> None:
        super().__init__()
        if min(elements, units, particles) < 1:
            raise ValueError(
                f"an autoregressive family needs at least one element, one unit and one particle, "
                f"but got elements={elements}, units={units} and particles={particles}"
            )
        self.elements, self.units, self.particles = elements, units, particles
        self.outputs = units + elements
        self.W = nn.Parameter(torch.randn(elements, units) / math.sqrt(elements))
        self.V = nn.Parameter(0.1 * torch.randn(elements, units) / math.sqrt(units))

    def forward(self, outputs: Elements) -> AutoregressiveBernoulli:
        c, b = outputs.split((self.units, self.elements), -1)
        return AutoregressiveBernoulli(c, b, self.W, self.V, self.particles)


class Conditional(nn.Module):
    """P(·|given) = family(net(given)).

    Args:
        net: any module from the given vector to ``family.outputs`` numbers, draws and rows
            in front. A bottom encoder's net is called ``net(x, missing)`` where something is
            missing, with x zero and ``missing`` 1.0 there.
        family: what the net's outputs are the parameters of.

    >>> from genprop.nets import MLP
    >>> Conditional(MLP(4, 2), Bernoulli(2))(torch.zeros(5, 4)).sample((3,)).shape
    torch.Size([3, 5, 2])
    """

    def __init__(self, net: nn.Module, family: Family) -> None:
        super().__init__()
        self.net, self.family = net, family

    def forward(self, given: Elements, seen: Seen | None = None) -> Product:
        """The law given these values; ``seen`` is True where they were observed."""
        missing = () if seen is None else ((~seen).to(given.dtype),)
        law: Product = self.family(self.net(given, *missing))
        return law


def bounded_scale(raw: Tensor) -> Tensor:
    """exp(c·tanh(raw / c)) with c = 6: near exp(raw) about 1, never below exp(-c) or above exp(c).

    >>> bounded_scale(torch.tensor([-1e9, 0.0, 1e9]))
    tensor([2.4788e-03, 1.0000e+00, 4.0343e+02])
    """
    return torch.exp(LOG_SCALE_LIMIT * torch.tanh(raw / LOG_SCALE_LIMIT))


def unbounded_scale(scale: Tensor) -> Tensor:
    """The inverse of ``bounded_scale``; scales outside its range are brought to its ends.

    >>> unbounded_scale(bounded_scale(torch.tensor([0.5])))
    tensor([0.5000])
    """
    share = (scale.clamp_min(1e-30).log() / LOG_SCALE_LIMIT).clamp(-0.999, 0.999)
    return LOG_SCALE_LIMIT * torch.atanh(share)

"""Numbers that are exactly zero in many rows, and log-normal in the others."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from genprop.conditional import LocationScale
from genprop.distributions import IndependentBernoulli, IndependentNormal, Product, Scale
from genprop.shapes import Elements, PerRow

ZERO = -4.0  # what stands for zero among standardised logarithms
NEAR = 1e-3  # what is nearer to it is taken for it


class IndependentHurdle(Product):
    r"""x_j = -4 with probability 1 - sigmoid(logits_j), else x_j ~ N(loc_j, scale_j²).

    The value -4 stands for a number that is exactly zero where others are coded as standardised
    logarithms. Log-probabilities are those of the atom there, and of π_j N(x_j; loc_j, scale_j²)
    elsewhere: a law has both, and its entropy is that to their sum.

    Args:
        logits: log-odds of being above zero.
        loc: means of what is.
        scale: its deviations, the same for all rows or not.

    References:
        Cragg, 1971, Some statistical models for limited dependent variables. Mullahy, 1986,
        Specification and testing of some modified count data models (hurdle models).

    >>> law = IndependentHurdle(torch.zeros(1), torch.zeros(1), torch.ones(1))
    >>> law.log_prob(torch.tensor([[-4.0], [0.0]])), law.mean
    (tensor([-0.6931, -1.6121]), tensor([-2.]))
    """

    def __init__(self, logits: Elements, loc: Elements, scale: Elements) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        self._setup(loc)

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return self.logits, self.loc, self.scale

    def with_parameters(self, *parameters: Elements) -> "IndependentHurdle":
        return IndependentHurdle(*parameters)

    @property
    def above(self) -> IndependentBernoulli:
        """Whether elements are above zero."""
        return IndependentBernoulli(self.logits)

    @property
    def value(self) -> IndependentNormal:
        """What they are if they are."""
        return IndependentNormal(self.loc, self.scale)

    @property
    def mean(self) -> Tensor:
        return ZERO + self.above.mean * (self.loc - ZERO)

    @property
    def mode(self) -> Tensor:
        """Zero where that is more probable than not, else the mode of the density."""
        return torch.where(self.logits > 0, self.loc, ZERO)

    @property
    def variance(self) -> Tensor:
        above = self.above
        within: Tensor = above.mean * self.value.variance
        return within + above.variance * (self.loc - ZERO).square()

    def elements(self, x: Elements) -> Elements:
        positive = self.value.elements(x) + functional.logsigmoid(self.logits)
        return torch.where(is_zero(x), functional.logsigmoid(-self.logits), positive)

    def total(self, x: Elements) -> PerRow:
        return self.elements(x).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        above = self.above.draw(shape)
        return torch.where(above > 0, self.value.draw(shape), ZERO)

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """The two posterior means by their weights, for zero is a mixture's component, too."""
        noise = torch.as_tensor(scale, dtype=y.dtype, device=y.device).expand_as(y)
        at_zero = IndependentNormal(torch.full_like(y, ZERO), noise).elements(y)
        odds = self.logits + self.value.smoothed(noise).elements(y) - at_zero
        return ZERO + odds.sigmoid() * (self.value.denoise(y, noise) - ZERO)

    def entropy(self) -> PerRow:
        each = 0.5 * math.log(2 * math.pi * math.e) + self.scale.log()
        return self.above.entropy() + (self.above.mean * each).sum(-1)


class Hurdle(LocationScale):
    """Zero (coded as -4), or with probability sigmoid(output_j) a Gaussian logarithm.

    Args:
        elements: dimensions.
        scale: ``"learned"`` (one σ a dimension), ``"net"`` (σ depends on what is given), or a
            fixed positive number.

    Raises:
        ValueError: no element, or a scale that is none of these.

    >>> Hurdle(3).outputs
    6
    """

    def __init__(self, elements: int, scale: str | float = "learned") -> None:
        super().__init__(elements, scale)
        self.outputs += elements

    def forward(self, outputs: Elements) -> IndependentHurdle:
        logits, rest = outputs[..., : self.elements], outputs[..., self.elements :]
        return IndependentHurdle(logits, *self._split(rest))


def is_zero(x: Tensor) -> Tensor:
    """Which elements stand for zero."""
    return (x - ZERO).abs() < NEAR

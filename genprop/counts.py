"""Laws of whole numbers: Poisson and negative binomial, on a grid of the model's own units."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from genprop.distributions import Product, Scale
from genprop.shapes import Elements, PerRow

LARGEST = 1e9  # a number that is counted
NODES = 513  # of a sum over whole numbers, which are fewer where the law is narrow
NEAR_ZERO = 65
SPREADS = 12.0
HALVINGS = 60


class Counts(Product, ABC):
    """x_j = low_j + step_j·n_j, where n_j = 0, 1, 2, … is counted.

    Values between two points of the grid are taken for the nearer one.

    Args:
        low: what x is where nothing was counted.
        step: what one more adds to it, positive.
    """

    low: Tensor
    step: Tensor

    @property
    @abstractmethod
    def expected(self) -> Tensor:
        """E[n]."""

    @abstractmethod
    def log_mass(self, n: Tensor) -> Tensor:
        """Log P(n), in nats."""

    @abstractmethod
    def slope(self, n: Tensor) -> Tensor:
        """The derivative of log P(n) by n, continued between whole numbers."""

    @abstractmethod
    def drawn(self, shape: torch.Size) -> Elements:
        """Draws of n."""

    @property
    @abstractmethod
    def spread(self) -> Tensor:
        """The standard deviation of n."""

    @property
    def mean(self) -> Tensor:
        return self.low + self.step * self.expected

    @property
    def variance(self) -> Tensor:
        return (self.step * self.spread).square()

    def elements(self, x: Elements) -> Elements:
        n = ((x - self.low) / self.step).round()
        log_mass = self.log_mass(n.clamp(0, LARGEST))
        return torch.where((n >= 0) & (n <= LARGEST), log_mass, -math.inf)

    def total(self, x: Elements) -> PerRow:
        return self.elements(x).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        return self.low + self.step * self.drawn(shape)

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """By a sum over whole numbers about the posterior's mode, and near zero."""
        noise = torch.as_tensor(scale, dtype=y.dtype, device=y.device) / self.step
        at = (y - self.low) / self.step
        n, log_weight = self._nodes(at, noise.expand_as(at))
        misfit = (at[..., None] - n) / noise.expand_as(at)[..., None]
        log_joint = self._many().log_mass(n) - 0.5 * misfit.square() + log_weight
        expected = (log_joint.softmax(-1) * n).sum(-1)
        return self.low + self.step * expected

    def entropy(self) -> PerRow:
        wide = torch.full_like(self.expected, math.inf)
        n, log_weight = self._nodes(self.expected, wide)
        log_mass = self._many().log_mass(n)
        each: Tensor = -((log_mass + log_weight).exp() * log_mass).sum(-1)
        return each.sum(-1)

    def _many(self) -> "Counts":
        """The same law for a last dimension of several values of each element."""
        made = self.with_parameters(*(p[..., None] for p in self.parameters))
        assert isinstance(made, Counts)
        return made

    def _nodes(self, at: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Whole numbers ``(…, elements, nodes)`` that matter, and the log of how many each is for.

        Args:
            at: what was seen of n.
            noise: the scale of the noise through which it was.
        """
        mode, spread = self._mode(at, noise)
        reach = SPREADS * spread + 10
        stride = (2 * reach / (NODES - 1)).ceil().clamp_min(1)
        # where strides are long, what is near zero is looked at number by number
        least = torch.where(stride > 1, NEAR_ZERO + 0.5 * (stride - 1), 0.0)
        start = torch.maximum((mode - stride * (NODES // 2)).round(), least)
        k = torch.arange(NODES, dtype=at.dtype, device=at.device)
        about = start[..., None] + stride[..., None] * k
        first = torch.arange(NEAR_ZERO, dtype=at.dtype, device=at.device).expand(
            *start.shape, NEAR_ZERO
        )
        lowest = (start - 0.5 * (stride - 1))[..., None]
        apart = torch.where(first < lowest, 0.0, -math.inf).to(at.dtype)
        log_stride = stride.log()[..., None].expand_as(about)
        return torch.cat([first, about], -1), torch.cat([apart, log_stride], -1)

    def _mode(self, at: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Where log P(n) - ½ ((at - n) / noise)² is highest, and about how wide it is there."""
        low = torch.zeros_like(at)
        high = torch.maximum(at, self.expected + 0 * at).clamp_min(0) + 1
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            rises = self.slope(middle) + (at - middle) / noise.square() > 0
            low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
        around = 1e-3 * (1 + low)
        bend = (self.slope(low) - self.slope(low + around)) / around + noise.square().reciprocal()
        widest = torch.minimum(self.spread + 0 * at, noise)
        return low, torch.minimum(bend.clamp_min(1e-12).rsqrt(), 2 * widest + 1)


class IndependentPoisson(Counts):
    """n_j ~ Poisson(λ_j) at x_j = low_j + step_j·n_j.

    Args:
        log_rate: log λ.
        low: the value of x at n = 0.
        step: what one more adds to it.

    >>> law = IndependentPoisson(torch.zeros(1), torch.zeros(1), torch.ones(1))
    >>> law.log_prob(torch.tensor([[0.0], [1.0], [-1.0]]))
    tensor([-1., -1., -inf])
    """

    def __init__(self, log_rate: Elements, low: Tensor, step: Tensor) -> None:
        self.log_rate, self.low, self.step = log_rate, low, step
        self._setup(log_rate)

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return (self.log_rate,)

    def with_parameters(self, *parameters: Elements) -> "IndependentPoisson":
        (log_rate,) = parameters
        return IndependentPoisson(log_rate, self.low, self.step)

    @property
    def expected(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def spread(self) -> Tensor:
        return (0.5 * self.log_rate).exp()

    @property
    def mode(self) -> Tensor:
        return self.low + self.step * self.expected.floor()

    def log_mass(self, n: Tensor) -> Tensor:
        return n * self.log_rate - self.expected - torch.lgamma(n + 1)

    def slope(self, n: Tensor) -> Tensor:
        return self.log_rate - torch.digamma(n + 1)

    def drawn(self, shape: torch.Size) -> Elements:
        return torch.poisson(self.expected.expand(*shape, *self.log_rate.shape))


class IndependentNegativeBinomial(Counts):
    """n_j ~ Poisson(λ_j·g_j), g_j ~ Gamma(r_j, r_j), at x_j = low_j + step_j·n_j.

    The variance of n is λ + λ² / r: the smaller r, the more the counts cluster.

    Args:
        log_rate: log λ, λ being the mean of n.
        log_size: log r, the same for all rows or not.
        low: the value of x at n = 0.
        step: what one more adds to it.

    >>> law = IndependentNegativeBinomial(*[torch.zeros(1)] * 3, torch.ones(1))
    >>> law.log_prob(torch.tensor([[0.0], [1.0]])).exp()
    tensor([0.5000, 0.2500])
    """

    def __init__(self, log_rate: Elements, log_size: Elements, low: Tensor, step: Tensor) -> None:
        self.log_rate, self.log_size = log_rate, log_size
        self.low, self.step = low, step
        self._setup(log_rate)

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return self.log_rate, self.log_size

    def with_parameters(self, *parameters: Elements) -> "IndependentNegativeBinomial":
        log_rate, log_size = parameters
        return IndependentNegativeBinomial(log_rate, log_size, self.low, self.step)

    @property
    def expected(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def spread(self) -> Tensor:
        return (self.expected + (2 * self.log_rate - self.log_size).exp()).sqrt()

    @property
    def mode(self) -> Tensor:
        below = (1 - (-self.log_size).exp()).clamp_min(0)
        return self.low + self.step * (self.expected * below).floor()

    def log_mass(self, n: Tensor) -> Tensor:
        size = self.log_size.exp()
        both = torch.logaddexp(self.log_rate, self.log_size)
        ways = torch.lgamma(n + size) - torch.lgamma(size) - torch.lgamma(n + 1)
        return ways + size * (self.log_size - both) + n * (self.log_rate - both)

    def slope(self, n: Tensor) -> Tensor:
        both = torch.logaddexp(self.log_rate, self.log_size)
        ways = torch.digamma(n + self.log_size.exp()) - torch.digamma(n + 1)
        return ways + self.log_rate - both

    def drawn(self, shape: torch.Size) -> Elements:
        size = self.log_size.exp().expand(*shape, *self.log_rate.shape)
        gamma = torch._standard_gamma(size)
        return torch.poisson(gamma * (self.log_rate - self.log_size).exp())

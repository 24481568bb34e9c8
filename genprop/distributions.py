"""Products of independent one-dimensional laws, P(x) = ∏_j P_j(x_j), that respect masks.

They follow torch.distributions: ``sample_shape + batch_shape + event_shape`` with one event
dimension. Beside it they can leave elements out of a log-probability, be held constant,
and give the posterior mean of an element seen through Gaussian noise.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional

from genprop.shapes import Elements, PerRow, Seen

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
SAMPLE_SHAPE = torch.Size()
Scale = float | Tensor


class Product(Distribution, ABC):
    """P(x) = ∏_j P_j(x_j), the law of a vector of independent elements."""

    arg_constraints = {}

    @property
    @abstractmethod
    def parameters(self) -> tuple[Elements, ...]:
        """The tensors that determine the law, in the order of the constructor."""

    @abstractmethod
    def with_parameters(self, *parameters: Elements) -> "Product":
        """The law of the same family that has these parameters."""

    @abstractmethod
    def elements(self, x: Elements) -> Elements:
        """Log P_j(x_j) for every element, in nats."""

    @abstractmethod
    def total(self, x: Elements) -> PerRow:
        """Σ_j log P_j(x_j) in nats, in as few operations as the family allows."""

    @abstractmethod
    def draw(self, shape: torch.Size) -> Elements:
        """One draw for each place of a sample shape; differentiable where the family allows."""

    @abstractmethod
    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """The posterior mean E[x_j | x_j + scale·ε_j = y_j], ε ~ N(0, 1)."""

    @abstractmethod
    def entropy(self) -> PerRow:
        """The sum over elements of -E log P_j(x_j), in nats."""

    def given(self, x: Elements, seen: Seen) -> Distribution:
        """The law of the unseen elements of x given the seen ones."""
        return Held(self, x, seen)

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        """Σ_j log P_j(x_j) in nats, over the seen elements only where a mask is given."""
        if seen is None:
            return self.total(value)
        return torch.where(seen, self.elements(value), 0).sum(-1)

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Draws with no gradient, ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return self.draw(torch.Size(sample_shape))

    def detach(self) -> "Product":
        """The same law, held constant."""
        return self.with_parameters(*(p.detach() for p in self.parameters))

    def _setup(self, shaped_as: Tensor) -> None:
        Distribution.__init__(self, shaped_as.shape[:-1], shaped_as.shape[-1:], validate_args=False)


class Continuous(Product, ABC):
    """A product whose draws are differentiable in its parameters (reparameterised)."""

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Draws that carry the gradient to the parameters."""
        return self.draw(torch.Size(sample_shape))


class Discrete(Product, ABC):
    """A product over finitely many values, stored as zeros and ones."""

    def straight_through(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Draws whose gradient is taken to be the mean's (Bengio, Léonard, Courville 2013)."""
        mean = self.mean
        return self.sample(sample_shape) + (mean - mean.detach())


class LocationScale(Continuous, ABC):
    """x_j = loc_j + scale_j·z_j, with z_j of a fixed law that is symmetric about its mode at zero.

    Args:
        loc: the means, which are the modes too.
        scale: positive, one for each element, the same for all rows or not.

    Attributes:
        standard_entropy: the entropy of z_j in nats.
    """

    standard_entropy: float

    def __init__(self, loc: Elements, scale: Elements) -> None:
        self.loc, self.scale = loc, scale
        self._setup(loc)

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return self.loc, self.scale

    def with_parameters(self, *parameters: Elements) -> "LocationScale":
        return type(self)(*parameters)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.stddev.square()

    @property
    def _scales(self) -> Tensor:
        return self.scale.expand_as(self.loc)

    @abstractmethod
    def standard(self, z: Elements) -> Elements:
        """Log-density of z_j, in nats."""

    @abstractmethod
    def standard_total(self, z: Elements) -> PerRow:
        """Log-density of z, in nats, in as few operations as the family allows."""

    def elements(self, x: Elements) -> Elements:
        return self.standard((x - self.loc) / self.scale) - self.scale.log()

    def total(self, x: Elements) -> PerRow:
        return self.standard_total((x - self.loc) / self.scale) - self._log_volume

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        if seen is None:
            return self.total(value)
        z = torch.where(seen, value - self.loc, 0) / self.scale
        at_zero = self.standard(torch.zeros_like(self.scale))  # what unseen elements would count
        outside = torch.where(seen, self.scale.log(), at_zero).sum(-1)
        return self.standard_total(z) - outside

    def entropy(self) -> PerRow:
        constant = self.standard_entropy * self.loc.shape[-1]
        return (self._log_volume + constant).expand(self.loc.shape[:-1])

    @property
    def _log_volume(self) -> Tensor:
        volume: Tensor = self.scale.log().sum(-1)
        return volume


class IndependentNormal(LocationScale):
    """x_j ~ N(loc_j, scale_j²).

    >>> IndependentNormal(torch.zeros(3), torch.ones(3)).log_prob(torch.zeros(3))
    tensor(-2.7568)
    """

    standard_entropy = 0.5 + HALF_LOG_2PI

    @property
    def stddev(self) -> Tensor:
        return self._scales

    def standard(self, z: Elements) -> Elements:
        return -HALF_LOG_2PI - 0.5 * z.square()

    def standard_total(self, z: Elements) -> PerRow:
        squares: Tensor = torch.linalg.vecdot(z, z)
        return -HALF_LOG_2PI * z.shape[-1] - 0.5 * squares

    def draw(self, shape: torch.Size) -> Elements:
        noise = torch.randn((*shape, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, noise, self.scale)

    def smoothed(self, scale: Scale) -> "IndependentNormal":
        """The law of x + scale·ε, ε ~ N(0, I)."""
        width = (self.scale.square() + scale**2).sqrt()
        return IndependentNormal(*torch.broadcast_tensors(self.loc, width))

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        keep = self.scale.square() / (self.scale.square() + scale**2)
        return self.loc + keep * (y - self.loc)


class IndependentBernoulli(Discrete):
    """x_j = 1 with probability sigmoid(logits_j), else 0.

    Args:
        logits: the log-odds of each element.

    >>> IndependentBernoulli(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0])).exp().item()
    0.25
    """

    def __init__(self, logits: Elements) -> None:
        self.logits = logits
        self._setup(logits)

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return (self.logits,)

    def with_parameters(self, *parameters: Elements) -> "IndependentBernoulli":
        return type(self)(*parameters)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def elements(self, x: Elements) -> Elements:
        return -self._cross_entropy(x)

    def total(self, x: Elements) -> PerRow:
        return -self._cross_entropy(x).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        return torch.bernoulli(self.mean.expand(*shape, *self.logits.shape))

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        return torch.sigmoid(self.logits + (y - 0.5) / scale**2)

    def entropy(self) -> PerRow:
        softplus = functional.softplus(self.logits)
        return (softplus - self.logits * self.mean).sum(-1)

    def _cross_entropy(self, x: Tensor) -> Tensor:
        logits = self.logits
        if logits.shape != x.shape:
            logits, x = torch.broadcast_tensors(logits, x)
        return functional.binary_cross_entropy_with_logits(logits, x, reduction="none")


class IndependentCategorical(Discrete):
    """Groups of elements, one of which is 1 and the others 0: x_g ~ softmax(logits_g), one-hot.

    Args:
        logits: the log-weights of all groups, side by side.
        sizes: how many categories each group has.

    >>> law = IndependentCategorical(torch.zeros(5), (2, 3))
    >>> law.mean
    tensor([0.5000, 0.5000, 0.3333, 0.3333, 0.3333])
    """

    def __init__(self, logits: Elements, sizes: tuple[int, ...]) -> None:
        self.logits, self.sizes = logits, sizes
        self._setup(logits)

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return (self.logits,)

    def with_parameters(self, *parameters: Elements) -> "IndependentCategorical":
        (logits,) = parameters
        return type(self)(logits, self.sizes)

    @property
    def log_probs(self) -> Tensor:
        """Log-probabilities of every category."""
        return self._flat(self._groups(self.logits, -math.inf).log_softmax(-1))

    @property
    def mean(self) -> Tensor:
        return self.log_probs.exp()

    @property
    def mode(self) -> Tensor:
        return self._one_hot(self._groups(self.logits, -math.inf))

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def elements(self, x: Elements) -> Elements:
        return x * self.log_probs

    def total(self, x: Elements) -> PerRow:
        return self.elements(x).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        logits = self.logits.expand(*shape, *self.logits.shape)
        gumbel = -torch.empty_like(logits).exponential_().log()
        return self._one_hot(self._groups(logits + gumbel, -math.inf))

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        # Σ_j (y_j - e_cj)² / scale_j² differs between categories only by (1 - 2 y_c) / scale_c²
        return self.with_parameters(self.logits + (y - 0.5) / scale**2).mean

    def entropy(self) -> PerRow:
        log_probs = self.log_probs
        expected: Tensor = log_probs.exp() * log_probs
        return -expected.sum(-1)

    def _groups(self, flat: Tensor, fill: float) -> Tensor:
        """(…, elements) -> (…, groups, categories), short groups filled up."""
        if len(set(self.sizes)) == 1:
            return flat.reshape(*flat.shape[:-1], len(self.sizes), self.sizes[0])
        parts = flat.split(self.sizes, dim=-1)
        widest = max(self.sizes)
        padded = [functional.pad(p, (0, widest - p.shape[-1]), value=fill) for p in parts]
        return torch.stack(padded, dim=-2)

    def _flat(self, groups: Tensor) -> Tensor:
        if len(set(self.sizes)) == 1:
            return groups.flatten(-2)
        return torch.cat([groups[..., g, :n] for g, n in enumerate(self.sizes)], dim=-1)

    def _one_hot(self, scores: Tensor) -> Tensor:
        best = functional.one_hot(scores.argmax(-1), scores.shape[-1])
        return self._flat(best.to(scores.dtype))


class Held(Distribution):
    """A product's law of the unseen elements, with the seen ones held at their values.

    Args:
        law: the product.
        x: the values to hold, ``(…, elements)``; what it holds in unseen places is not used.
        seen: True where a value is held.

    >>> law = IndependentNormal(torch.zeros(2), torch.ones(2))
    >>> law.given(torch.tensor([3.0, 0.0]), torch.tensor([True, False])).mean
    tensor([3., 0.])
    """

    arg_constraints = {}

    def __init__(self, law: Product, x: Elements, seen: Seen) -> None:
        self.law, self.x, self.seen = law, x, seen
        super().__init__(x.shape[:-1], x.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The held values, and the mean of the law elsewhere."""
        return torch.where(self.seen, self.x, self.law.mean)

    @property
    def mode(self) -> Tensor:
        """The held values, and the mode of the law elsewhere."""
        return torch.where(self.seen, self.x, self.law.mode)

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole vectors, the seen elements as they are."""
        return torch.where(self.seen, self.x, self.law.sample(self._shape(sample_shape)))

    def log_prob(self, value: Elements) -> PerRow:
        """Log P(unseen | seen) in nats."""
        return self.law.log_prob(value, ~self.seen)

    def _shape(self, sample_shape: Sequence[int]) -> tuple[int, ...]:
        """How many draws of the law make one of each held row."""
        return (*sample_shape, *self.batch_shape[: len(self.batch_shape) - self._own])

    @property
    def _own(self) -> int:
        return len(self.law.batch_shape)

"""Gaussians with full covariances, and their conditionals for any pattern of seen elements."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.by_pattern import ByPattern, log_det, solved, times
from genprop.distributions import (
    HALF_LOG_2PI,
    SAMPLE_SHAPE,
    Continuous,
    IndependentNormal,
    Scale,
)
from genprop.marginals import log_marginal
from genprop.patterns import seen_block
from genprop.shapes import Elements, PerRow, Seen


class JointNormal(Continuous):
    """x ~ N(loc, L Lᵀ), one law or a batch of them.

    Values and masks broadcast with the batch: rows ``(rows, 1, elements)`` meet each of K laws.

    Args:
        loc: the mean, ``(…, elements)``.
        scale_tril: L, lower triangular with a positive diagonal, ``(…, elements, elements)``.

    >>> law = JointNormal(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.8, 0.6]]))
    >>> law.given(torch.tensor([[2.0, 0.0]]), torch.tensor([[True, False]])).mean
    tensor([[2.0000, 1.6000]])
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        shape = torch.broadcast_shapes(loc.shape, scale_tril.shape[:-1])
        self.loc, self.scale_tril = loc.expand(shape), scale_tril
        self._setup(self.loc)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The tensors that determine the law, in the order of the constructor."""
        return self.loc, self.scale_tril

    def with_parameters(self, *parameters: Tensor) -> "JointNormal":
        """The law that has these parameters."""
        return JointNormal(*parameters)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each element."""
        return self.scale_tril.square().sum(-1).expand_as(self.loc)

    @property
    def covariance(self) -> Tensor:
        """The covariance L Lᵀ."""
        return self.scale_tril @ self.scale_tril.mT

    def elements(self, x: Elements) -> Elements:
        """Log P(x_j) of every element by itself, in nats."""
        return IndependentNormal(self.loc, self.variance.sqrt()).elements(x)

    def total(self, x: Elements) -> PerRow:
        """Log P(x) of all together, in nats."""
        return _log_density(self.scale_tril, x - self.loc) - x.shape[-1] * HALF_LOG_2PI

    def draw(self, shape: torch.Size) -> Elements:
        noise = torch.randn((*shape, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + times(self.scale_tril, noise)

    def entropy(self) -> PerRow:
        volume = log_det(self.scale_tril)
        return (volume + self.loc.shape[-1] * (0.5 + HALF_LOG_2PI)).expand(self.batch_shape)

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(x) in nats; with a mask the marginal log P(x_seen)."""
        if seen is None:
            return self.total(value)
        away = torch.where(seen, value - self.loc, 0)
        found = log_marginal(away, self.covariance, seen)
        return found - seen.to(away).sum(-1) * HALF_LOG_2PI

    def smoothed(self, scale: Scale) -> "JointNormal":
        """The law of x + scale·ε, ε ~ N(0, I)."""
        noise = torch.as_tensor(scale, dtype=self.loc.dtype, device=self.loc.device).square()
        noise = noise.expand(torch.broadcast_shapes(noise.shape, self.event_shape))
        return JointNormal(
            self.loc, torch.linalg.cholesky(self.covariance + torch.diag_embed(noise))
        )

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """The posterior mean E[x | x + scale·ε = y], ε ~ N(0, I)."""
        tril = self.smoothed(scale).scale_tril
        pull = solved(tril.mT, solved(tril, y - self.loc), upper=True)
        return self.loc + times(self.covariance, pull)

    def given(self, x: Elements, seen: Seen) -> "JointNormalGiven":
        """The law of the unseen elements of x given the seen ones."""
        return JointNormalGiven(self, x, seen)

    def gain(self, seen: Seen) -> "ByPattern":
        """What the misfit of the seen elements adds to the mean of each."""
        return self.by_pattern(seen, self._gain)

    @property
    def roots(self) -> "ByPattern":
        """L of each law."""
        batch = self.scale_tril.shape[:-2]
        which = torch.zeros([1] * max(1, len(batch)), dtype=torch.long, device=self.loc.device)
        return ByPattern(self.scale_tril[None], which, batch)

    def by_pattern(self, seen: Seen, matrices: Callable[[Tensor], Tensor]) -> "ByPattern":
        """A matrix for each row's mask and each law, computed once for every pattern that occurs.

        Args:
            seen: masks, which broadcast with the batch of L.
            matrices: makes them of masks ``(patterns, 1, …, elements)``, one for each law.
        """
        batch, size = self.scale_tril.shape[:-2], self.event_shape
        patterns, which = torch.unique(seen.reshape(-1, *size), dim=0, return_inverse=True)
        every = matrices(patterns.reshape(-1, *[1] * len(batch), *size))
        return ByPattern(every, which.reshape(seen.shape[:-1]), batch)

    def _gain(self, seen: Tensor) -> Tensor:
        across = torch.where(seen[..., None, :], self.covariance, 0)
        gain: Tensor = torch.linalg.solve(seen_block(self.covariance, seen), across.mT).mT
        return gain


class JointNormalGiven(Distribution):
    """P(unseen | seen) of a joint Gaussian; the seen elements are held at their values.

    Args:
        law: the joint Gaussian, or a batch of them.
        x: the values, ``(…, elements)``.
        seen: True where a value is held, any pattern row by row.
    """

    arg_constraints = {}

    def __init__(self, law: JointNormal, x: Elements, seen: Seen) -> None:
        self.law, self.seen = law, seen
        self.x = x.expand(torch.broadcast_shapes(x.shape, seen.shape, law.loc.shape))
        self.gain = law.gain(seen)
        super().__init__(self.x.shape[:-1], self.x.shape[-1:], validate_args=False)

    @cached_property
    def mean(self) -> Tensor:
        """The seen values, and E[unseen | seen] elsewhere."""
        return moved(self.law.loc.expand_as(self.x), self.x, self.seen, self._carried)

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole vectors: joint draws moved by the gain on their misfit to the seen (Matheron)."""
        rows = self.batch_shape[: len(self.batch_shape) - len(self.law.batch_shape)]
        with torch.no_grad():
            joint = self.law.sample((*sample_shape, *rows))
            return moved(joint, self.x, self.seen, self._carried)

    def log_prob(self, value: Elements, asked: Seen | None = None) -> PerRow:
        """Log P(unseen | seen) in nats; with a mask that of the elements which are asked for."""
        whole = None if asked is None else self.seen | asked
        value = torch.where(self.seen, self.x, value)
        return self.law.log_prob(value, whole) - self.law.log_prob(self.x, self.seen)

    def _carried(self, misfit: Elements) -> Elements:
        return self.gain.apply(times, misfit)


def moved(
    joint: Elements, x: Elements, seen: Seen, gain: Callable[[Elements], Elements]
) -> Elements:
    """Joint draws as draws given what is seen of x: moved by the gain on their misfit to it."""
    return torch.where(seen, x, joint + gain(torch.where(seen, x - joint, 0)))


def _log_density(tril: Tensor, away: Tensor) -> Tensor:
    """Log N(away; 0, L Lᵀ) but for ½ log 2π an element."""
    misfit: Tensor = -0.5 * solved(tril, away).square().sum(-1)
    return misfit - log_det(tril)

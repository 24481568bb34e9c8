"""The Metropolis-Hastings algorithm, and ratios from a score for where there is no density."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.adaptation import Warmup, new_warmup, tuned
from genprop.bridge import KnownLaw, draws_like
from genprop.kernel import AdaptiveKernel, Info, LogDensity, check_start
from genprop.shapes import Elements, PerRow

LogRatio = Callable[[Tensor, Tensor], Tensor]
"""Two positions x, x' ``(…, elements)`` to log P(x') - log P(x), ``(…)``."""

ScoreField = Callable[[Tensor], Tensor]
"""Positions ``(…, elements)`` to ∇log P there, known or learned."""


class MetropolisState(NamedTuple):
    """Positions, what is known of the target there, and the settings of each chain and row.

    Attributes:
        position: ``(chains, *rows, elements)``.
        log_prob: log-density there, nats; less that of the start where only ratios are known.
        step_size: ``(chains, *rows)``.
        scale: of each element, the standard deviation that the warm-up found.
        warmup: where the adaptation of both stands.
    """

    position: Tensor
    log_prob: Tensor
    step_size: Tensor
    scale: Tensor
    warmup: Warmup


class MetropolisInfo(NamedTuple):
    """What a transition tells, ``(chains, *rows)`` each.

    Attributes:
        acceptance: probability of accepting the proposal.
        accepted: whether it was.
        log_prob: of the new state, nats.
        step_size: of a random walk.
    """

    acceptance: Tensor
    accepted: Tensor
    log_prob: Tensor
    step_size: Tensor


class Proposal(ABC):
    """q(x' | x), which says where a chain may go next."""

    @abstractmethod
    def draw(self, position: Elements, stride: Elements) -> Elements:
        """A draw x' ~ q(x' | x), given how far each element may go."""

    @abstractmethod
    def log_correction(self, position: Elements, candidate: Elements) -> PerRow:
        """Log q(x | x') - log q(x' | x), nats."""

    @abstractmethod
    def aim(self, elements: int) -> float | None:
        """The acceptance that a warm-up should aim at; None where there is nothing to tune."""


@dataclass(frozen=True)
class RandomWalk(Proposal):
    """x' = x + stride·ε, ε ~ N(0, I).

    Args:
        target: the acceptance to aim at; 0.44 for one element and 0.234 for more unless given.

    References:
        Roberts, Gelman, Gilks, 1997, Weak convergence and optimal scaling of random walk
        Metropolis algorithms.
    """

    target: float | None = None

    def draw(self, position: Elements, stride: Elements) -> Elements:
        return position + stride * torch.randn_like(position)

    def log_correction(self, position: Elements, candidate: Elements) -> PerRow:
        return torch.zeros_like(position[..., 0])

    def aim(self, elements: int) -> float | None:
        return self.target or (0.44 if elements == 1 else 0.234)


@dataclass(frozen=True)
class Independence(Proposal):
    """x' ~ Q, whatever x, as when the encoder Q(h | x) proposes codes for the posterior P(h | x).

    Args:
        draws: given positions ``(chains, *rows, elements)``, one draw for each.
        log_q: log Q of a position, up to a constant for each row.

    References:
        Tierney, 1994, Markov chains for exploring posterior distributions.

    >>> law = torch.distributions.MultivariateNormal(torch.zeros(3, 2), torch.eye(2))
    >>> Independence.of(law).draws(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3, 2])
    """

    draws: Callable[[Tensor], Tensor]
    log_q: LogDensity

    @classmethod
    def of(cls, law: KnownLaw) -> "Independence":
        """Proposals from a distribution, one law or one for each row."""
        return cls(lambda position: draws_like(law, position), law.log_prob)

    def draw(self, position: Elements, stride: Elements) -> Elements:
        return self.draws(position)

    def log_correction(self, position: Elements, candidate: Elements) -> PerRow:
        return self.log_q(position) - self.log_q(candidate)

    def aim(self, elements: int) -> float | None:
        return None


class MetropolisHastings(AdaptiveKernel[MetropolisState]):
    r"""x' ~ q(x' | x), accepted with probability min(1, P(x') q(x | x') / (P(x) q(x' | x))).

    A proposal where the density is zero or not a number is rejected. A warm-up tunes the step size
    and the scales of a random walk for each chain and row; an independence proposal has none.

    Args:
        log_prob: log-densities of positions, nats; None where only ratios are known.
        proposal: q, a random walk or a law of its own.
        log_ratio: log P(x') - log P(x) in place of ``log_prob``, as ``score_ratio`` makes it.
        step_size: of a random walk, at first; times the scales, which start at 1.

    Raises:
        ValueError: both or neither of a density and a ratio, or a step size that is not positive.

    References:
        Metropolis, Rosenbluth, Rosenbluth, Teller, Teller, 1953, Equation of state calculations
        by fast computing machines. Hastings, 1970, Monte Carlo sampling methods using Markov
        chains and their applications.

    >>> kernel = MetropolisHastings(lambda x: -0.5 * x.square().sum(-1))
    >>> kernel.init(torch.ones(3, 2)).log_prob
    tensor([-1., -1., -1.])
    """

    def __init__(
        self,
        log_prob: LogDensity | None,
        proposal: Proposal | None = None,
        log_ratio: LogRatio | None = None,
        step_size: float = 0.5,
    ) -> None:
        if (log_prob is None) == (log_ratio is None):
            raise ValueError(
                "Metropolis-Hastings needs either log_prob or log_ratio: a density where it is "
                "known, ratios of it where only they are"
            )
        if not 0 < step_size < math.inf:
            raise ValueError(f"step_size must be positive, but is {step_size}")
        self.log_prob, self.log_ratio, self.step_size = log_prob, log_ratio, step_size
        self.proposal = RandomWalk() if proposal is None else proposal

    @torch.no_grad()
    def init(self, position: Elements) -> MetropolisState:
        start = torch.zeros_like(position[..., 0])
        log_prob = start if self.log_prob is None else self.log_prob(position)
        check_start(log_prob)
        step_size = torch.full_like(log_prob, self.step_size)
        warmup = new_warmup(position, step_size)
        return MetropolisState(position, log_prob, step_size, torch.ones_like(position), warmup)

    @torch.no_grad()
    def step(self, state: MetropolisState) -> tuple[MetropolisState, MetropolisInfo]:
        here, stride = state.position, state.step_size[..., None] * state.scale
        there = self.proposal.draw(here, stride)
        log_prob = self._log_prob(state, there)
        odds = log_prob - state.log_prob + self.proposal.log_correction(here, there)
        sound = torch.isfinite(log_prob) & ~torch.isnan(odds)
        acceptance = torch.where(sound, odds.clamp(max=0).exp(), 0)
        accepted = torch.rand_like(acceptance) < acceptance
        log_prob = torch.where(accepted, log_prob, state.log_prob)
        position = torch.where(accepted[..., None], there, here)
        info = MetropolisInfo(acceptance, accepted, log_prob, state.step_size)
        return state._replace(position=position, log_prob=log_prob), info

    def adapt(self, state: MetropolisState, info: Info, share: float) -> MetropolisState:
        target = self.proposal.aim(state.position.shape[-1])
        return state if target is None else tuned(state, target - info.acceptance, share)

    def _log_prob(self, state: MetropolisState, candidate: Tensor) -> Tensor:
        if self.log_ratio is not None:
            return state.log_prob + self.log_ratio(state.position, candidate)
        assert self.log_prob is not None
        return self.log_prob(candidate)


def score_ratio(score: ScoreField, points: int = 9) -> LogRatio:
    r"""Log P(x') - log P(x) = ∫₀¹ (x' - x)ᵀ s(x + t(x' - x)) dt, by the trapezoid rule.

    For a law that is known by its score s = ∇log P only, such as that of a denoiser r at noise σ,
    where s(h) = (r(h) - h)/σ². The rule is exact for Gaussians; its error falls with the square
    of the number of points. A learned s may be the gradient of nothing: see ``loop_residual``.

    Args:
        score: s.
        points: at which it is evaluated, on each way.

    Raises:
        ValueError: fewer than two points.

    References:
        Alain, Bengio, 2014, What regularized auto-encoders learn from the data generating
        distribution (section on sampling).

    >>> ratio = score_ratio(lambda x: -x)  # of N(0, I)
    >>> ratio(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor([-1.5000])
    """
    if points < 2:
        raise ValueError(f"an integral needs points at both ends, but points is {points}")

    def log_ratio(x: Tensor, other: Tensor) -> Tensor:
        t = torch.linspace(0, 1, points, dtype=x.dtype, device=x.device)
        way = other - x
        along = score(x + t.reshape(-1, *(1,) * x.ndim) * way)
        total: Tensor = torch.trapezoid((way * along).sum(-1), t, dim=0)
        return total

    return log_ratio


@torch.no_grad()
def loop_residual(score: ScoreField, position: Elements, size: float, points: int = 9) -> PerRow:
    r"""∮ s(x)ᵀ dx around a random triangle with a corner at each position, in nats.

    It is zero for the gradient of a log-density, but for the error of the trapezoid rule; what it
    is for a learned score, a ratio from an integral of it may be wrong by.

    Args:
        score: s, the field.
        position: where, ``(…, elements)``.
        size: the other two corners are at ``size``·ε, ε ~ N(0, I), from there; use the step of the
            chain.
        points: at which s is evaluated, on each side.

    >>> field = lambda x: torch.stack([-x[..., 1], x[..., 0]], -1)  # turns round the origin
    >>> bool(loop_residual(field, torch.zeros(3, 2), 1.0).abs().gt(0).all())
    True
    """
    ratio = score_ratio(score, points)
    second = position + size * torch.randn_like(position)
    third = position + size * torch.randn_like(position)
    return ratio(position, second) + ratio(second, third) + ratio(third, position)

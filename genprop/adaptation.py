"""Step sizes and scales of chains, learned in a warm-up."""

import math
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from genprop.kernel import Kernel
from genprop.shapes import Elements, PerRow, Seen

# shares of the warm-up between which positions are collected; scales are set at the end of each
WINDOWS = (0.1, 0.3, 0.75)
WEIGHT_OF_COMMON_SCALE = 5.0  # positions
GAMMA, KAPPA, DELAY = 0.05, 0.75, 10.0  # of dual averaging, as in the paper


class Averaging(NamedTuple):
    """Where dual averaging of the logarithm of the step size stands, ``(chains, *rows)``."""

    anchor: Tensor
    misfit: Tensor
    log_mean: Tensor
    rounds: int


class Spread(NamedTuple):
    """Welford's running mean of positions and sum of their squared deviations, or products."""

    size: int
    mean: Tensor
    squares: Tensor


class Warmup(NamedTuple):
    """What the warm-up has learned so far, and the share of it that is done."""

    share: float
    averaging: Averaging
    spread: Spread


class Acceptance(NamedTuple):
    """All of a transition that a kernel learns from."""

    acceptance: Tensor
    accepted: Tensor


@runtime_checkable
class Tuned(Protocol):
    """A state with a step size for each chain and row, and a scale for each element of them."""

    @property
    def position(self) -> Tensor:
        """Where the chains are, ``(chains, *rows, elements)``."""

    @property
    def step_size(self) -> Tensor:
        """Of each chain and row, in units of the scales, ``(chains, *rows)``."""

    @property
    def scale(self) -> Tensor:
        """Of each element, ``(chains, *rows, elements)``."""

    @property
    def warmup(self) -> Warmup:
        """Where the adaptation of both stands."""

    def _replace(self, *args: Any, **kwargs: Any) -> Any:
        """The state with other parts."""


@runtime_checkable
class Wrapped(Protocol):
    """A state that holds the state of another kernel."""

    @property
    def inner(self) -> Any:
        """The other kernel's."""

    def _replace(self, *args: Any, **kwargs: Any) -> Any:
        """The state with other parts."""


S = TypeVar("S")
T = TypeVar("T", bound=Tuned)


def unit_scale(position: Elements, dense: bool = False) -> Tensor:
    """The scales before anything is known: ones, or where they are dense the unit matrix."""
    ones = torch.ones_like(position)
    return torch.diag_embed(ones) if dense else ones


def new_warmup(position: Elements, step_size: PerRow, scale: Tensor | None = None) -> Warmup:
    """A warm-up that begins, with scales like those to learn; without, one for each element."""
    spread = _new_spread(position, position if scale is None else scale)
    return Warmup(0.0, _new_averaging(step_size), spread)


def tuned(state: T, misfit: PerRow, share: float, free: Seen | None = None) -> T:
    """The state with its settings moved on after a transition of the warm-up.

    Step sizes follow the acceptance by dual averaging. Scales are set to the standard deviations
    of the positions in two windows, from 0.1 to 0.3 and from there to 0.75 of the warm-up, weakly
    drawn to a common scale.

    Args:
        state: after the transition.
        misfit: the acceptance aimed at less that of the transition.
        share: how much of the warm-up is done with it; one not above the last begins another.
        free: True where an element may move. Without, all may.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler, section 3.2. Stan's reference manual (the
        windows).
    """
    warmup = state.warmup
    if share <= warmup.share:
        warmup = new_warmup(state.position, state.step_size, state.scale)
    averaging = _averaged(warmup.averaging, misfit)
    spread = _with_position(warmup.spread, state.position)
    step_size = _log_step_size(averaging.anchor, averaging.misfit, averaging.rounds).exp()
    state = state._replace(step_size=step_size, warmup=Warmup(share, averaging, spread))
    if any(warmup.share < end <= share for end in WINDOWS):
        state = _next_window(state, share < WINDOWS[1], free)
    return state._replace(step_size=averaging.log_mean.exp()) if share >= 1 else state


def steadied(state: T, rounds: int) -> T:
    """The state as after so many rounds of dual averaging, after which it makes small moves.

    For an acceptance that is the mean of many chains, which there is no noise in to be averaged
    out, and a law that changes.
    """
    level = state.step_size.log()
    averaging = Averaging(level, torch.zeros_like(level), level, rounds)
    steady: T = state._replace(warmup=state.warmup._replace(averaging=averaging))
    return steady


def moved(kernel: Kernel[Any], state: S, position: Elements) -> S:
    """The state of chains that were put elsewhere, by a swap or since other variables changed.

    What the kernel had learned stays; what it knows of the law is found anew.

    Args:
        kernel: of the state or of another law.
        state: before.
        position: where the chains are now.
    """
    fresh: S = _with_settings(kernel.init(position), state)
    return fresh


def scale_of(variance: Elements, size: int, before: Elements, free: Seen | None = None) -> Elements:
    """Standard deviations from so many positions, weakly drawn to their common scale.

    Args:
        variance: of the positions; where it is zero the scale stays what it was.
        size: how many positions.
        before: the scales so far.
        free: True where an element may move.

    >>> scale_of(torch.tensor([4.0, 4.0]), 10, torch.ones(2))
    tensor([2., 2.])
    """
    variance = torch.where(variance > 0, variance, before.square())
    logs = _only(free, variance.log(), 0.0)
    count = _only(free, torch.ones_like(logs), 0.0).sum(-1, keepdim=True).clamp_min(1)
    common = (logs.sum(-1, keepdim=True) / count).exp()
    own = size / (size + WEIGHT_OF_COMMON_SCALE)
    return (own * variance + (1 - own) * common).sqrt()


def factor_of(covariance: Tensor, size: int, before: Elements, free: Seen | None = None) -> Tensor:
    """The Cholesky factor of the covariance of so many positions, drawn to scales without one.

    The correlations count ``size`` against the number of elements, so that the matrix stays well
    conditioned where there are few positions.

    Args:
        covariance: of the positions, ``(…, elements, elements)``.
        size: how many positions.
        before: the scales so far.
        free: True where an element may move.

    >>> factor_of(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), 10, torch.ones(2))
    tensor([[2., 0.],
            [0., 2.]])
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    scale = scale_of(variance, size, before, free)
    if free is not None:
        covariance = torch.where(free[..., None] & free[..., None, :], covariance, 0)
    share = size / (size + max(WEIGHT_OF_COMMON_SCALE, scale.shape[-1]))
    apart = share * (covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1)))
    factor: Tensor = torch.linalg.cholesky(apart + torch.diag_embed(scale.square()))
    return factor


def _widths(scale: Tensor, like: Elements) -> Elements:
    """Standard deviations of scales, which may be factors of a covariance."""
    return scale if scale.ndim == like.ndim else scale.square().sum(-1).sqrt()


def _with_settings(fresh: Any, known: Any) -> Any:
    if isinstance(known, Tuned):
        return fresh._replace(step_size=known.step_size, scale=known.scale, warmup=known.warmup)
    if isinstance(known, Wrapped):
        return fresh._replace(inner=_with_settings(fresh.inner, known.inner))
    return fresh


def _next_window(state: T, first: bool, free: Seen | None) -> T:
    """Begins to collect positions anew; unless it is the first time, sets the scales."""
    spread, fresh = state.warmup.spread, _new_spread(state.position, state.scale)
    if first:
        kept: T = state._replace(warmup=state.warmup._replace(spread=fresh))
        return kept
    variance, before = spread.squares / max(1, spread.size - 1), _widths(state.scale, spread.mean)
    if state.scale.ndim == state.position.ndim:
        scale = scale_of(variance, spread.size, before, free)
    else:
        scale = factor_of(variance, spread.size, before, free)
    # the element that limits the step keeps its stride
    factor = _only(free, before / _widths(scale, before), -math.inf).amax(-1)
    step_size = state.step_size * torch.where(torch.isfinite(factor), factor, 1)
    warmup = state.warmup._replace(averaging=_new_averaging(step_size), spread=fresh)
    scaled: T = state._replace(scale=scale, step_size=step_size, warmup=warmup)
    return scaled


def _only(free: Seen | None, values: Tensor, otherwise: float) -> Tensor:
    return values if free is None else torch.where(free, values, otherwise)


def _new_averaging(step_size: Tensor) -> Averaging:
    # ten times the present step: large steps are cheap to try
    zero = torch.zeros_like(step_size)
    return Averaging((10 * step_size).log(), zero, zero, 0)


def _averaged(a: Averaging, misfit: Tensor) -> Averaging:
    rounds = a.rounds + 1
    weight = 1 / (rounds + DELAY)
    total = (1 - weight) * a.misfit + weight * misfit
    share = rounds**-KAPPA
    latest = _log_step_size(a.anchor, total, rounds)
    return Averaging(a.anchor, total, share * latest + (1 - share) * a.log_mean, rounds)


def _log_step_size(anchor: Tensor, misfit: Tensor, rounds: int) -> Tensor:
    # where nothing can move, all is accepted and the step would grow without end
    return (anchor - math.sqrt(rounds) / GAMMA * misfit).clamp(-40, 40)


def _new_spread(position: Tensor, scale: Tensor) -> Spread:
    return Spread(0, torch.zeros_like(position), torch.zeros_like(scale))


def _with_position(s: Spread, position: Tensor) -> Spread:
    size = s.size + 1
    away = position - s.mean
    mean = s.mean + away / size
    left = position - mean
    squares = away * left if s.squares.ndim == away.ndim else away[..., None] * left[..., None, :]
    return Spread(size, mean, s.squares + squares)

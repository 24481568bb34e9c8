"""The most probable position of every row, by ascent of a log-density or of a model's posterior."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.kernel import LogDensity, check_start, chosen
from genprop.levels import discrete_levels
from genprop.posterior import Posterior
from genprop.resampling import picked
from genprop.shapes import Elements, PerRow, Seen

MEMORY = 10
HALVINGS = 20
SUFFICIENT = 1e-4  # share of the slope by which a step has to rise (Armijo)


@dataclass(frozen=True)
class Peak:
    """Where an ascent came to.

    Attributes:
        position: ``(…, rows, elements)``.
        log_prob: log-density there, nats.
        slope: the largest absolute derivative there; zero at a maximum.
        steps: how many it took.
    """

    position: Elements
    log_prob: PerRow
    slope: PerRow
    steps: int


class _Point(NamedTuple):
    position: Tensor
    log_prob: Tensor
    gradient: Tensor


def ascend(
    log_prob: LogDensity,
    position: Elements,
    steps: int = 200,
    tolerance: float = 1e-5,
    free: Seen | None = None,
) -> Peak:
    r"""A local maximum of a log-density for every row at once, by L-BFGS.

    Each row has curvature pairs, a step and a decision of its own: a step is halved until it rises
    enough, and not taken if it never does, so that no row's log-density ever falls. Of
    ``Posterior.log_prob`` it finds the most probable hidden values given what is seen, a mode
    of a density, whose place changes with the scale in which values are measured; it is no draw.

    Args:
        log_prob: log-densities of positions, differentiable by autograd.
        position: where to begin, ``(…, rows, elements)``.
        steps: the most steps.
        tolerance: of the slope, below which a row is done.
        free: True where an element may move; without, all may.

    Raises:
        ValueError: a log-density that is not finite at the start, or no step.

    References:
        Liu, Nocedal, 1989, On the limited memory BFGS method for large scale optimization.

    >>> peak = ascend(lambda h: -(h - 2).square().sum(-1), torch.zeros(3, 2))
    >>> peak.position[0], peak.log_prob
    (tensor([2., 2.]), tensor([-0., -0., -0.]))
    """
    if steps < 1:
        raise ValueError(f"an ascent needs at least one step, but got {steps}")
    point = _valued(log_prob, position, free)
    check_start(point.log_prob, "rows")
    pairs: list[tuple[Tensor, Tensor]] = []
    done, step = _slope(point) < tolerance, 0
    while not bool(done.all()) and step < steps:
        ahead = _searched(log_prob, point, _direction(point.gradient, pairs), done, free)
        # a row that no quasi-Newton step could raise tries the gradient, and then gives up
        stuck = ahead.log_prob <= point.log_prob
        if pairs and bool((stuck & ~done).any()):
            ahead = _searched(log_prob, ahead, _unit(ahead.gradient), done | ~stuck, free)
        done = done | (ahead.log_prob <= point.log_prob) | (_slope(ahead) < tolerance)
        pairs = [*pairs, _pair(point, ahead)][-MEMORY:]
        point, step = ahead, step + 1
    return Peak(point.position, point.log_prob, _slope(point), step)


def most_probable(posterior: Posterior, samples: int = 200) -> Peak:
    r"""The hidden values that are most probable given what is seen, argmax_h log P(x_seen, h).

    The ascent begins at the best of K draws of Q, so that it ends at a local maximum that is
    nowhere below them. Discrete levels stay as that draw has them, because they have no gradient.

    Args:
        posterior: of the rows; its vectors are what is looked for.
        samples: K.

    Returns:
        The peak, its position ``(1, rows, elements)``.

    Raises:
        ValueError: no draw has a finite log-density in a row.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.data import Batch
    >>> from genprop.model import Model
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> most_probable(Posterior(model, Batch.of(torch.ones(5, 6))), 10).position.shape
    torch.Size([1, 5, 6])
    """
    start, discrete = posterior.start(samples), discrete_levels(posterior.floors)
    with torch.no_grad():
        best = picked(start, posterior.log_prob(start).argmax(0, keepdim=True))
    moving = {n: torch.full_like(h, n not in discrete) for n, h in posterior.split(best).items()}
    return ascend(posterior.log_prob, best, free=posterior.join(moving) > 0)


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The gradient times the inverse of the curvature that the pairs of each row tell of."""
    if not pairs:
        return _unit(gradient)
    direction, shares = gradient, []
    for moved, bent in reversed(pairs):
        share = _over(_dot(moved, direction), _dot(moved, bent))
        direction = direction - share * bent
        shares.append(share)
    direction = _scale(gradient, pairs) * direction
    for (moved, bent), share in zip(pairs, reversed(shares), strict=True):
        back = _over(_dot(bent, direction), _dot(moved, bent))
        direction = direction + (share - back) * moved
    return direction


def _scale(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One over the curvature of each row's latest pair; without one, of a step of one at most."""
    scale: Tensor = 1 / gradient.norm(dim=-1, keepdim=True).clamp_min(1)
    for moved, bent in pairs:
        latest = _over(_dot(moved, bent), _dot(bent, bent))
        scale = torch.where(latest > 0, latest, scale)
    return scale


def _searched(
    log_prob: LogDensity, point: _Point, direction: Tensor, done: Tensor, free: Seen | None
) -> _Point:
    """The first of ever shorter steps that rises enough, row by row; the point where none does."""
    slope = _dot(direction, point.gradient)[..., 0]
    reach, found, best = torch.ones_like(slope), done | (slope <= 0), point
    for _ in range(HALVINGS):
        trial = _valued(log_prob, point.position + reach[..., None] * direction, free)
        rises = trial.log_prob >= point.log_prob + SUFFICIENT * reach * slope
        best = chosen(rises & ~found, trial, best)
        found = found | rises
        if bool(found.all()):
            break
        reach = torch.where(found, reach, 0.5 * reach)
    return best


def _valued(log_prob: LogDensity, position: Tensor, free: Seen | None) -> _Point:
    with torch.enable_grad():
        x = position.detach().requires_grad_()
        value = log_prob(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    return _Point(x.detach(), value.detach(), gradient if free is None else gradient * free)


def _pair(before: _Point, after: _Point) -> tuple[Tensor, Tensor]:
    """A move and the curvature met on it, zero in rows where that is not positive."""
    moved, bent = after.position - before.position, before.gradient - after.gradient
    sound = _dot(moved, bent) > torch.finfo(moved.dtype).eps * _dot(bent, bent)
    return torch.where(sound, moved, 0), torch.where(sound, bent, 0)


def _unit(gradient: Tensor) -> Tensor:
    """The gradient, no longer than one."""
    unit: Tensor = gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1)
    return unit


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = (a * b).sum(-1, keepdim=True)
    return product


def _over(a: Tensor, b: Tensor) -> Tensor:
    """A quotient that is zero where a row has no pair."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0)


def _slope(point: _Point) -> Tensor:
    return point.gradient.abs().amax(-1)

"""Hamiltonian Monte Carlo."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.adaptation import Warmup, new_warmup, tuned, unit_scale
from genprop.kernel import AdaptiveKernel, Info, LogDensity, check_start, chosen
from genprop.leapfrog import Point, leapfrog, score
from genprop.shapes import Elements, Seen

ENERGY_LIMIT = 1000.0  # nats: a trajectory that is off by more has left the level set for good


class HMCState(NamedTuple):
    """Positions, what is known of the target there, and the settings of each chain and row.

    Attributes:
        position: ``(chains, *rows, elements)``.
        log_prob: log-density there, nats.
        gradient: its gradient.
        step_size: ``(chains, *rows)``.
        scale: of each element, the standard deviation that the warm-up found; where it is dense,
            ``(chains, *rows, elements, elements)``.
        warmup: where the adaptation of both stands.
    """

    position: Tensor
    log_prob: Tensor
    gradient: Tensor
    step_size: Tensor
    scale: Tensor
    warmup: Warmup


class HMCInfo(NamedTuple):
    """What a transition tells, ``(chains, *rows)`` each.

    Attributes:
        acceptance: probability of accepting the end of the trajectory.
        accepted: whether it was.
        diverging: whether the energy error was above 1000 nats or not finite.
        energy: of the new state, nats.
        step_size: of the leapfrog steps.
    """

    acceptance: Tensor
    accepted: Tensor
    diverging: Tensor
    energy: Tensor
    step_size: Tensor


class HMC(AdaptiveKernel[HMCState]):
    r"""Hamiltonian Monte Carlo: trajectories of x with a momentum p ~ N(0, I), accepted by energy.

    With S the scales, dx/dt = S p and dp/dt = Sᵀ ∇log P(x) conserve the energy
    -log P(x) + ½|p|²; S is diagonal, or a lower triangle where it is dense. The leapfrog follows
    them for a number of steps that is drawn anew for every transition, uniformly from half of
    ``steps`` to all of them: long enough to come to the other side of the target, and never one
    period of it time and again. The end is accepted with probability min(1, exp(-error of the
    energy)). Chains and rows move together but each has a step size, scales and a decision of its
    own.

    A warm-up sets step sizes by dual averaging of the acceptance, and scales to the standard
    deviations of the positions in two windows of it, or to the Cholesky factor of their covariance,
    weakly drawn to a common scale.

    Args:
        log_prob: log-densities of positions, differentiable by autograd; no gradient is kept.
        steps: most leapfrog steps of a trajectory.
        step_size: at first; times the scales, which start at 1.
        target: the acceptance that the warm-up aims at.
        free: True where an element may move; others stay where they are. Without, all may.
        dense: whether scales know of correlations; it costs O(elements²) a step, and pays where
            these are strong and the warm-up has draws enough to see them.

    Raises:
        ValueError: no step, a step size that is not positive, or a target not between 0 and 1.

    References:
        Duane, Kennedy, Pendleton, Roweth, 1987, Hybrid Monte Carlo. Neal, 2011, MCMC using
        Hamiltonian dynamics. Hoffman, Gelman, 2014, The No-U-Turn sampler.

    >>> HMC(lambda x: -0.5 * x.square().sum(-1)).init(torch.ones(3, 2)).log_prob
    tensor([-1., -1., -1.])
    """

    def __init__(
        self,
        log_prob: LogDensity,
        steps: int = 6,
        step_size: float = 0.1,
        target: float = 0.8,
        free: Seen | None = None,
        dense: bool = False,
    ) -> None:
        if steps < 1 or not 0 < step_size < math.inf or not 0 < target < 1:
            raise ValueError(
                f"HMC needs at least one step, a positive step size and a target between 0 and 1, "
                f"but got steps={steps}, step_size={step_size}, target={target}"
            )
        self.log_prob, self.steps, self.step_size = log_prob, steps, step_size
        self.target, self.free, self.dense = target, free, dense

    def init(self, position: Elements) -> HMCState:
        log_prob, gradient = score(self.log_prob, position)
        check_start(log_prob)
        step_size = torch.full_like(log_prob, self.step_size)
        scale = unit_scale(position, self.dense)
        warmup = new_warmup(position, step_size, scale)
        return HMCState(position, log_prob, gradient, step_size, scale, warmup)

    def step(self, state: HMCState) -> tuple[HMCState, HMCInfo]:
        start = Point(
            state.position, torch.randn_like(state.position), state.log_prob, state.gradient
        )
        end, sound = self._trajectory(start, self._stride(state))
        error = end.energy - start.energy
        acceptance = torch.where(sound, torch.exp(-error).clamp(max=1), 0)
        accepted = torch.rand_like(acceptance) < acceptance
        now = chosen(accepted, end, start)
        moved = state._replace(position=now.position, log_prob=now.log_prob, gradient=now.gradient)
        return moved, HMCInfo(acceptance, accepted, ~sound, now.energy, state.step_size)

    def adapt(self, state: HMCState, info: Info, share: float) -> HMCState:
        return tuned(state, self.target - info.acceptance, share, self.free)

    def _stride(self, state: HMCState) -> Tensor:
        """How far a step goes, for a momentum of 1."""
        if not self.dense:
            stride = state.step_size[..., None] * state.scale
            return stride if self.free is None else torch.where(self.free, stride, 0)
        stride = state.step_size[..., None, None] * state.scale
        return stride if self.free is None else torch.where(self.free[..., None], stride, 0)

    def _trajectory(self, start: Point, stride: Tensor) -> tuple[Point, Tensor]:
        """Its end, and where it is sound; one that has diverged goes no further."""
        point, sound = start, torch.ones_like(start.log_prob, dtype=torch.bool)
        for _ in range(int(torch.randint((self.steps + 1) // 2, self.steps + 1, ()))):
            ahead = leapfrog(partial(score, self.log_prob), point, stride)
            error = ahead.energy - start.energy
            sound = sound & torch.isfinite(error) & (error < ENERGY_LIMIT)
            point = chosen(sound, ahead, point)
        return point, sound

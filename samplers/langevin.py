"""Langevin dynamics: corrected by Metropolis (MALA), or as they are."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.adaptation import Warmup, new_warmup, tuned
from genprop.kernel import AdaptiveKernel, Info, Kernel, LogDensity, check_start, chosen
from genprop.leapfrog import Point, leapfrog, score
from genprop.shapes import Elements


class MALAState(NamedTuple):
    """Positions, what is known of the target there, and the settings of each chain and row.

    Attributes:
        position: ``(chains, *rows, elements)``.
        log_prob: log-density there, nats.
        gradient: its gradient.
        step_size: ``(chains, *rows)``.
        scale: of each element, the standard deviation that the warm-up found.
        warmup: where the adaptation of both stands.
    """

    position: Tensor
    log_prob: Tensor
    gradient: Tensor
    step_size: Tensor
    scale: Tensor
    warmup: Warmup


class MALAInfo(NamedTuple):
    """What a transition tells, ``(chains, *rows)`` each.

    Attributes:
        acceptance: probability of accepting the proposal.
        accepted: whether it was.
        log_prob: of the new state, nats.
        step_size: standard deviation of the noise, in units of the scales.
    """

    acceptance: Tensor
    accepted: Tensor
    log_prob: Tensor
    step_size: Tensor


class MALA(AdaptiveKernel[MALAState]):
    r"""Langevin dynamics with a Metropolis correction: x' = x + ½ε²D² ∇log P(x) + εD ξ.

    ξ ~ N(0, I), ε is the step size and D the diagonal of scales. x' is accepted with the
    probability of Metropolis and Hastings for that Gaussian proposal, which is how well one
    leapfrog step with the momentum ξ keeps the energy, and is computed so. Each chain of each row
    has a step size, scales and a decision of its own; a warm-up sets them as it does for
    Hamiltonian Monte Carlo.

    Args:
        log_prob: log-densities of positions, differentiable by autograd; no gradient is kept.
        step_size: ε at first; times the scales, which start at 1.
        target: the acceptance that the warm-up aims at.

    Raises:
        ValueError: a step size that is not positive, or a target not between 0 and 1.

    References:
        Roberts, Tweedie, 1996, Exponential convergence of Langevin distributions and their
        discrete approximations. Roberts, Rosenthal, 1998, Optimal scaling of discrete
        approximations to Langevin diffusions (the 0.574).

    >>> MALA(lambda x: -0.5 * x.square().sum(-1)).init(torch.ones(3, 2)).log_prob
    tensor([-1., -1., -1.])
    """

    def __init__(self, log_prob: LogDensity, step_size: float = 0.1, target: float = 0.574) -> None:
        if not 0 < step_size < math.inf or not 0 < target < 1:
            raise ValueError(
                f"MALA needs a positive step size and a target between 0 and 1, but got "
                f"step_size={step_size}, target={target}"
            )
        self.log_prob, self.step_size, self.target = log_prob, step_size, target

    def init(self, position: Elements) -> MALAState:
        log_prob, gradient = score(self.log_prob, position)
        check_start(log_prob)
        step_size, scale = torch.full_like(log_prob, self.step_size), torch.ones_like(position)
        warmup = new_warmup(position, step_size)
        return MALAState(position, log_prob, gradient, step_size, scale, warmup)

    def step(self, state: MALAState) -> tuple[MALAState, MALAInfo]:
        noise = torch.randn_like(state.position)
        start = Point(state.position, noise, state.log_prob, state.gradient)
        stride = state.step_size[..., None] * state.scale
        end = leapfrog(partial(score, self.log_prob), start, stride)
        error = end.energy - start.energy
        acceptance = torch.where(torch.isfinite(error), torch.exp(-error).clamp(max=1), 0)
        accepted = torch.rand_like(acceptance) < acceptance
        now = chosen(accepted, end, start)
        state = state._replace(position=now.position, log_prob=now.log_prob, gradient=now.gradient)
        return state, MALAInfo(acceptance, accepted, now.log_prob, state.step_size)

    def adapt(self, state: MALAState, info: Info, share: float) -> MALAState:
        return tuned(state, self.target - info.acceptance, share)


class LangevinState(NamedTuple):
    """Positions ``(chains, *rows, elements)``, and the score there."""

    position: Tensor
    score: Tensor


class LangevinInfo(NamedTuple):
    """What a transition tells, ``(chains, *rows)`` each.

    Attributes:
        acceptance: 1, or 0 where the score of the new position is not finite.
        accepted: whether the chain moved.
    """

    acceptance: Tensor
    accepted: Tensor


class Langevin(Kernel[LangevinState]):
    r"""Langevin dynamics as they are: x' = x + ½ε² ∇log P(x) + ε ξ, ξ ~ N(0, I).

    For laws of which only the score is known, as that of a denoiser, (r(h) - h)/σ². Nothing is
    rejected but what is not finite, so that the law the chain keeps is off by O(ε²): for N(0, s²)
    its variance is s²/(1 - ε²/4s²), and from ε = 2s on it runs away. Where ratios of densities
    can be had, ``MALA`` or ``MetropolisHastings`` have no such bias.

    Args:
        score: positions ``(…, elements)`` to ∇log P there.
        step_size: ε, the standard deviation of the noise, in units of x.

    Raises:
        ValueError: a step size that is not positive.

    References:
        Roberts, Tweedie, 1996, Exponential convergence of Langevin distributions and their
        discrete approximations.

    >>> Langevin(lambda x: -x, step_size=0.1).init(torch.ones(2, 1)).score
    tensor([[-1.],
            [-1.]])
    """

    def __init__(self, score: Callable[[Tensor], Tensor], step_size: float) -> None:
        if not 0 < step_size < math.inf:
            raise ValueError(f"step_size must be positive, but is {step_size}")
        self.score, self.step_size = score, step_size

    @torch.no_grad()
    def init(self, position: Elements) -> LangevinState:
        return LangevinState(position, self.score(position))

    @torch.no_grad()
    def step(self, state: LangevinState) -> tuple[LangevinState, LangevinInfo]:
        drift = 0.5 * self.step_size**2 * state.score
        position = state.position + drift + self.step_size * torch.randn_like(state.position)
        ahead = LangevinState(position, self.score(position))
        sound = torch.isfinite(ahead.score).all(-1) & torch.isfinite(position).all(-1)
        return chosen(sound, ahead, state), LangevinInfo(sound.to(position.dtype), sound)

"""Hamiltonian Monte Carlo in turn with another kernel, which goes where trajectories do not."""

from typing import Any

from genprop.adaptation import moved
from genprop.kernel import AdaptiveKernel, Info, Kernel
from genprop.samplers.hamiltonian import HMC, HMCState
from genprop.shapes import Elements


class InTurn(AdaptiveKernel[HMCState]):
    """A transition of another kernel, then a trajectory; what both leave as it is stays.

    Only trajectories learn in a warm-up, and what a transition tells is of them.

    Args:
        other: a kernel that keeps nothing but positions.
        hmc: of the same law.

    References:
        Tierney, 1994, Markov chains for exploring posterior distributions (cycles of kernels).

    >>> import torch
    >>> from genprop.samplers.metropolis import MetropolisHastings
    >>> normal = lambda x: -0.5 * x.square().sum(-1)
    >>> InTurn(MetropolisHastings(normal), HMC(normal)).init(torch.ones(3, 2)).log_prob
    tensor([-1., -1., -1.])
    """

    def __init__(self, other: Kernel[Any], hmc: HMC) -> None:
        self.other, self.hmc = other, hmc

    def init(self, position: Elements) -> HMCState:
        return self.hmc.init(position)

    def step(self, state: HMCState) -> tuple[HMCState, Info]:
        return self.hmc.step(self._moved(state))

    def adapt(self, state: HMCState, info: Info, share: float) -> HMCState:
        return self.hmc.adapt(state, info, share)

    def _moved(self, state: HMCState) -> HMCState:
        position = self.other.step(self.other.init(state.position))[0].position
        return moved(self.hmc, state, position)


class Around(InTurn):
    """A transition of another kernel, a trajectory, and such a transition again.

    The same forth and back, so that the transition is reversible as its parts are.
    """

    def step(self, state: HMCState) -> tuple[HMCState, Info]:
        state, info = super().step(state)
        return self._moved(state), info

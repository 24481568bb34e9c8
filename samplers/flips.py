"""Markov chains on hidden values some of which are zeros and ones."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genprop.conditional import Categorical
from genprop.kernel import Kernel, LogDensity
from genprop.posterior import Posterior
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.in_turn import Around
from genprop.samplers.metropolis import MetropolisHastings, Proposal
from genprop.shapes import Elements, PerRow, Seen
from genprop.stack import is_discrete

MOST_FLIPS = 32  # of one sweep


class OneChanged(Proposal):
    """One discrete variable, chosen at random, takes another of its values, chosen at random.

    Args:
        sizes: for each variable, in order, its number of elements: 1 of a bit, or the number of a
            one-hot group; 0 for a real element, which stays.
        like: a tensor of the chains' device.

    >>> bit = OneChanged([0, 1], torch.zeros(1))
    >>> bit.draw(torch.tensor([[0.5, 1.0]]), torch.ones(1, 2))
    tensor([[0.5000, 0.0000]])
    """

    def __init__(self, sizes: list[int], like: Tensor) -> None:
        first: list[int] = []
        owner: list[int] = []
        counts: list[int] = []
        for number, size in enumerate(sizes):
            first += [len(first)] * max(1, size)
            owner += [number] * max(1, size)
            counts += [size] * max(1, size)
        self.first = torch.tensor(first, device=like.device)
        self.owner = torch.tensor(owner, device=like.device)
        self.counts = torch.tensor(counts, device=like.device)
        self.sizes = torch.tensor(sizes, device=like.device)
        self.variables = torch.tensor([n for n, s in enumerate(sizes) if s], device=like.device)

    def draw(self, position: Elements, stride: Elements) -> Elements:
        lead = (*position.shape[:-1], 1)
        which = self.variables[torch.randint(len(self.variables), lead, device=position.device)]
        # a group is turned by less than a full turn: never to where it was
        others = (self.sizes[which] - 1).clamp_min(0)
        turn = 1 + (torch.rand(lead, device=position.device) * others).long()
        place = torch.arange(position.shape[-1], device=position.device).expand(position.shape)
        turned = self.first + (place - self.first - turn) % self.counts.clamp_min(1)
        chosen = self.owner == which
        moved = position.gather(-1, torch.where(chosen, turned, place))
        return torch.where(chosen & (self.counts == 1), 1 - position, moved)

    def log_correction(self, position: Elements, candidate: Elements) -> PerRow:
        return torch.zeros_like(position[..., 0])

    def aim(self, elements: int) -> float | None:
        return None


class FlipState(NamedTuple):
    """Where chains are, ``(chains, *rows, elements)``."""

    position: Tensor


class FlipInfo(NamedTuple):
    """What a sweep tells, ``(chains, *rows)`` each.

    Attributes:
        acceptance: mean probability of accepting a change.
        accepted: whether the last one was.
    """

    acceptance: Tensor
    accepted: Tensor


class Flips(Kernel[FlipState]):
    """Metropolis on discrete values, several changes of one variable each; reversible as a whole.

    Args:
        log_prob: log-densities of positions.
        change: what proposes.
        count: changes in a transition.
    """

    def __init__(self, log_prob: LogDensity, change: OneChanged, count: int) -> None:
        self.kernel, self.count = MetropolisHastings(log_prob, change), count

    def init(self, position: Elements) -> FlipState:
        return FlipState(position)

    def step(self, state: FlipState) -> tuple[FlipState, FlipInfo]:
        inner, chances = self.kernel.init(state.position), []
        for _ in range(self.count):
            inner, info = self.kernel.step(inner)
            chances.append(info.acceptance)
        return FlipState(inner.position), FlipInfo(torch.stack(chances).mean(0), info.accepted)


def hidden_kernel(log_prob: LogDensity, posterior: Posterior) -> Kernel[Any]:
    """A reversible kernel for the hidden values of a model, whatever they are."""
    sizes, free = variables_of(posterior)
    count = min(MOST_FLIPS, sum(size > 0 for size in sizes))
    if not count:
        return HMC(log_prob)
    flips = Flips(log_prob, OneChanged(sizes, posterior.model.like), count)
    return Around(flips, HMC(log_prob, free=free)) if bool(free.any()) else flips


def variables_of(posterior: Posterior) -> tuple[list[int], Seen]:
    """The sizes of all variables in a position, 0 for a real one; and which elements are real."""
    sizes: list[int] = []
    for floor in posterior.floors:
        for ladder in floor.ladders:
            for number in range(len(ladder.levels)):
                family = ladder.stack[number].encoder.family
                if isinstance(family, Categorical):
                    sizes += family.sizes
                else:
                    sizes += [int(is_discrete(family))] * family.elements
    real = [size == 0 for size in sizes for _ in range(max(1, size))]
    return sizes, torch.tensor(real, device=posterior.model.like.device)

"""Equilibrium propagation: credit is the difference of two states that settled."""

import cmath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.credit.energy import Energy
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import PredictingRule, RecallingRule
from genprop.rules.rule import Term

NUDGINGS = ("one-sided", "centred", "holomorphic")


class Phase(NamedTuple):
    """A nudging β, and the weight of its energy in the update."""

    beta: complex | float
    weight: complex | float


class EquilibriumPropagation(RecallingRule, PredictingRule):
    r"""The network settles freely, then nudged towards y; the energies' difference is the update.

    Formula: with F as in ``Energy`` and h^β where ∂F/∂h = 0, descend Σ_k w_k F(θ, sg h^{β_k}, β_k)
    in θ. ``one-sided``: β with weight 1/β and 0 with -1/β, whose bias is O(β); ``centred``: ±β with
    ±1/(2β), O(β²); ``holomorphic``: N points β e^{2πik/N} with 1/(N β_k), O(β^N), the real part.

    Local: W_l learns from h_l and h_{l-1} in each phase. Transported: none beside the
    layers' two-way connections, which means W_l and its transpose both carry signals. Cost: per
    update free + phases × nudged steps, each about 3 forward passes. Memory: the states of each
    phase, two or N, and of persistent particles those of all rows. Source: Scellier, Bengio, 2017,
    Equilibrium propagation; Laborieux and others, 2021, Scaling equilibrium propagation to deep
    convnets; Laborieux, Zenke, 2022, Holomorphic equilibrium propagation.

    Args:
        nudging: ``"one-sided"``, ``"centred"`` or ``"holomorphic"``.
        beta: β, or |β|.
        free_steps: until the network has settled freely.
        nudged_steps: of each nudged phase, which starts from the free state.
        rate: of the states' steps.
        readout: whether the output stands outside the states (for cross-entropy in particular).
        points: N, of holomorphic nudging.
        persistent: whether free states of training rows are kept from epoch to epoch.
        random_sign: whether each batch draws the sign of a one-sided β.

    Raises:
        ValueError: an unknown nudging, or numbers that make no sense.

    >>> [round(p.weight, 3) for p in EquilibriumPropagation(beta=0.5).phases()]
    [1.0, -1.0]
    """

    def __init__(
        self,
        nudging: str = "centred",
        beta: float = 0.5,
        free_steps: int = 20,
        nudged_steps: int = 10,
        rate: float = 0.5,
        readout: bool = False,
        points: int = 4,
        persistent: bool = False,
        random_sign: bool = False,
    ) -> None:
        super().__init__()
        self.nudging, self.beta, self.rate, self.readout = nudging, beta, rate, readout
        self.free_steps, self.nudged_steps, self.points = free_steps, nudged_steps, points
        self.persistent, self.random_sign = persistent, random_sign
        self._particles: list[Tensor] = []
        self._index: Tensor | None = None
        self._rows = 0
        _check(self)

    def phases(self) -> list[Phase]:
        """Every nudging with its weight; a free phase has none of β = 0 but in ``one-sided``."""
        beta = self.beta
        if self.nudging == "holomorphic":
            turns = [beta * cmath.exp(2j * cmath.pi * k / self.points) for k in range(self.points)]
            return [Phase(b, 1 / (self.points * b)) for b in turns]
        if self.nudging == "centred":
            return [Phase(beta, 1 / (2 * beta)), Phase(-beta, -1 / (2 * beta))]
        if self.random_sign and bool(torch.rand(()) < 0.5):
            beta = -beta
        return [Phase(beta, 1 / beta), Phase(0.0, -1 / beta)]

    def recall(self, index: Tensor, rows: int) -> None:
        self._index = index if self.persistent else None
        if rows != self._rows:
            self._particles, self._rows = [], rows

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a layer, once all phases have settled."""
        energy = Energy(network, x.detach(), y, self.readout)
        free = energy.settle(self._start(energy), self.free_steps, self.rate)
        self._keep(free)
        with torch.no_grad():
            loss = network.loss(energy.output(free), y).mean()
        phases = self.phases()
        settled = [self._nudged(energy, free, phase) for phase in phases]
        for layer in range(1, len(network.layers) + 1):
            values = [
                phase.weight * _share(energy, states, layer, phase.beta)
                for phase, states in zip(phases, settled, strict=True)
            ]
            name = f"layer.{layer}"
            total = torch.as_tensor(sum(values)).real / len(x)
            last = layer == len(network.layers)
            yield Term(name, {f"{name}.energy": total}, {"loss": loss} if last else {})

    def predict(self, network: CreditNetwork, x: Tensor) -> Tensor:
        """The output of the free state."""
        energy = Energy(network, x, None, self.readout)
        with torch.no_grad():
            return energy.output(energy.settle(energy.zeros(), self.free_steps, self.rate))

    def check(self, network: CreditNetwork) -> None:
        weight = network.layers[0].weight
        Energy(network, weight.new_zeros(1), None, self.readout).check()
        if self.nudging == "holomorphic":
            units = {b.unit for b in network.layers} - {"tanh", "sigmoid", "identity"}
            pools = {b.pool for b in network.layers} - {"none", "mean"}
            if units or pools:
                raise ValueError(
                    f"holomorphic nudging needs analytic units and mean pooling, not "
                    f"{', '.join(sorted(units | pools))}"
                )

    def _nudged(self, energy: Energy, free: Sequence[Tensor], phase: Phase) -> list[Tensor]:
        if not phase.beta:
            return list(free)
        if isinstance(phase.beta, complex):
            free = [h.to(torch.promote_types(h.dtype, torch.complex64)) for h in free]
        return energy.settle(free, self.nudged_steps, self.rate, phase.beta)

    def _start(self, energy: Energy) -> list[Tensor]:
        zeros = energy.zeros()
        if self._index is None:
            return zeros
        if not self._particles:
            self._particles = [h.new_zeros(self._rows, *h.shape[1:]) for h in zeros]
        return [kept[self._index] for kept in self._particles]

    def _keep(self, free: Sequence[Tensor]) -> None:
        if self._index is not None:
            for kept, h in zip(self._particles, free, strict=True):
                kept[self._index] = h
            self._index = None


def _share(energy: Energy, states: Sequence[Tensor], layer: int, beta: complex | float) -> Tensor:
    """What one layer's weights have to do with F, summed over rows; states are constant."""
    states = [h.detach() for h in states]
    if layer <= len(energy.moving):
        return -energy.meeting(states, layer)
    # a readout is taught by the cost where the states were nudged to; it has no part in E
    return beta * energy.cost(states)


def _check(rule: EquilibriumPropagation) -> None:
    if rule.nudging not in NUDGINGS:
        raise ValueError(f"nudging must be one of {', '.join(NUDGINGS)}, but is {rule.nudging!r}")
    if not (rule.beta > 0 and rule.rate > 0 and rule.points >= 2):
        raise ValueError(
            f"beta and rate are positive and points at least 2; got {rule.beta}, {rule.rate} and "
            f"{rule.points}"
        )
    if min(rule.free_steps, rule.nudged_steps) < 1:
        raise ValueError(f"both phases need a step, got {rule.free_steps} and {rule.nudged_steps}")

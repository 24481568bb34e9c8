"""Equilibrium propagation: the order of its bias, against the exact gradient at the free state."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import credit_zoo as zoo
import pytest
import torch
from torch import Tensor

from genprop.credit.energy import Energy
from genprop.credit.equilibrium import EquilibriumPropagation
from genprop.credit.network import CreditNetwork
from genprop.credit.train import CreditTrainer
from genprop.train import Trainer

STEPS: dict[str, Any] = {"free_steps": 60, "nudged_steps": 60, "rate": 0.7}
CASES = {
    "squared": lambda: (CreditNetwork.build(4, (5, 4), 3, "tanh", "squared"), False),
    "cross-entropy as a state": lambda: (CreditNetwork.build(4, (5,), 3, "sigmoid"), False),
    "cross-entropy read out": lambda: (CreditNetwork.build(4, (5, 4), 3, "tanh"), True),
    "convolutional": lambda: (zoo.convolutional(), True),
}
INTEGRALS = {  # Ω, of the inverse of the unit
    "identity": lambda h: 0.5 * h.square(),
    "tanh": lambda h: h * h.atanh() + 0.5 * (1 - h.square()).log(),
    "sigmoid": lambda h: h.xlogy(h) + (1 - h).xlogy(1 - h),
}
every_case = pytest.mark.parametrize("case", CASES)


def built(case: str) -> tuple[CreditNetwork, bool, Tensor, Tensor]:
    torch.manual_seed(1)
    network, readout = CASES[case]()
    network = network.double()
    for block in network.layers:
        block.weight.data *= 0.4  # weakly enough coupled for one fixed point
        block.bias.data.normal_(0, 0.1)
    return network, readout, *zoo.data(network)


def free_energy(energy: Energy, states: Sequence[Tensor], beta: float = 0.0) -> Tensor:
    """F summed over rows."""
    own = [INTEGRALS[b.unit](h).sum() for b, h in zip(energy.moving, states, strict=True)]
    return torch.stack(own).sum() - energy.pull(states, beta)


def exact(network: CreditNetwork, readout: bool, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the mean cost of free states, by the implicit function theorem."""
    energy = Energy(network, x, y, readout)
    states = energy.settle(energy.zeros(), 150, 0.7)
    sizes, shapes = [h.numel() for h in states], [h.shape for h in states]

    def value(flat: Tensor) -> Tensor:
        parts = zip(flat.split(sizes), shapes, strict=True)
        return free_energy(energy, [h.view(s) for h, s in parts])

    flat = torch.cat([h.flatten() for h in states]).requires_grad_()
    curvature = torch.autograd.functional.hessian(value, flat)
    cost = energy.cost([h.view(s) for h, s in zip(flat.split(sizes), shapes, strict=True)])
    (slope,) = torch.autograd.grad(cost, flat, retain_graph=True)
    away = torch.linalg.solve(curvature, slope)
    (force,) = torch.autograd.grad(value(flat), flat, create_graph=True)
    torch.testing.assert_close(force, torch.zeros_like(force), rtol=0, atol=1e-9)
    parameters = list(network.parameters())
    through = torch.autograd.grad(force @ away, parameters, allow_unused=True)
    direct = torch.autograd.grad(cost, parameters, allow_unused=True)
    both = zip(parameters, direct, through, strict=True)
    total = [(0 if d is None else d) - (0 if t is None else t) + 0 * p for p, d, t in both]
    return torch.cat([t.detach().flatten() for t in total]) / len(x)


@pytest.mark.parametrize(
    ("case", "nudging", "points", "order"),
    [
        ("squared", "one-sided", 2, 1),
        ("squared", "centred", 2, 2),
        ("squared", "holomorphic", 4, 4),
        ("cross-entropy as a state", "one-sided", 2, 1),
        ("cross-entropy read out", "centred", 2, 2),
        ("cross-entropy read out", "holomorphic", 4, 4),
        ("convolutional", "centred", 2, 2),
    ],
)
def test_the_bias_has_the_order_of_the_theory(
    case: str, nudging: str, points: int, order: int
) -> None:
    """Half of β leaves 2^-order of the error, up to a factor of the next order's share."""
    beta = 0.2 if order == 4 else 0.1
    network, readout, x, y = built(case)
    truth = exact(network, readout, x, y)
    errors = []
    for size in (beta, beta / 2):
        rule = EquilibriumPropagation(nudging, beta=size, points=points, readout=readout, **STEPS)
        found = torch.cat(list(zoo.told(network, rule, x, y).values()))
        errors.append(float((found - truth).norm() / truth.norm()))
    assert 0.75 * 2**order < errors[0] / errors[1] < 1.4 * 2**order
    assert errors[1] < 0.1


def test_two_points_of_a_circle_are_centred_nudging() -> None:
    network, readout, x, y = built("squared")
    one, two = (
        EquilibriumPropagation(nudging, points=2, readout=readout, **STEPS)
        for nudging in ("centred", "holomorphic")
    )
    zoo.assert_same(
        zoo.told(network, one, x, y), zoo.told(network, two, x, y), rtol=1e-6, atol=1e-9
    )


@every_case
def test_settling_lowers_the_energy_until_no_force_is_left(case: str) -> None:
    network, readout, x, y = built(case)
    energy = Energy(network, x, y, readout)
    states = energy.zeros()
    values = [float(free_energy(energy, states, 0.5).detach())]
    for _ in range(60):
        states = energy.settle(states, 1, 0.5, 0.5)
        values.append(float(free_energy(energy, states, 0.5).detach()))
    assert all(b <= a + 1e-12 for a, b in pairwise(values))
    assert values[-2] - values[-1] < 1e-6


def test_particles_go_on_where_they_were() -> None:
    network, _, x, y = built("squared")
    few = EquilibriumPropagation(free_steps=5, nudged_steps=1, persistent=True)
    index = torch.arange(len(x))
    losses = []
    for _ in range(30):
        few.recall(index, len(x))
        losses.append([t.account for t in few(network, x, y)][-1]["loss"])
    many = EquilibriumPropagation(free_steps=120, nudged_steps=1)
    whole = [t.account for t in many(network, x, y)][-1]["loss"]
    torch.testing.assert_close(losses[-1], whole)
    assert (losses[0] - whole).abs() > 1e-4


def test_clipped_units_stay_within_their_bounds_and_learn() -> None:
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (12,), 3, "clip", "squared", last="clip")
    y = torch.arange(30) % 3
    x = torch.eye(3, 7)[y] + 0.1 * torch.rand(30, 7)
    rule = EquilibriumPropagation("one-sided", random_sign=True, nudged_steps=4, persistent=True)
    states = Energy(network, x, y).settle(Energy(network, x, y).zeros(), 20, 0.5, 1.0)
    assert 0 <= states[0].min() <= states[0].max() <= 1
    how = Trainer(epochs=10, batch_size=10, lr=0.2, optimizer="sgd", device="cpu")
    rows = CreditTrainer(how).fit(network, rule, x, y, validation=(x, y))
    assert rows[-1]["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nudging": "both"}, "nudging must be one of"),
        ({"beta": 0.0}, "beta and rate are positive"),
        ({"points": 1}, "points at least 2"),
        ({"free_steps": 0}, "both phases need a step"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EquilibriumPropagation(**settings)  # type: ignore[arg-type]


def test_networks_without_an_energy_are_refused() -> None:
    for name in ("sign", "residual-relu"):
        with pytest.raises(ValueError, match="an energy needs layers"):
            EquilibriumPropagation().check(zoo.network(name))
    with pytest.raises(ValueError, match="no place in the energy"):
        EquilibriumPropagation().check(CreditNetwork.build(3, (2,), 2, last="tanh"))
    with pytest.raises(ValueError, match="analytic units"):
        EquilibriumPropagation("holomorphic").check(CreditNetwork.build(3, (2,), 2, "relu"))

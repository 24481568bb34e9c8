"""Predictive coding: what multipliers make exact, and what they do not."""

import credit_zoo as zoo
import pytest
import torch

from genprop.credit.backprop import BackPropagation
from genprop.credit.measure import agreement
from genprop.credit.network import CreditNetwork
from genprop.credit.predictive import PredictiveCoding


def linear() -> CreditNetwork:
    torch.manual_seed(0)
    network = CreditNetwork.build(4, (4, 3), 3, "identity", "squared").double()
    return damped(network)


def damped(network: CreditNetwork) -> CreditNetwork:
    """Weights small enough that states settle in few steps."""
    for block in network.layers:
        block.bias.data.normal_()
        block.weight.data *= 0.7
    return network


def test_multipliers_make_the_gradient_of_linear_networks_exact() -> None:
    """At the fixed point h is the forward pass and λ_l = -∂C/∂h_l."""
    network = linear()
    x, y = zoo.data(network)
    rule = PredictiveCoding(steps=250, rate=0.3, dual=0.5)
    path = network.path(x)
    states, multipliers = rule.relax(network, path[:-1], y)
    for found, expected in zip(states, path[:-1], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    leaf = [h.clone().requires_grad_() for h in path[1:-1]]
    slopes = []
    for layer, h in enumerate(leaf, 2):
        above = h
        for block in network.layers[layer - 1 :]:
            above = block(above)
        slopes.append(torch.autograd.grad(network.loss(above, y).sum(), h)[0])
    for found, slope in zip(multipliers, slopes, strict=True):
        torch.testing.assert_close(found, -slope, rtol=1e-5, atol=1e-6)
    expected = zoo.told(network, BackPropagation(), x, y)
    zoo.assert_same(zoo.told(network, rule, x, y), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["tanh", "convolutional"])
def test_multipliers_make_the_gradient_exact_at_convergence(name: str) -> None:
    network = zoo.network(name)
    if name == "tanh":
        network = damped(CreditNetwork.build(7, (5, 5), 3).double())
    x, y = zoo.data(network)
    rule = PredictiveCoding(steps=250, rate=0.3, dual=0.5)
    expected = zoo.told(network, BackPropagation(), x, y)
    zoo.assert_same(zoo.told(network, rule, x, y), expected, rtol=1e-4, atol=1e-5)


def test_without_multipliers_the_fixed_point_is_another_one() -> None:
    network = linear()
    x, y = zoo.data(network)
    settled = [
        zoo.told(network, PredictiveCoding(steps, 0.3), x, y)["layer.1"] for steps in (100, 200)
    ]
    torch.testing.assert_close(*settled, rtol=1e-4, atol=1e-6)
    truth = zoo.told(network, BackPropagation(), x, y)["layer.1"]
    assert (settled[0] - truth).norm() > 0.2 * truth.norm()


def test_one_step_from_the_forward_pass_reaches_one_layer_only() -> None:
    """Credit moves down one layer a step."""
    network = zoo.network("tanh")
    x, y = zoo.data(network)
    for steps in (1, 2, 3):
        slopes = zoo.told(network, PredictiveCoding(steps), x, y)
        silent = {name for name, slope in slopes.items() if not slope.any()}
        assert silent == {f"layer.{i}" for i in range(1, 4 - steps)}


def test_with_multipliers_the_angle_is_smaller_in_a_deep_residual_network() -> None:
    torch.manual_seed(0)
    network = CreditNetwork.build(10, (16,) * 12, 3, "relu", residual=True)
    x, y = torch.randn(20, 10), torch.randint(3, (20,))
    plain, dual = (
        agreement(network, PredictiveCoding(steps=50, rate=0.25, dual=step), x, y)
        for step in (0.0, 1.0)
    )
    assert all(dual[name].angle < plain[name].angle for name in dual)


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"rate": 0.0}, {"penalty": -1.0}, {"dual": -1.0}]
)
def test_settings_without_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are positive"):
        PredictiveCoding(**settings)  # type: ignore[arg-type]


def test_discrete_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="sends derivatives"):
        PredictiveCoding().check(zoo.network("sign"))

"""Diagnostics: on networks where each is known, as a callback, and drawn."""

import math

import credit_zoo as zoo
import pytest
import torch

from genprop.credit.alignment import FeedbackAlignment
from genprop.credit.backprop import BackPropagation
from genprop.credit.block import UNITS
from genprop.credit.goodness import ForwardForward
from genprop.credit.measure import agreement, conditions, saturation
from genprop.credit.network import CreditNetwork
from genprop.credit.target import TargetPropagation
from genprop.credit.train import CreditTrainer
from genprop.credit.watch import Watch, credit_curves
from genprop.train import Trainer


def test_angle_and_ratio_are_those_of_the_updates() -> None:
    network = zoo.network("tanh")
    rule = zoo.rule("FA", network)
    assert isinstance(rule, FeedbackAlignment)
    x, y = zoo.data(network)
    for layer in (2, 3, 4):
        rule.feedback(layer).copy_(network.layers[layer - 1].weight.detach())
    for found in agreement(network, rule, x, y).values():
        assert found.angle < 1e-5
        assert found.ratio == pytest.approx(1)
    rule.feedback(4).mul_(-2)
    found = agreement(network, rule, x, y)
    assert found["layer.3"].angle == pytest.approx(180)
    assert found["layer.1"].ratio == pytest.approx(2)
    assert found["layer.4"].angle < 1e-5


def test_a_layer_without_an_update_has_no_angle() -> None:
    network = zoo.network("tanh")
    found = agreement(network, ForwardForward(), *zoo.data(network))
    assert math.isnan(found["layer.4"].angle)
    assert found["layer.4"].ratio == 0
    assert 0 < found["layer.1"].angle < 180


def test_condition_numbers() -> None:
    network = CreditNetwork.build(3, (3,), 2)
    network.layers[0].weight.data = torch.diag(torch.tensor([4.0, 1.0, 0.5]))
    network.layers[1].weight.data = torch.ones(2, 3)
    found = conditions(network)
    assert found["layer.1"] == pytest.approx(8)
    assert found["layer.2"] > 1e6


@pytest.mark.parametrize("unit", UNITS)
def test_saturation_counts_flat_places(unit: str) -> None:
    network = CreditNetwork.build(1, (4,), 2, unit)
    network.layers[0].weight.data.zero_()
    network.layers[0].bias.data = torch.tensor([-50.0, 0.5, 0.5, 50.0])
    found = saturation(network, torch.zeros(5, 1))
    shares = {"identity": 0.0, "relu": 0.25, "elu": 0.25}
    assert found["layer.1"] == shares.get(unit, 0.5)
    assert found["layer.2"] == 0


def test_a_watch_tells_of_every_layer_and_disturbs_nothing() -> None:
    x, y = torch.randn(30, 7), torch.arange(30) % 3
    how = Trainer(epochs=2, batch_size=10, device="cpu")
    ends = []
    for callbacks in ([], [Watch(x[:5], y[:5])]):
        torch.manual_seed(0)
        network = CreditNetwork.build(7, (5, 4), 3)
        rule = TargetPropagation(network)
        rows = CreditTrainer(how).fit(network, rule, x, y, callbacks=callbacks)
        ends.append([p.detach().clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    kinds = {key.partition(".")[0] for key in rows[-1] if "layer" in key}
    assert kinds == {"angle", "ratio", "condition", "saturation", "reconstruction"}
    figure = credit_curves(rows, network)
    assert len(figure.axes) == 5
    assert [len(axes.lines) for axes in figure.axes] == [3, 3, 3, 3, 1]


def test_a_picture_needs_something_watched() -> None:
    network = CreditNetwork.build(7, (5,), 3)
    with pytest.raises(ValueError, match="no diagnostics"):
        credit_curves([{"epoch": 1.0}], network)


def test_diagnostics_leave_a_rules_averages_alone() -> None:
    network = zoo.network("tanh")
    rule = zoo.rule("SBD", network)
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    agreement(network, rule, *zoo.data(network))
    assert all(torch.equal(value, before[name]) for name, value in rule.state_dict().items())
    assert agreement(network, BackPropagation(), *zoo.data(network))

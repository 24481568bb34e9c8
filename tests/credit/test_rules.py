"""What every rule promises: where its terms reach, what it transports, that it changes nothing."""

import credit_zoo as zoo
import pytest
import torch

from genprop.credit.network import CreditNetwork
from genprop.credit.rule import PreparedRule, predict

every_pair = pytest.mark.parametrize(("network_name", "rule_name"), zoo.pairs())

# The layers' weights that a rule needs on the way down, of a perceptron of four layers.
TRANSPORTED: dict[str, set[str]] = {
    "BP": {"layer.2", "layer.3", "layer.4"},
    "BP, straight-through": {"layer.2", "layer.3", "layer.4"},
    "FA": set(),
    "DFA": set(),
    "TP": {"layer.4"},
    "DTP": {"layer.4"},
    # it passes values up through these layers that are not those of the rows
    "DTP, iterated": {"layer.2", "layer.3", "layer.4"},
    "DRL": set(),
    "L-DRL": set(),
    "PC": {"layer.2", "layer.3", "layer.4"},
    "PC-ALM": {"layer.2", "layer.3", "layer.4"},
    "FF": set(),
    "covariance FF": set(),
    "SBD": set(),
    "AL": set(),
    "SAL": set(),
    "EP": {"layer.2", "layer.3", "layer.4"},
    "EP, one-sided": {"layer.2", "layer.3", "layer.4"},
    "EP, holomorphic": {"layer.2", "layer.3", "layer.4"},
}
GLOBAL = {"BP", "BP, straight-through"}
# Rules with a way of their own to predict leave the output layer alone.
HEADLESS = {"FF", "covariance FF", "AL"}


@every_pair
def test_a_term_reaches_its_own_layer_only(network_name: str, rule_name: str) -> None:
    network = zoo.network(network_name)
    rule = zoo.rule(rule_name, network)
    found = zoo.reached(network, rule, rule(network, *zoo.data(network)))
    layers = {f"layer.{i}" for i in range(1, len(network.layers) + 1)}
    if rule_name in GLOBAL:
        assert found == {"network": layers}
        return
    learning = layers - {f"layer.{len(network.layers)}"} if rule_name in HEADLESS else layers
    assert {name: reach - {"rule"} for name, reach in found.items() if name in layers} == {
        name: {name} for name in learning
    }
    assert all(reach <= {"rule"} for name, reach in found.items() if name not in layers)


@every_pair
def test_preparing_reaches_the_rules_own_weights_only(network_name: str, rule_name: str) -> None:
    network = zoo.network(network_name)
    rule = zoo.rule(rule_name, network)
    if not isinstance(rule, PreparedRule):
        return
    found = zoo.reached(network, rule, rule.prepare(network, zoo.data(network)[0]))
    assert found
    # noise may turn no sign, and then a rule has nothing to tell
    allowed = {frozenset({"rule"}), *([frozenset()] if network_name == "sign" else [])}
    assert {frozenset(reach) for reach in found.values()} <= allowed


@pytest.mark.parametrize("rule_name", zoo.RULES)
def test_what_is_transported(rule_name: str) -> None:
    network = zoo.network("tanh")
    rule = zoo.rule(rule_name, network)
    x, y = zoo.data(network, rows=2)
    assert zoo.transported(network, rule, x, y) == TRANSPORTED[rule_name]


@every_pair
def test_terms_go_backward_one_by_one_or_all_at_once(network_name: str, rule_name: str) -> None:
    network = zoo.network(network_name)
    rule = zoo.rule(rule_name, network)
    x, y = zoo.data(network)
    one_by_one = zoo.told(network, rule, x, y)
    torch.manual_seed(3)
    network.zero_grad()
    torch.stack([term.value for term in list(rule(network, x, y))]).sum().backward()
    for name, (_, block) in zip(one_by_one, enumerate(network.layers), strict=True):
        slopes = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in block.parameters()
        ]
        torch.testing.assert_close(one_by_one[name], torch.cat(slopes))


@every_pair
def test_a_rule_changes_neither_network_nor_data(network_name: str, rule_name: str) -> None:
    network = zoo.network(network_name)
    rule = zoo.rule(rule_name, network)
    x, y = zoo.data(network)
    copies = x.clone(), {n: t.clone() for n, t in network.state_dict().items()}
    zoo.told(network, rule, x, y)
    assert torch.equal(x, copies[0])
    assert not x.requires_grad
    assert all(torch.equal(t, copies[1][n]) for n, t in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())


@every_pair
def test_accounts_have_the_loss_and_no_graph(network_name: str, rule_name: str) -> None:
    network = zoo.network(network_name)
    rule = zoo.rule(rule_name, network)
    accounts = {}
    for term in rule(network, *zoo.data(network)):
        accounts |= term.account
        assert all(part.shape == () for part in term.parts.values())
    assert torch.isfinite(accounts["loss"])
    assert not any(value.requires_grad for value in accounts.values())


@every_pair
def test_predictions_are_one_row_of_outputs_each(network_name: str, rule_name: str) -> None:
    network = zoo.network(network_name)
    rule = zoo.rule(rule_name, network)
    x, _ = zoo.data(network)
    assert predict(network, rule, x).shape == (zoo.ROWS, zoo.CLASSES)


@pytest.mark.parametrize("rule_name", zoo.RULES)
def test_a_rules_own_weights_come_back_into_a_fresh_one(rule_name: str) -> None:
    network = zoo.network("tanh")
    one, other = (zoo.rule(rule_name, network, seed) for seed in (0, 1))
    other.load_state_dict(one.state_dict())
    x, y = zoo.data(network)
    zoo.assert_same(zoo.told(network, one, x, y), zoo.told(network, other, x, y))


def test_rules_refuse_what_they_cannot_train() -> None:
    assert not zoo.fits("BP", "sign")
    assert not zoo.fits("FA", "bernoulli")
    assert zoo.fits("DFA", "sign")
    other = CreditNetwork.build(7, (5,), 3)
    for name in ("FA", "DFA"):
        with pytest.raises(ValueError, match="made for another network"):
            zoo.rule(name, zoo.network("tanh")).check(other)

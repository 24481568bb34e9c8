from typing import Any

import pytest
import torch
from torch import nn

from genprop.nets import ACTIVATIONS, MLP, fade

SKIPS = pytest.mark.parametrize("skip", [False, True])


def masked(skip: bool = False) -> MLP:
    """A net that has learned what a missing element means."""
    net = MLP(3, 2, units=(5, 4), skip=skip, masked=True)
    assert net.missing is not None
    nn.init.normal_(net.missing.weight)
    return net


@pytest.mark.parametrize("activation", ACTIVATIONS)
@SKIPS
def test_mlp_is_the_formula_of_its_docstring(activation: str, skip: bool) -> None:
    net = MLP(3, 2, units=(5, 4), activation=activation, skip=skip)
    x = torch.randn(7, 3)
    first, second = (part for part in net.rest if isinstance(part, nn.Linear))
    a = ACTIVATIONS[activation]()
    expected = second(a(first(a(net.first(x)))))
    if net.straight is not None:
        expected = expected + x @ net.straight.weight.mT
    torch.testing.assert_close(net(x), expected)


@SKIPS
def test_mlp_without_units_is_affine(skip: bool) -> None:
    net = MLP(3, 2, units=(), skip=skip).double()
    x, y = torch.randn(2, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(net(0.3 * x + 0.7 * y), 0.3 * net(x) + 0.7 * net(y))


@pytest.mark.parametrize("shape", [(), (7,), (4, 7)])
def test_mlp_keeps_draws_and_rows(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, 3)
    assert MLP(3, 2)(x).shape == (*shape, 2)
    assert masked()(x, torch.ones_like(x)).shape == (*shape, 2)


@SKIPS
def test_nothing_missing_is_the_same_as_not_being_told(skip: bool) -> None:
    net, x = masked(skip), torch.randn(7, 3)
    assert torch.equal(net(x), net(x, torch.zeros_like(x)))


@SKIPS
def test_what_is_missing_is_heard_where_it_is_missing(skip: bool) -> None:
    net, x = masked(skip), torch.randn(7, 3)
    missing = torch.zeros_like(x)
    missing[2, 1] = 1
    changed = (net(x, missing) != net(x)).any(-1)
    assert changed.tolist() == [row == 2 for row in range(7)]


def test_a_new_net_makes_nothing_of_what_is_missing() -> None:
    net, x = MLP(3, 2, masked=True), torch.randn(7, 3)
    assert torch.equal(net(x, torch.ones_like(x)), net(x))


def test_dropout_leaves_out_units_in_training_only_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    plain, net = MLP(3, 2, units=(64,)), MLP(3, 2, units=(64,), dropout=0.2)
    x = torch.randn(1, 3).expand(4000, 3)
    for own, other in zip(net.parameters(), plain.parameters(), strict=True):
        own.data.copy_(other.data)
    trained, evaluated = net(x), net.eval()(x)
    assert torch.equal(evaluated, plain(x))
    error = trained.std(0) / 4000**0.5
    assert (trained.std(0) > 0).all()
    assert ((trained.mean(0) - evaluated[0]).abs() < 4 * error).all()


def test_dropout_that_faded_away_leaves_the_net_as_it_is() -> None:
    net, x = MLP(3, 2, units=(64, 64), dropout=0.5), torch.randn(7, 3)
    fade(net, 1.0)
    assert torch.equal(net(x), net.eval()(x))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("units", [(), (5,), (5, 4)])
def test_gradient_reaches_every_parameter(units: tuple[int, ...], skip: bool) -> None:
    net = MLP(3, 2, units=units, skip=skip, masked=True)
    x = torch.randn(7, 3)
    net(x, torch.ones_like(x)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": 0, "outputs": 2}, "inputs=0"),
        ({"inputs": 2, "outputs": 0}, "outputs=0"),
        ({"inputs": 2, "outputs": 2, "dropout": 1.0}, "dropout"),
        ({"inputs": 2, "outputs": 2, "units": (3, 0)}, r"units=\(3, 0\)"),
        ({"inputs": 2, "outputs": 2, "activation": "step"}, "tanh, .* but is 'step'"),
    ],
)
def test_impossible_nets_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(**arguments)


def test_a_net_that_cannot_be_told_what_is_missing_says_so() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="build it with masked=True"):
        MLP(3, 2)(x, x)

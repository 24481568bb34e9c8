"""Blocks, the network, its costs, and what they refuse."""

import credit_zoo as zoo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from genprop.credit.backprop import BackPropagation
from genprop.credit.block import UNITS, Block, sent
from genprop.credit.measure import agreement, updates
from genprop.credit.network import CreditNetwork


@pytest.mark.parametrize("cost", ["cross-entropy", "squared"])
def test_costs_are_those_of_torch_and_scores_their_derivatives(cost: str) -> None:
    network = CreditNetwork.build(4, (3,), 5, cost=cost).double()
    output = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y = torch.arange(6) % 5
    losses = network.loss(output, y)
    if cost == "squared":
        expected = 0.5 * (output - functional.one_hot(y, 5)).square().sum(-1)
    else:
        expected = functional.cross_entropy(output, y, reduction="none")
    torch.testing.assert_close(losses, expected)
    (slope,) = torch.autograd.grad(losses.sum(), output)
    torch.testing.assert_close(network.score(output, y), slope)


@pytest.mark.parametrize("name", zoo.SMOOTH)
def test_the_path_ends_at_the_output_and_a_graph_agrees(name: str) -> None:
    network = zoo.network(name)
    x, y = zoo.data(network)
    path = network.path(x)
    torch.testing.assert_close(path[-1], network(x))
    assert len(path) == len(network.layers) + 1
    for below, block, above in zip(path, network.layers, path[1:], strict=False):
        assert above.shape[1:] == block.out_shape
        assert below.shape[1:] == block.shape or below.flatten(1).shape[1:] == block.shape
    loss = functional.cross_entropy(network(x), y)
    if network.cost == "cross-entropy":
        slopes = torch.autograd.grad(loss, list(network.parameters()))
        whole = torch.cat([s.flatten() for s in slopes])
        found = torch.cat(list(updates(network, BackPropagation(), x, y).values()))
        torch.testing.assert_close(found, whole)


def test_weights_for_the_way_back_change_no_value_but_the_gradient() -> None:
    for block in (Block((5,), 4, "tanh"), Block((2, 4, 4), 3, "relu", kernel=3, pool="max")):
        block = block.double()
        h = torch.randn(3, *block.shape, dtype=torch.float64, requires_grad=True)
        back = block.fresh()
        value = block(h, back)
        torch.testing.assert_close(value, block(h))
        signal = torch.randn_like(value)
        (slope,) = torch.autograd.grad(value, h, signal, retain_graph=True)
        (own,) = torch.autograd.grad(block(h), block.weight, signal)
        (same,) = torch.autograd.grad(value, block.weight, signal)
        torch.testing.assert_close(same, own)
        (true,) = torch.autograd.grad(block(h), h, signal)
        assert not torch.allclose(slope, true)
        (right,) = torch.autograd.grad(block(h, block.weight.detach()), h, signal)
        torch.testing.assert_close(right, true)


def test_signs_and_samples_are_discrete_and_straight_when_asked() -> None:
    h = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    assert sent(h, "sign").tolist() == [-1.0, 1.0, 1.0]
    assert not sent(h, "sign").requires_grad
    straight = sent(h, "sign", straight=True)
    assert straight.tolist() == [-1.0, 1.0, 1.0]
    assert torch.autograd.grad(straight.sum(), h)[0].tolist() == [1.0, 1.0, 1.0]
    draws = sent(torch.full((20_000,), 0.3), "sample")
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert abs(float(draws.mean()) - 0.3) < 5 * (0.3 * 0.7 / 20_000) ** 0.5


@settings(max_examples=25, deadline=None)
@given(
    unit=st.sampled_from(sorted(UNITS)),
    widths=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    rows=st.integers(1, 4),
)
def test_perceptrons_of_all_units_and_widths(unit: str, widths: list[int], rows: int) -> None:
    network = CreditNetwork.build(3, widths, 2, unit)
    assert network(torch.rand(rows, 3)).shape == (rows, 2)
    assert len(network.layers) == len(widths) + 1


def test_depth_does_not_blow_residual_networks_up() -> None:
    """Without the scale 32 layers of ReLU would grow by (3/2)^16 or more; with it, by e^(0.4 √32).

    The outputs of a ReLU point one way: a unit gains 0.4 of the length of its input at each layer.
    """
    network = CreditNetwork.build(32, (32,) * 32, 10, "relu", residual=True)
    sizes = [h.norm() for h in network.path(torch.randn(50, 32))[1:-1]]
    assert 0.5 < sizes[-1] / sizes[0] < 30


def test_the_angle_to_itself_is_none() -> None:
    network = zoo.network("tanh")
    for found in agreement(network, BackPropagation(), *zoo.data(network)).values():
        assert found.angle < 1e-5
        assert found.ratio == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block((3,), 2, "spike"), "unit must be one of"),
        (lambda: Block((3,), 2, residual=True), "residual block needs outputs"),
        (lambda: Block((3,), 2, pool="max"), "only a convolution"),
        (lambda: Block((1, 3, 3), 2, kernel=2), "odd kernel"),
        (lambda: Block((1, 3, 3), 2, kernel=3, pool="max"), "odd sides"),
        (lambda: Block((0,), 2), "positive sizes"),
        (lambda: CreditNetwork([]), "at least one block"),
        (lambda: CreditNetwork([Block((3,), 2), Block((3,), 2)]), "expects"),
        (lambda: CreditNetwork([Block((3,), 2, "sign"), Block((2,), 2)]), "sends its sign"),
        (lambda: CreditNetwork([Block((1, 2, 2), 2, kernel=3)]), "must be a matrix"),
        (lambda: CreditNetwork.build(3, (2,), 2, cost="hinge"), "cost must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), "expected x of shape"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.long), "expected x of shape"),
        (torch.zeros(4, 3), torch.full((4,), 2), "whole numbers 0 to 1"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "cost='squared'"),
    ],
)
def test_data_that_do_not_fit_are_refused(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CreditNetwork.build(3, (2,), 2).check(x, y)

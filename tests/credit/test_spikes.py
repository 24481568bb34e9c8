"""What the order of spikes tells, against the exact law of small nets, and what comes of it."""

from itertools import product

import pytest
import torch
from torch import Tensor

from genprop.credit.measure import agreement
from genprop.credit.network import CreditNetwork
from genprop.credit.spikes import SpikeAlignment


def exact_order(up: Tensor, back: Tensor) -> Tensor:
    """A = E[v(t+1) u(t)ᵀ - v(t) u(t+1)ᵀ] of the stationary law, over all states."""
    upper, lower = up.shape
    bits = [torch.tensor(list(product((0.0, 1.0), repeat=n))).double() for n in (lower, upper)]
    pairs = [(u, v) for u in bits[0] for v in bits[1]]
    step = torch.zeros(len(pairs), len(pairs), dtype=torch.float64)
    for row, (u, v) in enumerate(pairs):
        p, q = (up @ u).sigmoid(), (back.mT @ v).sigmoid()
        for column, (low, high) in enumerate(pairs):
            ups = torch.where(high > 0, p, 1 - p).prod()
            step[row, column] = ups * torch.where(low > 0, q, 1 - q).prod()
    law = torch.linalg.matrix_power(step, 200)[0]
    order = torch.zeros_like(up)
    for row, (u, v) in enumerate(pairs):
        p, q = (up @ u).sigmoid(), (back.mT @ v).sigmoid()
        order += law[row] * (torch.outer(p, u) - torch.outer(v, q))
    return order


def weights(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return scale * torch.randn(2, 3).double(), scale * torch.randn(2, 3).double()


def test_spikes_have_no_order_where_weights_are_symmetric() -> None:
    up, back = weights()
    assert exact_order(up, up).abs().max() < 1e-12
    assert exact_order(up, back).abs().max() > 0.01


def test_small_weights_have_an_order_of_a_sixteenth_of_their_difference() -> None:
    errors = []
    for scale in (0.1, 0.05):
        up, back = weights(scale)
        errors.append(float((exact_order(up, back) / scale - (up - back) / 16 / scale).norm()))
    assert errors[1] < 0.7 * errors[0] < 0.05


def test_spikes_estimate_the_order() -> None:
    up, back = weights()
    network = CreditNetwork.build(3, (3,), 2).double()
    rule = SpikeAlignment(network, chains=4000, steps=40, warm=20)
    # entries are means of 160,000 differences within [-1, 1], half of them independent
    atol = 5 / (0.5 * 4000 * 40) ** 0.5
    torch.testing.assert_close(rule.order(up, back), exact_order(up, back), rtol=0, atol=atol)


def test_feedback_comes_to_the_forward_weights_and_updates_to_back_propagation() -> None:
    torch.manual_seed(0)
    network = CreditNetwork.build(6, (6, 5), 3)
    rule = SpikeAlignment(network, chains=200, steps=20)
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    before = agreement(network, rule, x, y)["layer.1"].angle
    distance = [float((b - w.weight).detach().norm()) for b, w in _pairs(rule, network)]
    descent = torch.optim.SGD(rule.parameters(), 1.0)
    for _ in range(150):
        descent.zero_grad()
        for term in rule.prepare(network, x):
            term.value.backward()
        descent.step()
    for (b, w), start in zip(_pairs(rule, network), distance, strict=True):
        assert (b - w.weight).detach().norm() < 0.25 * start
    assert agreement(network, rule, x, y)["layer.1"].angle < min(20, before)


def _pairs(rule: SpikeAlignment, network: CreditNetwork) -> list[tuple[Tensor, torch.nn.Module]]:
    return list(zip(rule.feedback, network.layers[1:], strict=True))


def test_what_does_not_fit_is_refused() -> None:
    network = CreditNetwork.build(6, (6, 5), 3)
    with pytest.raises(ValueError, match="chains and steps"):
        SpikeAlignment(network, chains=0)
    with pytest.raises(ValueError, match="made for another network"):
        SpikeAlignment(network).check(CreditNetwork.build(6, (4,), 3))
    signs = CreditNetwork.build(6, (6, 5), 3, "sign")
    with pytest.raises(ValueError, match="signs or samples"):
        SpikeAlignment(signs).check(signs)

"""The path between two laws."""

import math

import pytest
import targets
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop.bridge import Bridge, KnownLaw, draws_like
from genprop.distributions import IndependentNormal
from genprop.leapfrog import score


def half(x: Tensor) -> Tensor:
    """Zero to the left, and below that no number."""
    inside = -x.sum(-1)
    return torch.where(x[..., 0] > 0, inside, torch.where(x[..., 1] > 0, -math.inf, math.nan))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_log_densities_are_mixed(beta: float) -> None:
    base, law, x = targets.wide(), targets.banana(), zoo.randn(5, 2)
    expected = (1 - beta) * base.log_prob(x) + beta * law.log_prob(x)
    bridge = Bridge(base, law.log_prob)
    torch.testing.assert_close(bridge.at(beta)(x), expected)
    torch.testing.assert_close(bridge.gain(x), law.log_prob(x) - base.log_prob(x))


def test_rows_may_be_at_places_of_their_own() -> None:
    base, x = targets.wide(), zoo.randn(5, 3, 2)
    beta = torch.tensor([0.0, 0.5, 1.0]).double()
    found = Bridge(base, targets.banana().log_prob).at(beta)(x)
    for row in range(3):
        one = Bridge(base, targets.banana().log_prob).at(beta[row].item())(x[:, row])
        torch.testing.assert_close(found[:, row], one)


def test_where_the_target_is_zero_or_no_number_the_path_is_finite_and_gains_nothing() -> None:
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    bridge = Bridge(targets.wide(), half)
    assert torch.equal(bridge.gain(x)[1:], torch.full((2,), -math.inf).double())
    for beta in (0.0, 0.5, 1.0):
        value, gradient = score(bridge.at(beta), x)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()
    torch.testing.assert_close(bridge.at(0.0)(x), targets.wide().log_prob(x))
    assert (bridge.at(0.01)(x)[1:] < -1e30).all()


@pytest.mark.parametrize("rows", [(), (3,), (4, 3)])
def test_laws_of_rows_and_of_all_are_drawn_for_every_chain(rows: tuple[int, ...]) -> None:
    position = torch.zeros(2, 5, 4, 3, 2)
    law = MultivariateNormal(torch.zeros(*rows, 2), torch.eye(2))
    draws = draws_like(law, position)
    assert draws.shape == position.shape
    assert len(draws.unique()) == draws.numel()


def test_torchs_and_genprops_laws_are_known() -> None:
    assert isinstance(targets.wide(), KnownLaw)
    assert isinstance(IndependentNormal(torch.zeros(2), torch.ones(2)), KnownLaw)


def test_a_law_of_other_rows_is_refused() -> None:
    law = MultivariateNormal(torch.zeros(5, 2), torch.eye(2))
    with pytest.raises(ValueError, match=r"batch shape \(5,\) draws \(4, 5, 2\)"):
        draws_like(law, torch.zeros(4, 3, 2))

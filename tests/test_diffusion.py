"""Noise levels, how they are drawn, and the flow between noise and value."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genprop.diffusion import (
    HIGHEST,
    LOWEST,
    Levels,
    angle,
    flow,
    levels_between,
    mixing,
    reverse,
)

ROWS, DRAWS = 20, 400
SPAN = angle(torch.tensor([LOWEST, HIGHEST]).double()).diff().abs().item()


def levels(kind: str = "fixed") -> Levels:
    return Levels(kind).double()


def bump(level: Tensor) -> Tensor:
    """A smooth function with most of its integral, √(2π), between -2 and 6."""
    return torch.exp(-0.5 * (level - 2) ** 2)


def spin(z: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """A rate that turns the plane and grows with the noise; its divergence."""
    turned = torch.stack([-z[..., 1], z[..., 0]], -1)
    share = torch.sigmoid(-level)
    return turned + share * z, (2 * share).expand(z.shape[:-1])


@settings(deadline=None)
@given(st.floats(-30, 30))
def test_value_and_noise_have_unit_power_together(level: float) -> None:
    alpha, sigma = mixing(torch.tensor(level).double())
    phi = angle(torch.tensor(level).double())
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    torch.testing.assert_close(torch.stack([alpha, sigma]), torch.stack([phi.cos(), phi.sin()]))
    torch.testing.assert_close(2 * (alpha / sigma).log(), torch.tensor(level).double())


def test_a_grid_of_levels_has_the_ends_of_all() -> None:
    grid = levels_between(9)
    assert grid[0].item() == pytest.approx(LOWEST)
    assert grid[-1].item() == pytest.approx(HIGHEST)
    assert (grid.diff() > 0).all()


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 5))
def test_levels_are_stratified(rows: int, each: int) -> None:
    law = levels()
    level, weight = law.draw(rows, each)
    assert level.shape == weight.shape == (each, rows)
    bins = len(law.mass)
    place = (level.flatten() - LOWEST) * bins / (HIGHEST - LOWEST)
    full = place.floor().clamp(0, bins - 1).long()
    below = law.mass.cumsum(0) - law.mass
    share = below[full] + (place - full) * law.mass[full]
    # a quantile from each of as many equal parts as there are levels
    parts = (share * rows * each - 1e-9).floor().long().sort().values
    assert torch.equal(parts, torch.arange(rows * each))


def estimates(law: Levels, each: int = 1) -> Tensor:
    """∫ bump dλ estimated by every row of many draws, ``(DRAWS, ROWS)``."""
    drawn = [law.draw(ROWS, each) for _ in range(DRAWS)]
    return torch.stack([(weight * bump(level)).mean(0) for level, weight in drawn])


@pytest.mark.parametrize("kind", ["fixed", "learned"])
@pytest.mark.parametrize("each", [1, 3])
def test_weights_are_unbiased_in_every_row(kind: str, each: int) -> None:
    law = levels(kind)
    grid = torch.linspace(LOWEST, HIGHEST, 2000).double()
    law.follow(grid, bump(grid))
    found = estimates(law, each)
    error = found.std(0) / math.sqrt(DRAWS)
    # the bump leaves less than 1e-6 outside; five standard errors in each of 20 rows
    assert ((found.mean(0) - math.sqrt(2 * math.pi)).abs() < 5 * error).all()


def test_strata_lower_the_variance() -> None:
    together = estimates(levels()).mean(1).var()
    alone = estimates(levels()).var() / ROWS
    assert together < 0.1 * alone
    # several levels of one row are strata of their own
    assert estimates(levels(), each=4)[:, 0].var() < 0.5 * estimates(levels())[:, 0].var() / 4


def test_learned_levels_lower_the_variance_and_fixed_ones_stay() -> None:
    grid = torch.linspace(LOWEST, HIGHEST, 2000).double()
    fixed, learned = levels(), levels("learned")
    torch.testing.assert_close(fixed.mass, learned.mass)
    for law in (fixed, learned):
        law.follow(grid, bump(grid))
        torch.testing.assert_close(law.mass.sum(), torch.ones(()).double())
    assert torch.equal(fixed.mass, levels().mass)
    assert estimates(learned)[:, 0].var() < 0.5 * estimates(fixed)[:, 0].var()


def test_learned_levels_forget() -> None:
    law, grid = levels("learned"), torch.linspace(LOWEST, HIGHEST, 2000).double()
    law.follow(grid, bump(grid - 5))
    for _ in range(1500):
        law.follow(grid, bump(grid))
    other = levels("learned")
    other.follow(grid, bump(grid))
    torch.testing.assert_close(law.mass, other.mass, atol=1e-5, rtol=0)


def test_an_unknown_kind_of_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="fixed or learned, but is 'uniform'"):
        Levels("uniform")


def test_the_flow_solves_a_linear_equation_to_fourth_order() -> None:
    z = torch.randn(5, 2).double()
    # ∫ σ² dφ between the angles, on the way up
    low, high = (angle(torch.tensor(end).double()) for end in (HIGHEST, LOWEST))
    grown = 0.5 * (high - low) - 0.25 * ((2 * high).sin() - (2 * low).sin())
    turn = torch.tensor([math.cos(SPAN), math.sin(SPAN), -math.sin(SPAN), math.cos(SPAN)]).double()
    exact = (z @ turn.reshape(2, 2)) * grown.exp()
    errors = []
    for steps in (4, 32):
        end, spread = flow(spin, z, steps, up=True)
        errors.append(((end - exact).abs().max().item(), (spread - 2 * grown).abs().max().item()))
    for coarse, fine in zip(*errors, strict=True):
        assert fine < 1e-5
        # 8⁴ = 4096 in the limit of small steps
        assert fine < coarse / 1000


def test_the_flow_down_undoes_the_flow_up() -> None:
    z = torch.randn(5, 2).double()
    up, spread = flow(spin, z, 32, up=True)
    back, minus = flow(spin, up, 32, up=False)
    torch.testing.assert_close(back, z, atol=1e-5, rtol=0)
    torch.testing.assert_close(minus, -spread, atol=1e-5, rtol=0)


def test_reversal_keeps_the_standard_gaussian_in_any_number_of_steps() -> None:
    def still(z: Tensor, level: Tensor) -> tuple[Tensor]:
        return (torch.zeros_like(z),)

    draws = 40_000
    for steps in (1, 3):
        z = reverse(still, torch.randn(draws, 2).double(), steps)
        # five standard errors of a mean, a variance and a covariance
        assert (z.mean(0).abs() < 5 / math.sqrt(draws)).all()
        assert ((z.T.cov() - torch.eye(2)).abs() < 5 * math.sqrt(2 / draws)).all()

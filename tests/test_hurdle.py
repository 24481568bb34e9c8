"""Numbers that are often exactly zero: an atom and a log-normal density, in law and in tables."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genprop.hurdle import ZERO, Hurdle, IndependentHurdle, is_zero
from genprop.tables.column_choice import choose_for_numbers
from genprop.tables.encoding import TableEncoding
from genprop.tables.imputer import GenPropImputer

LAW = IndependentHurdle(
    torch.tensor([[-1.0, 0.5, 2.0]]).double(),
    torch.tensor([[0.3, -1.0, 0.0]]).double(),
    torch.tensor([0.5, 1.0, 2.0]).double(),
)
DRAWS = 200_000
SIX = 6 / math.sqrt(DRAWS)  # standard errors of a mean, in standard deviations


def rain(rows: int = 2000, share: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(rows) < share, rng.lognormal(1.0, 0.8, rows), 0.0)


def test_the_atom_and_the_density_sum_to_one() -> None:
    at_zero = LAW.elements(torch.full((1, 3), ZERO).double()).exp()
    grid = torch.linspace(-40, 40, 160_001, dtype=torch.float64)[:, None].expand(-1, 3)
    apart = ~is_zero(grid)
    density = (LAW.elements(grid).exp() * apart).sum(0) * (grid[1, 0] - grid[0, 0])
    # the grid leaves out what lies within 1e-3 of the atom, where the density is below 0.1
    torch.testing.assert_close(at_zero[0] + density, torch.ones(3).double(), atol=5e-4, rtol=0)


def test_moments_and_entropy_are_those_of_draws() -> None:
    torch.manual_seed(0)
    x = LAW.sample((DRAWS,))
    spread = LAW.variance.sqrt()
    assert ((x.mean(0) - LAW.mean).abs() < SIX * spread).all()
    # the fourth moment of the widest element is 3.2 times its squared variance
    assert ((x.var(0) / LAW.variance - 1).abs() < 2 * SIX).all()
    surprise = -LAW.log_prob(x)
    assert (surprise.mean() - LAW.entropy()).abs() < SIX * surprise.std()
    assert ((is_zero(x).double().mean(0) - LAW.logits.neg().sigmoid()).abs() < SIX).all()


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_what_noise_hides_is_told_as_bayes_has_it(scale: float) -> None:
    y = torch.tensor([[-4.0, -1.5, 0.7]]).double()
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    noise = stats.norm(0, scale)
    found = LAW.denoise(y, scale)
    for j in range(3):
        above = float(LAW.logits[0, j].sigmoid())
        density = above * stats.norm(LAW.loc[0, j], LAW.scale[j]).pdf(grid[:, 0])
        weights = density * noise.pdf(float(y[0, j]) - grid[:, 0].numpy()) * 1e-3
        atom = (1 - above) * noise.pdf(float(y[0, j]) - ZERO)
        expected = (weights @ grid[:, 0].numpy() + atom * ZERO) / (weights.sum() + atom)
        assert float(found[0, j]) == pytest.approx(float(expected), abs=1e-6)


def test_zeros_are_found_in_columns() -> None:
    assert choose_for_numbers(rain()).kind == "hurdle"
    assert choose_for_numbers(np.round(1000 * rain())).kind == "hurdle"
    assert choose_for_numbers(rain(share=1.0)).kind == "positive"
    assert choose_for_numbers(rain() - 1e-9).kind != "hurdle"
    rng = np.random.default_rng(0)
    assert choose_for_numbers(rng.poisson(1.0, 2000).astype(float)).kind == "poisson"
    assert choose_for_numbers(rng.negative_binomial(2, 0.2, 2000).astype(float)).kind == "count"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_they_are_encoded_and_back(seed: int, whole: bool) -> None:
    x = rain(40, 0.6, seed) * (1000 if whole else 1)
    frame = pd.DataFrame({"rain": np.round(x) if whole else x})
    encoding = TableEncoding.learn(frame, {"rain": "hurdle"})
    values, _ = encoding.encode(frame)
    assert ((values[:, 0] == ZERO) == (frame["rain"] == 0)).all()
    np.testing.assert_allclose(encoding.decode(values)["rain"], frame["rain"], rtol=1e-9)
    step = 1e-6
    slope = (encoding.encode(frame * (1 + step))[0] - values)[:, 0]
    positive = frame["rain"] > 0
    slope = slope[positive] / (step * frame["rain"][positive])
    jacobian = encoding.log_jacobian(frame)
    np.testing.assert_allclose(jacobian[positive], np.log(slope), atol=1e-5)
    assert (jacobian[~positive] == 0).all()


def test_means_are_those_of_the_numbers() -> None:
    torch.manual_seed(0)
    frame = pd.DataFrame({"other": rain(share=1.0), "rain": rain()})
    encoding = TableEncoding.learn(frame, {})
    law = encoding.visible()(torch.tensor([[0.2, -0.5, 0.1]]))
    x = law.sample((DRAWS,))
    told, drawn = encoding.features(law), encoding.features_at(x)
    assert ((drawn.mean(0) - told).abs() < SIX * drawn.std(0)).all()
    assert (drawn[..., 1][is_zero(x[..., 1])] == 0).all()
    back = encoding.features_at(encoding.elements_of(told))
    torch.testing.assert_close(back, told)


def test_numbers_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 on, but row 1"):
        TableEncoding.learn(pd.DataFrame({"rain": [0.0, -1.0, 2.0]}), {"rain": "hurdle"})


def test_nothing_but_zeros_is_refused() -> None:
    with pytest.raises(ValueError, match="'rain' is hurdle, but holds nothing but zeros"):
        TableEncoding.learn(pd.DataFrame({"rain": [0.0, 0.0, np.nan]}), {"rain": "hurdle"})


def test_no_element_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one element"):
        Hurdle(0)


def test_imputed_zeros_are_as_many_and_nothing_is_out_of_reach() -> None:
    """The share of zeros among draws is that of the hidden cells, which depends on the other
    column: 20 and 60 of 100 rows have rain. Errors are three of a share among 200 hidden cells.
    """
    rng = np.random.default_rng(0)
    wet = rng.random(1200) < 0.5
    fell = rng.random(1200) < np.where(wet, 0.6, 0.2)
    x = np.where(fell, rng.lognormal(1.0 + wet, 0.5), 0.0)
    frame = pd.DataFrame({"wet": wet, "rain": x})
    frame.loc[rng.random(1200) < 0.35, "rain"] = np.nan
    imputer = GenPropImputer(members=1, settings={"epochs": 60}, random_state=0).fit(frame)
    draws = imputer.impute(frame, draws=20)["rain"].to_numpy().reshape(20, -1)
    hidden = frame["rain"].isna().to_numpy()
    for which, share in ((wet, 0.6), (~wet, 0.2)):
        found = (draws[:, hidden & which] > 0).mean()
        assert abs(found - share) < 3 * math.sqrt(0.25 / 200)
    assert draws.max() < 20 * x.max()

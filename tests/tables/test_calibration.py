"""Calibrated draws are found calibrated, others are not, and scores prefer the truth."""

import numpy as np
import pandas as pd
import pytest

from genprop.tables.calibration import calibration, crps
from genprop.tables.calibration_plots import calibration_plot

ROWS, DRAWS = 2000, 39


def numbers(width: float = 1.0, shift: float = 0.0):
    """A truth and draws of the same law about a mean that both share, or of a wider one."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(ROWS, 2))
    truth = mean + rng.normal(size=(ROWS, 2))
    return truth, mean + shift + width * rng.normal(size=(DRAWS, ROWS, 2))


EVERY = np.ones((ROWS, 2), dtype=bool)


def test_draws_of_the_true_law_are_calibrated() -> None:
    found = calibration(*numbers(), EVERY)
    for level in (0.5, 0.8, 0.9, 0.95):
        # five standard errors of 4,000 cells
        assert abs(found.coverage(level) - level) < 5 * np.sqrt(level * (1 - level) / 4000)
    pit = np.concatenate([*found.pit.values()])
    counts = np.histogram(pit, bins=8, range=(0, 1))[0]
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)
    assert "90 % intervals" in str(found)


@pytest.mark.parametrize(("width", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 1.0)])
def test_other_draws_are_found_out_and_score_worse(width: float, shift: float) -> None:
    true, false = calibration(*numbers(), EVERY), calibration(*numbers(width, shift), EVERY)
    assert abs(false.coverage(0.9) - 0.9) > 0.04
    assert false.mean("crps") > true.mean("crps")


@pytest.mark.parametrize(("draws", "level"), [(19, 0.9), (39, 0.95)])
def test_coverage_is_told_only_where_draws_are_enough(draws: int, level: float) -> None:
    truth, drawn = numbers(shift=100.0)
    # a truth beyond all draws is covered by no interval that is told of
    assert calibration(truth, drawn[:draws], EVERY).coverage(level) == 0
    few = calibration(truth, drawn[: draws - 1], EVERY)
    assert np.isnan(few.coverage(level))
    assert ("an unknown share" in str(few)) == (level == 0.9)


def test_crps_of_a_gaussian_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    score = crps(np.full(20_000, 0.7), rng.normal(size=(20, 20_000)))
    from scipy import stats

    z = stats.norm
    exact = 0.7 * (2 * z.cdf(0.7) - 1) + 2 * z.pdf(0.7) - 1 / np.sqrt(np.pi)
    assert abs(score.mean() - exact) < 5 * score.std() / 20_000**0.5


def test_discrete_columns_are_scored_by_frequencies() -> None:
    rng = np.random.default_rng(0)
    p = rng.choice([0.1, 0.9], 500)
    truth = pd.DataFrame({"c": np.where(rng.random(500) < p, "yes", "no")})

    def drawn(chance: np.ndarray) -> pd.DataFrame:
        parts = [
            pd.DataFrame({"c": np.where(rng.random(500) < chance, "yes", "no")}) for _ in range(50)
        ]
        return pd.concat(parts, keys=range(50))

    hidden = np.ones((500, 1), dtype=bool)
    good, poor = (calibration(truth, drawn(q), hidden).categories for q in (p, 0 * p + 0.5))
    for score in ("log", "brier"):
        assert good.loc["c", score] < poor.loc["c", score]
    assert good.loc["c", "accuracy"] > 0.85
    assert "hidden categories" in str(calibration(truth, drawn(p), hidden))


def test_only_hidden_cells_count() -> None:
    truth, draws = numbers()
    hidden = np.zeros((ROWS, 2), dtype=bool)
    hidden[:100, 0] = True
    draws[:, 100:] = np.nan
    found = calibration(truth, draws, hidden)
    assert list(found.numbers.index) == ["0"]
    assert found.numbers.loc["0", "cells"] == 100
    assert np.isfinite(found.numbers.to_numpy()).all()


def test_it_can_be_drawn() -> None:
    figure = calibration_plot(calibration(*numbers(), EVERY))
    assert len(figure.axes) == 3


def test_nothing_hidden_is_refused() -> None:
    with pytest.raises(ValueError, match="with a True in it"):
        calibration(*numbers(), ~EVERY)
    with pytest.raises(ValueError, match="the draws have shape"):
        calibration(numbers()[0], np.zeros((3, 4, 2)), EVERY)


def test_cells_that_the_model_has_seen_are_no_test_of_it() -> None:
    truth, draws = numbers()
    seen = np.broadcast_to(truth, draws.shape)
    with pytest.raises(ValueError, match="the model must have seen them"):
        calibration(truth, seen, EVERY)
    constant = np.ones_like(truth)
    assert calibration(constant, np.ones_like(draws), EVERY).mean("crps") == 0

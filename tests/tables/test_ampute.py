"""Holes have the rate that was asked for and depend on what they should."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprop.tables.ampute import MECHANISMS, hide, holes

ROWS = 4000


def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(ROWS, 1))
    return common + rng.normal(size=(ROWS, 6))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_columns_lose_the_rate_and_seeds_decide(mechanism: str, rate: float) -> None:
    mask = holes(table(), rate, mechanism, 1)
    shares = mask.mean(0)
    lossy = shares > 0
    assert lossy.sum() == (3 if mechanism == "mar" else 6)
    # five standard errors of 4,000 cells, and the rows that keep one cell
    assert (np.abs(shares[lossy] - rate) < 5 * np.sqrt(rate / ROWS) + 0.02).all()
    assert np.array_equal(mask, holes(table(), rate, mechanism, 1))
    assert not np.array_equal(mask, holes(table(), rate, mechanism, 2)) or mechanism == "quantile"
    assert not mask.all(1).any()


def test_what_a_hole_depends_on() -> None:
    x = table()
    for mechanism, own in (("mcar", False), ("self", True), ("quantile", True)):
        mask = holes(x, 0.3, mechanism, 0)
        gap = np.abs([x[m, j].mean() - x[~m, j].mean() for j, m in enumerate(mask.T)])
        assert (gap > 0.8).all() if own else (gap < 0.2).all()
    mask = holes(x, 0.3, "mar", 0)
    lossy = mask.any(0)
    kept = np.column_stack([np.ones(ROWS), x[:, ~lossy]])
    for j in np.flatnonzero(lossy):
        # given the columns that stay, a cell's own value says nothing more about its hole
        value = x[:, j] - kept @ np.linalg.lstsq(kept, x[:, j], rcond=None)[0]
        hole = mask[:, j] - kept @ np.linalg.lstsq(kept, mask[:, j].astype(float), rcond=None)[0]
        assert abs(np.corrcoef(value, hole)[0, 1]) < 5 / ROWS**0.5


def test_quantile_holes_are_the_largest_values() -> None:
    x = table()[:, :2]
    mask = holes(x, 0.25, "quantile", 0)
    whole = ~(x > np.quantile(x, 0.75, axis=0)).all(1)
    for j in range(2):
        assert x[mask[:, j], j].min() > x[whole & ~mask[:, j], j].max()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(MECHANISMS), st.floats(0.05, 0.95), st.integers(0, 99))
def test_only_seen_cells_are_hidden_and_one_a_row_stays(
    mechanism: str, rate: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(60, 3)), columns=list("abc"))
    frame["d"] = rng.choice(["u", "v"], 60)
    frame["e"] = rng.random(60) < 0.5
    frame = frame.mask(rng.random(frame.shape) < 0.2)
    mask = holes(frame, rate, mechanism, seed)
    seen = frame.notna().to_numpy()
    assert not (mask & ~seen).any()
    assert (~mask & seen).any(1)[seen.any(1)].all()
    hidden = hide(frame, mask)
    assert np.array_equal(hidden.isna().to_numpy(), mask | ~seen)
    assert hidden.where(~mask & seen).equals(frame.where(~mask & seen))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0.0}, "between 0 and 1, but is 0.0"),
        ({"mechanism": "mnar"}, "one of mcar, mar, self, quantile"),
    ],
)
def test_impossible_holes_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        holes(table(), **arguments)
    with pytest.raises(ValueError, match="need two columns"):
        holes(table()[:, :1], 0.3, "mar")

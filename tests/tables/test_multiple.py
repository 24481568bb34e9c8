"""Rubin's rules by hand, and by what they promise."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprop.tables.multiple import pool, quantiles


def test_rubins_rules_by_hand() -> None:
    found = pool([[1.0, 10.0], [2.0, 10.0], [6.0, 10.0]], [[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]])
    np.testing.assert_allclose(found.estimate, [3.0, 10.0])
    between = (1 + 1 / 3) * 7.0
    np.testing.assert_allclose(found.std_error**2, [2.0 + between, 2.0])
    np.testing.assert_allclose(found.missing, [between / (2 + between), 0.0])
    np.testing.assert_allclose(found.df, [2 * ((2 + between) / between) ** 2, np.inf])
    assert list(found.to_pandas()) == ["estimate", "std_error", "df", "missing", "low", "high"]


def test_small_samples_have_fewer_degrees_of_freedom() -> None:
    draws = ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert pool(*draws, df_complete=20.0).df < min(20.0, pool(*draws).df)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(0.1, 5), st.floats(-9, 9))
def test_pooling_follows_shifts_and_never_loses_variance(
    estimates: list[float], variance: float, shift: float
) -> None:
    one = pool(estimates, [variance] * len(estimates))
    other = pool(np.array(estimates) + shift, [variance] * len(estimates))
    assert one.std_error**2 >= variance - 1e-9
    np.testing.assert_allclose(other.estimate, one.estimate + shift, atol=1e-9)
    np.testing.assert_allclose(other.std_error, one.std_error, atol=1e-6)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    # the mean of 50 numbers of which 20 are missing and drawn anew from the posterior predictive
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        seen = rng.normal(size=30)
        means, variances = [], []
        for _ in range(10):
            spread = seen.std(ddof=1) * np.sqrt(29 / rng.chisquare(29))
            centre = rng.normal(seen.mean(), spread / np.sqrt(30))
            whole = np.concatenate([seen, rng.normal(centre, spread, 20)])
            means.append(whole.mean())
            variances.append(whole.var(ddof=1) / 50)
        low, high = pool(means, variances).interval(0.9)
        inside += low < 0 < high
    # five standard errors of 400 intervals
    assert abs(inside / 400 - 0.9) < 5 * np.sqrt(0.09 / 400)


@pytest.mark.parametrize(
    ("estimates", "variances", "message"),
    [
        ([1.0], [1.0], "at least two draws"),
        ([1.0, 2.0], [1.0], "variances of shape"),
        ([1.0, 2.0], [1.0, 0.0], "one is not"),
    ],
)
def test_what_cannot_be_pooled_is_refused(estimates, variances, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pool(estimates, variances)


def test_quantiles_keep_rows_and_columns() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(7, 4, 2))
    frames = [pd.DataFrame(d, index=list("pqrs"), columns=list("ab")) for d in draws]
    table = quantiles(pd.concat(frames, keys=range(7)), [0.1, 0.5])
    np.testing.assert_allclose(table.loc[0.5], np.median(draws, axis=0))
    np.testing.assert_allclose(table.to_numpy().reshape(2, 4, 2), quantiles(draws, [0.1, 0.5]))
    assert list(table.loc[0.1].index) == list("pqrs")

"""Statistics of chains: they are ArviZ's, for many series at once, and mean what they say."""

import time
import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprop import convergence as module
from genprop.convergence import Convergence, convergence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz

METHODS = {
    "rhat": ("rhat", "rank"),
    "ess_bulk": ("ess", "bulk"),
    "ess_tail": ("ess", "tail"),
    "mcse": ("mcse", "mean"),
}


@np.errstate(all="ignore")
def of_arviz(name: str, series: np.ndarray) -> float:
    """ArviZ's figure for draws ``(chain, draw)``, in either of its lines of versions."""
    function, method = METHODS[name]
    more: dict[str, Any] = {"prob": (0.05, 0.95)} if name == "ess_tail" else {}
    if arviz.__version__.startswith("0."):
        return float(getattr(arviz, function)(series, method=method, **more))
    from arviz_stats.base import array_stats

    found = getattr(array_stats, function)(series, chain_axis=0, draw_axis=1, method=method, **more)
    return float(found)


def random_walks(
    rng: np.random.Generator, shape: tuple[int, int, int], phi: np.ndarray | float
) -> np.ndarray:
    """Stationary x' = φx + √(1 - φ²) ε, which is N(0, 1) at any time; (chain, draw, series)."""
    x = rng.normal(size=shape)
    phi = np.broadcast_to(phi, shape[2])
    for draw in range(1, shape[1]):
        x[:, draw] = phi * x[:, draw - 1] + np.sqrt(1 - phi**2) * x[:, draw]
    return x


@given(
    seed=st.integers(0, 2**32 - 1),
    chains=st.integers(2, 5),
    draws=st.integers(4, 80),
    levels=st.sampled_from([None, 1, 3]),
)
def test_every_statistic_is_arvizs(seed: int, chains: int, draws: int, levels: int | None) -> None:
    rng = np.random.default_rng(seed)
    x = random_walks(rng, (chains, draws, 3), rng.uniform(-0.9, 0.99, 3))
    x[0] += rng.exponential(0.5, 3)
    if levels is not None:  # ties
        x = np.round(levels * x) / levels
    found = convergence(x)
    for n in range(3):
        if np.ptp(x[..., n], axis=1).max() == 0:
            continue
        # ArviZ may round a quantile between two equal draws to a number below both
        for name in set(METHODS) - ({"ess_tail"} if levels else set()):
            expected = of_arviz(name, x[..., n])
            assert getattr(found, name)[n] == pytest.approx(expected, rel=1e-9, nan_ok=True), name


def test_one_chain_is_compared_with_itself() -> None:
    drifting = np.linspace(0, 3, 400) + np.random.default_rng(0).normal(size=400)
    x = np.stack([drifting, drifting - np.linspace(0, 3, 400)], -1)[None]
    found = convergence(x)
    assert found.rhat[0] > 1.1
    assert found.rhat[1] < 1.01


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_effective_draws_of_a_walk_are_those_of_theory(phi: float) -> None:
    x = random_walks(np.random.default_rng(0), (4, 1000, 50), phi)
    found, expected = convergence(x), 4000 * (1 - phi) / (1 + phi)
    # the mean over 50 series, each with an error of some 10 %
    assert found.ess_bulk.mean() == pytest.approx(expected, rel=0.1)
    assert found.mcse.mean() == pytest.approx(1 / np.sqrt(expected), rel=0.1)


def test_the_error_of_a_mean_is_the_one_that_is_told() -> None:
    found = convergence(random_walks(np.random.default_rng(0), (4, 200, 2000), 0.7))
    # squares of standard normal numbers: their mean over 2000 series is 1 within 0.03, and a
    # little more, since MCSE is estimated
    assert np.mean((found.mean / found.mcse) ** 2) == pytest.approx(1, abs=0.15)
    assert found.sd.mean() == pytest.approx(1, abs=0.02)


def test_chains_that_differ_in_place_or_in_spread_are_told_apart() -> None:
    x = np.random.default_rng(0).normal(size=(4, 500, 3))
    x[3, :, 1] += 0.5
    x[3, :, 2] *= 2
    same, place, spread = convergence(x).rhat
    assert same < 1.01 < min(place, spread)


def test_laws_without_a_mean_are_judged_by_their_ranks() -> None:
    found = convergence(np.random.default_rng(0).standard_cauchy((4, 500, 20)))
    assert (found.rhat < 1.02).all()
    assert (found.ess_bulk > 1200).all()


def test_what_stands_still_is_not_judged_and_what_is_broken_is_condemned() -> None:
    x = np.random.default_rng(0).normal(size=(4, 100, 5))
    x[..., 1] = 3.0
    x[..., 2] = np.arange(4)[:, None]
    x[2, 50, 3] = np.nan
    x[2, 50, 4] = np.inf
    found = convergence(x)
    assert np.isnan(found.rhat).tolist() == [False, True, False, False, False]
    for name in ("rhat", "mcse"):
        assert np.isinf(getattr(found, name)).tolist() == [False, False, True, True, True]
    for name in ("ess_bulk", "ess_tail"):
        assert (getattr(found, name)[2:] == 0).all()
        assert np.isnan(getattr(found, name)[1])
    assert found.mean[1:3].tolist() == [3.0, 1.5]
    assert np.isnan(found.mean[3:]).all()


def test_series_have_nothing_to_do_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_walks(np.random.default_rng(0), (3, 41, 12), 0.5).reshape(3, 41, 3, 4)
    whole = convergence(x)
    monkeypatch.setattr(module, "BLOCK", 3 * 41 * 5)  # five series at a time
    parts = convergence(x)
    alone = convergence(x[:, :, 1, 2])
    for field in fields(Convergence):
        one, other = getattr(whole, field.name), getattr(parts, field.name)
        assert one.shape == (3, 4)
        np.testing.assert_array_equal(one, other)
        assert getattr(alone, field.name) == pytest.approx(one[1, 2], rel=1e-12)


def test_numbers_of_any_precision_are_taken_and_left_as_they_are() -> None:
    x = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    before = x.copy()
    assert convergence(x).rhat.dtype == np.float64
    assert np.array_equal(x, before)


def test_many_series_are_quick() -> None:
    x = np.random.default_rng(0).normal(size=(4, 500, 500))
    start = time.process_time()
    convergence(x)
    ours = (time.process_time() - start) / 500
    start = time.process_time()
    for n in range(5):
        for name in METHODS:
            of_arviz(name, x[..., n])
    assert ours < (time.process_time() - start) / 5 / 2


@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 3, 5)])
def test_too_few_draws_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 4 draws of each chain, but have shape"):
        convergence(np.zeros(shape))

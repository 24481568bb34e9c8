"""The estimator's likelihoods: methods, what is given, and the units of the data."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from genprop.accounts import scores_summary, scores_table
from genprop.estimator import GenProp
from genprop.likelihood.given import given_rows

SMALL = {"hidden": (), "epochs": 3, "random_state": 0, "verbose": 0}
UNTRAINED = pytest.mark.filterwarnings("ignore:k-hat is above")


def correlated(rows: int = 80) -> np.ndarray:
    X = np.random.default_rng(0).normal(size=(rows, 3)) * [1, 10, 0.1] + [0, 5, 2]
    X[:, 1] += 8 * X[:, 0]
    return X


@pytest.fixture(scope="module")
def gaussian() -> GenProp:
    """A full Gaussian on the data itself, its likelihood known."""
    return GenProp(**SMALL, prior="full").fit(correlated())


def by_scipy(model: GenProp, X: np.ndarray, columns: list[int]) -> np.ndarray:
    draws = model.sample(200_000, random_state=1)
    mean, covariance = draws.mean(0), np.cov(draws.T)
    part = multivariate_normal(mean[columns], covariance[np.ix_(columns, columns)])
    return part.logpdf(X[:, columns])


def test_masks_rows_and_algebra_agree_in_the_units_of_the_data(gaussian):
    X = correlated(6)
    mask = np.zeros(X.shape, bool)
    mask[:, 0] = True
    found = gaussian.log_likelihood(X, given=mask)
    rows = np.where(mask, X, np.nan)
    np.testing.assert_allclose(found.log_prob, gaussian.log_likelihood(X, given=rows).log_prob)
    expected = by_scipy(gaussian, X, [0, 1, 2]) - by_scipy(gaussian, X, [0])
    # moments of 200,000 draws are known to a few thousandths
    np.testing.assert_allclose(found.log_prob, expected, atol=0.1)
    assert found.bound == "point"
    np.testing.assert_array_equal(found.dimensions, 2)


def test_a_frame_takes_a_mask_and_its_own_rows(gaussian):
    X = pd.DataFrame(correlated(5), columns=list("abc"))
    model = GenProp(**SMALL, prior="full").fit(X)
    mask = pd.DataFrame({"a": True, "b": False, "c": True}, index=X.index)
    one = model.log_likelihood(X, given=mask).log_prob
    other = model.log_likelihood(X, given=X.assign(b=np.nan)).log_prob
    np.testing.assert_allclose(one, other)


@UNTRAINED
def test_modalities_are_given_by_name_or_by_mask():
    X = {"x": correlated(40), "label": np.arange(40)[:, None] % 2}
    model = GenProp(hidden=(2,), epochs=2, random_state=0, verbose=0).fit(X)
    by_name = model.log_likelihood(X, given=["x"], samples=100).log_prob
    shown = {"x": np.ones((40, 3), bool)}
    by_mask = model.log_likelihood(X, given=shown, samples=100).log_prob
    np.testing.assert_allclose(by_name, by_mask)
    np.testing.assert_array_equal(model.log_likelihood(X, given="x", samples=100).log_prob, by_name)
    with pytest.raises(ValueError, match="given names"):
        model.log_likelihood(X, given=["y"])


@UNTRAINED
def test_what_is_given_whole_has_log_probability_0_in_any_units():
    X = {"x": 1e3 * correlated(40), "label": np.arange(40) % 3}
    model = GenProp(hidden=(), top=(2,), epochs=2, random_state=0, verbose=0).fit(X)
    lacking = {**X, "x": np.where(np.arange(40)[:, None] < 20, X["x"], np.nan)}
    for rows in (X, lacking):
        found = model.log_likelihood(rows, given=["x", "label"])
        np.testing.assert_array_equal(found.log_prob, 0)
        np.testing.assert_array_equal(found.std_error, 0)
    found = model.log_likelihood(lacking, given=["label"], samples=20)
    np.testing.assert_array_equal(found.log_prob != 0, np.arange(40) < 20)


def test_bad_givens_are_sentences():
    X = correlated(3)
    with pytest.raises(ValueError, match="must have the shape of its rows"):
        given_rows(X, np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="rows are of one modality"):
        given_rows(X, ["x"])
    mixed = np.array([["a", 1.0]], dtype=object)
    assert given_rows(mixed, np.array([[False, True]])).tolist()[0][1] == 1.0


@UNTRAINED
def test_methods_and_options_reach_the_estimator_and_agree():
    X = correlated(60)
    model = GenProp(hidden=(2,), units=(), epochs=3, random_state=0, verbose=0).fit(X)
    truth = model.log_likelihood(X[:5])
    assert truth.method == "closed form"
    for method, options in {
        "importance": {"samples": 2000, "widen": 0.3},
        "annealed": {"samples": 64, "steps": 3, "start": "prior"},
    }.items():
        found = model.log_likelihood(X[:5], method=method, **options)
        assert (np.abs(found.log_prob - truth.log_prob) < 5 * found.std_error).all()
    with pytest.raises(ValueError, match="has no option widen"):
        model.log_likelihood(X, method="annealed", widen=0.1)


def test_accounts_tell_bits_and_what_was_exact(gaussian):
    found = gaussian.log_likelihood(correlated(9))
    summary = scores_summary(found)
    assert summary["bits_per_dimension"] == pytest.approx(-found.mean / 3 / np.log(2))
    assert json.dumps(summary)
    cells = [cell for column in scores_table(summary).columns for cell in column.cells]
    assert any("bits" in str(cell) for cell in cells)
    assert any("exact, by the prior's density" in str(cell) for cell in cells)


def test_the_command_takes_a_method(tmp_path: Path, capsys: pytest.CaptureFixture[str], gaussian):
    from genprop.cli import main

    gaussian.save(tmp_path / "model")
    np.save(tmp_path / "rows.npy", correlated(7))
    words = [str(tmp_path / "model"), str(tmp_path / "rows.npy"), "--method", "exact", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *words])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["method"] == "the prior's density"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *words[:2], "--method", "magic"])
    assert ended.value.code == 2
    assert "method must be one of" in capsys.readouterr().err

"""Likelihoods in parts: whoever works on them, and however often one begins again."""

from pathlib import Path

import numpy as np
import pytest

from genprop.estimator import GenProp
from genprop.shards import sharded

ROWS = np.random.default_rng(0).normal(size=(50, 3))
HOW = {"method": "importance", "samples": 40, "rows": 12}


@pytest.fixture(scope="module")
def model():
    return GenProp(hidden=(2,), epochs=2, verbose=0, random_state=0).fit(ROWS)


@pytest.fixture
def whole(model, tmp_path):
    return sharded(model, ROWS, tmp_path / "whole", **HOW)


def test_parts_are_estimates_of_their_rows(model, whole):
    # 40 samples each: two estimates of a row differ by several standard errors, none by ten
    other = model.log_likelihood(ROWS, method="importance", samples=2000)
    error = np.hypot(whole.std_error, other.std_error)
    assert (np.abs(whole.log_prob - other.log_prob) < 10 * error + 1e-3).all()
    assert (whole.rows, whole.samples, whole.method) == (50, 40, "importance")


def test_it_goes_on_where_it_was_interrupted(model, whole, tmp_path, monkeypatch):
    folder, asked = tmp_path / "again", GenProp.log_likelihood

    def stopped(self, rows, **how):
        if len(list(folder.glob("part-*.npz"))) == 2:
            raise KeyboardInterrupt
        return asked(self, rows, **how)

    monkeypatch.setattr(GenProp, "log_likelihood", stopped)
    with pytest.raises(KeyboardInterrupt):
        sharded(model, ROWS, folder, **HOW)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.npz")}
    monkeypatch.setattr(GenProp, "log_likelihood", asked)
    found = sharded(model, ROWS, folder, random_state=99, **HOW)
    assert len(done) == 2
    assert all(path.stat().st_mtime_ns == t for path, t in done.items())
    np.testing.assert_array_equal(found.log_prob, whole.log_prob)


def test_processes_share_the_work(model, whole, tmp_path):
    found = sharded(model, ROWS, tmp_path / "two", processes=2, **HOW)
    np.testing.assert_array_equal(found.log_prob, whole.log_prob)
    np.testing.assert_array_equal(found.khat, whole.khat)


def test_what_is_given_is_cut_with_the_rows(model, tmp_path):
    mask = np.zeros(ROWS.shape, dtype=bool)
    mask[:, 0] = True
    found = sharded(model, ROWS, tmp_path, given=mask, **HOW)
    other = model.log_likelihood(ROWS, given=mask, method="importance", samples=2000)
    assert abs(found.mean - other.mean) < 0.3  # of about -3 nats, by 40 samples a row


@pytest.mark.parametrize("change", ["data", "how", "model"])
def test_a_folder_of_something_else_is_refused(model, tmp_path, change):
    sharded(model, ROWS, tmp_path, **HOW)
    rows = ROWS + (change == "data")
    how = {**HOW, "samples": 41} if change == "how" else HOW
    if change == "model":
        model = GenProp(hidden=(2,), epochs=1, verbose=0, random_state=1).fit(ROWS)
    with pytest.raises(ValueError, match=f"holds likelihoods of another {change}"):
        sharded(model, rows, tmp_path, **how)


def test_no_process_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="at least one process"):
        sharded(model, ROWS, Path(tmp_path), processes=0)

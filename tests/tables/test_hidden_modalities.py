"""Modalities hidden whole, and cells of all of them, beside a baseline."""

import numpy as np
import pandas as pd
import pytest

from genprop.encoding import Encoding
from genprop.tables.calibration import calibration
from genprop.tables.hidden_cells import evaluate_hidden
from genprop.tables.hidden_modalities import ModalCalibration

ROWS = 40


class Oracle:
    """Completes numbers with their column's mean, and labels with the truth."""

    encodings_ = {
        "x": Encoding("x", "gaussian", (2, 3), None),
        "label": Encoding("label", "categorical", (1,), None, categories=((0, 1, 2, 3),)),
    }

    def __init__(self, truth: dict) -> None:
        self.truth, self.asked = truth, []

    def impute(self, X: dict, draws: int, random_state: object) -> dict:
        self.asked.append({name: pd.isna(np.asarray(x)).mean() for name, x in X.items()})
        x = np.where(np.isnan(X["x"]), self.truth["x"].mean(0), X["x"])
        return {"x": np.stack([x] * draws), "label": np.stack([self.truth["label"][:, None]] * 2)}


@pytest.fixture
def truth() -> dict:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2, 3)) * [[1.0, 100.0, 0.01]] * 2
    return {"x": x, "label": np.arange(ROWS) % 4}


def evaluated(oracle: Oracle) -> ModalCalibration:
    found = evaluate_hidden(oracle, oracle.truth, 0.3, draws=2, random_state=0)
    assert isinstance(found, ModalCalibration)
    return found


def test_each_modality_is_hidden_whole_and_then_cells_of_all(truth: dict) -> None:
    oracle = Oracle(truth)
    evaluated(oracle)
    assert oracle.asked[:2] == [{"x": 1.0, "label": 0.0}, {"x": 0.0, "label": 1.0}]
    (cells,) = oracle.asked[2:]
    # of 240 and of 40 cells, each hidden with probability 0.3
    assert abs(cells["x"] - 0.3) < 5 * (0.21 / 240) ** 0.5
    assert abs(cells["label"] - 0.3) < 5 * (0.21 / 40) ** 0.5


def test_columns_means_have_the_error_of_the_baseline_and_the_truth_none(truth: dict) -> None:
    scores = evaluated(Oracle(truth)).scores.set_index(["modality", "hidden"])
    numbers, labels = scores.loc["x"], scores.loc["label"]
    np.testing.assert_allclose(numbers["drawn"], numbers["baseline"])
    assert numbers["baseline"]["whole"] == pytest.approx(1)
    assert (labels["drawn"] == 1).all()
    assert labels["baseline"]["whole"] == 0.25
    assert list(labels["score"]) == ["accuracy", "accuracy"]  # though they are numbers
    assert list(scores["cells"][["x", "label"]].xs("whole", level=1)) == [6 * ROWS, ROWS]


def test_what_is_told_of_a_modality_is_its_calibration(truth: dict) -> None:
    oracle = Oracle(truth)
    flat = truth["x"].reshape(ROWS, 6)
    means = np.stack([np.broadcast_to(flat.mean(0), flat.shape)] * 2)
    expected = calibration(flat, means, np.ones(flat.shape, dtype=bool)).numbers
    np.testing.assert_array_equal(evaluated(oracle).whole["x"].numbers, expected)


def test_one_modality_cannot_be_hidden_whole(truth: dict) -> None:
    with pytest.raises(ValueError, match="needs another to be drawn from"):
        evaluate_hidden(Oracle(truth), {"x": truth["x"]})

"""Several labels at once and sequences of them: drawn as wholes, predicted, given in part."""

from typing import Any

import numpy as np
import pytest

from genprop.estimator import GenProp

CODES: dict[str, Any] = {"hidden": {"x": (2,), "word": (4,), "first": (2,)}}
JOINT: dict[str, Any] = {"hidden": (), "top": (4,), "prior": "vamp"}
LETTERS = np.array(list("abcd"))
NEW, DRAWS = 40, 25


def words(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Three letters in a row, the first a label, too; x tells two of four beginnings."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 4, rows)
    x = (start // 2 * 2.0 - 1)[:, None] + 0.2 * rng.normal(size=(rows, 2))
    word = (start[:, None] + np.arange(3)) % 4
    return {"x": x, "word": word, "first": LETTERS[start]}


@pytest.fixture(scope="module", params=[CODES, JOINT], ids=["codes", "joint"])
def fitted(request: pytest.FixtureRequest) -> GenProp:
    how = {"visible": {"word": "categorical"}, "units": (32,), "epochs": 60, "lr": 1e-2}
    return GenProp(**request.param, **how, verbose=0, random_state=0).fit(words(300, 0))


def test_a_sequence_is_drawn_whole_and_with_it_its_label(fitted: GenProp) -> None:
    """Letters drawn one by one, each with its right probability, would be words in one of four."""
    new = words(NEW, 1)
    drawn = fitted.sample(DRAWS, given={"x": new["x"]}, random_state=0)
    word = drawn["word"]
    assert word.shape == (DRAWS, NEW, 3)
    assert drawn["first"].shape == (DRAWS, NEW)
    there = (word == (word[..., :1] + np.arange(3)) % 4).all(-1)
    told = word[..., 0] // 2 == (new["x"].mean(1) > 0)
    assert (there & told).mean() > 0.9
    assert (drawn["first"] == LETTERS[word[..., 0]]).mean() > 0.9
    # both beginnings that x allows, in 25 draws of nearly every row
    assert np.mean([len(np.unique(word[:, row, 0])) > 1 for row in range(NEW)]) > 0.9


def test_log_density_of_labels_is_that_of_one_choice_of_two(fitted: GenProp) -> None:
    how = {"method": "predictive", "samples": 200, "random_state": 0}
    found = fitted.log_likelihood(words(NEW, 1), given=["x"], **how).log_prob.mean()
    # log ½ = -0.69 is the best there is, but for what 40 rows happen to hold: were their beginnings
    # foretold as 0.6 and 0.4, the mean would move by 0.2 / √40; of independent labels it is -2.77
    assert -1.0 < found < -0.69 + 3 * 0.2 / NEW**0.5


def test_what_is_known_of_a_sequence_tells_the_rest(fitted: GenProp) -> None:
    new = words(NEW, 1)
    assert (fitted.predict({"word": new["word"]}, modality="first") == new["first"]).mean() > 0.95
    middle = np.where(np.arange(3) == 1, new["word"], np.nan)
    (whole,) = fitted.impute({"x": new["x"], "word": middle}, method="map", random_state=0)["word"]
    assert (whole == new["word"]).all(1).mean() > 0.9

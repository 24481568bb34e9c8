"""Labels among modalities: however they are written, and in whatever type they come back."""

import numpy as np
import pandas as pd
import pytest
import torch

from genprop import GenProp
from genprop.encodings import AnyEncoding, learned
from genprop.table import Raw, checked

ROWS = 60
LABEL = np.random.default_rng(0).permutation(np.arange(ROWS) % 3)
HIDDEN = np.arange(ROWS) % 4 == 0
X = 4.0 * LABEL + np.random.default_rng(1).normal(size=ROWS)
WORDS = np.array(["no", "perhaps", "yes"])[LABEL]
NUMBERS = np.where(HIDDEN, np.nan, LABEL)
OBJECTS = np.where(HIDDEN, None, LABEL)
TEXTS = np.where(HIDDEN, "", WORDS)
SMALL = {"hidden": (), "top": (2,), "epochs": 1, "random_state": 0, "verbose": 0}

WRITTEN = {
    "floats": NUMBERS,
    "a column of floats": NUMBERS[:, None],
    "single precision": NUMBERS.astype(np.float32),
    "objects": OBJECTS,
    "a column of objects": OBJECTS[:, None],
    "a list": OBJECTS.tolist(),
    "nullable integers": pd.Series(NUMBERS).astype("Int64"),
    "a mask": np.ma.array(LABEL, mask=HIDDEN),
    "a tensor": torch.tensor(NUMBERS),
}
WRITTEN_IN_WORDS = {
    "texts": TEXTS,
    "a column of texts": TEXTS[:, None],
    "objects": np.where(HIDDEN, None, WORDS),
    "pandas' texts": pd.Series(TEXTS).where(~HIDDEN),
    "pandas' categories": pd.Series(TEXTS).where(~HIDDEN).astype("category"),
}


def encoding(label: object, visible: object = "auto") -> tuple[AnyEncoding, Raw]:
    raw = checked(GenProp(visible=visible), {"x": X, "label": label}, reset=True)["label"]
    return learned("label", raw, visible), raw


def assert_known(label: object, categories: tuple[object, ...], hidden: np.ndarray) -> None:
    found, raw = encoding(label)
    assert (found.family, found.categories) == ("categorical", (categories,))
    assert {type(value) for value in found.categories[0]} == {type(categories[0])}
    values, seen = found.encode(raw.values)
    np.testing.assert_array_equal(seen, np.repeat(~hidden[:, None], 3, 1))
    np.testing.assert_array_equal(values, np.eye(3)[LABEL] * ~hidden[:, None])


@pytest.mark.parametrize("way", WRITTEN)
def test_a_label_with_holes_is_the_same_in_every_way_of_writing_it(way: str) -> None:
    assert_known(WRITTEN[way], (0, 1, 2), HIDDEN)


@pytest.mark.parametrize("way", WRITTEN_IN_WORDS)
def test_words_may_be_missing_in_every_way_of_writing_them(way: str) -> None:
    assert_known(WRITTEN_IN_WORDS[way], ("no", "perhaps", "yes"), HIDDEN)


@pytest.mark.parametrize("label", [LABEL, LABEL[:, None], LABEL.astype(np.uint8), LABEL.tolist()])
def test_whole_numbers_without_holes_are_labels(label: object) -> None:
    assert_known(label, (0, 1, 2), np.zeros(ROWS, dtype=bool))


@pytest.mark.parametrize(
    "numbers",
    [
        LABEL.astype(float),
        NUMBERS + 0.5,
        np.where(HIDDEN, None, LABEL + 0.5),
        np.arange(ROWS),
        np.append(np.arange(ROWS - 1.0), np.nan),
        np.stack([LABEL, LABEL], 1),
        pd.DataFrame({"n": LABEL}),
    ],
    ids=["no hole", "halves", "objects", "all differ", "all known differ", "two columns", "table"],
)
def test_numbers_that_measure_are_no_label(numbers: object) -> None:
    assert encoding(numbers)[0].family == "gaussian"


def test_an_array_alone_is_no_label() -> None:
    raw = checked(GenProp(), LABEL[:, None], reset=True)["x"]
    assert learned("x", raw, "auto").family == "gaussian"


@pytest.mark.parametrize("way", WRITTEN)
def test_the_user_has_the_last_word(way: str) -> None:
    found, raw = encoding(WRITTEN[way], {"label": "gaussian"})
    assert found.family == "gaussian"
    np.testing.assert_array_equal(found.encode(raw.values)[1][:, 0], ~HIDDEN)


def test_whole_categories_are_floats_unless_only_holes_made_them_so() -> None:
    whole, _ = encoding(LABEL.astype(float), "categorical")
    assert {type(value) for value in whole.categories[0]} == {float}
    holed, _ = encoding(NUMBERS, {"label": "categorical"})
    assert {type(value) for value in holed.categories[0]} == {int}


@pytest.mark.parametrize("label", [NUMBERS, OBJECTS, TEXTS, LABEL, WORDS, LABEL > 0])
def test_a_label_is_drawn_in_one_type_whatever_is_known_of_it(label: np.ndarray) -> None:
    model = GenProp(**SMALL).fit({"x": X, "label": label})
    kind = model.classes().dtype
    given = {"x": X, "label": label}
    rows = [given, {"x": X}, {**given, "label": np.full(ROWS, np.nan)}]
    rows += [{**given, "label": np.full(ROWS, None)}]
    draws = [model.sample(3)["label"], *(model.sample(2, given=each)["label"] for each in rows)]
    draws += [model.impute(each, method="mean")["label"] for each in rows]
    assert {each.dtype for each in draws} == {kind}
    assert model.predict({"x": X}).dtype == kind
    seen = encoding(label)[1].seen
    assert (draws[1][:, seen] == np.asarray(label)[seen]).all()


def test_a_tensor_of_labels_keeps_its_rows_apart() -> None:
    model = GenProp(**SMALL).fit({"x": X, "label": torch.tensor(LABEL)})
    drawn = model.impute({"x": X, "label": torch.tensor(LABEL)}, draws=2)["label"]
    assert torch.equal(drawn, torch.tensor(LABEL).expand(2, ROWS))

"""Coherence of modalities, and pictures of one beside another."""

import numpy as np
import pandas as pd
import pytest

from genprop.coherence import agreement, coherence, fitted_classifier
from genprop.estimator import GenProp
from genprop.modal_plots import check_drawable, completions, given_beside_drawn

ROWS = 300


class Constant:
    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.full(len(X), "left")


def sides() -> dict[str, np.ndarray]:
    """Two clusters far from each other, named by a label."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=ROWS)
    x = rng.normal(size=(ROWS, 2)) + np.where(label, 3.0, -3.0)[:, None]
    return {"x": x, "label": np.array(["left", "right"])[label]}


@pytest.fixture(scope="module")
def model() -> GenProp:
    settings = {"hidden": (), "top": (2,), "units": (16,), "skip": True, "epochs": 60, "lr": 5e-3}
    fitted: GenProp = GenProp(**settings, random_state=0, verbose=0).fit(sides())
    return fitted


def test_draws_given_a_label_are_coherent_and_others_are_not(model: GenProp) -> None:
    data = sides()
    classifier = fitted_classifier(data["x"], data["label"])
    given = {"label": np.array(["left", "right"] * 10)}
    found = coherence(model, given, "x", classifier, draws=20, random_state=0)
    assert found.shares.shape == (20,)
    # clusters six deviations apart; a model that does not know of labels would come to 0.5
    assert found.mean > 0.9
    swapped = np.array(["right", "left"] * 10)
    other = coherence(model, given, "x", classifier, swapped, draws=20, random_state=0)
    assert other.mean == pytest.approx(1 - found.mean)


def test_a_classifier_may_be_anyones(model: GenProp) -> None:
    given = {"label": np.array(["left", "right"])}
    assert coherence(model, given, "x", Constant()).shares.tolist() == [1.0, 0.0]


def test_labels_may_be_told_where_none_is_given(model: GenProp) -> None:
    given = {"x": np.array([[3.0, 3.0], [-3.0, -3.0]])}
    found = coherence(model, given, "label", Constant(), ["right", "left"])
    assert found.shares.tolist() == [0.0, 1.0]


def test_what_cannot_be_asked_is_refused(model: GenProp) -> None:
    given = {"label": np.array(["left"])}
    with pytest.raises(ValueError, match="that is not given"):
        coherence(model, given, "label", Constant())
    for nobody, why in (({"foo": ["left"]}, "given names 'foo'"), ({}, "holds no modality")):
        with pytest.raises(ValueError, match=why):
            coherence(model, nobody, "x", Constant())
    with pytest.raises(ValueError, match="one label for each of the 2 rows"):
        agreement(np.zeros((3, 2, 1)), ["left"], Constant())


def test_standard_error_is_that_of_a_mean_over_rows() -> None:
    from genprop.coherence import Coherence

    assert Coherence(np.array([0.0, 1.0])).std_error == pytest.approx(0.5)
    assert np.isnan(Coherence(np.array([1.0])).std_error)


@pytest.mark.parametrize("shape", [None, (2, 2)])
def test_a_line_for_each_row_and_a_cell_for_each_draw(shape: tuple[int, int] | None) -> None:
    given = np.array([[0.0, np.nan, 2.0], [1.0, 1.0, 1.0]])
    figure = given_beside_drawn(given, np.zeros((3, 2, 4)), (None, shape), names=("a", "b"))
    assert len(figure.axes) == 2 * 4
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["a", "b", ""]
    assert [len(axes.images) for axes in figure.axes[:2]] == [0, shape is not None]


def test_draws_must_be_of_the_given_rows() -> None:
    with pytest.raises(ValueError, match=r"must be \(draws, 2"):
        given_beside_drawn(["a", "b"], np.zeros((3, 5, 4)))


def test_a_large_element_hides_no_other() -> None:
    draws = np.random.default_rng(0).normal(size=(4, 5, 3))
    curves = []
    for scale in (1.0, np.array([1.0, 1e6, 1e-3])):
        figure = given_beside_drawn(["a"] * 5, 7 * scale + scale * draws)
        curves.append([axes.lines[-1].get_ydata() for axes in figure.axes if axes.lines])
    # what is seen does not depend on the units of any element
    np.testing.assert_allclose(*curves)
    assert np.std(curves[0], axis=0) == pytest.approx(np.ones(3))


def test_a_curve_alone_has_its_own_values_and_holes_stay_holes() -> None:
    figure = given_beside_drawn(np.array([[5.0, np.nan, 7.0]]), np.ones((2, 1, 3)))
    np.testing.assert_array_equal(figure.axes[0].lines[-1].get_ydata(), [5.0, np.nan, 7.0])
    np.testing.assert_array_equal(figure.axes[1].lines[-1].get_ydata(), np.zeros(3))


def test_completions_show_what_is_there_and_draw_what_is_not() -> None:
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    given = {"label": ["a", "b"], "x": x, "y": np.full((2, 1), np.nan)}
    drawn = {"label": np.full((3, 2, 1), "a"), "x": np.ones((3, 2, 2)), "y": np.ones((3, 2, 1))}
    figure = completions(given, drawn)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:8]]
    assert titles == ["label", "x", "x, drawn", "", "", "y, drawn", "", ""]
    words = completions({"x": x}, {"label": np.array([["a", "b"], ["c", "d"], ["e", "f"]])})
    told = [[text.get_text() for text in axes.texts] for axes in words.axes]
    assert told == [[], ["a"], ["c"], ["e"], [], ["b"], ["d"], ["f"]]
    with pytest.raises(ValueError, match="lack nothing"):
        completions({"label": ["a", "b"]}, {"label": drawn["label"]})


@pytest.mark.parametrize("event", [(), (1,)])
def test_a_label_has_a_picture_however_it_is_kept(event: tuple[int, ...]) -> None:
    rows = {"x": np.eye(8), "label": np.array(["a", "b"] * 4).reshape(8, *event)}
    model = GenProp(hidden=(2,), epochs=1, verbose=0).fit(rows)
    check_drawable(model.encodings_)
    given = {"x": rows["x"][:2]}
    figure = completions(given, model.sample(3, given=given))
    assert {text.get_text() for axes in figure.axes for text in axes.texts} <= {"a", "b"}


def test_a_table_of_many_kinds_has_no_picture() -> None:
    table = pd.DataFrame({"word": ["a", "b"] * 5, "number": range(10)})
    model = GenProp(hidden=(2,), epochs=1, verbose=0).fit(table)
    with pytest.raises(ValueError, match="a picture shows arrays of numbers and single labels"):
        check_drawable(model.encodings_)

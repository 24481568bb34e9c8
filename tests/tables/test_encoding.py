"""Tables of many kinds of columns: what family each has, and that nothing is lost in between."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genprop import GenProp
from genprop.tables.column_choice import choose, choose_for_numbers
from genprop.tables.columns import variable_sizes
from genprop.tables.encoding import TableEncoding, averaged, features_of, is_mixed

SMALL = {"hidden": (3,), "units": (8,), "epochs": 2, "verbose": 0, "random_state": 0}


def table(rows: int = 80, holes: float = 0.2, seed: int = 0) -> pd.DataFrame:
    """Every kind of column and of type, with holes where the type can have them."""
    rng = np.random.default_rng(seed)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), unit="D")
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 10, rows),
            "income": rng.lognormal(8, 1, rows),
            "share": stats.beta(0.6, 0.6).rvs(rows, random_state=rng).clip(1e-6, 1 - 1e-6),
            "shock": rng.standard_t(1.5, rows),
            "visits": rng.poisson(1.5, rows),
            "clicks": pd.array(rng.negative_binomial(0.5, 0.02, rows), dtype="Int64"),
            "smoker": rng.random(rows) < 0.3,
            "member": pd.array(rng.random(rows) < 0.5, dtype="boolean"),
            "grade": pd.Categorical(
                rng.choice(["low", "mid", "high"], rows), ["low", "mid", "high"], ordered=True
            ),
            "city": rng.choice(["Bern", "Ulm", "Graz"], rows),
            "colour": pd.Categorical(rng.choice([3, 1, 2], rows)),
            "day": days,
            "moment": days.tz_localize("Europe/Vienna") + pd.to_timedelta(rng.random(rows), "h"),
            "planet": "Earth",
        },
        index=pd.RangeIndex(7, 7 + rows, name="id"),
    )
    for name in frame.columns.difference(["visits", "smoker"]):
        frame.loc[rng.random(rows) < holes, name] = None
    return frame


KINDS = {
    "height": "real",
    "income": "positive",
    "share": "proportion",
    "shock": "student",
    "visits": "poisson",
    "clicks": "count",
    "smoker": "boolean",
    "member": "boolean",
    "grade": "ordered",
    "city": "category",
    "colour": "category",
    "day": "real",
    "moment": "real",
    "planet": "constant",
}


def test_every_column_gets_its_family_and_a_reason() -> None:
    report = TableEncoding.learn(table(400), {}).report().set_index("column")
    assert report["family"].to_dict() == KINDS
    assert report["why"].str.len().gt(0).all()
    assert "nats a value better than a Gaussian" in report.loc["income", "why"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3]))
def test_decode_inverts_encode_in_value_type_and_order(seed: int, holes: float) -> None:
    frame = table(40, holes, seed)
    encoding = TableEncoding.learn(frame, {"clicks": "count", "visits": "count"})
    values, seen = encoding.encode(frame)
    back = encoding.decode(values).set_axis(frame.index)
    assert list(back.columns) == list(frame.columns)
    for name in frame.columns:
        known = frame[name].notna()
        one, other = frame.loc[known, name], back.loc[known, name]
        if name not in ("smoker", "planet", "city"):
            assert back[name].dtype == frame[name].dtype
        if name == "moment":
            assert (one - other).abs().max() < pd.Timedelta("2us")
        elif one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-9)
        else:
            assert (one.astype(object) == other.astype(object)).all()
    assert (values[~seen] == 0).all()


def test_masks_of_groups_are_all_or_nothing() -> None:
    frame = table()
    encoding = TableEncoding.learn(frame, {})
    _, seen = encoding.encode(frame)
    sizes = variable_sizes(encoding.visible())
    for block in np.split(seen, np.cumsum(sizes)[:-1], axis=1):
        assert (block == block[:, :1]).all()


def test_the_point_of_an_ordered_category_is_its_median_of_another_its_mode() -> None:
    grades = pd.Categorical(["low", "mid", "high"], ["low", "mid", "high"], ordered=True)
    rng = np.random.default_rng(0)
    law = rng.dirichlet(np.ones(3), 200)
    for ordered in (True, False):
        frame = pd.DataFrame({"grade": grades if ordered else grades.as_unordered()})
        found = TableEncoding.learn(frame, {}).codes[0].decode(law, True).cat.codes.to_numpy()
        # the k that costs least in the mean: of displacement, or of being another at all
        apart = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
        costs = law @ (apart if ordered else apart > 0)
        np.testing.assert_array_equal(found, costs.argmin(1))


def test_standardised_numbers_have_mean_zero_and_spread_one() -> None:
    frame = table(200)
    encoding = TableEncoding.learn(frame, {})
    values, seen = encoding.encode(frame)
    for place, code in enumerate(encoding.ordered()):
        if code.kind in ("real", "positive", "proportion"):
            z = values[seen[:, place], place]
            np.testing.assert_allclose((z.mean(), z.std()), (0, 1), atol=1e-6)


def test_the_jacobian_is_the_derivative() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"r": rng.normal(0, 9, 50), "p": rng.lognormal(0, 1, 50), "s": rng.random(50)}
    )
    choices = {"p": "positive", "s": "proportion", "r": "real"}
    encoding = TableEncoding.learn(frame, choices)
    step = 1e-6 * frame
    slopes = (encoding.encode(frame + step)[0] - encoding.encode(frame - step)[0]) / (
        2 * step.to_numpy()
    )
    np.testing.assert_allclose(
        encoding.log_jacobian(frame), np.log(np.abs(slopes)).sum(1), rtol=0, atol=1e-5
    )
    frame.iloc[0, 1] = np.nan
    hidden = encoding.log_jacobian(frame)[0] - np.log(np.abs(slopes))[0, [0, 2]].sum()
    assert abs(hidden) < 1e-5


def test_a_mean_of_bent_columns_is_that_of_the_law_in_the_datas_units() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"r": rng.normal(5, 2, 99), "p": rng.lognormal(1, 1, 99), "s": rng.random(99)}
    )
    encoding = TableEncoding.learn(frame, {"p": "positive", "s": "proportion"})
    law = encoding.visible().double()(torch.zeros(3).double())
    found = encoding.decode(
        averaged(encoding, features_of(encoding, law))[None].detach().numpy(), True
    )
    draws = encoding.decode(law.sample((400_000,)).numpy())
    error = draws.std() / 400_000**0.5
    assert ((found.iloc[0] - draws.mean()).abs() < 5 * error).all()


def test_the_user_has_the_last_word_and_mistakes_are_named() -> None:
    frame = table()
    code = TableEncoding.learn(frame, {"visits": "ordered"}).codes[4]
    assert (code.kind, code.why) == ("ordered", "as you said")
    for choices, message in (
        ({"nobody": "real"}, "'nobody', but the columns are"),
        ({"height": "tall"}, "column 'height' must be 'auto' or one of real"),
        ({"city": "real"}, "column 'city' is real, but holds values that are no numbers"),
        ({"shock": "positive"}, "column 'shock' is positive, its values are above 0, but row"),
        ({"height": "count"}, "column 'height' is count, its values are 0, 1, 2"),
        ({"city": "boolean"}, "column 'city' is boolean, but holds 'Bern'"),
    ):
        with pytest.raises(ValueError, match=message):
            TableEncoding.learn(frame, choices)


def test_what_fit_did_not_see_is_an_error_that_names_it() -> None:
    frame = table()
    encoding = TableEncoding.learn(frame, {})
    for column, value, message in (
        (
            "city",
            "Rom",
            "column 'city' holds a new category 'Rom' in row 0; the model knows 'Bern'",
        ),
        ("planet", "Mars", "column 'planet' was always 'Earth' in fit, but holds 'Mars'"),
        ("income", -1.0, "column 'income' is positive"),
    ):
        other = frame.copy()
        other[column] = other[column].astype(object)
        other.loc[7, column] = value
        with pytest.raises(ValueError, match=message):
            encoding.encode(other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.Series([None, None], name="a"), "'a' holds no value at all"),
        (pd.Series([f"id {k}" for k in range(200)], name="a"), "200 different texts in 200 rows"),
        (pd.Series([1 + 2j, 2j], name="a"), "for which there is no family"),
        (pd.Series([np.inf, 1.0], name="a"), "column 'a' holds infinity"),
        (pd.Series(["x", "x"], name="a"), "all columns of modality 'x' are constant"),
    ],
)
def test_columns_that_cannot_be_learned_are_refused(values: pd.Series, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableEncoding.learn(values.to_frame(), {"a": "real"} if "inf" in message else {})


def test_choices_follow_the_law_that_made_the_numbers() -> None:
    rng = np.random.default_rng(0)
    made = {
        "real": rng.normal(3, 1, 500),
        "positive": rng.lognormal(0, 1, 500),
        "student": rng.standard_t(2, 500),
        "poisson": rng.poisson(2, 500),
        "count": rng.negative_binomial(1, 0.1, 500),
    }
    for kind, values in made.items():
        assert choose_for_numbers(values.astype(float)).kind == kind
    assert choose(pd.Series(rng.normal(2000, 5, 300).round())).why == "numbers (whole)"


def test_it_is_written_and_read() -> None:
    encoding = TableEncoding.learn(table(), {})
    again = TableEncoding.of_config(json.loads(json.dumps(encoding.config())))
    assert again == encoding


def test_which_tables_are_mixed() -> None:
    assert is_mixed(table())
    assert not is_mixed(table()[["height", "visits"]])
    assert is_mixed(table()[["height", "clicks"]])  # no float: drawn whole


def test_a_mixed_frame_is_fitted_drawn_imputed_saved(tmp_path) -> None:
    frame = table()
    model = GenProp(**SMALL).fit(frame)
    assert model.encodings_["x"].family == "columns"
    drawn = model.sample(5)
    assert list(drawn.columns) == list(frame.columns)
    assert drawn["visits"].ge(0).all()
    assert set(drawn["planet"]) == {"Earth"}
    imputed = model.impute(frame, draws=2)
    assert imputed.index.names == ["draw", "id"]
    assert imputed.loc[1].index.equals(frame.index)
    for name in frame.columns:
        known = frame[name].notna()
        assert imputed.loc[0][name].notna().all()
        assert (imputed.loc[0].loc[known, name] == frame.loc[known, name]).all()
        assert imputed[name].dtype == frame[name].dtype
    model.save(tmp_path / "model")
    again = GenProp.load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.impute(frame), model.impute(frame))
    assert np.isfinite(model.log_likelihood(frame, samples=20).log_prob).all()
    assert model.reconstruct(frame).index.equals(frame.index)
    with pytest.raises(ValueError, match=r"new are \['size'\], missing are \['height'\]|unseen"):
        model.impute(frame.rename(columns={"height": "size"}))


def test_choices_by_column_and_by_modality_live_side_by_side() -> None:
    frame = table()[["height", "visits"]]
    assert GenProp(**SMALL).fit(frame).encodings_["x"].family == "gaussian"
    one = GenProp(**SMALL, visible={"visits": "count"}).fit(frame)
    assert [code.kind for code in one.encodings_["x"].codes] == ["real", "count"]
    assert GenProp(**SMALL, visible="columns").fit(frame.to_numpy()).sample(2).shape == (2, 2)
    both = {"person": frame, "pixels": np.random.default_rng(0).random((80, 3))}
    two = GenProp(**SMALL, visible={"person": {"visits": "count"}, "pixels": "gaussian"}).fit(both)
    assert two.encodings_["person"].family == "columns"
    assert two.encodings_["pixels"].family == "gaussian"
    assert set(two.impute(both)) == {"person", "pixels"}

"""GenProp as users meet it: scikit-learn's contract, containers, missing cells, bad input."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from genprop import GenProp

SMALL = {"hidden": (3, 2), "units": (8,), "epochs": 2, "verbose": 0, "random_state": 0}
TYPES_CHECKED = "these tests check types at run time; a test below does this one without"
MONTE_CARLO = "score_samples is a Monte Carlo estimate: every row has noise of its own"


@parametrize_with_checks(
    [GenProp(**SMALL)],
    expected_failed_checks=lambda estimator: {
        "check_methods_sample_order_invariance": MONTE_CARLO,
        "check_methods_subset_invariance": MONTE_CARLO,
        "check_do_not_raise_errors_in_init_or_set_params": TYPES_CHECKED,
    },
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_init_takes_anything_as_scikit_learn_wants():
    code = (
        "from sklearn.utils.estimator_checks import *; from genprop import GenProp; "
        "check_do_not_raise_errors_in_init_or_set_params('GenProp', GenProp())"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def holes(rows=40, columns=4, share=0.3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(5.0, 2.0, (rows, columns))
    X[rng.random(X.shape) < share] = np.nan
    return X


@pytest.fixture(scope="module")
def fitted():
    return GenProp(**SMALL).fit(holes())


def test_impute_keeps_observed_cells_to_the_bit_and_fills_the_rest(fitted):
    X = holes(seed=1)
    draws = fitted.impute(X, draws=3)
    assert draws.shape == (3, 40, 4)
    seen = ~np.isnan(X)
    assert all(draw[seen].tobytes() == X[seen].tobytes() for draw in draws)
    assert np.isfinite(draws).all()
    assert (draws[0] != draws[1])[~seen].all()


def test_draws_come_first_also_for_one(fitted):
    X = holes(rows=5)
    assert fitted.impute(X, method="sir").shape == (1, 5, 4)
    assert fitted.sample(1).shape == (1, 4)
    assert fitted.sample(2, given=X).shape == (2, 5, 4)


def test_same_seed_same_draws_and_the_global_generators_are_left_alone(fitted):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = GenProp(**SMALL).fit(holes())
    for method in ("sample", "impute", "log_likelihood"):
        argument = 3 if method == "sample" else holes(seed=2)
        how = {"method": "sir"} if method == "impute" else {}
        one, two = (getattr(each, method)(argument, **how) for each in (fitted, again))
        if method == "log_likelihood":
            one, two = one.log_prob, two.log_prob
        np.testing.assert_array_equal(one, two)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert not np.array_equal(fitted.sample(3), fitted.sample(3, random_state=1))


def test_dataframe_in_dataframe_out():
    frame = pd.DataFrame(holes(), columns=list("abcd"), index=np.arange(40) + 100)
    model = GenProp(**SMALL).fit(frame)
    imputed = model.impute(frame, draws=2, method="sir")
    assert list(imputed.columns) == list("abcd")
    assert imputed.index.names[0] == "draw"
    assert imputed.loc[1].index.equals(frame.index)
    seen = frame.notna()
    pd.testing.assert_frame_equal(imputed.loc[0].where(seen), frame)
    assert list(model.sample(3).columns) == list("abcd")
    assert model.reconstruct(frame).index.equals(frame.index)
    assert list(model.set_output(transform="pandas").transform(frame)) == ["genprop0", "genprop1"]
    with pytest.raises(ValueError, match="feature names"):
        model.impute(frame.rename(columns={"a": "z"}))


def test_nullable_and_boolean_columns_are_imputed():
    frame = pd.DataFrame(
        {"a": pd.array([1, 0, None, 1] * 5, dtype="Int64"), "b": [True, False, True, True] * 5}
    )
    model = GenProp(**SMALL).fit(frame)
    assert model.encodings_["x"].family == "bernoulli"
    imputed = model.impute(frame, method="sir")
    assert imputed["a"].isin([0, 1]).all()
    assert imputed["b"].tolist() == frame["b"].tolist()


def test_tensor_in_tensor_out():
    X = torch.as_tensor(holes(), dtype=torch.float32)
    model = GenProp(**SMALL).fit(X)
    imputed = model.impute(X, draws=2, method="sir")
    assert isinstance(imputed, torch.Tensor)
    assert imputed.dtype == X.dtype
    assert imputed.shape == (2, 40, 4)


def test_images_keep_their_shape():
    X = (load_digits().images[:60] >= 8).astype(np.uint8)
    model = GenProp(**SMALL).fit(X)
    assert model.sample(2).shape == (2, 8, 8)
    assert set(np.unique(model.sample(2))) <= {0.0, 1.0}
    assert model.reconstruct(X).shape == X.shape
    half = X.astype(float)
    half[:, 4:] = np.nan
    assert model.impute(half, draws=2, method="sir").shape == (2, 60, 8, 8)


def test_categories_come_back_as_themselves():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"city": rng.choice(["Bern", "Ulm", None], 60), "size": rng.choice([1, 2, 3], 60)}
    )
    model = GenProp(**SMALL, visible="categorical").fit(frame)
    imputed = model.impute(frame, draws=2, method="sir")
    assert set(imputed["city"]) == {"Bern", "Ulm"}
    assert set(model.sample(9)["size"]) <= {1, 2, 3}
    with pytest.raises(ValueError, match="new category 'Rom'"):
        model.impute(frame.replace("Ulm", "Rom"))


@pytest.mark.parametrize("label", [np.arange(40) % 3, np.arange(40) % 2 > 0, np.arange(40) / 7])
@pytest.mark.parametrize("event", [(), (1,)])
def test_what_is_drawn_has_the_shape_that_was_fitted_however_it_is_given(label, event):
    rows = {"x": holes(), "label": label.reshape(40, *event)}
    model = GenProp(**SMALL).fit(rows)
    found = []
    for told in (label, label[:, None], torch.tensor(label), torch.tensor(label)[:, None]):
        data = {"x": holes(), "label": told}
        drawn = model.impute(data, draws=2, random_state=0)["label"]
        assert drawn.shape == (2, 40, *event)
        assert (np.asarray(drawn) == rows["label"]).all()
        found.append(model.log_likelihood(data, random_state=0).log_prob)
    np.testing.assert_array_equal(found, [found[0]] * 4)
    assert model.sample(3)["label"].shape == (3, *event)
    assert model.sample(2, given={"x": holes()})["label"].shape == (2, 40, *event)
    assert model.reconstruct(rows)["label"].shape == (40, *event)


def test_any_modality_may_be_missing_from_any_row():
    rng = np.random.default_rng(0)
    data = {"x": holes(), "label": rng.choice(["p", "q"], 40).astype(object)}
    data["label"][::3] = None
    data["x"][1::3] = np.nan
    model = GenProp(
        **{**SMALL, "hidden": {"x": (3, 2), "label": (2,)}}, visible={"label": "categorical"}
    ).fit(data)
    imputed = model.impute(data, draws=2, method="sir")
    assert imputed["x"].shape == (2, 40, 4)
    assert imputed["label"].shape == (2, 40)
    assert set(np.unique(imputed["label"])) <= {"p", "q"}
    assert set(model.sample(3)) == {"x", "label"}
    assert np.isfinite(model.log_likelihood(data, samples=20).log_prob).all()
    with pytest.raises(ValueError, match="fitted on modalities"):
        model.impute({"x": data["x"], "other": data["x"]})


def test_what_is_not_seen_is_worth_nothing(fitted):
    empty = np.full((3, 4), np.nan)
    estimate = fitted.log_likelihood(empty, samples=30)
    np.testing.assert_allclose(estimate.log_prob, 0.0, atol=1e-6)
    assert np.isfinite(fitted.impute(empty, method="sir")).all()


def test_log_likelihood_is_in_the_units_of_the_data():
    X = holes(share=0.0)
    one = GenProp(**SMALL).fit(X).log_likelihood(X, samples=50)
    ten = GenProp(**SMALL).fit(10 * X).log_likelihood(10 * X, samples=50)
    # the same standardised data and noise: only the Jacobian of 4 columns differs
    np.testing.assert_allclose(one.log_prob - ten.log_prob, 4 * np.log(10), rtol=1e-4)


def test_fitting_again_forgets_the_first_fit():
    X = 1e3 + holes(share=0.0)
    again = GenProp(**SMALL).fit(holes(columns=3)).set_params(precision="64").fit(X)
    fresh = GenProp(**SMALL, precision="64").fit(X)
    np.testing.assert_array_equal(again.sample(3), fresh.sample(3))


def test_training_that_fails_leaves_weights_and_encoding_of_the_same_data():
    X = holes(share=0.0)
    model = GenProp(**SMALL).fit(X[:, :3])
    poison = {"lr": 1e30, "optimizer": "sgd", "batch_size": 8}
    with (
        pytest.warns(UserWarning, match="halved"),
        pytest.raises(FloatingPointError, match="last good weights"),
    ):
        model.set_params(**poison).fit(X)
    assert np.isfinite(model.sample(3)).all()
    assert model.sample(3).shape == (3, 4)


def test_pipeline_grid_search_and_clone():
    X, y = load_digits(return_X_y=True)
    X, y = (X[:120] >= 8).astype(float), y[:120] % 2
    pipeline = make_pipeline(GenProp(**SMALL), StandardScaler(), LogisticRegression())
    assert pipeline.fit(X, y).predict(X).shape == (120,)
    search = GridSearchCV(GenProp(**{**SMALL, "epochs": 1}), {"hidden": [(2,), (3,)]}, cv=2)
    assert search.fit(X[:40]).best_params_["hidden"] in [(2,), (3,)]
    assert clone(GenProp(**SMALL)).get_params()["hidden"] == (3, 2)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.empty((0, 3)), "0 sample"),
        (np.ones((1, 3)), "minimum of 2"),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), "infinity"),
        (np.array([[1.0, np.nan], [0.0, np.nan]]), "column 1 holds no value"),
        (np.array([["a", "b"], ["c", "d"]]), "could not convert|numbers|numeric"),
        ({}, "same rows"),
        ({"a": np.ones((3, 2)), "b": np.ones((4, 2))}, "same rows"),
        ({"a.b": np.ones((3, 2))}, "without a dot"),
    ],
)
def test_bad_data_is_refused_in_a_sentence(X, message):
    with pytest.raises(ValueError, match=message):
        GenProp(**SMALL).fit(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": (3, 0)}, "all positive"),
        ({"visible": "poisson"}, "visible must be"),
        ({"visible": "bernoulli"}, "Bernoulli, of 0 and 1"),
        ({"latent": "poisson"}, "latent must be"),
        ({"latent": ("gaussian",) * 3}, "3 families"),
        ({"latent": "categorical"}, "groups of 10"),
        ({"prior": "flat"}, "prior must be"),
        ({"prior": "gaussian", "latent": "bernoulli"}, "use prior='factorial'"),
        ({"rule": "magic"}, "rule must be"),
        ({"samples": 0}, "at least one sample"),
        ({"samples": 1, "latent": "bernoulli"}, "samples=5"),
        ({"rule": "dreg", "latent": "bernoulli"}, "cannot be reparameterised"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"batch_size": "big"}, "batch_size must be"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"optimizer": "magic"}, "optimizer must be"),
        ({"schedule": "magic"}, "schedule must be"),
        ({"precision": "8"}, "precision must be"),
        ({"hide": 2.0}, "probability"),
        ({"hide": {"x": -0.5}}, "or one by modality"),
        ({"hide": {"label": 0.5}}, "hide names 'label', but the modalities are 'x'"),
        ({"clip": 0.0}, "clip must be"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"practise": True, "hide": 0.0}, r"hide=0\.0 hides none"),
        ({"practise": True, "hide": {}}, "hide={} hides none"),
        ({"patience": 0}, "patience must be"),
        ({"validation": 1.0}, "share held out"),
        ({"activation": "magic"}, "activation must be"),
        ({"device": "abacus"}, "device must be"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message):
    model = GenProp(**{**SMALL, **arguments})
    with pytest.raises(ValueError, match=message):
        model.fit(holes())
    assert not hasattr(model, "model_")


def test_a_text_or_date_column_is_named():
    frame = pd.DataFrame({"a": [1.0, 2.0], "city": ["Bern", "Ulm"]})
    numbers = GenProp(**{**SMALL, "visible": "gaussian"})
    with pytest.raises(ValueError, match=r"column 'city' holds .* not numbers"):
        numbers.fit(frame)
    frame["city"] = pd.to_datetime(["2026-01-01", "2026-01-02"])
    with pytest.raises(ValueError, match="column 'city' holds datetime64"):
        numbers.fit(frame)


def test_values_outside_the_support_are_named():
    X = (load_digits().data[:50] >= 8).astype(float)
    model = GenProp(**SMALL).fit(X)
    X[3, 7] = 2.0
    with pytest.raises(ValueError, match="column 7 holds 2 in row 3"):
        model.log_likelihood(X)


def test_other_width_or_shape_is_refused(fitted):
    with pytest.raises(ValueError, match="4 features"):
        fitted.impute(np.ones((3, 5)))
    with pytest.raises(ValueError, match="shape"):
        fitted.impute(np.ones((3, 4, 2)))
    with pytest.raises(ValueError, match=r"codes must be \(rows, 2\)"):
        fitted.inverse_transform(np.ones((3, 5)))
    with pytest.raises(ValueError, match="method must be"):
        fitted.impute(holes(), method="magic")
    with pytest.raises(ValueError, match="method must be"):
        fitted.log_likelihood(holes(), method="magic")
    with pytest.raises(ValueError, match="at least one draw"):
        fitted.impute(holes(), draws=0)
    with pytest.raises(ValueError, match="at least 1"):
        fitted.sample(0)


def test_a_constant_column_stays_constant():
    X = holes(share=0.0)
    X[:, 2] = 7.0
    model = GenProp(**{**SMALL, "epochs": 30}).fit(X)
    X[:10, 2] = np.nan
    assert np.abs(model.impute(X, draws=5, method="sir")[:, :10, 2] - 7.0).max() < 5.0
    assert np.isfinite(model.log_likelihood(X, samples=50).log_prob).all()


def test_large_offsets_lose_no_digits():
    X = 1.6e9 + holes(share=0.0)
    model = GenProp(**SMALL).fit(X)
    assert np.abs(model.reconstruct(X) - 1.6e9).max() < 100


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_pattern_of_missing_cells_goes_in_one_call(fitted, data):
    rows = data.draw(st.integers(1, 6))
    mask = data.draw(st.lists(st.booleans(), min_size=4 * rows, max_size=4 * rows))
    X = np.where(np.reshape(mask, (rows, 4)), holes(rows, share=0.0), np.nan)
    draws = fitted.impute(X, draws=2, samples=10, method="sir")
    np.testing.assert_array_equal(draws[:, ~np.isnan(X)], np.stack([X[~np.isnan(X)]] * 2))
    assert np.isfinite(draws).all()
    assert np.isfinite(fitted.log_likelihood(X, samples=10).log_prob).all()


def test_save_and_load_give_the_same_model(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    back = GenProp.load(tmp_path / "model")
    np.testing.assert_array_equal(back.sample(4), fitted.sample(4))
    same = (each.impute(holes(), method="sir") for each in (back, fitted))
    np.testing.assert_array_equal(*same)
    pd.testing.assert_frame_equal(back.history_, fitted.history_)
    assert back.get_params() == fitted.get_params()
    with pytest.raises(ValueError, match="4 features"):
        back.impute(np.ones((3, 5)))


def test_categories_and_modalities_survive_saving(tmp_path):
    frame = pd.DataFrame({"a": ["u", "v"] * 10, "b": [1, 2] * 10})
    model = GenProp(**SMALL, visible="categorical").fit(frame)
    model.save(tmp_path / "model")
    pd.testing.assert_frame_equal(GenProp.load(tmp_path / "model").sample(5), model.sample(5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_results_do_not_depend_on_the_device():
    X = holes(rows=200)
    on = {d: GenProp(**{**SMALL, "epochs": 20}, device=d).fit(X) for d in ("cpu", "cuda")}
    means = [m.log_likelihood(X, samples=200).mean for m in on.values()]
    # other noise on the other device: training ends elsewhere, but not far
    assert abs(means[0] - means[1]) < 0.5
    codes = [m.transform(X) for m in on.values()]
    moved = on["cuda"].model_.to("cpu")
    on["cuda"].model_ = moved
    np.testing.assert_allclose(on["cuda"].transform(X), codes[1], atol=1e-4)


@pytest.mark.parametrize(
    "prior", ["auto", "gaussian", "diagonal", "mixture", "parzen", "denoising"]
)
def test_without_layers_the_prior_is_on_the_data_itself(prior):
    X = np.random.default_rng(0).normal(size=(60, 3))
    X[:, 2] += X[:, 0]
    model = GenProp(**{**SMALL, "hidden": ()}, prior=prior).fit(X)
    estimate = model.log_likelihood(X)
    assert estimate.bound == "point"
    assert (estimate.std_error == 0).all()
    holes = X.copy()
    holes[::2, 1] = np.nan
    filled = model.impute(holes, draws=2, method="sir")
    assert filled.shape == (2, 60, 3)
    seen = ~np.isnan(holes)
    assert (filled[:, seen] == holes[seen]).all()
    assert np.isfinite(model.score(holes))
    assert model.sample(4).shape == (4, 3)


def test_without_layers_a_real_valued_prior_is_no_law_of_zeros_and_ones():
    X = (np.random.default_rng(0).random((20, 3)) < 0.5).astype(float)
    with pytest.raises(ValueError, match="is discrete and has no layers"):
        GenProp(**{**SMALL, "hidden": ()}, prior="full").fit(X)
    assert GenProp(**{**SMALL, "hidden": ()}).fit(X).sample(3).shape == (3, 3)

"""The imputer in scikit-learn's hands, holes in groups of elements, and hidden cells."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from genprop import GenProp, GenPropImputer
from genprop.data import Batch
from genprop.progress import Progress
from genprop.tables.hidden_cells import evaluate_hidden
from genprop.tables.imputer import member_count, table_settings

QUICK = {"epochs": 2, "units": (8,)}
TYPES_CHECKED = "these tests check types at run time"


@parametrize_with_checks(
    [GenPropImputer(settings=QUICK, samples=20, members=2, random_state=0)],
    expected_failed_checks=lambda imputer: {
        "check_do_not_raise_errors_in_init_or_set_params": TYPES_CHECKED,
    },
)
def test_scikit_learn_contract(estimator, check) -> None:
    check(estimator)


def related(rows: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Five columns of one factor, and the same with a third of the cells missing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 1)) * [1.0, -2.0, 3.0, 1.0, 0.5] + 0.3 * rng.normal(size=(rows, 5))
    return X, np.where(rng.random(X.shape) < 0.3, np.nan, X)


@pytest.fixture(scope="module")
def fitted() -> GenPropImputer:
    settings = {"epochs": 40, "lr": 1e-2, "batch_size": 32}
    imputer = GenPropImputer(settings=settings, members=2, samples=100, random_state=0)
    return imputer.fit(related()[1])


def test_it_beats_the_mean_on_rows_old_and_new(fitted: GenPropImputer) -> None:
    for seed in (0, 1):
        X, holes = related(seed=seed)
        found = fitted.transform(holes)
        assert np.array_equal(found[~np.isnan(holes)], X[~np.isnan(holes)])
        error = ((found - X)[np.isnan(holes)] ** 2).mean()
        plain = ((np.nanmean(holes, 0) - X)[np.isnan(holes)] ** 2).mean()
        assert error < 0.5 * plain


def test_a_row_alone_is_imputed_as_in_its_table(fitted: GenPropImputer) -> None:
    holes = related(seed=2)[1]
    whole = fitted.transform(holes)
    for row in (0, 7, 63):
        np.testing.assert_allclose(fitted.transform(holes[[row]])[0], whole[row], rtol=1e-5)


def test_a_mean_is_that_of_the_members_and_draws_come_from_each_by_turns(
    fitted: GenPropImputer,
) -> None:
    X, holes = related(12, seed=4)
    cells, how = np.isnan(holes), {"method": "mean", "samples": 1000}
    one, other = (m.impute(holes, **how)[0] for m in fitted.models_)
    both = fitted.impute(holes, 1, **how)[0]
    assert np.array_equal(both[~cells], X[~cells])
    assert np.abs(one - other)[cells].max() > 0.01  # they were fitted from other seeds
    # each is a mean over 1,000 paths, whose error is about a thirtieth of the spread
    np.testing.assert_allclose(both[cells], ((one + other) / 2)[cells], atol=0.15)
    drawn = fitted.impute(holes, draws=5, method="sir")
    # three of the five are the first member's, whose own draws they are
    own = fitted.model_.impute(holes, draws=3, method="sir")
    np.testing.assert_array_equal(drawn[::2], own)
    assert np.array_equal(drawn[:, ~cells], np.broadcast_to(X[~cells], (5, (~cells).sum())))


def test_draws_of_members_are_as_uncertain_as_the_fit() -> None:
    """Var over draws is the mean of the members' variances and the variance of their means."""
    holes = related(12, seed=5)[1]
    imputer = GenPropImputer(settings=QUICK, members=3, random_state=0).fit(holes)
    cells, how = np.isnan(holes), {"method": "sir", "samples": 100}
    each = np.stack([m.impute(holes, draws=100, **how)[:, cells] for m in imputer.models_])
    whole = imputer.impute(holes, draws=300, **how)[:, cells]
    expected = each.var(1).mean(0) + each.mean(1).var(0)
    # 300 draws of some twenty cells have a variance with an error of 2 %; repeats double it
    assert abs(whole.var(0).mean() / expected.mean() - 1) < 0.12
    assert each.mean(1).var(0).mean() > 0.01 * expected.mean()


def test_members_follow_the_table_or_the_user() -> None:
    holes = related(20)[1]
    assert [member_count("auto", n) for n in (1000, 1001, 10_001)] == [5, 3, 1]
    made = GenPropImputer(settings={**QUICK, "epochs": 1}, random_state=0).fit(holes)
    assert len(made.models_) == 5
    assert made.models_[0] is made.model_
    assert made.model_.random_state == 0
    assert len({m.random_state for m in made.models_}) == 5
    for wrong in (0, "many"):
        with pytest.raises(ValueError, match="members must be a positive"):
            GenPropImputer(settings=QUICK, members=wrong).fit(holes)
    report = made.imputation(holes, draws=2, method="sir", samples=20).rows
    assert (report["missing"] == np.isnan(holes).sum(1)).all()


def test_members_vote_by_probability_and_average_in_the_datas_units() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"c": rng.choice(["u", "v", "w"], 40), "p": rng.lognormal(size=40)})
    frame = frame.mask(rng.random(frame.shape) < 0.3)
    kinds, how = {"p": "positive"}, {"method": "mean", "samples": 500}
    imputer = GenPropImputer(settings=QUICK, members=2, visible=kinds, random_state=0).fit(frame)
    hidden = frame["p"].isna()
    each = [m.impute(frame, **how)["p"].to_numpy() for m in imputer.models_]
    both = imputer.impute(frame, 1, **how)["p"].to_numpy()
    # not the mean of logarithms, which lies below; the paths leave an error of a few per cent
    np.testing.assert_allclose(both[hidden], np.mean(each, 0)[hidden], rtol=0.1)
    whole = imputer.transform(frame)
    assert set(whole["c"]) <= {"u", "v", "w"}
    alone = imputer.transform(frame.iloc[[11]])
    assert alone["c"].item() == whole["c"].iloc[11]
    assert np.isclose(alone["p"].item(), whole["p"].iloc[11], rtol=1e-5)


def test_it_stands_in_a_pipeline_and_is_cross_validated() -> None:
    X, holes = related(80)
    settings = {"settings": QUICK, "samples": 20, "members": 2, "random_state": 0}
    imputer = GenPropImputer(add_indicator=True, **settings)
    pipeline = make_pipeline(imputer, LogisticRegression())
    scores = cross_val_score(pipeline, holes, X[:, 0] > 0, cv=2)
    assert np.isfinite(scores).all()
    assert clone(imputer).get_params() == imputer.get_params()


def test_frames_names_and_indicators() -> None:
    holes = pd.DataFrame(related(60)[1], columns=list("abcde"), index=range(5, 65))
    holes["a"] = holes["a"].fillna(0.0)
    imputer = GenPropImputer(settings=QUICK, samples=20, add_indicator=True, random_state=0)
    whole = imputer.fit(holes).set_output(transform="pandas").transform(holes)
    names = [*"abcde", *(f"missingindicator_{c}" for c in "bcde")]
    assert list(whole.columns) == names == list(imputer.get_feature_names_out())
    assert whole.index.equals(holes.index)
    assert (whole["missingindicator_b"].astype(bool) == holes["b"].isna()).all()
    named = make_column_transformer((imputer, list("abcde"))).fit(holes)
    assert list(named.get_feature_names_out()) == [f"genpropimputer__{n}" for n in names]
    with pytest.raises(ValueError, match="feature names"):
        imputer.transform(holes.rename(columns={"a": "z"}))


def test_mixed_tables_keep_their_types() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"n": rng.normal(size=50), "c": rng.choice(["u", "v"], 50)})
    frame["k"] = pd.array(rng.poisson(2, 50), dtype="Int64")
    frame = frame.mask(rng.random(frame.shape) < 0.3)
    imputer = GenPropImputer(settings=QUICK, samples=20, visible={"k": "count"}, random_state=0)
    whole = imputer.fit_transform(frame)
    assert whole.notna().all(axis=None)
    assert (whole.dtypes == frame.dtypes).all()
    assert set(whole["c"]) <= {"u", "v"}
    draws = imputer.impute(frame, draws=30, method="sir")
    found = evaluate_hidden(imputer, frame, 0.3, draws=20, random_state=0, method="sir")
    assert set(found.numbers.index) == {"n", "k"}
    assert list(found.categories.index) == ["c"]
    assert len(draws) == 30 * 50


def test_a_well_specified_model_is_calibrated_on_hidden_cells(fitted: GenPropImputer) -> None:
    found = evaluate_hidden(fitted, related(seed=3)[0], 0.3, draws=39, random_state=0)
    # trained for a few seconds only; 300 hidden cells have a standard error of 2 %
    assert 0.75 < found.coverage(0.9) < 1.0
    assert found.mean("crps") < 0.4


def test_a_models_size_follows_the_table() -> None:
    small, wide = table_settings(40, 8), table_settings(5000, 500)
    assert small["hidden"] == (4,)
    assert wide["hidden"] == (50,)
    assert table_settings(1_000_000, 20)["epochs"] < table_settings(20_000, 20)["epochs"]
    made = GenPropImputer(settings={"hidden": (3,), **QUICK}, random_state=0).fit(related(30)[1])
    assert made.settings_["hidden"] == (3,)
    assert made.settings_["dropout"] == 0.2


def test_hiding_takes_whole_groups() -> None:
    torch.manual_seed(0)
    batch = Batch.of(torch.ones(500, 6)).hide(1.0, {"x": (1, 3, 2)})
    seen = batch.seen["x"]
    assert seen is not None
    assert (seen[:, 1:4] == seen[:, 1:2]).all()
    assert (seen[:, 4:] == seen[:, 4:5]).all()
    assert (seen[:, 0] != seen[:, 1]).any()
    assert (seen[:, 1] != seen[:, 4]).any()


def test_training_hides_whole_categories(monkeypatch) -> None:
    told = []
    original = Batch.hide

    def hide(self, probability, sizes=None, *more):
        told.append(sizes)
        return original(self, probability, sizes, *more)

    monkeypatch.setattr(Batch, "hide", hide)
    frame = pd.DataFrame({"c": list("abc") * 10, "n": np.arange(30) % 7 * 0.3})
    GenProp(hidden=(2,), epochs=1, verbose=0, random_state=0).fit(frame)
    assert told[0] == {"x": (1, 3)}


def test_processes_beside_each_other_fit_the_same_models() -> None:
    X = np.random.default_rng(0).normal(size=(40, 3))
    X[::3, 1] = np.nan
    settings = {"epochs": 2}
    one, two = (
        GenPropImputer(members=2, settings=settings, n_jobs=n, random_state=0).fit(X)
        for n in (1, 2)
    )
    np.testing.assert_array_equal(two.impute(X, draws=2), one.impute(X, draws=2))


def test_on_a_terminal_models_of_other_processes_are_counted(monkeypatch, capfd) -> None:
    """One line for all of them: bars that processes draw over each other cannot be read."""
    told: list[dict[str, float]] = []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(Progress, "show", lambda self, row: told.append(row))
    imputer = GenPropImputer(
        members=2, settings={"epochs": 2}, n_jobs=2, random_state=0, verbose=1
    ).fit(np.random.default_rng(0).normal(size=(40, 3)))
    ends = [member.history_["train"].iloc[-1] for member in imputer.models_]
    assert [row["train"] for row in told] == ends
    assert "models" in capfd.readouterr().err


@pytest.mark.parametrize("kind", [float, int, object])
def test_a_masked_array_says_what_nan_says(kind: type) -> None:
    """And what lies under the mask is never read."""
    rng = np.random.default_rng(0)
    shown, mask = rng.integers(0, 3, (40, 3)).astype(kind), rng.random((40, 3)) < 0.3
    masked = np.ma.array(np.where(mask, 10**6, shown), mask=mask)
    holes = np.where(mask, None if kind is object else np.nan, shown)
    model = GenProp((2,), epochs=1, visible="columns", random_state=0, verbose=0)
    wholes = [model.fit(X).impute(X, draws=2) for X in (masked, holes)]
    np.testing.assert_array_equal(*wholes)
    assert type(wholes[0]) is np.ndarray
    of_parts = [model.fit({"a": X}).impute({"a": X})["a"] for X in (masked, holes)]
    np.testing.assert_array_equal(*of_parts)
    if kind is float:
        imputer = GenPropImputer(settings={"epochs": 1}, members=1, random_state=0)
        np.testing.assert_array_equal(imputer.fit_transform(masked), imputer.fit_transform(holes))
        told = [model.fit(X).log_likelihood(X, given=~mask).log_prob for X in (masked, holes)]
        np.testing.assert_array_equal(*told)
        found = [evaluate_hidden(imputer, X, draws=3, random_state=0) for X in (masked, holes)]
        assert found[0].mean("crps") == found[1].mean("crps")

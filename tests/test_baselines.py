import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from genprop.baselines import BernoulliMixture, IndependentBernoulli, best_mixture

EVERY_ROW = np.array(list(itertools.product([0, 1], repeat=4)))


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    binary = load_digits().data >= 8
    return np.random.default_rng(0).permutation(binary).astype(float)


def clustered(rows: int, seed: int = 0) -> np.ndarray:
    """Rows of four columns from two clusters, noisy."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.9, 0.8, 0.1, 0.2], [0.1, 0.2, 0.9, 0.7]])
    return (rng.random((rows, 4)) < centres[rng.integers(2, size=rows)]).astype(float)


def with_holes(X: np.ndarray, seed: int = 1) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(X.shape) < 0.3, np.nan, X)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(
    "model", [IndependentBernoulli(), BernoulliMixture(3, random_state=0)], ids=["one", "mixture"]
)
def test_probabilities_of_all_rows_sum_to_one(
    model: IndependentBernoulli | BernoulliMixture, holes: bool
) -> None:
    X = clustered(50)
    model.fit(with_holes(X) if holes else X)
    assert np.exp(model.log_prob(EVERY_ROW)).sum() == pytest.approx(1)


def test_independent_log_prob_is_the_sum_over_columns() -> None:
    X = clustered(30)
    p = (X.sum(0) + 1) / 32
    expected = (X * np.log(p) + (1 - X) * np.log(1 - p)).sum(1)
    np.testing.assert_allclose(IndependentBernoulli().fit(X).log_prob(X), expected)


@pytest.mark.parametrize("pattern", [[0], [1, 3], [0, 1, 2, 3]])
def test_unseen_cells_are_summed_out(pattern: list[int]) -> None:
    mixture = BernoulliMixture(2, random_state=0).fit(clustered(100))
    partial = EVERY_ROW[5].astype(float)
    partial[pattern] = np.nan
    agreeing = np.isnan(partial) | (partial == EVERY_ROW)
    total = np.exp(mixture.log_prob(EVERY_ROW[agreeing.all(1)])).sum()
    assert np.exp(mixture.log_prob(partial[None]))[0] == pytest.approx(total)


@pytest.mark.parametrize("holes", [False, True])
def test_em_never_falls(digits: np.ndarray, holes: bool) -> None:
    X = digits[:300]
    mixture = BernoulliMixture(10, restarts=1, iterations=40, tolerance=0.0, random_state=0)
    mixture.fit(with_holes(X) if holes else X)
    assert len(mixture.objective_) > 5
    assert np.diff(mixture.objective_).min() > -1e-8


def test_em_climbs_the_log_likelihood_where_smoothing_vanishes(digits: np.ndarray) -> None:
    X = digits[:300]
    mixture = BernoulliMixture(5, smoothing=1e-12, restarts=1, random_state=0).fit(X)
    assert mixture.log_prob(X).sum() == pytest.approx(mixture.objective_[-1], abs=1e-6)


def test_more_restarts_never_lower_the_objective(digits: np.ndarray) -> None:
    def best(restarts: int) -> float:
        mixture = BernoulliMixture(8, restarts=restarts, random_state=3)
        return float(mixture.fit(digits[:200]).objective_[-1])

    assert best(1) <= best(2) <= best(5)


def test_mixture_finds_the_clusters() -> None:
    mixture = BernoulliMixture(2, random_state=0).fit(clustered(5000))
    order = np.argsort(-mixture.probabilities_[:, 0])
    expected = [[0.9, 0.8, 0.1, 0.2], [0.1, 0.2, 0.9, 0.7]]
    np.testing.assert_allclose(mixture.probabilities_[order], expected, atol=0.06)


def test_one_component_is_the_independent_model() -> None:
    X = with_holes(clustered(40))
    mixture = BernoulliMixture(1, smoothing=1.0).fit(X)
    np.testing.assert_allclose(mixture.log_prob(X), IndependentBernoulli().fit(X).log_prob(X))


def test_same_seed_same_mixture() -> None:
    X = clustered(60)
    a, b = (BernoulliMixture(4, random_state=np.random.default_rng(7)).fit(X) for _ in range(2))
    np.testing.assert_array_equal(a.probabilities_, b.probabilities_)


def test_mixture_beats_independence_on_held_out_digits(digits: np.ndarray) -> None:
    train, validation, test = digits[:1200], digits[1200:1400], digits[1400:]
    mixture = best_mixture(train, validation, components=(10, 40), random_state=0)
    independent = IndependentBernoulli().fit(train)
    assert mixture.components == 40
    assert mixture.log_prob(test).mean() > independent.log_prob(test).mean() + 6


def test_best_mixture_is_chosen_by_validation() -> None:
    train, validation = clustered(40), clustered(400, seed=1)
    best = best_mixture(train, validation, components=(1, 2, 40), random_state=0)
    assert best.components == 2


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda columns: st.lists(
            st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=columns, max_size=columns),
            min_size=1,
            max_size=8,
        )
    ),
    st.integers(1, 10),
)
def test_any_rows_give_finite_log_probabilities(rows: list[list[float]], components: int) -> None:
    X = np.array(rows)
    for model in (IndependentBernoulli(), BernoulliMixture(components, random_state=0)):
        log_prob = model.fit(X).log_prob(X)
        assert np.isfinite(log_prob).all()
        assert (log_prob <= 1e-12).all()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[0.0, 2.0]]), "but got 2; binarise"),
        (np.array([[0.0, np.inf]]), "but got inf"),
        (np.zeros(3), r"got shape \(3,\)"),
        (np.zeros((0, 3)), r"got shape \(0, 3\)"),
    ],
)
def test_strange_rows_are_refused(X: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndependentBernoulli().fit(X)
    with pytest.raises(ValueError, match=message):
        BernoulliMixture(2).fit(X)


def test_another_width_is_refused() -> None:
    for model in (IndependentBernoulli(), BernoulliMixture(2)):
        with pytest.raises(ValueError, match=r"rows of 4 columns, but got shape \(2, 5\)"):
            model.fit(clustered(9)).log_prob(np.zeros((2, 5)))


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected components above 0, but got 0"):
        BernoulliMixture(0)
    with pytest.raises(ValueError, match=r"Expected smoothing above 0, but got -1\.0"):
        IndependentBernoulli(smoothing=-1.0)
    with pytest.raises(ValueError, match="give at least one"):
        best_mixture(EVERY_ROW, EVERY_ROW, components=())

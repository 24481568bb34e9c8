"""Completed rows against exact conditionals, and that a row's draws are its own."""

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter

import exact
import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genprop import GenProp
from genprop.conditional import Bernoulli, Gaussian
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.mixture import MixturePrior
from genprop.stack import Stack
from genprop.tables.filled import SINGLE, WAYS, Filled
from genprop.tables.imputation import FEWEST_SWEEPS, How, fill
from genprop.tables.imputed import Imputed

MANY = How("sir", draws=1000, samples=5000, khat=False)
PRIOR = How("prior", draws=1000, samples=20_000, khat=False)
CHAINS = How("gibbs", draws=400, samples=100, sweeps=10, khat=False)
REFINED = replace(CHAINS, method="hmc")


def filled(model: Model, x: Tensor, seen: Tensor, how: How, seed: int = 0) -> Filled:
    torch.manual_seed(seed)
    return fill(model, Batch.of(x, seen), how, seed)


@torch.no_grad()
def exact_conditional(model: Model, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the unseen given the seen in one row."""
    law = zoo.exact_marginal(model)
    cov, unseen = law.covariance_matrix, ~seen
    gain = cov[unseen][:, seen] @ torch.linalg.inv(cov[seen][:, seen])
    mean = law.loc[unseen] + gain @ (x[seen] - law.loc[seen])
    return mean, cov[unseen][:, unseen] - gain @ cov[seen][:, unseen]


@pytest.mark.parametrize("sizes", [(4, 2), (4, 3, 2)])
@pytest.mark.parametrize("how", [MANY, PRIOR, CHAINS, REFINED], ids=attrgetter("method"))
def test_draws_have_the_exact_conditional_law(
    sizes: tuple[int, ...], how: How, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genprop.tables.imputation.PATHS", 1)
    torch.manual_seed(0)
    model = zoo.linear_gaussian(sizes)
    x = zoo.exact_marginal(model).sample((1,))
    for pattern in ([1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]):
        seen = torch.tensor([pattern]).bool()
        out = filled(model, x, seen, how)
        drawn = out.x["x"][:, 0][:, ~seen[0]]
        mean, covariance = exact_conditional(model, x[0], seen[0])
        # as many draws as are kept, or as their paths were worth; five standard errors
        n = float(how.draws)
        if how not in (CHAINS, REFINED) and any(pattern):
            n = min(n, float(out.ess[0]))
        spread = covariance.diagonal().sqrt()
        assert ((drawn.mean(0) - mean).abs() < 5 * spread / n**0.5).all()
        torch.testing.assert_close(
            torch.cov(drawn.T).reshape(covariance.shape),
            covariance,
            rtol=0.0,
            atol=7 * float(covariance.abs().max()) / n**0.5,
        )


def test_the_mean_is_the_conditional_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genprop.tables.imputation.PATHS", 1)
    torch.manual_seed(1)
    model = zoo.linear_gaussian((4, 2))
    x, seen = zoo.exact_marginal(model).sample((5,)), torch.rand(5, 4) < 0.5
    out = filled(model, x, seen, How("mean", samples=5_000, khat=False))
    for row in range(5):
        mean, covariance = exact_conditional(model, x[row], seen[row])
        found = out.x["x"][0, row][~seen[row]]
        # the mean over paths of what they expect has a smaller error than that of draws
        error = covariance.diagonal().sqrt() / float(out.ess[row]) ** 0.5
        assert ((found - mean).abs() < 5 * error).all()


def nested_linear() -> Model:
    """Two linear-Gaussian modalities, one of them raw, under a layer above them."""
    low, high = zoo.linear_gaussian((3, 2)), zoo.linear_gaussian((4, 2))
    return Model({"a": low.stacks["x"], "b": Stack(elements=2)}, high)


@pytest.mark.parametrize("make", [lambda: zoo.linear_gaussian((4, 3, 2)), nested_linear])
def test_the_most_probable_completion_of_a_gaussian_is_the_conditional_mean(make) -> None:
    torch.manual_seed(2)
    model = make()
    law, places = exact.joint_law(model)
    names = list(model.stacks)
    x = {n: v for n, v in exact.draws(model, 6)[1].items()}
    batch = Batch.of(x, {n: torch.rand(v.shape) < 0.5 for n, v in x.items()})
    out = fill(model, batch, How("map", samples=20), 0)
    for row in range(6):
        whole, seen = torch.zeros_like(law.mean), torch.zeros_like(law.mean).bool()
        for n in names:
            whole[places[n]], seen[places[n]] = x[n][row], batch.masks()[n][row]
        whole[~seen] = exact.given(law, whole, seen).mean.detach()
        for n in names:
            found, mask = out.x[n][0, row], batch.masks()[n][row]
            torch.testing.assert_close(found, whole[places[n]], rtol=0, atol=1e-5)
            assert torch.equal(found[mask], x[n][row][mask])


@pytest.mark.parametrize("name", ["two-modalities", "nested-raw-part", "mixed", "autoregressive"])
def test_a_most_probable_cell_is_a_value_that_it_can_have(name: str) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model, holes=True)
    out = fill(model, batch, How("map", samples=20), 0)
    for modality, x in out.x.items():
        seen = batch.masks()[modality]
        assert torch.equal(x[0][seen], batch.x[modality][seen])
        assert ((x == 0) | (x == 1)).all()
        if modality == "label":
            assert (x.sum(-1) == 1).all()


def small() -> tuple[Model, Tensor, Tensor]:
    torch.manual_seed(3)
    model = zoo.linear_gaussian((4, 3, 2))
    x = zoo.exact_marginal(model).sample((90,))
    seen = torch.rand(90, 4) < 0.6
    seen[:, 0] = True
    seen[5] = False
    return model, x, seen


@settings(max_examples=3, deadline=None)
@given(
    st.integers(0, 1000), st.sampled_from(["sir", "prior", "gibbs", "hmc", "auto", "mean", "map"])
)
def test_a_row_gets_the_same_draws_in_any_batch_and_order(seed: int, method: str) -> None:
    model, x, seen = small()
    how = How(method, draws=1 if method in SINGLE else 4, samples=30, sweeps=8, khat=False)
    rng = np.random.default_rng(seed)
    whole = filled(model, x, seen, how)
    rows = torch.from_numpy(rng.permutation(90)[: rng.integers(1, 90)])
    part = filled(model, x[rows], seen[rows], how, seed=0)
    # sums over a batch may be rounded in another order
    torch.testing.assert_close(part.x["x"], whole.x["x"][:, rows], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(part.ess, whole.ess[rows], equal_nan=True)


@pytest.mark.parametrize(
    ("make", "way"), [(zoo.gaussian, "hmc"), (zoo.mixed, "hmc"), (zoo.bernoulli, "gibbs")]
)
def test_trajectories_follow_sweeps_where_any_level_is_real(
    make: Callable[[], Model], way: str
) -> None:
    batch = zoo.batch(make(), holes=True)
    out = fill(make(), batch, How("hmc", draws=4, samples=30, sweeps=8), 0)
    assert (out.way == WAYS.index(way)).all()
    assert out.acceptance.isfinite().all()


def test_rows_that_hold_the_same_get_draws_of_their_own() -> None:
    model, _, _ = small()
    empty = torch.zeros(40, 4, dtype=torch.bool)
    out = filled(model, torch.zeros(40, 4).double(), empty, How("sir", draws=50, khat=False))
    drawn = out.x["x"].reshape(-1, 4)
    assert len(drawn.unique(dim=0)) > 1900
    law = zoo.exact_marginal(model)
    error = law.variance.sqrt() / len(drawn) ** 0.5
    assert ((drawn.mean(0) - law.mean).abs() < 5 * error).all()


def test_another_seed_gives_other_draws() -> None:
    model, x, seen = small()
    how = How("sir", khat=False)
    one, other = (filled(model, x, seen, how, seed).x["x"] for seed in (0, 1))
    assert (one != other)[0][~seen].all()
    assert torch.equal(one[0][seen], x[seen])


def test_auto_takes_more_paths_and_then_chains_where_few_paths_count() -> None:
    model, x, seen = small()
    with torch.no_grad():  # an encoder that knows nothing
        for p in model.stacks["x"].layers[0].encoder.parameters():
            p.mul_(0.1)
    how = How("auto", draws=4, samples=200, sweeps=10)
    out = filled(model, 2 * x, seen, how)
    few = filled(model, 2 * x, seen, replace(how, method="sir")).ess < how.least_ess
    more = filled(model, 2 * x, seen, How("sir", draws=4, samples=2000)).ess < how.least_ess
    chained = out.way == WAYS.index("gibbs")
    assert torch.equal(chained, few & more & ~seen.all(1))
    assert (few & ~more).any()  # rows for which more paths do
    assert chained.any()
    assert not chained.all()
    assert out.acceptance[chained].isfinite().all()
    assert out.acceptance[~chained].isnan().all()
    assert not out.khat.isnan().any()


def test_a_missing_modality_follows_the_prior_given_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("genprop.tables.imputation.PATHS", 1)
    torch.manual_seed(0)
    joint = GaussianPrior(2, "full")
    with torch.no_grad():
        joint.below[1, 0] = 3.0
    stacks = {n: zoo.linear_gaussian((2, 1)).named_stacks()[0][1] for n in ("a", "b")}
    model = Model(stacks, joint).double()
    a = zoo.exact_marginal(Model(stacks["a"], GaussianPrior(1).double())).sample((1,))
    batch = Batch.of({"a": a, "b": torch.full((1, 2), float("nan"), dtype=torch.float64)})
    A, b, scale = zoo.affine(stacks["a"][0].decoder)
    # P(code a | a) by algebra, then the code of b given it, then b's mean
    precision = 1 + (A[:, 0] ** 2 / scale**2).sum()
    code_a = (A[:, 0] * (a[0] - b) / scale**2).sum() / precision
    B, c, _ = zoo.affine(stacks["b"][0].decoder)
    expected = B[:, 0] * 3.0 * code_a + c
    for how in (How("sir", draws=5000, samples=10_000), How("mean", samples=10_000)):
        out = fill(model, batch, how, 0)
        drawn = out.x["b"][:, 0]
        assert torch.equal(out.x["a"][0], a)
        # five standard errors of 5,000 draws with weights; of a mean those of B times a code
        spread = (B[:, 0].abs() * (1 + 9 / precision).sqrt()) if len(drawn) == 1 else drawn.std(0)
        n = min(5000.0, float(out.ess[0]))
        assert ((drawn.mean(0) - expected).abs() < 5 * spread / n**0.5).all()


def test_whole_rows_come_back_as_they_are() -> None:
    model = Model(Stack.build(Bernoulli(5), (3,)), GaussianPrior(3))
    x = (torch.rand(4, 5) < 0.5).float()
    assert torch.equal(fill(model, Batch.of(x), How(draws=2), 0).x["x"], x.expand(2, 4, 5))


def test_memory_is_bounded_whatever_the_rows(monkeypatch) -> None:
    model, x, seen = small()
    expected = filled(model, x, seen, How("sir", draws=2, samples=100))
    monkeypatch.setattr("genprop.likelihood.parts.NUMBERS_AT_ONCE", 5000)
    found = filled(model, x, seen, How("sir", draws=2, samples=100))
    torch.testing.assert_close(found.x["x"], expected.x["x"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "median"}, "method must be 'auto' or one of sir, prior, gibbs, hmc, mean"),
        ({"draws": 0}, "at least one draw"),
        ({"method": "mean", "draws": 2}, "method='mean' completes a row in one way"),
        ({"method": "map", "draws": 2}, "method='map' completes a row in one way"),
    ],
)
def test_impossible_requests_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        How(**arguments)


def test_where_no_path_is_the_most_probable_it_is_said() -> None:
    raw, how = {"a": Stack(elements=2), "b": Stack(elements=1)}, How("map")
    x = {"a": torch.zeros(3, 2), "b": torch.full((3, 1), torch.nan)}
    with pytest.raises(ValueError, match="this model has no layer; use method='mean'"):
        fill(Model(raw, GaussianPrior(3)), Batch.of(x), how, 0)
    mixed = Model({**raw, "a": zoo.stack(Gaussian(2), (2,)).float()}, MixturePrior(3, 2))
    with pytest.raises(ValueError, match="whose mode under a mixture no formula tells"):
        fill(mixed, Batch.of(x), how, 0)


def test_users_get_draws_means_and_a_report() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(5, 2, (40, 3)), columns=list("abc"))
    frame["d"] = rng.choice(["u", "v"], 40)
    frame = frame.mask(rng.random(frame.shape) < 0.3)
    frame.iloc[0] = [1.0, 2.0, 3.0, "u"]
    frame.iloc[1] = np.nan
    made = GenProp(hidden=(2,), units=(8,), epochs=2, verbose=0, random_state=0).fit(frame)
    found = made.imputation(frame, draws=3, sweeps=8)
    pd.testing.assert_frame_equal(found.draws, made.impute(frame, draws=3))
    assert list(found.rows) == ["missing", "method", "ess", "khat", "acceptance", "rhat"]
    assert found.rows["method"][0] == "none"
    assert found.rows["missing"][1] == 4
    assert found.report()["rows"].sum() == 40
    assert "trust" in str(found)
    one = made.impute(frame, draws=3).loc[2].iloc[[7]]
    pd.testing.assert_frame_equal(made.impute(frame.iloc[[7]], draws=3).loc[2], one)
    mean = made.impute(frame, method="mean").loc[0]
    likely = made.imputation(frame, method="map")
    assert set(likely.rows["method"]) == {"none", "map"}
    assert set(likely.draws["d"]) <= {"u", "v"}
    assert likely.draws.notna().all(axis=None)
    near = made.impute(frame, draws=400, method="sir").groupby(np.tile(frame.index, 400))[["a"]]
    hidden = frame["a"].isna()
    difference = (near.mean()["a"] - mean["a"])[hidden]
    # 400 draws of a column with a standard deviation of about 2
    assert difference.abs().max() < 5 * 2 / 400**0.5


def test_a_verdict_needs_evidence() -> None:
    X = np.random.default_rng(0).normal(size=(40, 3))
    made = GenProp(hidden=(2,), units=(8,), epochs=2, verbose=0, random_state=0).fit(X)
    X[:2, 0] = np.nan  # of these two rows there is something to know
    few = made.imputation(X, draws=4, refine=FEWEST_SWEEPS - 1)
    assert few.rows["rhat"].isna().all()
    assert few.verdict.startswith("Whether to trust the draws of 2 of 40 rows is not known:")
    assert f"at least {FEWEST_SWEEPS} transitions (refine={FEWEST_SWEEPS})" in few.verdict
    enough = made.imputation(X, draws=4, refine=FEWEST_SWEEPS)
    assert enough.rows["rhat"].notna().sum() == 2
    assert "not known" not in enough.verdict
    for how in ({"khat": False}, {"samples": 24}):
        blind = made.imputation(X, method="sir", **how).verdict
        assert "is not known: a k-hat needs at least 25 samples, and khat=True." in blind
    assert made.imputation(X[2:]).verdict == "The draws of all 38 rows can be trusted."
    assert "says nothing of its spread" in made.imputation(X, method="map").verdict


def test_a_verdict_tells_what_is_poor_beside_what_is_not_known() -> None:
    kinds = {"missing": [1, 1, 1], "method": ["gibbs", "gibbs", "sir"]}
    told = pd.DataFrame({**kinds, "khat": [9.0, 9.0, np.nan], "rhat": [1.2, 1.0, np.nan]})
    verdict = Imputed(None, told).verdict
    assert verdict.startswith("Do not trust the draws of 1 of 3 rows;")
    assert "Whether to trust the draws of 1 of 3 rows is not known: a k-hat" in verdict
    assert "R-hat" not in verdict


def test_a_verdict_advises_what_was_not_done() -> None:
    kinds = {"missing": [1, 1, 1], "method": ["gibbs", "hmc", "sir"]}
    told = pd.DataFrame({**kinds, "khat": [9.0, 9.0, 0.9], "rhat": [1.2, 1.3, np.nan]})
    weights, chains = Imputed(None, told).verdict.split(". ")
    assert weights == (
        "Do not trust the draws of 1 of 3 rows; take more samples, or chains (refine=200)"
    )
    assert chains == "Do not trust the draws of 2 of 3 rows; take more transitions."

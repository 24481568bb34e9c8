"""Rows completed by donors: whose values, how many of them, and under which law."""

from dataclasses import replace

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
from genprop.priors.denoising import DenoisingPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.stack import Stack
from genprop.tables.donors import expected
from genprop.tables.imputation import LENDING, How, fill

MODELS = sorted(zoo.models())


def lending(method: str, donors: Batch, draws: int = 1, neighbours: int = 1) -> How:
    return How(method, draws=draws, donors=donors, neighbours=neighbours)


@torch.no_grad()
def test_residuals_have_the_exact_conditional_law_where_expectations_are_exact() -> None:
    torch.manual_seed(0)
    model = Model(Stack([], elements=4), GaussianPrior(4, "full")).double()
    zoo.perturbed(model)
    law = model.prior.law
    donors, x = law.sample((4000,)), law.sample((1,))
    seen = torch.tensor([[True, False, True, False]])
    how = lending("residuals", Batch.of(donors), draws=4000, neighbours=4000)
    drawn = fill(model, Batch.of(x, seen), how, 0).x["x"][:, 0][:, ~seen[0]]
    covariance, unseen = law.covariance, ~seen[0]
    gain = covariance[unseen][:, seen[0]] @ covariance[seen[0]][:, seen[0]].inverse()
    mean = law.mean[unseen] + gain @ (x[0] - law.mean)[seen[0]]
    spread = covariance[unseen][:, unseen] - gain @ covariance[seen[0]][:, unseen]
    # errors do not depend on what is seen: every donor lends once, so these are 4,000 exact draws
    assert ((drawn.mean(0) - mean).abs() < 5 * spread.diagonal().sqrt() / 4000**0.5).all()
    allowed = 7 * float(spread.max()) / 4000**0.5
    torch.testing.assert_close(torch.cov(drawn.T), spread, rtol=0.0, atol=allowed)


@pytest.mark.parametrize("method", LENDING)
@pytest.mark.parametrize("name", MODELS)
def test_a_row_among_the_donors_is_completed_by_itself(name: str, method: str) -> None:
    torch.manual_seed(1)
    model = zoo.models()[name]()
    batch = zoo.batch(model, rows=8)
    first = next(iter(batch.x))
    seen = torch.ones_like(batch.x[first], dtype=torch.bool)
    seen[:, -1] = False
    asked = Batch.of(batch.x, {first: seen})
    own = expected(model, asked)
    told = own.code if method == "neighbours" else own.x[first][:, -1:]
    distance = torch.cdist(told, told).fill_diagonal_(torch.inf)
    alone = distance.amin(1) > 1e-9  # its code, or what is expected of it, is no other's
    assert alone.any() or first in name or model.summit.discrete
    found = fill(model, asked, lending(method, batch), 0).x
    for key, x in batch.x.items():
        torch.testing.assert_close(found[key][0][alone], x[alone])


@pytest.mark.parametrize("method", LENDING)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_seen_stays_and_categories_are_lent_whole(name: str, method: str) -> None:
    torch.manual_seed(2)
    model = zoo.models()[name]()
    donors, asked = zoo.batch(model, rows=9), zoo.batch(model, rows=6, holes=True)
    found = fill(model, asked, lending(method, donors, draws=5, neighbours=3), 0).x
    real = expected(model, donors).real
    for key, x in asked.x.items():
        assert found[key].shape == (5, 6, x.shape[1])
        mask = asked.masks()[key]
        assert torch.equal(found[key][:, mask], x.expand(5, *x.shape)[:, mask])
        for column in (~real[key]).nonzero()[:, 0] if method == "residuals" else range(x.shape[1]):
            holes = ~mask[:, column]
            assert torch.isin(found[key][:, holes, column], donors.x[key][:, column]).all()


def table(rows: int = 30) -> tuple[Model, Tensor]:
    torch.manual_seed(3)
    return zoo.gaussian(1), torch.randn(rows, zoo.gaussian(1).widths["x"]).double()


def test_each_of_the_nearest_lends_once_before_any_lends_again() -> None:
    model, donors = table()
    x, seen = donors[:1] + 0.1, torch.tensor([[True] * (donors.shape[1] - 1) + [False]])
    told = Batch.of(donors, seen.expand_as(donors))
    own, theirs = (expected(model, batch) for batch in (Batch.of(x, seen), told))
    by_code = (theirs.code - own.code).norm(dim=-1)
    by_mean = (theirs.x["x"] - own.x["x"])[:, -1].abs()
    errors = own.x["x"][:, -1] + donors[:, -1] - theirs.x["x"][:, -1]
    for method, far, lends in (
        ("neighbours", by_code, donors[:, -1]),
        ("residuals", by_mean, errors),
    ):
        how = lending(method, Batch.of(donors), draws=8, neighbours=4)
        lent = fill(model, Batch.of(x, seen), how, 0).x["x"][:, 0, -1]
        near = lends[far.argsort()[:4]].sort().values
        for lap in lent.split(4):
            torch.testing.assert_close(lap.sort().values, near)
        assert not torch.equal(lent[:4], lent[4:])


@torch.no_grad()
def test_who_lends_errors_does_not_depend_on_units() -> None:
    """Of two lacking elements neither decides alone because its numbers are large."""
    torch.manual_seed(5)
    rows = torch.randn(200, 3).double() @ torch.randn(3, 3).double()
    seen = torch.tensor([[True, False, False]])
    found = []
    for units in (torch.ones(3), torch.tensor([1.0, 1e3, 1e-3])):
        donors = rows * units
        model = Model(Stack([], elements=3), GaussianPrior(3, "full")).double()
        model.prior.refit(donors)
        how = lending("residuals", Batch.of(donors), draws=7, neighbours=7)
        lent = fill(model, Batch.of(donors[:1] + 0.3 * units, seen), how, 0).x["x"][:, 0]
        found.append((lent / units).sort(0).values)
    torch.testing.assert_close(*found)


def test_of_donors_told_the_same_any_lends() -> None:
    torch.manual_seed(6)
    model = zoo.two_modalities()
    donors = zoo.batch(model, rows=60)
    first, second = donors.x
    donors.x[first] = donors.x[first][torch.arange(60) % 3]
    asked = Batch.of(
        {first: donors.x[first][:1], second: torch.full_like(donors.x[second][:1], torch.nan)}
    )
    how = lending("neighbours", donors, draws=400, neighbours=5)
    lent = fill(model, asked, how, 0).x[second][:, 0]
    found = (lent[:, None] == donors.x[second]).all(-1)
    allowed = torch.arange(60) % 3 == 0
    # twenty donors show what the row shows, and each lends about 20 of 400 draws
    assert found.any(1).all()
    unique = (donors.x[second][:, None] == donors.x[second]).all(-1).sum(1) == 1
    assert not found[:, ~allowed & unique].any()
    assert found[:, allowed].any(0).all()


def test_to_a_row_that_shows_nothing_any_donor_lends() -> None:
    model, donors = table()
    x, nothing = donors[:9], torch.zeros(9, donors.shape[1], dtype=torch.bool)
    for method in LENDING:
        how = lending(method, Batch.of(donors), draws=60, neighbours=2)
        lent = fill(model, Batch.of(x, nothing), how, 0).x["x"]
        # of 540 draws all but 30 e^-18 donors lend some; each has 18, five deviations are 21
        count = (lent.flatten(0, 1)[:, None] - donors).abs().amax(-1).lt(1e-9).sum(0)
        assert count.sum() == 540
        assert count.min() > 0
        assert count.max() < 40


def test_all_modalities_are_lent_by_one_donor() -> None:
    torch.manual_seed(4)
    model = zoo.two_modalities()
    donors, rows = zoo.batch(model, rows=20), zoo.batch(model, rows=5)
    masks = {n: torch.ones_like(x, dtype=torch.bool) for n, x in rows.x.items()}
    for mask in masks.values():
        mask[:, 0] = False
    how = lending("neighbours", donors, draws=6, neighbours=6)
    found = fill(model, Batch.of(rows.x, masks), how, 0).x
    lent = torch.stack([x[..., 0] for x in found.values()], -1).flatten(0, 1)
    pairs = torch.stack([x[:, 0] for x in donors.x.values()], -1)
    assert (lent[:, None] == pairs).all(-1).any(1).all()


def test_donors_that_lack_it_do_not_lend_and_their_fill_values_are_not_noticed() -> None:
    model, donors = table()
    shown = torch.ones_like(donors, dtype=torch.bool)
    shown[:20, -1] = False
    shown[20:24, :-1] = False  # these show nothing of what the row shows
    x, seen = donors[:3], torch.tensor([[True] * (donors.shape[1] - 1) + [False]] * 3)
    how = lending("neighbours", Batch.of(donors, shown), draws=30, neighbours=30)
    lent = fill(model, Batch.of(x, seen), how, 0).x["x"]
    assert torch.isin(lent[..., -1], donors[24:, -1]).all()
    for method in LENDING:
        how = lending(method, Batch.of(donors, shown), draws=4, neighbours=3)
        other = replace(how, donors=Batch.of(torch.where(shown, donors, 1e6), shown))
        first, second = (fill(model, Batch.of(x, seen), h, 0).x["x"] for h in (how, other))
        assert torch.equal(first, second)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(LENDING))
def test_a_row_gets_the_same_draws_in_any_batch_and_order(seed: int, method: str) -> None:
    model, donors = table(90)
    seen = torch.rand(90, donors.shape[1], generator=torch.Generator().manual_seed(seed)) < 0.6
    seen[:, 0] = True  # rows that hold the same change their draws when they change places
    how = lending(method, Batch.of(donors), draws=4, neighbours=5)
    whole = fill(model, Batch.of(donors, seen), how, 0).x["x"]
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.permutation(90)[: rng.integers(1, 90)])
    part = fill(model, Batch.of(donors[rows], seen[rows]), how, 0).x["x"]
    torch.testing.assert_close(part, whole[:, rows])


def test_where_no_mean_of_a_code_is_known_a_row_is_still_its_own() -> None:
    torch.manual_seed(7)
    stacks = {name: Stack.build(Gaussian(3), (2,)) for name in ("a", "b")}
    model = Model(stacks, DenoisingPrior(4)).double()
    rows = Batch.of({name: torch.randn(12, 3).double() for name in stacks})
    gone = torch.zeros(12, 3, dtype=torch.bool)
    asked = Batch.of(rows.x, {"b": gone})
    how = lending("residuals", rows, draws=3, neighbours=4)
    whole = fill(model, asked, how, 0).x["b"]
    part = fill(model, asked.take(torch.tensor([7, 2, 5])), how, 0).x["b"]
    torch.testing.assert_close(part, whole[:, [7, 2, 5]])


def test_an_absent_modality_is_expected_to_be_the_mean_given_the_others() -> None:
    torch.manual_seed(5)
    model = zoo.two_modalities()
    batch = zoo.batch(model, rows=4)
    gone = next(iter(batch.x))
    told = Batch.of(batch.x, {gone: torch.zeros_like(batch.x[gone], dtype=torch.bool)})
    code, seen = model.encode(told, point=True), model.code_seen(told)
    whole = torch.cat([path.code[0] for path in code.values()], -1)
    mean = model.prior.condition(whole, seen).mean
    made = expected(model, told)
    torch.testing.assert_close(made.code, torch.where(seen, whole, mean))
    torch.testing.assert_close(made.x[gone], model.decode(made.code, point=True)[gone].x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "residuals"}, "needs donors, rows that lend, such as those of fit"),
        (
            {"method": "sir", "donors": np.zeros((3, 2))},
            "takes no donors; use one of",
        ),
        ({"method": "neighbours", "donors": np.zeros((3, 2)), "neighbours": 0}, "neighbours=0"),
    ],
)
def test_impossible_requests_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        How(**arguments)


def test_donors_that_show_nothing_of_use_are_refused_before_work_starts() -> None:
    model, donors = table()
    shown = torch.ones_like(donors, dtype=torch.bool)
    shown[:, -1] = False
    asked = Batch.of(donors, shown)
    with pytest.raises(ValueError, match="no donor shows all that a row lacks of modality 'x'"):
        fill(model, asked, lending("residuals", Batch.of(donors, shown)), 0)


def test_users_get_whole_categories_and_their_own_columns() -> None:
    rng = np.random.default_rng(0)
    size = rng.normal(0, 1, 300)
    frame = pd.DataFrame({"size": size, "weight": 2 * size + rng.normal(0, 0.1, 300)})
    frame["kind"] = np.where(size > 0, "large", "small")
    model = GenProp(hidden=(2,), units=(16,), epochs=30, hide=0.5, verbose=0, random_state=0)
    model.fit(frame)
    holes = frame.iloc[:40].copy()
    holes.loc[::2, "weight"] = np.nan
    holes.loc[1::2, "kind"] = None
    for method in LENDING:
        found = model.imputation(holes, method=method, donors=frame.iloc[40:], draws=10)
        assert set(found.rows["method"]) == {method}
        assert str(found).startswith("Donors lent to 40 of 40 rows")
        assert found.draws["kind"].isin(["large", "small"]).all()
        mean = found.draws["weight"].groupby(level=1).mean()
        # weights differ by 2, of which what is seen leaves 0.1, and twenty neighbours some more
        assert (mean - frame["weight"][:40]).abs().mean() < 0.5
    drawn = model.impute(holes, method="residuals", donors=frame.iloc[40:], draws=10)
    again = model.impute(holes, method="residuals", donors=frame.iloc[40:], draws=10)
    pd.testing.assert_frame_equal(drawn, again)


def test_zeros_and_ones_and_real_values_are_told_apart() -> None:
    stacks = {"real": Stack.build(Gaussian(2), (1,)), "binary": Stack.build(Bernoulli(3), (1,))}
    real = expected(
        Model(stacks, GaussianPrior(2)),
        Batch.of({"real": torch.ones(2, 2), "binary": torch.ones(2, 3)}),
    ).real
    assert {name: found.tolist() for name, found in real.items()} == {
        "real": [True, True],
        "binary": [False, False, False],
    }

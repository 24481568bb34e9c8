"""Cells that are missing by their own values: laws, bounds, imputation."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genprop import GenProp, GenPropImputer
from genprop.conditional import Bernoulli, Categorical, Conditional, Gaussian
from genprop.data import Batch
from genprop.distributions import IndependentBernoulli, IndependentNormal
from genprop.model import Model
from genprop.nets import MLP
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.target import TargetPropagation
from genprop.stack import Layer, Stack
from genprop.tables.columns import Columns, explaining, variable_sizes
from genprop.tables.imputation import How, fill
from genprop.tables.missingness import (
    MISSING,
    NetMasking,
    Selected,
    Selection,
    SelfMasking,
    silent,
)
from genprop.tables.not_at_random import weigh_whole_rows


def selection(seed: int = 0) -> Selection:
    torch.manual_seed(seed)
    mechanism = SelfMasking((1, 1, 1)).double()
    with torch.no_grad():
        mechanism.weight.normal_()
        mechanism.bias.normal_()
    loc, scale = torch.randn(3).double(), torch.rand(3).double() + 0.5
    return Selection(IndependentNormal(loc, scale), mechanism)


def test_its_exponential_is_an_unbiased_estimate_of_seen_values_and_mask() -> None:
    law, seen = selection(), torch.tensor([True, False, False])
    x = torch.tensor([0.3, 0.0, 0.0]).double()
    many = Selection(
        IndependentNormal(law.values.loc.expand(200_000, 3), law.values.scale), law.mechanism
    )
    found = many.log_prob(x, seen).exp()
    t, w = np.polynomial.hermite_e.hermegauss(40)
    nodes = law.values.loc[1:] + law.values.scale[1:] * torch.tensor(t)[:, None]
    whole = torch.cat([torch.zeros(40, 1).double(), nodes], 1)
    weights = torch.tensor(w / w.sum())[:, None]
    missing = (weights * (-law.mechanism(whole)).sigmoid()[:, 1:]).sum(0).prod()
    exact = (
        law.values.elements(x)[0].exp() * law.mechanism(x.expand(1, 3))[0, 0].sigmoid() * missing
    )
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - exact) < 4 * error


def test_many_draws_let_a_steep_mechanism_stand_beside_a_wide_law() -> None:
    """E log P(mask | x) falls short of log P(mask) by far less than with one draw."""
    mechanism = SelfMasking((1,), side="above").double()
    with torch.no_grad():
        mechanism.weight.fill_(30.0)
    wide = IndependentNormal(torch.zeros(20_000, 1).double(), torch.ones(1).double())
    unseen = torch.zeros(20_000, 1, dtype=torch.bool)
    found = Selection(wide, mechanism, apart=True).log_prob(torch.zeros(1).double(), unseen)
    one = mechanism.log_prob(wide.sample((1,)), unseen).mean()
    # half of the law is above the threshold; of ten draws E log(share above) is known to 0.01
    assert np.log(0.5) - 0.5 < found.mean() < np.log(0.5)
    assert one < np.log(0.5) - 5


@given(seed=st.integers(0, 100), bits=st.integers(0, 7))
@settings(max_examples=20, deadline=None)
def test_what_lies_under_the_mask_changes_nothing(seed: int, bits: int) -> None:
    law = selection(seed)
    seen = torch.tensor([bool(bits >> n & 1) for n in range(3)])
    x, noise = torch.randn(4, 3).double(), 1e6 * torch.randn(4, 3).double()
    found = []
    for value in (x, torch.where(seen, x, noise)):
        torch.manual_seed(7)
        found.append(law.log_prob(value, seen))
    assert torch.equal(*found)


def test_one_hot_groups_are_one_cell() -> None:
    family = explaining(Columns([Gaussian(2), Categorical((3,)), Bernoulli(1)]), "mnar")
    assert variable_sizes(family) == (1, 1, 3, 1)
    law = family(torch.zeros(5, family.outputs))
    seen = torch.tensor([True, False, True, True, True, False]).expand(5, 6)
    x = torch.tensor([0.5, 0.0, 1.0, 0.0, 0.0, 0.0]).expand(5, 6)
    # at first a cell is missing with probability 1/2, whatever its value
    expected = law.values.log_prob(x, seen) + 4 * np.log(0.5)
    torch.testing.assert_close(law.log_prob(x, seen), expected)


def test_held_mechanisms_learn_nothing_and_others_do() -> None:
    law, seen = selection(), torch.tensor([True, False, True])
    x = torch.ones(3).double()
    assert not law.detach().log_prob(x, seen).requires_grad
    law.log_prob(x, seen).backward()
    assert (law.mechanism.weight.grad != 0).all()
    torch.manual_seed(1)
    one = law.log_prob(x, seen)
    torch.manual_seed(1)
    assert torch.equal(one, law.detach().log_prob(x, seen))


def test_discrete_unseen_values_pass_their_gradient_straight_through() -> None:
    logits = torch.zeros(4, 1, requires_grad=True)
    mechanism = SelfMasking((1,), side="above")
    law = Selection(IndependentBernoulli(logits), mechanism)
    law.log_prob(torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.bool)).sum().backward()
    # a one is likelier to be missing, so that missing cells pull towards ones
    assert (logits.grad > 0).all()


def linear(missing: str = "mnar-above") -> Model:
    """Two columns x_j = h + noise of width 1/2, h ~ N(0, 1), all of it known but the mechanism."""
    down = nn.Linear(1, 2)
    net = MLP(2, 2, (), masked=True)
    with torch.no_grad():
        down.weight.fill_(1.0)
        down.bias.zero_()
    family = explaining(Gaussian(2, scale=0.5), missing)
    layer = Layer(Conditional(net, Gaussian(1, "net")), Conditional(down, family))
    return Model(Stack([layer]), GaussianPrior(1))


def test_an_importance_weighted_mean_is_the_posteriors() -> None:
    """E[x_2 | x_1, x_2 missing] beside quadrature, the mechanism known."""
    model = linear().double()
    family = model.named_stacks()[0][1][0].decoder.family
    with torch.no_grad():
        for p in model.named_stacks()[0][1][0].encoder.net.parameters():
            p.mul_(0.1)
        family.mechanism.weight.fill_(3.0)
        family.mechanism.bias.fill_(0.0)
    batch = Batch.of(torch.tensor([[0.4, torch.nan], [-1.0, torch.nan]]).double())
    found = fill(model, batch, How("mean", samples=4000), 0).x["x"][0, :, 1]
    grid = torch.linspace(-6, 6, 4001).double()
    x1 = batch.x["x"][:, :1]
    # x_2 given x_1 is normal: mean x_1 / 1.25, variance 1.25 - 1 / 1.25
    density = torch.exp(-((grid - x1 / 1.25) ** 2) / (2 * (1.25 - 0.8)))
    slope = torch.nn.functional.softplus(torch.tensor(3.0)).double()
    density = density * (slope * grid).sigmoid()
    exact = (density * grid).sum(1) / density.sum(1)
    # 4,000 paths of four completions each, with weights between 0 and 1: an error below 0.03
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0)
    drawn = fill(model, batch, How("sir", draws=2000, samples=2000), 0).x["x"][:, :, 1]
    torch.testing.assert_close(drawn.mean(0), exact, atol=0.08, rtol=0)
    assert (found > x1[:, 0] / 1.25 + 0.1).all()


def test_columns_that_mask_themselves_are_completed_each_on_its_own() -> None:
    """Twelve cells were all cut off at 0: whole rows drawn at once would meet that once in 4096."""
    family = explaining(Gaussian(13, scale=1.0), "mnar-above")
    down, net = nn.Linear(1, 13), MLP(13, 2, (), masked=True)
    with torch.no_grad():
        for p in (*down.parameters(), *net.parameters()):
            p.zero_()
        family.mechanism.weight.fill_(200.0)
    layer = Layer(Conditional(net, Gaussian(1, "net")), Conditional(down, family))
    model = Model(Stack([layer]), GaussianPrior(1)).double()
    batch = Batch.of(torch.tensor([[-1.0, *[torch.nan] * 12]]).double())
    found = fill(model, batch, How("sir", draws=1000, samples=1000), 0)
    cells = found.x["x"][:, 0, 1:]
    assert (cells > -0.05).all()
    # twelve thousand cells, of about 300 paths: their half-normal means have an error below 0.02
    assert cells.mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.06)
    assert found.ess > 100


def test_weights_without_a_mechanism_are_the_models() -> None:
    model = linear("mnar").double()
    torch.manual_seed(0)
    batch = Batch.of(torch.tensor([[0.4, torch.nan], [-1.0, 0.3]]).double())
    torch.manual_seed(1)
    found = weigh_whole_rows(model, batch, 6)
    torch.manual_seed(1)
    with silent(model):
        log_w = model.log_weights(model.encode(batch, 6), batch)
    # at first the mechanism says 1/2 of every cell
    torch.testing.assert_close(found.log_w[:6], log_w + 2 * np.log(0.5))
    assert (found.x["x"][:, 1] == batch.x["x"][1]).all()


def test_rules_train_the_mechanism_beside_the_rest() -> None:
    model = linear("mnar")
    x = torch.randn(64, 2)
    batch = Batch.of(torch.where(x > 0.5, torch.nan, x))
    for rule in (TargetPropagation(1), TargetPropagation(5)):
        model.zero_grad()
        for term in rule(model, batch):
            term.value.backward()
        family = model.named_stacks()[0][1][0].decoder.family
        # larger values are missing: its slope grows
        assert (family.mechanism.weight.grad < 0).any()


def hidden_above(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four columns of one factor; the first is hidden by its own value, the larger the likelier."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 1)) + 0.5 * rng.normal(size=(rows, 4))
    holes = X.copy()
    gone = rng.random(rows) < 1 / (1 + np.exp(-4.0 * X[:, 0]))
    holes[gone, 0] = np.nan
    return X, holes


def test_the_mean_of_a_self_masked_column_is_nearer_to_the_truth() -> None:
    X, holes = hidden_above(600, 0)
    settings = {
        "hidden": (1,), "units": (), "dropout": 0.0, "epochs": 40, "lr": 2e-2, "hide": 0.2,
        "samples": 5, "batch_size": 60,
    }  # fmt: skip
    gone = np.isnan(holes[:, 0])
    bias = {}
    for missing in ("mar", "mnar-above"):
        imputer = GenPropImputer(missing=missing, settings=settings, members=1, random_state=0)
        filled = imputer.fit_transform(holes)
        assert np.array_equal(filled[~np.isnan(holes)], X[~np.isnan(holes)])
        bias[missing] = filled[gone, 0].mean() - X[gone, 0].mean()
    # the mean of about 300 cells of width 0.5 has an error of 0.03
    assert bias["mar"] < -0.1
    assert abs(bias["mnar-above"]) < 0.5 * abs(bias["mar"]) + 0.03


@pytest.mark.parametrize("side", ["above", "below"])
def test_what_is_censored_starts_as_a_cliff_at_the_outermost_value_seen(side: str) -> None:
    torch.manual_seed(0)
    x, seen = 3 * torch.randn(40, 5), torch.rand(40, 5) < 0.7
    seen[:, 3:] = seen[:, 2:3]  # a one-hot group: no order, no limit
    law = SelfMasking((1, 1, 3), side, censored=True)
    law.learn(x, seen)
    sign = 1 if side == "above" else -1
    edge = sign * torch.where(seen, sign * x, -torch.inf).amax(0)
    torch.testing.assert_close(law(edge)[:2], torch.zeros(2), atol=1e-3, rtol=0)
    inside = torch.where(seen, x, edge)[:, :2]
    assert (law(torch.cat([inside, x[:, 2:]], -1))[:, :2] > -1e-3).all()
    # a standard deviation, here three, is ten nats of log-odds
    torch.testing.assert_close(law(edge + 3 * sign)[:2], torch.full((2,), -10.0), atol=2, rtol=0)
    torch.testing.assert_close(law(x)[:, 2], SelfMasking((1, 1, 3), side)(x)[:, 2])


def test_censored_values_are_put_beyond_their_limit() -> None:
    """Of a column most of whose seen values are crowded far from the limit, too."""
    rng = np.random.default_rng(0)
    X = np.exp(1.0 * (rng.normal(size=(300, 1)) + 0.3 * rng.normal(size=(300, 3))))
    limit = np.quantile(X[:, 0], 0.6)
    holes, gone = X.copy(), X[:, 0] > limit
    holes[gone, 0] = np.nan
    settings = {"epochs": 150, "visible": "gaussian", "units": (16,)}
    beyond = {}
    for missing in ("mnar-above", "censored-above"):
        imputer = GenPropImputer(missing=missing, settings=settings, members=1, random_state=0)
        beyond[missing] = (imputer.fit_transform(holes)[gone, 0] > limit).mean()
    assert beyond["mnar-above"] < 0.9 < beyond["censored-above"]


def test_an_imputer_takes_the_side_under_which_data_are_likeliest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a skewed column whose smaller, dense part is seen the rest looks smaller, too."""
    rng = np.random.default_rng(0)
    X = np.exp(0.8 * (rng.normal(size=(300, 1)) + 0.3 * rng.normal(size=(300, 3))))
    holes = X.copy()
    holes[X[:, 0] > np.median(X[:, 0]), 0] = np.nan
    fitted: list[GenProp] = []
    fit = GenProp.fit
    monkeypatch.setattr(GenProp, "fit", lambda self, *data: fitted.append(self) or fit(self, *data))
    settings = {"epochs": 30, "visible": "gaussian", "units": (16,)}
    imputer = GenPropImputer(missing="mnar", settings=settings, members=2, random_state=0)
    imputer.fit(holes)
    assert [m.missing for m in fitted[:3]] == ["mnar", "mnar-above", "mnar-below"]
    losses = [float(m.history_["train"].tail(3).mean()) for m in fitted[:3]]
    best = fitted[int(np.argmin(losses))]
    assert imputer.models_ == [best, fitted[3]]
    assert {m.missing for m in imputer.models_} == {imputer.settings_["missing"]} == {best.missing}
    assert best.missing != "mnar-below"


def test_rows_alone_saving_and_refusals(tmp_path) -> None:
    holes = hidden_above(40, 1)[1]
    quick = {"hidden": (2,), "units": (4,), "epochs": 2, "verbose": 0, "random_state": 0}
    for missing in MISSING[1:]:
        model = GenProp(missing=missing, **quick).fit(holes)
        whole = model.impute(holes, draws=3)
        assert np.isfinite(whole).all()
        row = int(np.flatnonzero(np.isnan(holes[:, 0]))[2])
        np.testing.assert_allclose(model.impute(holes[[row]], draws=3)[:, 0], whole[:, row])
    model.save(tmp_path / "model")
    again = GenProp.load(tmp_path / "model")
    np.testing.assert_array_equal(again.impute(holes, draws=3), whole)
    with pytest.raises(ValueError, match="does not know why cells are missing"):
        model.impute(holes, method="gibbs")
    with pytest.raises(ValueError, match="missing must be one of"):
        GenProp(missing="sometimes", **quick).fit(holes)
    with pytest.raises(ValueError, match="needs a layer"):
        GenProp(missing="mnar", **{**quick, "hidden": ()}).fit(holes)
    with pytest.raises(ValueError, match="not 'either'"):
        SelfMasking((1,), censored=True)
    with pytest.raises(ValueError, match="side must be"):
        SelfMasking((1,), side="left")
    with pytest.raises(ValueError, match="they must be the same"):
        Selected(Gaussian(2), NetMasking((1, 2)))


def test_tables_of_mixed_columns() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"p": rng.lognormal(size=60), "c": rng.choice(["u", "v", "w"], 60)})
    frame["b"] = rng.random(60) < 0.3
    frame["b"] = frame["b"].astype("boolean")
    frame = frame.mask(rng.random(frame.shape) < 0.3)
    settings = {"epochs": 2, "units": (8,)}
    imputer = GenPropImputer(
        missing="mnar", visible={"p": "positive"}, settings=settings, members=2, random_state=0
    )
    whole = imputer.fit_transform(frame)
    assert whole.notna().all(axis=None)
    assert (whole["p"] > 0).all()
    assert set(whole["c"]) <= {"u", "v", "w"}
    assert imputer.impute(frame, draws=4).notna().all(axis=None)

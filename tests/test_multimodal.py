"""Several modalities under one top: any of them missing, labels among them."""

from inspect import unwrap

import numpy as np
import pandas as pd
import pytest
import torch

from genprop.build import build_model
from genprop.conditional import Bernoulli, Categorical, Family, Gaussian
from genprop.data import Batch
from genprop.encodings import label_among
from genprop.estimator import GenProp
from genprop.likelihood.exact import exact
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.prediction import label_proba
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule, climb
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.tables.columns import Columns

VISIBLE: dict[str, Family] = {"x": Gaussian(3), "y": Categorical([2]), "z": Bernoulli(2)}
BLOBS = 200


def joint_model(
    hidden: object, latent: str = "gaussian", top: object = (2,), **visible: Family
) -> Model:
    parts = {
        "hidden": hidden,
        "latent": latent,
        "top": top,
        "prior": "auto",
        "units": (5,),
        "activation": "tanh",
        "skip": True,
        "regress": False,
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    return build_model(parts, visible or VISIBLE).double()


def rows(seen: list[list[bool]]) -> Batch:
    """Three modalities, of which each row shows those that are named."""
    torch.manual_seed(1)
    label = torch.eye(2)[torch.arange(len(seen)) % 2]
    x = {"x": torch.randn(len(seen), 3), "y": label, "z": torch.ones(len(seen), 2)}
    masks = torch.tensor(seen)
    batch = {n: v.double() for n, v in x.items()}
    return Batch.of(
        batch, {n: masks[:, i, None].expand_as(v) for i, (n, v) in enumerate(batch.items())}
    )


def blobs() -> dict[str, np.ndarray]:
    """Two clusters that a label names, seen from two sides."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=BLOBS)
    side = np.where(label, 2.0, -2.0)[:, None]
    left, right = side + rng.normal(size=(BLOBS, 2)), rng.normal(size=(BLOBS, 1)) - side
    return {"left": left, "right": right, "label": np.array(["no", "yes"])[label]}


@pytest.fixture(scope="module")
def fitted() -> GenProp:
    model = GenProp(
        hidden=(), top=(2,), units=(16,), skip=True, epochs=60, lr=5e-3, random_state=0, verbose=0
    )
    return model.fit(blobs())


def test_layers_above_all_codes_know_every_modality_in_its_own_family() -> None:
    model = joint_model({"x": (2,), "y": (), "z": ()})
    assert isinstance(model.prior, Model)
    (_, joint), *_ = model.prior.named_stacks()
    family = joint[0].decoder.family
    assert isinstance(family, Columns)
    assert [type(each) for each in family.blocks] == [Gaussian, Categorical, Bernoulli]
    assert [name for name, _ in model.all_stacks()] == ["x", "y", "z", "prior.joint"]


@pytest.mark.parametrize("hidden", [(), {"x": (2,), "y": (), "z": ()}])
def test_what_is_under_a_mask_is_not_noticed(hidden: object) -> None:
    model = joint_model(hidden)
    batch = rows([[True, False, True], [False, True, False], [True, True, True], [False] * 3])
    other = Batch(
        {n: torch.where(m, batch.x[n], 7.0) for n, m in batch.seen.items() if m is not None},
        batch.seen,
    )
    losses = []
    for each in (batch, other):
        torch.manual_seed(2)
        shown = Batch.of(each.x, each.seen)
        losses.append([term.value for term in TargetPropagation(3)(model, shown)])
    assert losses[0] == losses[1]


def test_encoders_notice_nothing_of_what_they_are_not_told_but_decoders_do() -> None:
    model, batch = joint_model(()), rows([[True, True, True]] * 4)
    told = {n: torch.zeros_like(x, dtype=torch.bool) for n, x in batch.x.items()}
    told["x"] = ~told["x"]
    other = {n: x if n == "x" else x.roll(1, 0) for n, x in batch.x.items()}
    found = []
    for x in (batch.x, other):
        torch.manual_seed(2)
        blind = Batch(x, batch.seen, told)
        passages = list(climb(model, blind, torch.Size((3,))))
        found.append([(p.q.mean, p.reconstruction) for p in passages])
    for (q, cost), (other_q, other_cost) in zip(*found, strict=True):
        assert torch.equal(q, other_q)
        assert not torch.equal(cost, other_cost)


@pytest.mark.parametrize(
    "rule", [TargetPropagation(3), Backprop(3, "dreg"), ReweightedWakeSleep(3)]
)
def test_blind_rows_still_have_a_bound_below_the_likelihood(rule: Rule) -> None:
    model, batch = joint_model(()), rows([[True, True, True]] * 4)
    torch.manual_seed(0)
    seen = [sum(t.account.get("bound", 0.0) for t in rule(model, batch)) for _ in range(200)]
    blind = [
        sum(t.account.get("bound", 0.0) for t in rule(model, batch.hide(1.0, explain=True)))
        for _ in range(200)
    ]
    truth = -importance(model, batch, 20_000).mean
    # -log P(x) lies below every negative bound, within four standard errors of these
    for bounds in (seen, blind):
        values = torch.stack([torch.as_tensor(b) for b in bounds])
        assert values.mean() > truth - 4 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize("hidden", [(), {"x": (2,), "y": (), "z": ()}])
def test_every_pattern_is_completed_in_one_call(hidden: object) -> None:
    model = joint_model(hidden)
    batch = rows([[True, False, True], [False, True, False], [True, True, True], [False] * 3])
    x, _ = model.complete(batch, draws=50)
    for name, mask in batch.seen.items():
        assert mask is not None
        assert torch.equal(x[name][:, mask], batch.x[name][mask].expand(50, -1))
        assert x[name][:, ~mask].std(0).gt(0).any()
    assert torch.equal(x["y"].sum(-1), torch.ones(50, 4).double())


def test_probabilities_of_a_label_are_those_of_the_enumerated_model() -> None:
    model = joint_model((), "bernoulli", x=Bernoulli(3), y=Categorical([3]))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    batch = Batch.of({"x": torch.eye(3).double(), "y": torch.zeros(3, 3).double()})
    assert isinstance(model.prior, Model)  # of both modalities side by side
    told = [model.prior.batch(torch.cat([batch.x["x"], y.expand(3, 3)], -1)) for y in torch.eye(3)]
    joint = np.exp(np.stack([exact(model.prior, each).log_prob for each in told], 1))
    torch.manual_seed(0)
    found = label_proba(model, batch, "y", torch.eye(3), samples=4000)
    np.testing.assert_allclose(found.proba.sum(1), 1)
    expected = joint / joint.sum(1, keepdims=True)
    # nine values, each within four of its standard errors
    assert (np.abs(found.proba - expected) < 4 * found.std_error).all()
    assert found.std_error.max() < 0.02


# raw categories have no density under a Gaussian prior, and need a model above them
@pytest.mark.parametrize(
    ("hidden", "top"),
    [
        ({"x": (2,), "y": (2,)}, ()),
        ({"x": (2,), "y": (2,)}, (2,)),
        ({"x": (2,), "y": ()}, (2,)),
        ((), (2,)),
    ],
)
def test_probabilities_of_a_label_agree_with_joint_likelihoods(hidden: object, top: object) -> None:
    visible = {"x": Gaussian(3), "y": Categorical([3])}
    model = joint_model(hidden, top=top, **visible)
    torch.manual_seed(2)
    x, count = 0.3 * torch.randn(4, 3).double(), 2000
    batch = Batch.of({"x": x, "y": torch.zeros(4, 3).double()})
    told = [Batch.of({"x": x, "y": y.double().expand(4, 3)}) for y in torch.eye(3)]
    estimates = [importance(model, each, 10 * count) for each in told]
    joint = np.exp(np.stack([each.log_prob for each in estimates], 1))
    expected = joint / joint.sum(1, keepdims=True)
    found = label_proba(model, batch, "y", torch.eye(3), samples=count)
    error = np.hypot(found.std_error, np.stack([e.std_error for e in estimates], 1))
    # twelve values, each within four of both estimates' standard errors
    assert (np.abs(found.proba - expected) < 4 * error).all()
    assert np.median(error) < 0.08  # encoders that learned nothing propose badly


@pytest.mark.parametrize(
    ("hidden", "top"), [({"x": (2,), "y": (2,)}, ()), ({"x": (2,), "y": ()}, (2,)), ((), (2,))]
)
def test_rows_that_show_nothing_but_the_label_get_one_answer(hidden: object, top: object) -> None:
    model = joint_model(hidden, top=top, x=Gaussian(3), y=Categorical([3]))
    x = torch.randn(5, 3).double()
    seen = torch.tensor([[False], [True], [False], [False], [True]]).expand(5, 3)
    batch = Batch.of({"x": x, "y": torch.eye(3)[[0, 1, 2, 1, 0]].double()}, {"x": seen})
    found = label_proba(model, batch, "y", torch.eye(3), samples=50)
    blank = found.proba[[0, 2, 3]]
    np.testing.assert_array_equal(blank, blank[:1].repeat(3, 0))
    assert len(np.unique(found.proba, axis=0)) == 3
    told = label_proba(model, batch.take(slice(1, 2)), "y", torch.eye(3), samples=2000)
    again = label_proba(model, batch, "y", torch.eye(3), samples=2000)
    # each row has its own place: within five standard errors of what it gets alone
    error = 5 * np.hypot(told.std_error[0], again.std_error[1])
    assert (np.abs(again.proba[1] - told.proba[0]) < error).all()


def test_the_answer_to_nothing_is_the_marginal_of_the_enumerated_model() -> None:
    model = joint_model((), "bernoulli", x=Bernoulli(3), y=Categorical([3]))
    assert isinstance(model.prior, Model)
    nothing = {"x": torch.zeros(4, 3).double()}
    hidden = {"x": torch.zeros(4, 3, dtype=torch.bool)}
    values = torch.eye(3).double()
    told = model.batch(
        torch.cat([torch.zeros(3, 3), values], -1), torch.tensor([[False] * 3 + [True] * 3] * 3)
    )
    marginal = np.exp(exact(model.prior, model.lifted(told)[1]).log_prob)
    torch.manual_seed(0)
    batch = Batch.of({**nothing, "y": values[[0, 1, 2, 0]]}, hidden)
    found = label_proba(model, batch, "y", values, samples=4000)
    # four standard errors of three values
    assert (np.abs(found.proba - marginal) < 4 * found.std_error).all()
    np.testing.assert_allclose(marginal.sum(), 1)


def test_labels_are_predicted_from_whatever_is_there(fitted: GenProp) -> None:
    X = blobs()
    assert list(fitted.classes()) == ["no", "yes"]
    for given in (["left"], ["right"], ["left", "right"], ["left", "right", "label"]):
        told = {name: X[name] for name in given}
        assert (fitted.predict(told, random_state=0) == X["label"]).mean() > 0.9
    proba = fitted.predict_proba({"left": X["left"]}, random_state=0)
    assert proba.shape == (BLOBS, 2)
    np.testing.assert_allclose(proba.sum(1), 1)


def test_a_modality_that_is_left_out_is_drawn(fitted: GenProp) -> None:
    label = np.array(["yes", "no"])
    drawn = fitted.sample(200, given={"label": label}, random_state=0)
    assert drawn["left"].shape == (200, 2, 2)
    assert (drawn["label"] == label).all()
    assert (drawn["left"].mean(0) * [[1], [-1]] > 1).all()
    assert (drawn["right"].mean(0)[:, 0] * [-1, 1] > 1).all()


def test_it_comes_back_from_a_file(fitted: GenProp, tmp_path) -> None:
    fitted.save(tmp_path)
    again, told = GenProp.load(tmp_path), {"right": blobs()["right"][:5]}
    expected = fitted.predict_proba(told, random_state=1)
    np.testing.assert_allclose(again.predict_proba(told, random_state=1), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict({"left": np.zeros((2, 2))}, modality="left"), "is no label"),
        (lambda m: m.predict({"left": np.zeros((2, 2))}, modality="up"), "modality names 'up'"),
        (lambda m: m.predict({"up": np.zeros((2, 2))}), "fitted on modalities"),
        (lambda m: m.impute({}), "fitted on modalities"),
        (lambda m: m.impute(np.zeros((2, 2))), "give a dict, such as"),
        (lambda m: m.impute({"label": ["perhaps"]}), "new category 'perhaps'"),
    ],
)
def test_what_cannot_be_asked_is_said(fitted: GenProp, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(fitted)


def test_several_labels_must_be_named() -> None:
    X = {**blobs(), "other": np.arange(BLOBS) % 3}
    model = GenProp(hidden=(), top=(2,), epochs=1, random_state=0, verbose=0).fit(X)
    with pytest.raises(ValueError, match="2 are labels; say which"):
        model.predict({"left": X["left"]})
    assert set(model.predict({"left": X["left"]}, modality="other")) <= {0, 1, 2}


def test_a_weight_of_one_modality_reaches_the_model() -> None:
    settings = {"hidden": (), "top": (2,), "epochs": 1, "random_state": 0, "verbose": 0}
    model = GenProp(**settings, weights={"left": 0.5}).fit(blobs())
    assert model.model_.weights == {"left": 0.5}
    with pytest.raises(ValueError, match="weights names 'middle'"):
        GenProp(**settings, weights={"middle": 0.5}).fit(blobs())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("hidden", {"left": (2,), "right": (2,), "label": (2,), "lable": (2,)}),
        ("visible", {"lable": "categorical"}),
        ("weights", {"lable": 2.0}),
    ],
)
def test_a_name_of_no_modality_is_refused_and_the_nearest_told(argument: str, value: dict) -> None:
    model = GenProp(**{argument: value}, epochs=1, verbose=0)
    expected = (
        f"{argument} names 'lable', but the modalities are 'left', 'right', 'label'; is 'label'"
    )
    with pytest.raises(ValueError, match=expected):
        model.fit(blobs())
    assert not hasattr(model, "model_")


def test_families_name_columns_of_a_table_alone_and_else_modalities() -> None:
    data = blobs()
    table = pd.DataFrame(data["left"], columns=["up", "down"])
    plain = {"hidden": (), "top": (2,), "epochs": 1, "verbose": 0}
    both = {"x": table, "label": (data["label"] == "yes").astype(float)}
    families = GenProp(**plain, visible={"label": "categorical"}).fit(both).encodings_
    assert [e.family for e in families.values()] == ["gaussian", "categorical"]
    assert GenProp(**plain, visible={"up": "real"}).fit(table).encodings_["x"].family == "columns"
    for X, kind in ((table, "columns are 'up', 'down'"), (table.to_numpy(), "modalities are 'x'")):
        with pytest.raises(ValueError, match=f"visible names 'pu', but the {kind}"):
            GenProp(**plain, visible={"pu": "real"}).fit(X)


def test_refined_draws_are_those_of_chains_with_their_diagnostics() -> None:
    settings = {"hidden": (), "top": (2,), "epochs": 2, "random_state": 0, "verbose": 0}
    model = GenProp(**settings).fit(blobs())
    given = {"left": blobs()["left"][:3]}
    found = model.imputation({**blank(3), **given}, refine=30, draws=4, samples=20)
    assert (found.rows["method"] == "hmc").all()
    assert found.rows["rhat"].notna().all()
    assert (found.rows["acceptance"] > 0).all()
    same = model.imputation({**blank(3), **given}, method="hmc", sweeps=30, draws=4, samples=20)
    assert np.array_equal(found.draws["right"], same.draws["right"])
    plain = model.imputation({**blank(3), **given}, method="gibbs", refine=8, draws=4)
    assert (plain.rows["method"] == "gibbs").all()
    drawn = model.sample(2, given=given, refine=3)
    assert np.array_equal(drawn["left"], np.stack([given["left"]] * 2).astype(drawn["left"].dtype))
    assert model.sample(2, given=given, refine=0)["right"].shape == (2, 3, 1)
    for wrong in ({"refine": -1}, {"refine": 2, "method": "mean"}):
        with pytest.raises(ValueError, match="refine is a number of transitions"):
            model.impute(given, **wrong)


def blank(rows: int) -> dict[str, np.ndarray]:
    """Rows of which nothing is seen."""
    nothing = np.full((rows, 2), np.nan)
    return {"left": nothing, "right": nothing[:, :1], "label": np.full(rows, None)}


def test_who_has_no_label_to_predict_says_what_it_needs(fitted: GenProp) -> None:
    X = {"left": blobs()["left"][:2]}
    assert hasattr(fitted, "predict")
    with pytest.raises(TypeError, match=r"modality is the name of one label, but is \['label'\]"):
        unwrap(label_among)(fitted.encodings_, ["label"])  # as users have it, without type checks
    with pytest.raises(ValueError, match=r"modality names 'lable'.*is 'label' meant"):
        fitted.predict(X, modality="lable")
    alone = GenProp(hidden=(), epochs=1, verbose=0).fit(X["left"])
    for model, state in ((alone, "was fitted to x"), (GenProp(), "is not fitted yet")):
        for name in ("predict", "predict_proba"):
            assert not hasattr(model, name)
            with pytest.raises(AttributeError, match=f"{name} needs a model of .* {state}"):
                getattr(model, name)

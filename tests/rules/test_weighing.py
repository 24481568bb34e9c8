"""Weights of modalities: factors of exactly their own terms, in training only."""

import pytest
import torch
from torch import Tensor

from genprop.build import build_model
from genprop.conditional import Bernoulli, Categorical, Family, Gaussian
from genprop.data import Batch
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule, climb
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep

VISIBLE: dict[str, Family] = {"x": Gaussian(3), "y": Categorical([2]), "z": Bernoulli(2)}
RULES = [
    TargetPropagation(1),
    TargetPropagation(3),
    TargetPropagation(3, "difference"),
    Backprop(2, "iwae"),
    Backprop(2, "dreg"),
    ReweightedWakeSleep(2),
]
MODELS = {
    "joint": ((), (2,)),
    "own": ({"x": (2,), "y": (1,), "z": (2,)}, ()),
    "both": ({"x": (2,), "y": (), "z": ()}, (2,)),
}


def made(kind: str, **weights: float) -> Model:
    hidden, top = MODELS[kind]
    parts = {
        "hidden": hidden,
        "latent": "gaussian",
        "top": top,
        "prior": "auto",
        "units": (4,),
        "activation": "tanh",
        "skip": False,
        "regress": False,
        "dropout": 0.0,
        "weights": weights,
    }
    torch.manual_seed(0)
    return build_model(parts, VISIBLE).double()


def rows() -> Batch:
    """Rows of all modalities, of which the second hides z and a cell of x."""
    torch.manual_seed(1)
    x = {"x": torch.randn(4, 3), "y": torch.eye(2)[[0, 1, 1, 0]], "z": torch.ones(4, 2)}
    seen = {n: torch.ones_like(v, dtype=torch.bool) for n, v in x.items()}
    seen["z"][1] = False
    seen["x"][1, 0] = False
    return Batch.of({n: v.double() for n, v in x.items()}, seen)


def gradient(model: Model, rule: Rule) -> dict[str, Tensor]:
    torch.manual_seed(2)
    for term in rule(model, rows()):
        if term.value.requires_grad:
            term.value.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{type(r).__name__} {r.samples}")
@pytest.mark.parametrize("kind", MODELS)
def test_weight_one_changes_nothing(kind: str, rule: Rule) -> None:
    plain, one = gradient(made(kind), rule), gradient(made(kind, x=1.0, z=1.0), rule)
    assert plain.keys() == one.keys()
    assert all(torch.equal(grad, one[name]) for name, grad in plain.items())


@pytest.mark.parametrize("kind", MODELS)
def test_a_weight_multiplies_that_modalitys_terms_and_no_other(kind: str) -> None:
    """The lowest passages of the same path: the sum is Σ_m w_m log P(x_m | h), term by term."""
    plain, heavy = made(kind), made(kind, x=0.25)
    found = []
    for model in (plain, heavy):
        torch.manual_seed(3)
        found.append(list(climb(model, rows(), torch.Size((2,)))))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.h, other.h)
        torch.testing.assert_close(one.log_q(), other.log_q())
        weight = torch.ones(one.below.shape[-1], dtype=torch.float64)
        if one.name == "x.1":
            weight[:] = 0.25
        if one.name == "prior.joint.1" and kind == "joint":
            weight[:3] = 0.25  # of x, y and z side by side
        log_p = weight * one.p.elements(one.below)
        log_p = log_p if one.seen is None else torch.where(one.seen, log_p, 0)
        torch.testing.assert_close(other.reconstruction, one.only_present(-log_p.sum(-1)))


@pytest.mark.parametrize("kind", ["own", "joint"])
def test_a_weight_is_for_training_only(kind: str) -> None:
    estimates = []
    for model in (made(kind), made(kind, x=0.25)):
        torch.manual_seed(4)
        estimates.append(importance(model, rows(), 5).log_prob)
    assert (estimates[0] == estimates[1]).all()


def test_the_others_gradients_are_as_without_where_nothing_is_shared() -> None:
    """Own codes under a standard prior: with one path no modality's update sees another's."""
    grads = [gradient(made("own", **w), TargetPropagation(1)) for w in ({}, {"x": 0.25})]
    for name, grad in grads[0].items():
        if ".x.0.decoder" in name:
            # of what x pays for, the weight is a factor of its decoder's gradient
            torch.testing.assert_close(0.25 * grad, grads[1][name])
        elif ".x." not in name and not name.startswith("prior"):
            torch.testing.assert_close(grad, grads[1][name])


@pytest.mark.parametrize("weight", [0.0, float("inf")])
def test_what_no_weight_can_be_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="positive numbers by modality"):
        made("own", x=weight)
    with pytest.raises(ValueError, match="weights names 'w', but the modalities are"):
        made("own", w=1.0)


def test_data_under_a_prior_alone_have_no_weight() -> None:
    parts_have_no_layer = {"x": Gaussian(2)}
    parts = {"hidden": (), "latent": "gaussian", "top": (), "prior": "auto", "units": (4,)}
    more = {
        "activation": "tanh",
        "skip": False,
        "dropout": 0.0,
        "regress": False,
        "weights": {"x": 2.0},
    }
    with pytest.raises(ValueError, match="no layer that explains it"):
        build_model({**parts, **more, "weights": {"x": 2.0}}, parts_have_no_layer)

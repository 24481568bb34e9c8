"""Codes and back: of rows that miss a modality, of models on models, by no chance at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zoo

from genprop.data import Batch
from genprop.estimator import GenProp
from genprop.model import Model
from genprop.prior import Prior
from genprop.priors.gaussian import GaussianPrior
from genprop.recoding import codes_of, descent
from genprop.stack import Stack

FAR = np.array([[0.0, 0.0], [4.0, 4.0], [8.0, 8.0]])
TOPS = [((), (3,)), ({"a": (3,), "b": (3,), "label": ()}, (3,)), ((2,), ())]


def three_clusters() -> dict[str, np.ndarray]:
    """A label, and two sides of which each tells it."""
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=120)
    a, b = (sign * 4 * label[:, None] + 0.3 * rng.normal(size=(len(label), 2)) for sign in (1, -1))
    return {"a": a, "b": b, "label": label}


@pytest.fixture(scope="module", params=TOPS, ids=["top", "layers-and-top", "layers"])
def fitted(request: pytest.FixtureRequest) -> GenProp:
    hidden, top = request.param
    small = {"units": (16,), "skip": True, "epochs": 40, "lr": 2e-2, "hide": 0.5}
    model = GenProp(hidden=hidden, top=top, **small, random_state=0, verbose=0)
    return model.fit(three_clusters())


def apart(prior: Prior, first: int) -> Model:
    """Two modalities that are their own codes."""
    return Model({"a": Stack([], first), "b": Stack([], prior.elements - first)}, prior)


@pytest.mark.parametrize("shown", ["a", "b"])
def test_what_is_missing_is_rebuilt_by_what_is_there(fitted: GenProp, shown: str) -> None:
    X = {shown: FAR if shown == "a" else -FAR}
    found = fitted.reconstruct(X)
    assert found["label"].ravel().tolist() == [0, 1, 2]
    # clusters are 4 apart, and codes of three clusters keep no more than that
    for name, side in (("a", FAR), ("b", -FAR)):
        assert np.abs(found[name] - side).max() < 1.5, name
    assert np.abs(found[shown] - X[shown]).max() > 0  # it went by way of a code


def test_codes_are_the_uppermost_and_lead_back_to_the_reconstruction(fitted: GenProp) -> None:
    X = {"a": FAR, "b": -FAR * [[1, 1], [1, np.nan], [np.nan, np.nan]]}
    codes = fitted.transform(X)
    assert codes.shape == (3, fitted.model_.summit.elements)
    assert len(fitted.get_feature_names_out()) == codes.shape[1]
    for name, side in fitted.inverse_transform(codes).items():
        np.testing.assert_array_equal(side, fitted.reconstruct(X)[name])


def test_names_of_codes_come_back_from_a_file(fitted: GenProp, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again = GenProp.load(tmp_path).get_feature_names_out()
    assert list(again) == list(fitted.get_feature_names_out())


@pytest.mark.parametrize("latent", ["gaussian", "bernoulli"])
def test_a_model_on_a_model_recodes_as_the_same_layers_in_one_stack(latent: str) -> None:
    model = zoo.nested(latent)
    flat, batch = zoo.flattened(model), zoo.batch(model, holes=True)
    batch.seen["x"][2] = False
    code = codes_of(model, batch)
    np.testing.assert_allclose(code, codes_of(flat, batch), rtol=1e-6)
    one, other = (descent(each, torch.as_tensor(code).double())["x"].x for each in (model, flat))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", zoo.models())
def test_codes_of_whole_rows_are_modes_of_encoders_all_the_way(name: str) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model)
    code, above = batch, model
    while isinstance(above, Model):
        h = torch.cat([path.code[0] for path in above.encode(code, point=True).values()], -1)
        above = above.prior
        code = above.batch(h) if isinstance(above, Model) else code
    np.testing.assert_allclose(codes_of(model, batch), h.numpy(), rtol=1e-6)


@torch.no_grad()
def test_cells_of_raw_modalities_are_expected_given_the_others() -> None:
    model = apart(GaussianPrior(3, "full"), 1)
    zoo.perturbed(model)
    law, x = model.prior.law, zoo.randn(4, 3)
    seen = torch.tensor([[True, False, True], [False, True, True], [True] * 3, [False] * 3])
    batch = model.batch(x, seen)
    expected = law.mean.expand(4, 3).clone()
    for row, mask in zip(expected, seen, strict=True):
        at = x[(seen == mask).all(-1)][0] - law.mean
        gain = law.covariance[:, mask] @ law.covariance[mask][:, mask].inverse()
        row += gain @ at[mask]
    np.testing.assert_allclose(codes_of(model, batch), expected.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", zoo.priors())
def test_no_prior_leaves_a_code_to_chance(name: str) -> None:
    prior = zoo.priors()[name]()
    model = apart(prior, 2 if name == "factorial-categorical" else 1)
    batch = Batch.of(zoo.batch(model, rows=7).x)
    seen = torch.zeros_like(batch.x["b"], dtype=torch.bool)
    seen[:3] = True
    asked, state = Batch.of(batch.x, {"b": seen}), torch.get_rng_state()
    code = codes_of(model, asked)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(code, codes_of(model, asked))
    whole = codes_of(model, batch)
    first = model.sizes["a"]
    np.testing.assert_array_equal(code[:3], whole[:3])
    np.testing.assert_array_equal(code[:, :first], whole[:, :first])
    assert np.isfinite(code).all()

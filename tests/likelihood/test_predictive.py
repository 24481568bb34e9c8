"""Log P(x_a | x_b) by paths that know x_b alone: always a law, and the model's in the end."""

from itertools import product

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genprop.correlated import CorrelatedGaussian
from genprop.data import Batch
from genprop.estimator import GenProp
from genprop.likelihood.methods import log_likelihood
from genprop.likelihood.predictive import predictive
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.stack import Stack

FEW, MANY = 3, 4000
BINARY = ("bernoulli", "mixed", "categorical-code", "convolutional", "nested", "nested-bernoulli")
WITH_LABEL = ("two-modalities", "nested-two-modalities", "nested-raw-part")


def told(model: Model, batch: Batch, known: Batch, samples: int) -> np.ndarray:
    """Log P̂(x_a | x_b), the paths being the same whatever x_a is."""
    torch.manual_seed(0)
    return predictive(model, batch, known, samples).log_prob


def over_all(model: Model, rows: list[dict[str, Tensor]], known: Batch) -> np.ndarray:
    return np.stack([told(model, Batch.of(x), known, FEW) for x in rows])


@pytest.mark.parametrize("name", BINARY)
def test_few_paths_of_an_untrained_encoder_make_a_law_of_the_unseen(name: str) -> None:
    model = zoo.models()[name]()
    x = zoo.batch(model).x["x"]
    seen = torch.arange(x.shape[1]).expand(x.shape) >= 3
    values = torch.tensor(list(product([0.0, 1.0], repeat=3))).to(x)
    rows = [{"x": torch.cat([v.expand(len(x), 3), x[:, 3:]], -1)} for v in values]
    found = over_all(model, rows, Batch.of(x, seen))
    np.testing.assert_allclose(np.exp(found).sum(0), 1, rtol=1e-9)
    assert (found < 0).all()


@pytest.mark.parametrize("name", WITH_LABEL)
def test_and_of_a_modality_that_is_hidden_whole(name: str) -> None:
    model = zoo.models()[name]()
    image = zoo.batch(model).x["image"]
    known = Batch.of({"image": image, "label": torch.full((len(image), 3), torch.nan).to(image)})
    rows = [{"image": image, "label": y.expand(len(image), 3)} for y in torch.eye(3).to(image)]
    np.testing.assert_allclose(np.exp(over_all(model, rows, known)).sum(0), 1, rtol=1e-9)


def joint_top() -> Model:
    """Two raw modalities whose errors go together, under one code that stands on both."""
    torch.manual_seed(3)
    family = CorrelatedGaussian(3, (2, 1))
    above = Model(zoo.stack(family, (2,)), GaussianPrior(2, "full"))
    model = zoo.perturbed(Model({"a": Stack(elements=2), "b": Stack(elements=1)}, above), 0.1)
    family.root.copy_(torch.linalg.cholesky(0.5 + 0.5 * torch.eye(3, dtype=torch.float64)))
    return model.eval()


@pytest.mark.parametrize("hidden", [1, 2])
def test_errors_that_go_together_are_told_together(hidden: int) -> None:
    model = joint_top()
    x = torch.cat([*zoo.batch(model).x.values()], -1)
    seen = torch.arange(3).expand(x.shape) < 3 - hidden
    step = 0.7  # of a sum in place of an integral, to 1e-5 for the scales of this model
    points = torch.cartesian_prod(*[torch.arange(-7, 7, step).to(x)] * hidden).reshape(-1, hidden)

    def parts(values: Tensor) -> dict[str, Tensor]:
        return {"a": values[:, :2], "b": values[:, 2:]}

    known = Batch.of(parts(x), parts(seen))
    rows = [
        parts(torch.where(seen, x, torch.nn.functional.pad(v, (3 - hidden, 0)))) for v in points
    ]
    total = np.exp(over_all(model, rows, known)).sum(0) * step**hidden
    np.testing.assert_allclose(total, 1, rtol=1e-4)
    whole = Batch.of(parts(x))
    truth = log_likelihood(model, whole, "importance", 20_000, known)
    found = log_likelihood(model, whole, "predictive", 20_000, known)
    # five standard errors of six rows
    assert (
        np.abs(truth.log_prob - found.log_prob) < 5 * found.std_error + 5 * truth.std_error
    ).all()
    np.testing.assert_array_equal(found.dimensions, hidden)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=4, max_size=4))
def test_many_paths_come_to_the_exact_conditional(pattern: list[list[bool]]) -> None:
    model = zoo.linear_gaussian((3, 2))
    batch, mask = zoo.batch(model, rows=4), torch.tensor(pattern)
    truth = log_likelihood(model, batch, "exact", given={"x": mask})
    torch.manual_seed(0)
    found = log_likelihood(model, batch, "predictive", MANY, {"x": mask})
    # five standard errors, over ten examples of four rows
    assert (np.abs(found.log_prob - truth.log_prob) <= 5 * found.std_error).all()
    np.testing.assert_array_equal(found.log_prob[mask.all(-1).numpy()], 0)
    np.testing.assert_array_equal(found.dimensions, (~mask).sum(-1))


def test_on_the_models_own_rows_nothing_scores_higher_than_its_law() -> None:
    model = zoo.linear_gaussian((3, 2))
    batch = zoo.batch(model, rows=2000)
    mask = torch.tensor([True, False, False]).expand(2000, 3)
    truth = log_likelihood(model, batch, "exact", given={"x": mask}).log_prob
    torch.manual_seed(0)
    found = log_likelihood(model, batch, "predictive", FEW, {"x": mask})
    below = truth - found.log_prob
    assert below.mean() > 5 * below.std() / 2000**0.5
    assert found.bound == "lower"


def test_errors_are_as_wide_as_repetitions_say() -> None:
    model = zoo.linear_gaussian((3, 2))
    batch = zoo.batch(model, rows=30)
    mask = {"x": torch.tensor([True, False, True]).expand(30, 3)}
    runs = [log_likelihood(model, batch, "predictive", 400, mask) for _ in range(40)]
    spread = np.stack([run.log_prob for run in runs]).std(0, ddof=1)
    told = np.stack([run.std_error for run in runs]).mean(0)
    # the spread of 40 runs is known to 11 % in each of 30 rows
    assert abs(np.median(spread / told) - 1) < 0.15


def test_an_encoder_that_is_told_nothing_is_not_rewarded() -> None:
    """Where Q(h | x_b) is far off, a difference of two estimates can rise without bound."""
    model = zoo.linear_gaussian((3, 2))
    batch = zoo.batch(model, rows=300)
    mask = {"x": torch.tensor([True, False, False]).expand(300, 3)}
    truth = log_likelihood(model, batch, "exact", given=mask).mean
    encoder = zoo.only_stack(model)[0].encoder
    with torch.no_grad():  # what is missing leads the codes away
        encoder.net.missing.weight.fill_(3.0)
    torch.manual_seed(0)
    difference = log_likelihood(model, batch, "importance", 20, mask).mean
    found = log_likelihood(model, batch, "predictive", 20, mask).mean
    assert found < truth < difference


def test_the_estimator_takes_it_and_what_it_cannot_do_is_said() -> None:
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(60, 2)), "b": rng.normal(size=(60, 1))}
    X["b"] = X["b"] * 0.1 + X["a"][:, :1]
    small = {"epochs": 2, "random_state": 0, "verbose": 0}
    model = GenProp(hidden=(), top=(2,), **small).fit(X)
    found = model.log_likelihood(X, method="predictive", samples=20, given=["a"], random_state=1)
    again = model.log_likelihood(X, method="predictive", samples=20, given=["a"], random_state=1)
    np.testing.assert_array_equal(found.log_prob, again.log_prob)
    assert (found.rows, found.method, found.samples) == (60, "predictive", 20)
    with pytest.raises(ValueError, match="say which by given="):
        model.log_likelihood(X, method="predictive")
    with pytest.raises(ValueError, match="at least one path"):
        model.log_likelihood(X, method="predictive", samples=0, given=["a"])
    told_why = GenProp(hidden=(2,), missing="mnar", **small).fit(X["a"])
    with pytest.raises(ValueError, match="learned why"):
        told_why.log_likelihood(X["a"], method="predictive", given=X["a"] > 0)
    bare = GenProp(hidden=(), prior="full", **small).fit(X)
    with pytest.raises(TypeError, match="no law of them"):
        bare.log_likelihood(X, method="predictive", given=["a"])
    chain = zoo.autoregressive()
    rows = zoo.batch(chain)
    with pytest.raises(TypeError, match="one after the other"):
        log_likelihood(chain, rows, "predictive", 5, {"x": rows.x["x"] > 2})

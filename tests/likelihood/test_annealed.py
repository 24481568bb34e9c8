"""Annealing forth and back: weights without bias, sides kept, the exact answer between them."""

import numpy as np
import pytest
import torch
import zoo

from genprop.conditional import Bernoulli, Categorical
from genprop.data import Batch
from genprop.likelihood.annealed import Annealing, annealed_importance, bidirectional
from genprop.likelihood.exact import exact
from genprop.likelihood.importance import importance
from genprop.likelihood.simulate import simulated
from genprop.model import Model
from genprop.priors.factorial import FactorialPrior
from genprop.samplers.langevin import MALA


def categorical_code() -> Model:
    layers = zoo.stack(Bernoulli(4), (10,), "categorical")
    return zoo.perturbed(Model(layers, FactorialPrior(Categorical((10,)))), 1.0)


KNOWN = {
    "linear": lambda: zoo.linear_gaussian((3, 2)),
    "bernoulli": lambda: zoo.perturbed(zoo.bernoulli((3,)), 1.0),
    "categorical": categorical_code,
}


@pytest.mark.parametrize(
    ("name", "start"), [("linear", "encoder"), ("linear", "prior"), ("categorical", "encoder")]
)
def test_weights_forth_and_inverse_weights_back_have_no_bias(name, start):
    model = KNOWN[name]()
    # inverse weights are so skewed (by 10) that of 200 rows the mean is no normal number: by the
    # processor's last digits 0.89 with an error of 0.02 was seen, of 3,000 rows 1.003 with 0.01
    h, x = simulated(model, (3000,))
    batch = Batch.of(x)
    truth = torch.from_numpy(exact(model, batch).log_prob)
    way = Annealing(8, steps=2, start=start)  # too few temperatures, so that a bias would show
    posterior = way.posterior(model, batch)
    plan = way.plan(posterior)
    forth = (way.run(posterior, plan) - truth).exp()
    back = (truth - way.run(posterior, plan, h)).exp()
    # chains of a row share its h: the row is the unit of the error. Inverse weights of a start far
    # wider than the posterior have no variance, and nothing to be held against
    for ratio in (forth.mean(0), back.mean(0))[: 1 + (start == "encoder")]:
        error = ratio.std() / len(ratio) ** 0.5
        assert abs(ratio.mean() - 1) < 4 * error, (name, start, ratio.mean(), error)


@pytest.mark.parametrize("name", KNOWN)
def test_the_truth_of_simulated_rows_is_between_the_bounds(name):
    model = KNOWN[name]()
    torch.manual_seed(zoo.SEED)
    bracket = bidirectional(model, rows=400, samples=1, steps=1, start="prior")
    torch.manual_seed(zoo.SEED)
    _, x = simulated(model, (400,))
    truth = exact(model, Batch.of(x)).log_prob
    below, above = truth - bracket.lower.log_prob, bracket.upper.log_prob - truth
    for side in (below, above):
        assert side.mean() > 2 * side.std() / 20
    assert (bracket.lower.bound, bracket.upper.bound) == ("lower", "upper")
    assert np.isclose(bracket.gap, (below + above).mean())
    assert "a gap of" in str(bracket)


@pytest.mark.parametrize("options", [{}, {"start": "prior", "kernel": MALA}])
def test_it_agrees_with_the_closed_form(options):
    model = zoo.linear_gaussian((3, 2, 2))
    x = zoo.exact_marginal(model).sample((10,))
    batch = Batch.of(x, torch.rand(x.shape) < 0.8)
    found = annealed_importance(model, batch, samples=50, **options)
    error = found.log_prob - exact(model, batch).log_prob
    assert (np.abs(error) < 4.5 * found.std_error).all()
    assert found.std_error.max() < 0.4


def test_more_temperatures_close_the_gap():
    model = zoo.linear_gaussian((3, 2))
    few, many = (bidirectional(model, 40, samples=4, steps=n, start="prior") for n in (2, 20))
    assert many.gap < 0.5 * few.gap
    assert many.gap > -3 * many.gap_std_error


@pytest.mark.parametrize("name", ["mixed", "two-modalities", "raw-modality", "nested"])
def test_every_kind_of_model_agrees_with_importance_sampling(name):
    model = zoo.models()[name]()
    batch = zoo.batch(model, rows=5, holes=name != "raw-modality")
    # encoders that nobody trained are far off: a share of the prior bounds the weights
    one = importance(model, batch, 4000, widen=0.3)
    other = annealed_importance(model, batch, 32, steps=3, start="prior")
    error = np.hypot(one.std_error, other.std_error)
    assert (np.abs(one.log_prob - other.log_prob) < 4.5 * error + 1e-9).all()


def test_bad_settings_are_sentences():
    with pytest.raises(ValueError, match="start must be one of encoder, prior"):
        Annealing(start="nowhere")
    with pytest.raises(ValueError, match="at least one sample"):
        Annealing(0)
    with pytest.raises(ValueError, match="at least one row"):
        bidirectional(zoo.bernoulli(), 0)

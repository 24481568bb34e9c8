"""Conservative sampling, windows and single codes: on which side they err, and by how much."""

import math

import numpy as np
import pytest
import torch
import zoo

from genprop.conditional import Bernoulli, Categorical, Gaussian
from genprop.data import Batch
from genprop.likelihood.csl import csl
from genprop.likelihood.deterministic import deterministic
from genprop.likelihood.estimate import Estimate
from genprop.likelihood.exact import exact
from genprop.likelihood.window import chosen_bandwidth, window, window_estimate
from genprop.model import Model
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gsn import GSNPrior
from genprop.stack import Stack


def test_csl_is_conservative_and_comes_to_the_truth():
    model = zoo.bernoulli((3,))
    batch = zoo.batch(model, rows=10, holes=True)
    truth = exact(model, batch).log_prob
    few = np.stack([csl(model, batch, 3).log_prob - truth for _ in range(300)])
    # draws serve all rows, so that the run is the unit of the error
    runs = few.mean(1)
    assert runs.mean() < -3 * runs.std() / math.sqrt(len(runs))
    many = csl(model, batch, 20_000)
    assert (np.abs(many.log_prob - truth) < 4.5 * many.std_error).all()
    assert (many.bound, many.method) == ("lower", "CSL")


def test_csl_needs_no_density():
    prior = zoo.perturbed(GSNPrior(Bernoulli(2), steps=3), 0.2)
    model = zoo.perturbed(Model(zoo.stack(Bernoulli(3), (2,), "bernoulli"), prior), 0.1)
    codes = prior.sample((40_000,))
    x = zoo.support(zoo.IndependentBernoulli(torch.zeros(3)))
    likelihood = zoo.only_stack(model)[0].decoder(codes[:, None]).log_prob(x).exp().mean(0)
    found = csl(model, Batch.of(x), 40_000)
    np.testing.assert_allclose(np.exp(found.log_prob), likelihood.detach().numpy(), rtol=0.03)
    np.testing.assert_allclose(np.exp(found.log_prob).sum(), 1, rtol=1e-6)


def test_the_biased_variant_is_above_and_says_so():
    model = zoo.perturbed(zoo.linear_gaussian((3, 2)), 0.0)
    batch = Batch.of(zoo.exact_marginal(model).sample((30,)))
    with torch.no_grad():
        zoo.only_stack(model)[0].decoder.family.log_scale -= 1.5
    zoo.invert(zoo.only_stack(model)[0], zoo.exact_marginal(model, 1))
    fair, biased = csl(model, batch, 30), csl(model, batch, 30, biased=True)
    assert biased.mean > fair.mean
    assert (biased.bound, biased.method[:6]) == ("point", "biased")
    assert np.isnan(biased.std_error).all()


def test_csl_says_what_it_cannot_weigh():
    with pytest.raises(ValueError, match="modalities raw have no layer"):
        csl(zoo.with_raw_modality(), zoo.batch(zoo.with_raw_modality()), 3)
    with pytest.raises(ValueError, match="at least one sample"):
        csl(zoo.bernoulli(), zoo.batch(zoo.bernoulli()), 0)


@pytest.mark.parametrize("holes", [False, True])
def test_a_window_is_a_mixture_of_gaussians(holes):
    centres, x = zoo.randn(7, 3), zoo.randn(5, 3)
    seen = torch.rand(5, 3) < 0.6 if holes else torch.ones(5, 3).bool()
    law = torch.distributions.Normal(centres, 0.4)
    each = torch.where(seen[:, None], law.log_prob(x[:, None]), 0).sum(-1)
    found = window_estimate(centres, Batch.of(x, seen), 0.4)
    np.testing.assert_allclose(found.log_prob, each.logsumexp(1) - math.log(7))
    assert found.bound == "point"


def test_its_bandwidth_is_the_best_on_validation_rows_and_its_caveat_is_told():
    model = zoo.perturbed(Model(zoo.stack(Gaussian(2), (2,)), zoo.GaussianPrior(2)), 0.3)
    batch, validation = zoo.batch(model, 50), zoo.batch(model, 60)
    with pytest.warns(UserWarning, match="says little of log P"):
        found = window(model, batch, validation, samples=200)
    assert "bandwidth" in found.method
    centres = zoo.randn(100, 2)
    grid = (0.1, 0.5, 1.0)
    best = chosen_bandwidth(centres, validation, grid)
    scores = {width: window_estimate(centres, validation, width).mean for width in grid}
    assert scores[best] == max(scores.values())
    with pytest.raises(ValueError, match="positive bandwidths"):
        window(model, batch, validation, bandwidths=(0.0,))


def test_published_windows_in_bits_are_known_again_in_nats():
    # the training rows of MNIST as centres: 349 bits in one paper, 242 nats by the others' unit
    zeros = np.zeros(1)
    found = Estimate(np.array([242.0]), zeros, zeros, zeros, 1, "point", "Parzen window")
    assert abs(found.bits[0] - 349) < 0.5


def hidden_bits(model: Model) -> int:
    return sum(
        stack[n].above for _, stack in model.named_stacks() for n in range(len(stack.layers))
    )


@pytest.mark.parametrize("name", ["bernoulli", "autoregressive", "nested-bernoulli"])
@pytest.mark.parametrize("holes", [False, True])
def test_one_code_bounds_from_below_and_its_neighbours_come_nearer(name, holes):
    model = zoo.models()[name]()
    batch = zoo.batch(model, rows=8, holes=holes)
    truth = exact(model, batch).log_prob
    alone, around = deterministic(model, batch, neighbours=False), deterministic(model, batch)
    assert (alone.log_prob < around.log_prob).all()
    assert (around.log_prob < truth).all()
    assert alone.bound == "lower"


def test_neighbours_are_all_that_one_change_makes():
    layers = zoo.stack(Bernoulli(4), (10,), "categorical")
    categories = zoo.perturbed(Model(layers, FactorialPrior(Categorical((10,)))), 0.5)
    one_bit = zoo.perturbed(
        Model(zoo.stack(Bernoulli(3), (1,), "bernoulli"), zoo.FactorialPrior(Bernoulli(1))), 0.5
    )
    for model in (categories, one_bit):  # one change reaches every code
        batch = zoo.batch(model, rows=5)
        found = deterministic(model, batch).log_prob
        np.testing.assert_allclose(found, exact(model, batch).log_prob)


def test_a_real_code_bounds_nothing():
    with pytest.raises(ValueError, match=r"levels x\.1, x\.3 are real-valued"):
        deterministic(zoo.mixed(), zoo.batch(zoo.mixed()))
    with pytest.raises(ValueError, match="no stack has a layer"):
        deterministic(
            Model(Stack(elements=2), FactorialPrior(Bernoulli(2))), Batch.of(torch.ones(1, 2))
        )

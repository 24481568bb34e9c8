"""Every estimator on models whose likelihood is known: within its errors, on its side, covering."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zoo

from genprop.conditional import Bernoulli, Categorical
from genprop.data import Batch
from genprop.likelihood.estimate import Estimate
from genprop.likelihood.exact import exact
from genprop.likelihood.methods import SAMPLED
from genprop.likelihood.simulate import simulated
from genprop.model import Model
from genprop.priors.factorial import FactorialPrior
from genprop.priors.mixture import MixturePrior

SEEDS = 20
ROWS = 4


def mixture_of_gaussians() -> Model:
    """A linear layer under three Gaussians."""
    model = zoo.linear_gaussian((3, 2))
    prior = zoo.perturbed(MixturePrior(2, components=3))
    return Model(dict(model.named_stacks()), prior)


def mixture_of_bernoullis() -> Model:
    layers = zoo.stack(Bernoulli(4), (10,), "categorical")
    return zoo.perturbed(Model(layers, FactorialPrior(Categorical((10,)))), 0.5)


MODELS: dict[str, Callable[[], Model]] = {
    "linear-1": lambda: zoo.linear_gaussian((3, 2)),
    "linear-2": lambda: zoo.linear_gaussian((3, 2, 2)),
    "linear-3": lambda: zoo.linear_gaussian((4, 3, 2, 2)),
    "binary": lambda: zoo.perturbed(zoo.bernoulli((3, 2)), 0.5),
    "mixture": mixture_of_gaussians,
    "mixture-of-bernoullis": mixture_of_bernoullis,
}
WAYS: dict[str, dict[str, Any]] = {
    "importance": {"samples": 1000, "widen": 0.3},
    "annealed": {"samples": 80, "steps": 2},
    "csl": {"samples": 4000},
}


def known(name: str) -> tuple[Model, Batch, np.ndarray]:
    """A model, rows that it draws, and the truth."""
    model = MODELS[name]()
    batch = Batch.of(simulated(model, (ROWS,))[1])
    return model, batch, exact(model, batch).log_prob


def run(way: str, model: Model, batch: Batch, **options: Any) -> Estimate:
    return SAMPLED[way](model, batch, **{**WAYS[way], **options})


def repeated(way: str, model: Model, batch: Batch, times: int, **options: Any) -> list[Estimate]:
    """Independent runs, done as one of so many copies of the rows where draws are the rows' own."""
    if way == "csl":
        return [run(way, model, batch, **options) for _ in range(times)]
    copies = Batch.of({name: x.repeat(times, 1) for name, x in batch.x.items()})
    whole = run(way, model, copies, **options)
    columns = ("log_prob", "std_error", "ess", "khat")
    parts = [{n: getattr(whole, n).reshape(times, -1)[i] for n in columns} for i in range(times)]
    return [Estimate(**part, samples=1, bound=whole.bound, method=way) for part in parts]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_over_seeds_it_is_within_three_standard_errors(name, way):
    model, batch, truth = known(name)
    runs = repeated(way, model, batch, SEEDS)
    z = np.stack([(found.log_prob - truth) / found.std_error for found in runs])
    # of 80 values that are normal 0.2 lie outside; the largest weights of few make it a little more
    assert (np.abs(z) < 3).mean() >= 0.95
    # and on average over seeds they lie as near as 20 independent ones do
    error = np.stack([found.log_prob for found in runs]).std(0, ddof=1) / np.sqrt(SEEDS)
    bias = np.stack([found.log_prob for found in runs]).mean(0) - truth
    assert (bias < 4.5 * error).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["linear-2", "binary"])
def test_its_mean_is_on_the_side_it_claims(name, way):
    model, batch, truth = known(name)
    few = {"samples": 3, "widen": 0.0} if way == "importance" else {"samples": 3}
    runs = repeated(way, model, batch, 100, **few)
    short = truth - np.stack([found.log_prob for found in runs])
    assert runs[0].bound == "lower"
    # a run is the unit of the error, as the draws of one may serve all of its rows
    each = short.mean(1)
    assert each.mean() > -2 * each.std() / np.sqrt(len(each))
    assert each.mean() > 0 or way == "annealed"


@pytest.mark.parametrize("name", ["linear-1", "linear-2", "mixture-of-bernoullis"])
def test_its_intervals_cover_at_the_nominal_rate(name):
    model = MODELS[name]()
    batch = Batch.of(simulated(model, (300,))[1])
    found = run("importance", model, batch, samples=2000)
    z = np.abs(found.log_prob - exact(model, batch).log_prob) / found.std_error
    for width, rate in ((1.0, 0.683), (1.645, 0.9), (1.96, 0.95)):
        # four standard errors of a share of 300 rows
        assert abs((z < width).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 300)


def test_estimates_of_the_same_rows_do_not_depend_on_their_order():
    model, batch, _ = known("linear-2")
    turned = batch.take(torch.arange(ROWS).flip(0))
    one, other = exact(model, batch).log_prob, exact(model, turned).log_prob
    np.testing.assert_allclose(one, other[::-1])

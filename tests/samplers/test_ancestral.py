"""Ancestral sampling, and what a temperature makes of it."""

import math

import exact
import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Bernoulli, Gaussian
from genprop.model import Model
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.samplers.ancestral import ancestral, with_temperature
from genprop.stack import Stack


def nested_linear() -> Model:
    whole = zoo.linear_gaussian((4, 3, 2))
    low, high = zoo.only_stack(whole).layers
    return Model(Stack([low]), Model(Stack([high]), whole.prior))


@pytest.mark.parametrize("make", [lambda: zoo.linear_gaussian((4, 3, 2)), nested_linear])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_temperature_multiplies_the_scale_of_a_linear_gaussian_model(make, temperature) -> None:
    model = make()
    law, places = exact.joint_law(model)
    mean, covariance = law.mean[places["x"]], law.covariance_matrix[places["x"], places["x"]]
    truth = torch.distributions.MultivariateNormal(mean, temperature**2 * covariance)
    x = ancestral(model, 8000, temperature=temperature)["x"]
    exact.assert_same_means(exact.tested(x, {}), exact.tested(truth.sample((40_000,)), {}))


@pytest.mark.parametrize("name", zoo.models())
def test_temperature_one_is_no_temperature(name: str) -> None:
    model = zoo.models()[name]()
    torch.manual_seed(1)
    plain = ancestral(model, 5)
    torch.manual_seed(1)
    paths = model.decode(model.prior.sample((5,)))
    assert all(torch.equal(plain[modality], path.x) for modality, path in paths.items())


@pytest.mark.parametrize("name", zoo.models())
def test_cold_draws_are_those_of_the_modes(name: str) -> None:
    model = zoo.models()[name]()
    cold = ancestral(model, 20, temperature=1e-6)
    for modality, x in cold.items():
        assert x.shape == (20, model.widths[modality])
        torch.testing.assert_close(x, x[:1].expand(20, -1), rtol=1e-3, atol=1e-3)


def test_log_odds_are_divided_by_it() -> None:
    prior = FactorialPrior(Bernoulli(3))
    with torch.no_grad():
        prior.outputs.copy_(torch.tensor([-1.0, 0.5, 2.0]))
    model = Model(Stack(elements=3), prior)
    x = ancestral(model, 40_000, temperature=2.0)["x"]
    share = torch.tensor([-0.5, 0.25, 1.0]).sigmoid()
    assert ((x.mean(0) - share).abs() < 5 * (share * (1 - share) / 40_000).sqrt()).all()


def test_the_log_odds_of_an_autoregressive_law_are_divided_by_it() -> None:
    law = zoo.priors()["autoregressive"]().law
    x = law.sample((50,))
    torch.testing.assert_close(with_temperature(law, 3.0).logits(x), law.logits(x) / 3)


def test_a_mixture_keeps_its_weights() -> None:
    law = zoo.priors()["mixture-full"]().law
    cold = with_temperature(law, 0.5)
    torch.testing.assert_close(cold.weights, law.weights)
    torch.testing.assert_close(cold.components.covariance, 0.25 * law.components.covariance)


def test_means_are_shown_at_the_end() -> None:
    model = zoo.gaussian(2)
    for temperature in (1.0, 0.7):
        torch.manual_seed(3)
        shown = ancestral(model, 500, mean=True, temperature=temperature)["x"]
        torch.manual_seed(3)
        drawn = ancestral(model, 500, temperature=temperature)["x"]
        assert (shown.var(0) < drawn.var(0)).all()


def scaled(temperature: float) -> dict[str, Tensor]:
    model = Model(zoo.stack(Gaussian(3), (2,)), GaussianPrior(2))
    return ancestral(model, 2, temperature=temperature)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ancestral(zoo.gaussian(1), 0), "at least 1, but is 0"),
        (lambda: scaled(0.0), "must be positive and finite, but is 0"),
        (lambda: scaled(math.nan), "must be positive and finite, but is nan"),
        (
            lambda: ancestral(Model(Stack(elements=2), zoo.flow("nsf")), 2, temperature=0.5),
            "FlowPrior has no scale that a temperature could multiply",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Closed forms and sums over everything, against algebra, brute force, and laws of probability."""

from itertools import product

import numpy as np
import pytest
import torch
import zoo
from torch.distributions import MultivariateNormal

from genprop.conditional import Autoregressive, Bernoulli, Categorical
from genprop.data import Batch
from genprop.likelihood.enumeration import states
from genprop.likelihood.exact import applies, exact
from genprop.likelihood.linear import gaussian_marginal
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.priors.autoregressive import AutoregressivePrior
from genprop.priors.factorial import FactorialPrior
from genprop.priors.flow import FlowPrior
from genprop.priors.gsn import GSNPrior
from genprop.priors.mixture import MixturePrior
from genprop.stack import Stack

DISCRETE = ("bernoulli", "autoregressive", "nested-bernoulli")


def two_discrete_modalities() -> Model:
    """Bits under two layers and a label under one, their codes tied by the prior."""
    stacks = {
        "image": zoo.stack(Bernoulli(3), (3, 2), "bernoulli"),
        "label": zoo.stack(Categorical((3,)), (2,), "bernoulli"),
    }
    return zoo.perturbed(Model(stacks, AutoregressivePrior(4, units=5)), 0.3)


def categorical_code() -> Model:
    """A mixture of ten products of Bernoullis."""
    layers = zoo.stack(Bernoulli(4), (10,), "categorical")
    return zoo.perturbed(Model(layers, FactorialPrior(Categorical((10,)))), 0.3)


def linear_mixture() -> Model:
    model = zoo.linear_gaussian((3, 2, 2))
    prior = zoo.perturbed(MixturePrior(2, components=3, covariance="full"))
    return Model(dict(model.named_stacks()), prior)


MODELS = {
    **{name: zoo.models()[name] for name in DISCRETE},
    "two": two_discrete_modalities,
    "categorical": categorical_code,
}


def every_row(model: Model) -> Batch:
    """All values of the data, side by side."""
    parts = [
        zoo.support(stack[0].decoder.family(torch.zeros(stack[0].decoder.family.outputs)))
        if not isinstance(stack[0].decoder.family, Autoregressive)
        else states(stack[0].decoder.family).double()
        for _, stack in model.named_stacks()
    ]
    rows = [torch.cat(each) for each in product(*parts)]
    return model.batch(torch.stack(rows))


def by_brute_force(model: Model, batch: Batch) -> np.ndarray:
    """The sum of P(x_seen, h) over all paths h at once."""
    posterior = Posterior(model, batch, smooth=False)
    width = posterior.elements
    every = [torch.tensor(h, dtype=torch.float64) for h in product((0.0, 1.0), repeat=width)]
    h = torch.stack(every)[:, None].expand(-1, batch.rows, -1)
    return posterior.log_prob(h).logsumexp(0).detach().numpy()


@pytest.mark.parametrize("name", MODELS)
def test_enumerated_probabilities_sum_to_one(name):
    model = MODELS[name]()
    found = exact(model, every_row(model))
    assert found.method == "enumeration"
    np.testing.assert_allclose(np.exp(found.log_prob).sum(), 1, rtol=1e-9)


@pytest.mark.parametrize("name", [*DISCRETE, "two"])
@pytest.mark.parametrize("holes", [False, True])
def test_the_sum_level_by_level_is_the_sum_over_paths(name, holes):
    model = MODELS[name]()
    batch = zoo.batch(model, rows=5, holes=holes)
    np.testing.assert_allclose(exact(model, batch).log_prob, by_brute_force(model, batch))


@pytest.mark.parametrize("name", ["two", "categorical", "bernoulli"])
def test_a_marginal_is_the_sum_over_what_is_unseen(name):
    model = MODELS[name]()
    rows = every_row(model)
    first, x = next(iter(rows.x.items()))
    half = Batch.of(rows.x, {first: torch.arange(x.shape[1]).expand(x.shape) != 0})
    _, group = torch.unique(torch.cat(list(half.x.values()), -1), dim=0, return_inverse=True)
    sums = np.zeros(int(group.max()) + 1)
    np.add.at(sums, group.numpy(), np.exp(exact(model, rows).log_prob))
    np.testing.assert_allclose(np.exp(exact(model, half).log_prob), sums[group.numpy()])


def test_it_sums_in_parts_to_the_same_digits(monkeypatch):
    model = two_discrete_modalities()
    rows = every_row(model)
    whole = exact(model, rows).log_prob
    monkeypatch.setattr("genprop.likelihood.exact.NUMBERS_AT_ONCE", 100)
    monkeypatch.setattr("genprop.likelihood.enumeration.NUMBERS_AT_ONCE", 16)
    np.testing.assert_allclose(exact(model, rows).log_prob, whole, rtol=1e-12)


def by_algebra(law: MultivariateNormal, x: torch.Tensor, seen: torch.Tensor) -> list[float]:
    values = []
    for row, mask in zip(x, seen, strict=True):
        part = MultivariateNormal(law.mean[mask], law.covariance_matrix[mask][:, mask])
        values.append(part.log_prob(row[mask]).item() if mask.any() else 0.0)
    return values


@pytest.mark.parametrize("sizes", [(3, 2), (3, 2, 2), (4, 3, 2, 2)])
@pytest.mark.parametrize("prior", ["standard", "diagonal", "full"])
def test_linear_gaussian_stacks_have_the_closed_form(sizes, prior):
    model = zoo.linear_gaussian(sizes, prior=prior)
    law = zoo.exact_marginal(model)
    x = law.sample((6,))
    seen = torch.rand(x.shape) < 0.6
    for mask in (torch.ones_like(seen), seen):
        found = exact(model, Batch.of(x, mask))
        assert found.method == "closed form"
        np.testing.assert_allclose(found.log_prob, by_algebra(law, x, mask), atol=1e-9)


def test_a_mixture_under_affine_layers_is_the_mixture_of_what_each_component_gives():
    model = linear_mixture()
    mixture, stacks = model.prior.law, dict(model.named_stacks())
    x = torch.cat([path.x for path in model.decode(model.prior.sample((5,))).values()], -1)
    parts = []
    for k in range(3):
        components = mixture.components
        mean, covariance = components.loc[k], components.covariance[k]
        for level in reversed(range(2)):
            A, b, scale = zoo.affine(stacks["x"][level].decoder)
            mean, covariance = A @ mean + b, A @ covariance @ A.mT + torch.diag(scale**2)
        parts.append(MultivariateNormal(mean, covariance).log_prob(x))
    expected = (torch.stack(parts) + mixture.log_weights[:, None]).logsumexp(0)
    found = exact(model, Batch.of(x)).log_prob
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-9)


def test_a_model_that_is_a_prior_gives_what_its_layers_give_on_top():
    flat = zoo.linear_gaussian((3, 2, 2))
    stack = zoo.only_stack(flat)
    nested = Model(Stack([stack[0]]), Model(Stack([stack[1]]), flat.prior))
    batch = Batch.of(zoo.exact_marginal(flat).sample((4,)))
    np.testing.assert_allclose(exact(nested, batch).log_prob, exact(flat, batch).log_prob)


def test_without_layers_it_is_the_priors_density():
    for name, make in zoo.priors().items():
        prior = make()
        model = Model(Stack(elements=prior.elements), prior)
        if not hasattr(prior, "log_prob"):
            assert not applies(model, Batch.of(prior.sample((3,))))
            continue
        h = prior.sample((3,))
        found = exact(model, Batch.of(h))
        np.testing.assert_allclose(found.log_prob, prior.log_prob(h).detach(), err_msg=name)
        assert (found.std_error == 0).all()


def test_an_estimated_marginal_is_not_called_exact():
    prior = zoo.flow("nice")
    assert isinstance(prior, FlowPrior)
    model, x = Model(Stack(elements=2), prior), prior.sample((4,))
    x[0, 0] = torch.nan
    assert not applies(model, Batch.of(x))
    assert applies(model, Batch.of(x[1:]))
    assert np.isnan(exact(model, Batch.of(x)).std_error).tolist() == [True, False, False, False]


def test_it_applies_where_it_has_an_answer_and_else_says_the_way_out():
    for name, make in zoo.models().items():
        model = make()
        batch = zoo.batch(model)
        assert applies(model, batch) == (name in DISCRETE), name
        if name not in DISCRETE:
            with pytest.raises(ValueError, match="use importance sampling"):
                exact(model, batch)
    prior = GSNPrior(Bernoulli(2))
    assert not applies(Model(zoo.stack(Bernoulli(3), (2,), "bernoulli"), prior), Batch.of(x3()))
    assert gaussian_marginal(zoo.gaussian(1)) is None


def x3() -> torch.Tensor:
    return torch.ones(2, 3)


def test_many_states_are_not_gone_through():
    model = Model(Stack.build(Bernoulli(3), (40,), "bernoulli"), FactorialPrior(Bernoulli(40)))
    assert not applies(model, Batch.of(x3()))


def test_unseen_cells_before_seen_ones_of_an_autoregressive_law_need_particles():
    layers = Stack.build(Autoregressive(4, units=3, particles=2), (2,), "bernoulli")
    model = Model(layers, FactorialPrior(Bernoulli(2))).double()
    x = torch.ones(2, 4).double()
    assert applies(model, Batch.of(x, torch.tensor([[True, False, True, True]]).expand(2, -1)))
    assert not applies(model, Batch.of(x, torch.tensor([[False, False, True, True]]).expand(2, -1)))

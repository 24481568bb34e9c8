"""A model is a prior: over the codes of other stacks it is as if its layers stood on theirs."""

import math

import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Bernoulli, Gaussian
from genprop.data import Batch
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.stack import Stack
from genprop.train import Trainer

PAIRS = [(latent, rule) for latent in ("gaussian", "bernoulli") for rule in zoo.rules()]
PAIRS = [(n, r) for n, r in PAIRS if zoo.fits(zoo.rules()[r](), zoo.nested(n))]


def by_tensor(model: Model, told: dict[str, Tensor]) -> dict[int, Tensor]:
    """Gradients by the parameter itself, whatever the model calls it."""
    return {id(p): told[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize(("latent", "rule"), PAIRS)
@pytest.mark.parametrize("holes", [False, True])
def test_nested_layers_are_told_what_the_same_layers_in_one_stack_are(
    latent: str, rule: str, holes: bool
) -> None:
    model = zoo.nested(latent)
    flat = zoo.flattened(model)
    batch = zoo.batch(model, holes=holes)
    found = by_tensor(model, zoo.gradients(model, batch, zoo.rules()[rule]()))
    expected = by_tensor(flat, zoo.gradients(flat, batch, zoo.rules()[rule]()))
    assert found.keys() == expected.keys()
    for key, slope in found.items():
        torch.testing.assert_close(slope, expected[key], rtol=1e-9, atol=1e-11)


def told(model: Model, batch: Batch, rule: str) -> dict[str, Tensor]:
    """All parts and accounts of a rule, nested layers called by their place in one stack."""
    torch.manual_seed(3)
    found: dict[str, Tensor] = {}
    for term in zoo.rules()[rule]()(model, batch):
        found |= term.parts | {f"account.{name}": value for name, value in term.account.items()}
    places = {"prior.x.1": "x.3", "prior.x.2": "x.4"}
    for old, new in places.items():
        found = {name.replace(old, new): value for name, value in found.items()}
    return found


@pytest.mark.parametrize(("latent", "rule"), PAIRS)
def test_nested_terms_are_those_of_one_stack(latent: str, rule: str) -> None:
    model = zoo.nested(latent)
    batch = zoo.batch(model)
    found, expected = told(model, batch, rule), told(zoo.flattened(model), batch, rule)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=name)


def test_nested_training_makes_the_updates_of_one_stack() -> None:
    model, flat = zoo.nested(), zoo.flattened(zoo.nested())
    flat.load_state_dict(zoo.flattened(model).state_dict())
    batch = zoo.batch(model, rows=40)
    how = Trainer(epochs=3, batch_size=10, clip=1.0, device="cpu", precision="64", verbose=0)
    for each in (model, flat):
        torch.manual_seed(1)
        how.fit(each, zoo.rules()["target-5-decoder"](), batch, batch)
    for a, b in zip(zoo.flattened(model).parameters(), flat.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("samples", [1, 4])
def test_loss_bounds_the_exact_log_density_and_closes_on_it(samples: int) -> None:
    over = zoo.linear_gaussian((3, 2, 2))
    over.samples = samples
    h = over.sample((5,))
    exact = zoo.exact_marginal(over).log_prob(h)
    loss = over.loss(h.expand(4000, 5, 3))
    error = 5 * loss.std(0) / math.sqrt(4000)
    assert (loss.mean(0) + error > -exact).all()
    # the weights themselves are unbiased
    weights = (-loss + loss.mean(0) - loss.mean(0) - exact).exp()
    assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / math.sqrt(4000)).all()


def test_importance_sampling_finds_the_exact_likelihood_through_a_nested_model() -> None:
    whole = zoo.linear_gaussian((4, 3, 2))
    layers = zoo.only_stack(whole)
    nested = Model(Stack([layers[0]]), Model(Stack([layers[1]]), whole.prior))
    batch = zoo.batch(whole, 8)
    estimate = importance(nested, batch, 4000)
    exact = zoo.exact_marginal(whole).log_prob(batch.x["x"]).detach().numpy()
    assert (abs(estimate.log_prob - exact) < 5 * estimate.std_error + 1e-3).all()


def test_conditional_draws_of_a_model_are_those_of_its_law() -> None:
    model = zoo.linear_gaussian((6, 3, 2))
    truth = zoo.exact_marginal(model)
    h, seen = model.sample((2,)), torch.tensor([[True] * 3 + [False] * 3, [False, True] * 3])
    draws = model.condition(h, seen).sample((3000,))
    assert torch.equal(draws[:, seen], h[seen].expand(3000, -1))
    for row in range(2):
        a, b = ~seen[row], seen[row]
        gain = truth.covariance_matrix[a][:, b] @ torch.linalg.inv(truth.covariance_matrix[b][:, b])
        mean = truth.mean[a] + gain @ (h[row, b] - truth.mean[b])
        covariance = truth.covariance_matrix[a][:, a] - gain @ truth.covariance_matrix[b][:, a]
        # draws of one row share 200 proposals: their own error dominates, about σ / √(ESS)
        sigma = covariance.diagonal().sqrt()
        assert ((draws[:, row, a].mean(0) - mean).abs() < 0.35 * sigma).all()
        assert ((draws[:, row, a].std(0) / sigma - 1).abs() < 0.3).all()


def test_a_model_over_discrete_codes_is_discrete() -> None:
    assert Model(Stack.build(Bernoulli(3), (2,)), GaussianPrior(2)).discrete
    assert not Model(Stack.build(Gaussian(3), (2,)), GaussianPrior(2)).discrete
    assert not Model(Stack(elements=2), GaussianPrior(2)).discrete
    with pytest.raises(ValueError, match="real-valued"):
        Model(
            Stack.build(Bernoulli(5), (3,)),
            Model(Stack.build(Bernoulli(3), (2,)), GaussianPrior(2)),
        )


def test_a_modality_may_not_be_called_prior() -> None:
    with pytest.raises(ValueError, match="'prior'"):
        Model({"prior": Stack(elements=2)}, GaussianPrior(2))


def test_fewer_than_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample for its loss, but got 0"):
        Model(Stack(elements=2), GaussianPrior(2), samples=0)

"""The posterior of hidden values: its density, its proposal, and what chains make of it."""

import math
from collections.abc import Callable
from itertools import product

import exact
import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Autoregressive, Bernoulli, Gaussian
from genprop.data import Batch
from genprop.kernel import run
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.priors.autoregressive import AutoregressivePrior
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.gsn import GSNPrior
from genprop.samplers.hamiltonian import HMC
from genprop.stack import Stack


def two_linear(raw: bool = False) -> Model:
    """Two modalities, of which the second may be its own code, under a correlated prior."""
    low, high = (zoo.linear_gaussian((3, 2), prior="standard") for _ in range(2))
    stacks = {"low": low.stacks["x"], "high": Stack(elements=2) if raw else high.stacks["x"]}
    return Model(stacks, zoo.perturbed(GaussianPrior(4, "full"), 0.3))


def nested_linear(raw: bool = False) -> Model:
    """The same two modalities under a model, which may take one code as it is."""
    below = two_linear()
    (stack,) = zoo.linear_gaussian((2, 2) if raw else (4, 2)).stacks.values()
    stacks = {"a": stack, "b": Stack(elements=2)} if raw else {"a": stack}
    prior = zoo.perturbed(GaussianPrior(4 if raw else 2, "full"), 0.3)
    return Model(dict(below.named_stacks()), Model(stacks, prior))


LINEAR: dict[str, Callable[[], Model]] = {
    "one-layer": lambda: zoo.linear_gaussian((3, 2)),
    "three-layers": lambda: zoo.linear_gaussian((4, 3, 2, 2)),
    "two-modalities": two_linear,
    "raw-modality": lambda: two_linear(raw=True),
    "nested": nested_linear,
    "nested-raw-part": lambda: nested_linear(raw=True),
}
every_linear = pytest.mark.parametrize("name", LINEAR)
every_model = pytest.mark.parametrize("name", zoo.models())
both = pytest.mark.parametrize("holes", [False, True])


def linear_posterior(name: str, holes: bool, rows: int = 8) -> Posterior:
    model = LINEAR[name]()
    x = exact.draws(model, rows)[1]
    return Posterior(model, Batch.of(x, exact.holes(x) if holes else None))


def conditionals(posterior: Posterior) -> list[torch.distributions.MultivariateNormal]:
    """P(h, x_unseen | x_seen) of each row, by algebra."""
    law, _ = exact.joint_law(posterior.model)
    hidden = torch.zeros(posterior.batch.rows, posterior.elements).double()
    x = torch.cat([hidden, *posterior.batch.x.values()], -1)
    masks = [
        torch.ones_like(v, dtype=torch.bool)
        if posterior.batch.seen[n] is None
        else posterior.batch.seen[n]
        for n, v in posterior.batch.x.items()
    ]
    seen = torch.cat([torch.zeros_like(hidden, dtype=torch.bool), *masks], -1)
    return [exact.given(law, *row) for row in zip(x, seen, strict=True)]


def hidden_part(law: torch.distributions.MultivariateNormal, n: int):
    """The law of the first elements."""
    return torch.distributions.MultivariateNormal(law.mean[:n], law.covariance_matrix[:n, :n])


@every_linear
@both
@torch.no_grad()
def test_of_a_linear_gaussian_model_it_is_the_exact_gaussian(name: str, holes: bool) -> None:
    posterior = linear_posterior(name, holes)
    position = 2 * zoo.randn(50, posterior.batch.rows, posterior.elements)
    laws = [hidden_part(law, posterior.elements) for law in conditionals(posterior)]
    expected = torch.stack([law.log_prob(position[:, i]) for i, law in enumerate(laws)], 1)
    misfit = posterior.log_prob(position) - expected  # log P(x_seen), one number a row
    torch.testing.assert_close(misfit, misfit[:1].expand(50, -1), rtol=1e-8, atol=1e-8)
    evidence = [
        torch.distributions.MultivariateNormal(
            law.mean[seen], law.covariance_matrix[seen][:, seen]
        ).log_prob(x[seen])
        if seen.any()
        else x.new_zeros(())
        for law, x, seen in data_laws(posterior)
    ]
    torch.testing.assert_close(misfit[0], torch.stack(evidence), rtol=1e-8, atol=1e-8)


def data_laws(posterior: Posterior):
    """P(x) with the values of each row and what is seen of them."""
    law, places = exact.joint_law(posterior.model)
    at = [i for n in posterior.model.stacks for i in range(places[n].start, places[n].stop)]
    law = torch.distributions.MultivariateNormal(law.mean[at], law.covariance_matrix[at][:, at])
    x = torch.cat(list(posterior.batch.x.values()), -1)
    masks = [
        torch.ones_like(v, dtype=torch.bool) if m is None else m
        for v, m in zip(posterior.batch.x.values(), posterior.batch.seen.values(), strict=True)
    ]
    return [(law, *row) for row in zip(x, torch.cat(masks, -1), strict=True)]


@every_linear
@both
@torch.no_grad()
def test_weights_of_its_proposal_average_to_the_likelihood(name: str, holes: bool) -> None:
    posterior = linear_posterior(name, holes)
    draws = posterior.start(10_000)
    log_w = posterior.log_prob(draws) - posterior.log_q(draws)
    laws = [
        torch.distributions.MultivariateNormal(
            law.mean[seen], law.covariance_matrix[seen][:, seen]
        ).log_prob(x[seen])
        if seen.any()
        else x.new_zeros(())
        for law, x, seen in data_laws(posterior)
    ]
    weights = (log_w - torch.stack(laws)).exp()
    error = weights.std(0) / math.sqrt(len(weights))
    assert error.max() < 0.2, "the test would see nothing"
    assert ((weights.mean(0) - 1).abs() <= 5 * error + 1e-9).all()


def bits(nested: bool) -> Model:
    """Two modalities of zeros and ones, so small that all their hidden values can be listed."""
    stacks = {"a": zoo.stack(Bernoulli(2), (2, 1), "bernoulli")}
    stacks["b"] = zoo.stack(Bernoulli(3), (2,), "bernoulli")
    prior = FactorialPrior(Bernoulli(2 if nested else 3))
    if nested:
        prior = Model(zoo.stack(Bernoulli(3), (2,), "bernoulli"), prior)
    return zoo.perturbed(Model(stacks, prior), 0.5)


def every_path(posterior: Posterior) -> Tensor:
    """All hidden values of each row, ``(values, rows, elements)``."""
    values = list(product((0.0, 1.0), repeat=posterior.elements))
    return torch.tensor(values).double()[:, None].expand(-1, posterior.batch.rows, -1)


@pytest.mark.parametrize("nested", [False, True])
@torch.no_grad()
def test_its_proposal_is_a_law_also_of_what_is_absent(nested: bool) -> None:
    model = bits(nested)
    x = {"a": torch.ones(4, 2).double(), "b": torch.zeros(4, 3).double()}
    seen = {name: torch.ones_like(v, dtype=torch.bool) for name, v in x.items()}
    seen["a"][1:3] = False
    seen["b"][2:] = False
    posterior = Posterior(model, Batch.of(x, seen), smooth=False)
    every = every_path(posterior)
    law = posterior.log_q(every).exp()
    torch.testing.assert_close(law.sum(0), torch.ones(4).double())
    draws = posterior.start(20_000)
    match = (draws[:, None] == every).all(-1).double()
    error = (law * (1 - law) / len(draws)).sqrt()
    assert ((match.mean(0) - law).abs() <= 5 * error).all()


@both
def test_nested_layers_have_the_posterior_of_the_same_layers_in_one_stack(holes: bool) -> None:
    model = zoo.nested()
    batch = zoo.batch(model, holes=holes)
    whole, flat = Posterior(model, batch), Posterior(zoo.flattened(model), batch)
    position = whole.start(5)
    torch.testing.assert_close(whole.log_prob(position), flat.log_prob(position))
    torch.testing.assert_close(whole.log_q(position), flat.log_q(position))


@pytest.mark.parametrize("name", zoo.plain_models())
@both
@torch.no_grad()
def test_weights_are_those_of_the_model_where_no_modality_is_absent(name: str, holes: bool) -> None:
    model = zoo.plain_models()[name]()
    batch = zoo.batch(model, holes=holes and len(model.stacks) == 1)
    posterior, paths = Posterior(model, batch, smooth=False), model.encode(batch, 5)
    position = torch.cat([h for path in paths.values() for h in path.h[1:]], -1)
    found = posterior.log_prob(position) - posterior.log_q(position)
    torch.testing.assert_close(found, model.log_weights(paths, batch))


@every_model
@both
def test_levels_are_split_and_joined_and_draws_come_first(name: str, holes: bool) -> None:
    model = zoo.models()[name]()
    posterior = Posterior(model, zoo.batch(model, holes=holes), smooth=False)
    position = posterior.start(4)
    assert position.shape == (4, 6, sum(posterior.sizes.values()))
    assert torch.equal(posterior.join(posterior.split(position)), position)
    log_prob = posterior.log_prob(position)
    assert torch.isfinite(log_prob).all()
    both = posterior.log_prob(position.reshape(2, 2, *position.shape[1:]))
    torch.testing.assert_close(both.reshape(4, 6), log_prob)
    torch.testing.assert_close(posterior.log_prob(position[0]), log_prob[0])


@pytest.mark.parametrize("name", zoo.continuous_models())
def test_the_gradient_is_that_of_the_log_density(name: str) -> None:
    model = zoo.continuous_models()[name]()
    posterior = Posterior(model, zoo.batch(model, 3, holes=True))
    assert torch.autograd.gradcheck(posterior.log_prob, posterior.start().requires_grad_())


@every_model
def test_seen_cells_come_back_as_they_were(name: str) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model, holes=True)
    posterior = Posterior(model, batch, smooth=False)
    position = posterior.start(3)
    whole, new = posterior.complete(position), posterior.decode(position)
    for modality, seen in batch.seen.items():
        assert whole[modality].shape == new[modality].shape == (3, *batch.x[modality].shape)
        if seen is not None:
            assert torch.equal(whole[modality][:, seen], batch.x[modality][seen].expand(3, -1))


@pytest.mark.parametrize("name", ["three-layers", "raw-modality", "nested-raw-part"])
@torch.no_grad()
def test_completed_rows_have_the_exact_law_given_the_hidden_values(name: str) -> None:
    posterior = linear_posterior(name, holes=True, rows=5)
    position = zoo.randn(1, 5, posterior.elements)
    law, _ = exact.joint_law(posterior.model)
    whole = posterior.complete(position.expand(20_000, -1, -1))
    drawn = torch.cat(list(whole.values()), -1)
    means = torch.cat(list(posterior.complete(position, mean=True).values()), -1)
    for row, (_, x, seen) in enumerate(data_laws(posterior)):
        if seen.all():
            continue
        known = torch.cat([torch.ones(posterior.elements, dtype=torch.bool), seen])
        truth = exact.given(law, torch.cat([position[0, row], x]), known)
        exact.assert_same_means(
            exact.tested(drawn[:, row][:, ~seen], {}), exact.tested(truth.sample((50_000,)), {})
        )
        torch.testing.assert_close(means[0, row][~seen], truth.mean)


@pytest.mark.parametrize("name", ["three-layers", "two-modalities", "nested"])
def test_hmc_finds_the_exact_means_and_covariances(name: str) -> None:
    posterior = linear_posterior(name, holes=True, rows=3)
    kernel = HMC(posterior.log_prob, steps=5)
    draws = run(kernel, posterior.start(400), draws=1, warmup=50).draws[:, 0]
    for row, law in enumerate(conditionals(posterior)):
        truth = hidden_part(law, posterior.elements).sample((20_000,))
        exact.assert_same_means(exact.tested(draws[:, row], {}), exact.tested(truth, {}))


SMALL: dict[str, Callable[[], Model]] = {
    "linear": lambda: zoo.linear_gaussian((3, 2, 2)),
    "nonlinear": lambda: zoo.gaussian(2),
    "two-modalities": zoo.two_modalities,
    "flow": lambda: Model(zoo.stack(Bernoulli(4), (2,)), zoo.flow("nsf")).double(),
}


@pytest.mark.parametrize("name", SMALL)
def test_hmc_on_it_leaves_the_joint_law_as_it_is(name: str) -> None:
    exact.assert_joint_law_stays(
        SMALL[name](),
        lambda posterior: HMC(posterior.log_prob, steps=5, step_size=0.2),
        masks=exact.holes,
        smooth=True,
    )


@pytest.mark.parametrize("name", ["linear", "nonlinear"])
def test_ranks_among_draws_of_hmc_are_uniform(name: str) -> None:
    model = SMALL[name]()
    truth, x = exact.draws(model, 300)
    posterior = Posterior(model, Batch.of(x, exact.holes(x)))
    kernel = HMC(posterior.log_prob, steps=5, step_size=0.2)
    draws = run(kernel, posterior.start(9), draws=1, warmup=40).draws[:, 0]
    functions = [torch.cat([h, posterior.log_prob(h)[..., None]], -1) for h in (truth, draws)]
    exact.assert_ranks_are_uniform(functions[0][0], functions[1])


@torch.no_grad()
def test_where_a_prior_knows_no_conditionals_the_proposal_is_a_law_nonetheless() -> None:
    stacks = {"a": zoo.stack(Gaussian(2), (1,)), "b": zoo.stack(Gaussian(2), (1,))}
    model = zoo.perturbed(Model(stacks, zoo.flow("nsf")), 0.1)
    seen = {"b": torch.tensor([[True, True], [False, False], [False, True]])}
    posterior = Posterior(model, Batch.of({"a": zoo.randn(3, 2), "b": zoo.randn(3, 2)}, seen))
    draws = posterior.start(4000)
    narrow = torch.distributions.Normal(draws.mean(0), 0.5 * draws.std(0))
    weights = (narrow.log_prob(draws).sum(-1) - posterior.log_q(draws)).exp()
    error = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) - 1).abs() < 5 * error).all()
    assert error.max() < 0.2, "the test would see nothing"


def raw_beside_a_flow() -> Posterior:
    stacks = {"a": zoo.stack(Gaussian(2), (1,)), "b": Stack(elements=1)}
    x = {"a": zoo.randn(3, 2), "b": torch.tensor([[1.0], [math.nan], [2.0]])}
    return Posterior(Model(stacks, zoo.flow("nsf")), Batch.of(x))


def chained() -> Model:
    family = Autoregressive(9, units=4, particles=64)
    return Model(zoo.stack(family, (2,)), GaussianPrior(2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Posterior(zoo.gaussian(1), Batch.of(torch.zeros(2, 3))), ValueError, "3 elements"),
        (
            lambda: Posterior(zoo.mixed(), Batch.of(torch.ones(2, 5))),
            ValueError,
            r"levels x\.2 are discrete.*samplers\.gibbs\.Gibbs",
        ),
        (
            lambda: Posterior(
                Model(Stack(elements=2), GaussianPrior(2)), Batch.of(torch.ones(2, 2))
            ),
            ValueError,
            "nothing is hidden",
        ),
        (
            lambda: Posterior(
                Model(zoo.stack(Gaussian(3), (2,)), GSNPrior(Gaussian(2))),
                Batch.of(torch.ones(2, 3)),
            ),
            TypeError,
            r"GSNPrior has none; use another prior.*samplers\.walk",
        ),
        (
            lambda: Posterior(chained(), Batch.of(torch.tensor([[math.nan] * 7 + [1.0, 0.0]]))),
            ValueError,
            "7 elements are unseen before a seen one.*at least 128 particles",
        ),
        (
            lambda: Posterior(
                Model(
                    {n: zoo.stack(Bernoulli(2), (8,), "bernoulli") for n in "ab"},
                    AutoregressivePrior(16, units=3, particles=16),
                ),
                Batch.of({"a": torch.full((2, 2), math.nan), "b": torch.ones(2, 2)}),
                smooth=False,
            ),
            ValueError,
            "of the code, 8 elements",
        ),
        (
            lambda: Posterior(zoo.gaussian(1), Batch.of(torch.zeros(2, 4))).split(torch.ones(2, 9)),
            ValueError,
            "a row has 2 hidden values, but positions have 9",
        ),
    ],
)
def test_what_has_no_such_posterior_is_refused(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_rows_are_taken_to_the_models_precision() -> None:
    model = Model(zoo.stack(Gaussian(3), (2,)), GaussianPrior(2))
    posterior = Posterior(model, Batch.of(zoo.randn(4, 3)))
    position = posterior.start(2)
    assert position.dtype == posterior.log_prob(position).dtype == torch.float32
    assert posterior.complete(position)["x"].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@every_model
def test_it_runs_on_a_gpu(name: str) -> None:
    model = zoo.models()[name]().to("cuda")
    posterior = Posterior(model, zoo.batch(zoo.models()[name](), holes=True), smooth=False)
    position = posterior.start(3)
    weights = posterior.log_prob(position) - posterior.log_q(position)
    assert torch.isfinite(weights).all()
    assert weights.device.type == posterior.complete(position)["x"].device.type == "cuda"

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Bernoulli, Gaussian
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.stack import Stack, joint_code

DRAWS = 20_000

every_model = pytest.mark.parametrize("name", zoo.models())


def make(name: str) -> Model:
    return zoo.models()[name]()


@every_model
@pytest.mark.parametrize("holes", [False, True])
def test_everything_is_draws_by_rows(name: str, holes: bool) -> None:
    model = make(name)
    batch = zoo.batch(model, 6, holes)
    model.check(batch)
    paths = model.encode(batch, draws=4)
    assert list(paths) == list(batch.x)
    for modality, path in paths.items():
        assert path.x.shape == (4, *batch.x[modality].shape)
        assert path.code.shape == (4, 6, model.sizes[modality])
    assert joint_code(paths).shape == (4, 6, model.prior.elements)
    assert model.log_weights(paths, batch).shape == (4, 6)
    assert torch.isfinite(model.log_weights(paths, batch)).all()


@every_model
@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_decoding_divides_the_joint_code(name: str, shape: tuple[int, ...]) -> None:
    model = make(name)
    code = model.prior.sample(shape)
    paths = model.decode(code)
    assert torch.equal(joint_code(paths), code)
    for modality, stack in model.named_stacks():
        assert paths[modality].x.shape == (*shape, stack.elements)


@every_model
def test_log_weights_are_those_of_prior_and_stacks(name: str) -> None:
    model = make(name)
    batch = zoo.batch(model)
    paths = model.encode(batch, draws=2)
    torch.manual_seed(3)  # a model's loss is drawn
    expected = -model.prior.loss(joint_code(paths))
    for modality, stack in model.named_stacks():
        expected = expected + stack.log_p(paths[modality]) - stack.log_q(paths[modality])
    torch.manual_seed(3)
    torch.testing.assert_close(model.log_weights(paths, batch), expected)


def test_a_prior_may_be_given_to_log_weights() -> None:
    model = zoo.gaussian()
    batch = zoo.batch(model)
    paths = model.encode(batch)
    plain = model.log_weights(paths, batch) + model.prior.loss(paths["x"].code)
    other = model.log_weights(paths, batch, lambda code, seen: code[..., 0])
    torch.testing.assert_close(other, plain + paths["x"].code[..., 0])


def test_a_code_is_seen_where_its_modality_is() -> None:
    model = zoo.with_raw_modality()
    batch = zoo.batch(model)
    assert model.code_seen(batch) is None
    image = torch.tensor([[True, False, False, False, False], [False] * 5, [True] * 5])
    raw = torch.tensor([[True, False], [True, True], [False, False]])
    seen = model.code_seen(Batch.of(batch.take(slice(3)).x, {"image": image, "raw": raw}))
    assert seen is not None
    expected = [[True, True, True, False], [False, False, True, True], [True, True, False, False]]
    assert seen.tolist() == expected
    only = model.code_seen(Batch.of(batch.take(slice(3)).x, {"raw": raw}))
    assert only is not None
    assert only[:, :2].all()


def test_a_row_that_shows_nothing_of_a_modality_is_weighed_without_it() -> None:
    model = zoo.two_modalities()
    x = zoo.batch(model).x
    nothing = torch.zeros(6, 3, dtype=torch.bool)
    batch = Batch.of(x, {"label": nothing})
    paths = model.encode(batch, draws=3)
    seen = torch.tensor([True, True, False, False])
    image = dict(model.named_stacks())["image"]
    expected = model.prior.log_prob(joint_code(paths), seen.expand(6, 4))
    expected = expected + image.log_p(paths["image"]) - image.log_q(paths["image"])
    torch.testing.assert_close(model.log_weights(paths, batch), expected)
    other = {**paths, "label": model.encode(zoo.batch(model), draws=3)["label"]}
    assert torch.equal(model.log_weights(paths, batch), model.log_weights(other, batch))


def test_a_row_that_shows_nothing_at_all_has_probability_one() -> None:
    for make_model in zoo.models().values():
        model = make_model()
        x = zoo.batch(model, 2).x
        batch = Batch.of({name: torch.full_like(v, torch.nan) for name, v in x.items()})
        log_w = model.log_weights(model.encode(batch, 3), batch)
        torch.testing.assert_close(log_w, torch.zeros_like(log_w))


@every_model
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_what_is_not_seen_changes_no_weight(name: str, garbage: float) -> None:
    model = make(name)
    batch = zoo.batch(model, holes=True)
    weights = []
    for filling in (0.0, garbage):
        x = {n: torch.where(batch.seen[n], v, filling) for n, v in batch.x.items()}
        filled = Batch.of(x, batch.seen)
        torch.manual_seed(1)
        weights.append(model.log_weights(model.encode(filled, 2), filled))
    assert torch.equal(*weights)


def log_mean_exp(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the mean weight over draws, and its standard error by the delta method."""
    w = (log_w - log_w.max(0).values).exp()
    error = w.std(0) / w.mean(0) / math.sqrt(len(w))
    return log_w.logsumexp(0) - math.log(len(w)), error


def assert_weights_average_to(exact: Tensor, log_w: Tensor) -> None:
    """Within five standard errors, and the mean log-weight (the ELBO) is below."""
    found, error = log_mean_exp(log_w)
    assert error.max() < 0.1, "the test would see nothing"
    assert ((found - exact).abs() <= 5 * error + 1e-12).all()
    below = 5 * log_w.std(0) / math.sqrt(len(log_w))
    assert (log_w.mean(0) <= exact + below).all()
    assert log_w.mean() < exact.mean()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("scale", ["learned", 0.8])
@pytest.mark.parametrize("prior", ["standard", "diagonal", "full"])
@torch.no_grad()
def test_weights_of_a_linear_gaussian_model_average_to_the_likelihood(
    depth: int, scale: str | float, prior: str
) -> None:
    model = zoo.linear_gaussian((3, *[2] * depth), scale, prior)
    batch = zoo.batch(model)
    exact = zoo.exact_marginal(model).log_prob(batch.x["x"])
    assert_weights_average_to(exact, model.log_weights(model.encode(batch, DRAWS), batch))


@pytest.mark.parametrize("depth", [1, 2])
@torch.no_grad()
def test_weights_of_rows_with_holes_average_to_the_likelihood_of_what_is_seen(depth: int) -> None:
    model = zoo.linear_gaussian((3, *[2] * depth))
    law = zoo.exact_marginal(model)
    x, seen = law.sample((8,)), zoo.patterns(elements=3)
    batch = Batch.of(x, seen)
    exact = [
        torch.distributions.MultivariateNormal(
            law.mean[mask], law.covariance_matrix[mask][:, mask]
        ).log_prob(row[mask])
        if mask.any()
        else row.new_zeros(())
        for row, mask in zip(x, seen, strict=True)
    ]
    assert_weights_average_to(
        torch.stack(exact), model.log_weights(model.encode(batch, DRAWS), batch)
    )


def enumerate_codes(sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    values = torch.tensor(list(product((0.0, 1.0), repeat=sum(sizes))), dtype=torch.float64)
    return values.split(sizes, dim=-1)


@torch.no_grad()
def test_weights_of_a_small_bernoulli_model_average_to_the_likelihood() -> None:
    model = zoo.bernoulli((3, 2))
    batch = zoo.batch(model, holes=True)
    x, seen = batch.x["x"], batch.seen["x"]
    ((_, stack),) = model.named_stacks()
    low, high = (h[:, None] for h in enumerate_codes((3, 2)))
    joint = stack[0].decoder(low).log_prob(x, seen) + stack[1].decoder(high).log_prob(low)
    exact = (joint - model.prior.loss(high)).logsumexp(0)
    assert_weights_average_to(exact, model.log_weights(model.encode(batch, DRAWS), batch))


@torch.no_grad()
def test_weights_of_two_modalities_average_to_their_joint_likelihood() -> None:
    low, high = (zoo.linear_gaussian((3, 2), prior="standard") for _ in range(2))
    stacks = {"low": low.stacks["x"], "high": high.stacks["x"]}
    model = Model(stacks, zoo.perturbed(GaussianPrior(4, "full"), 0.3))
    parts = [zoo.affine(stack[0].decoder) for stack in stacks.values()]
    A = torch.block_diag(*(part[0] for part in parts))
    noise = torch.diag(torch.cat([part[2] for part in parts]) ** 2)
    mean = A @ model.prior.law.mean + torch.cat([part[1] for part in parts])
    covariance = A @ model.prior.law.covariance @ A.mT + noise
    law = torch.distributions.MultivariateNormal(mean, covariance)
    x = law.sample((4,))
    nothing = torch.tensor([False, False, False, True])[:, None].expand(-1, 3)
    batch = Batch.of({"low": x[:, :3], "high": x[:, 3:]}, {"high": ~nothing})
    exact = law.log_prob(x)
    below = torch.distributions.MultivariateNormal(mean[:3], covariance[:3, :3])
    exact[3] = below.log_prob(x[3, :3])
    assert_weights_average_to(exact, model.log_weights(model.encode(batch, DRAWS), batch))


@every_model
def test_a_model_is_saved_and_loaded(name: str) -> None:
    model, other = make(name), make(name)
    other.load_state_dict(model.state_dict())
    batch = zoo.batch(model)
    paths = model.encode(batch)
    torch.manual_seed(3)
    weights = model.log_weights(paths, batch)
    torch.manual_seed(3)
    assert torch.equal(weights, other.log_weights(paths, batch))


def small() -> Stack:
    return Stack.build(Bernoulli(6), (4, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Model({}, GaussianPrior(2)), "at least one stack"),
        (lambda: Model(small(), GaussianPrior(3)), "2 elements together, but the prior has 3"),
        (lambda: Model({"a.b": small()}, GaussianPrior(2)), "cannot be called 'a.b'"),
        (lambda: Model({"": small()}, GaussianPrior(2)), "cannot be called ''"),
        (lambda: Model({"items": small()}, GaussianPrior(2)), "cannot be called 'items'"),
        (
            lambda: Model({"a": small()}, FactorialPrior(Bernoulli(2))),
            "code of modality 'a' is real-valued, but FactorialPrior is a law of discrete codes",
        ),
        (
            lambda: Model(Stack.build(Bernoulli(6), (2,), "bernoulli"), GaussianPrior(2)),
            "code of modality 'x' is discrete, but GaussianPrior is a law of real-valued codes",
        ),
    ],
)
def test_impossible_models_are_refused(make: Callable[[], Model], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"x": torch.zeros(3, 5)}, "modality 'x' has 5 elements, but its stack expects 6"),
        ({"y": torch.zeros(3, 6)}, r"modalities \['x'\], but the data has \['y'\]"),
        (
            {"x": torch.zeros(3, 6), "y": torch.zeros(3, 2)},
            r"modalities \['x'\], but the data has \['x', 'y'\]",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused(x: dict[str, Tensor], message: str) -> None:
    model = Model(small(), GaussianPrior(2))
    with pytest.raises(ValueError, match=message):
        model.check(Batch.of(x))


def test_a_modality_may_have_any_other_plain_name() -> None:
    for name in ("image", "left half", "0", "forward_speed"):
        model = Model({name: zoo.stack(Gaussian(3), (2,))}, GaussianPrior(2))
        assert list(model.sizes) == [name]

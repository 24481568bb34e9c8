"""What the rules' gradients are: of which bounds, exactly or in expectation."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genprop.data import Batch
from genprop.model import Model
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.stack import Path, Stack, joint_code

SIGMAS = 5

both_batches = pytest.mark.parametrize("holes", [False, True])
every_continuous = pytest.mark.parametrize("name", zoo.continuous_models())
every_depth = pytest.mark.parametrize("depth", [1, 2, 3, 5])

ONE_LAYER: dict[str, Callable[[], Model]] = {
    "full": lambda: zoo.gaussian(1),
    "standard": lambda: zoo.gaussian(1, "standard"),
    "two": lambda: Model(
        {"a": zoo.stack(zoo.Bernoulli(3), (2,)), "b": zoo.stack(zoo.Categorical((3,)), (1,))},
        zoo.GaussianPrior(3, "full"),
    ).double(),
}


def parts(model: Model, batch: Batch, rule: Rule) -> dict[str, Tensor]:
    """The values of a rule's parts, and of its account under ``account.``."""
    torch.manual_seed(zoo.SEED)
    found = {}
    for term in rule(model, batch):
        found |= {name: part.detach() for name, part in term.parts.items()}
        found |= {f"account.{name}": value for name, value in term.account.items()}
    return found


def same_paths(model: Model, batch: Batch, samples: int = 1) -> dict[str, Path]:
    """The paths that a rule draws from the seed that ``parts`` and ``zoo.gradients`` use."""
    torch.manual_seed(zoo.SEED)
    return model.encode(batch, samples)


def noisy_elbo(model: Model, batch: Batch, samples: int) -> Tensor:
    """The ELBO written out for Gaussian layers, noise drawn in the order of the layers."""
    total = torch.zeros(samples, batch.rows, dtype=torch.float64)
    tops = []
    for name, stack in model.named_stacks():
        x, seen, present = batch.x[name], batch.seen[name], batch.present(name)
        below = x
        for level in range(len(stack.layers)):
            mean, scale = stack[level].encoder(below, None if level else seen).parameters
            noise = torch.randn(samples, *mean.shape[-2:], dtype=mean.dtype)
            h = mean + scale * noise
            log_q = Normal(mean, scale).log_prob(h).sum(-1)
            log_p = stack[level].decoder(h).log_prob(below, None if level else seen)
            total = total + torch.where(
                torch.ones(batch.rows, dtype=torch.bool) if present is None else present,
                log_p - log_q,
                0,
            )
            below = h
        tops.append(below.expand(samples, *below.shape[-2:]))
    return total + model.prior.log_prob(torch.cat(tops, -1), model.code_seen(batch))


@every_continuous
@both_batches
@pytest.mark.parametrize("samples", [1, 5])
def test_elbo_is_the_gradient_of_the_elbo_written_out(name: str, holes: bool, samples: int) -> None:
    model = zoo.continuous_models()[name]()
    batch = zoo.batch(model, holes=holes)
    found = zoo.gradients(model, batch, Backprop(samples))
    model.zero_grad()
    torch.manual_seed(zoo.SEED)
    (-noisy_elbo(model, batch, samples)).mean().backward()
    zoo.assert_same(found, zoo.told(model))


@every_continuous
@both_batches
def test_iwae_is_the_gradient_of_the_importance_weighted_bound(name: str, holes: bool) -> None:
    model = zoo.continuous_models()[name]()
    batch = zoo.batch(model, holes=holes)
    found = zoo.gradients(model, batch, Backprop(5, "iwae"))
    model.zero_grad()
    torch.manual_seed(zoo.SEED)
    log_w = noisy_elbo(model, batch, 5)
    (math.log(5) - log_w.logsumexp(0)).mean().backward()
    zoo.assert_same(found, zoo.told(model))


@pytest.mark.parametrize("bound", ["iwae", "dreg"])
@every_continuous
def test_one_sample_of_any_bound_teaches_decoders_as_the_elbo_does(name: str, bound: str) -> None:
    model = zoo.continuous_models()[name]()
    batch = zoo.batch(model)
    elbo, other = (zoo.gradients(model, batch, Backprop(1, b)) for b in ("elbo", bound))
    zoo.assert_same(elbo, other, only="decoder")
    if bound == "iwae":
        zoo.assert_same(elbo, other)


@pytest.mark.parametrize("name", ONE_LAYER)
@both_batches
def test_one_layer_of_target_propagation_is_the_elbo(name: str, holes: bool) -> None:
    model = ONE_LAYER[name]()
    batch = zoo.batch(model, holes=holes)
    local = zoo.gradients(model, batch, TargetPropagation())
    zoo.assert_same(local, zoo.gradients(model, batch, Backprop()))


@pytest.mark.parametrize("name", ONE_LAYER)
@both_batches
def test_one_layer_of_target_propagation_with_samples_is_dreg(name: str, holes: bool) -> None:
    model = ONE_LAYER[name]()
    batch = zoo.batch(model, holes=holes)
    local = zoo.gradients(model, batch, TargetPropagation(5))
    zoo.assert_same(local, zoo.gradients(model, batch, Backprop(5, "dreg")))


@every_depth
@pytest.mark.parametrize("target", ["decoder", "difference", "long"])
@pytest.mark.parametrize("group", ["decoder", "prior"])
def test_decoders_and_prior_get_their_exact_elbo_gradient(
    depth: int, target: str, group: str
) -> None:
    model = zoo.gaussian(depth)
    batch = zoo.batch(model, holes=True)
    local = zoo.gradients(model, batch, TargetPropagation(1, target))
    zoo.assert_same(local, zoo.gradients(model, batch, Backprop()), only=group)


@every_depth
@pytest.mark.parametrize("bound", ["iwae", "dreg"])
@pytest.mark.parametrize("group", ["decoder", "prior"])
def test_decoders_and_prior_get_their_exact_iwae_gradient(
    depth: int, bound: str, group: str
) -> None:
    model = zoo.gaussian(depth)
    batch = zoo.batch(model, holes=True)
    local = zoo.gradients(model, batch, TargetPropagation(5))
    zoo.assert_same(local, zoo.gradients(model, batch, Backprop(5, bound)), only=group)


def test_top_encoder_gets_its_exact_elbo_gradient() -> None:
    model = zoo.gaussian(3)
    batch = zoo.batch(model)
    local = zoo.gradients(model, batch, TargetPropagation())
    zoo.assert_same(local, zoo.gradients(model, batch, Backprop()), only="layers.2.encoder")


@both_batches
def test_discrete_target_propagation_is_the_wake_phase(holes: bool) -> None:
    model = zoo.bernoulli()
    batch = zoo.batch(model, holes=holes)
    local = zoo.gradients(model, batch, TargetPropagation(5))
    zoo.assert_same(local, zoo.gradients(model, batch, ReweightedWakeSleep(5, sleep=False)))


def layers_of(model: Model) -> Iterator[tuple[str, Stack, int]]:
    for modality, stack in model.named_stacks():
        for level in range(len(stack.layers)):
            yield modality, stack, level


@pytest.mark.parametrize("name", zoo.plain_models())
@both_batches
@torch.no_grad()
def test_weights_sum_to_one_and_weigh_decoders_prior_and_wake_alike(name: str, holes: bool) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model, holes=holes)
    paths = same_paths(model, batch, 5)
    weights = model.log_weights(paths, batch).softmax(0)
    found = parts(model, batch, ReweightedWakeSleep(5, sleep=False))
    prior = model.prior.loss(joint_code(paths), model.code_seen(batch))
    expected = {"prior.loss": (weights * prior).sum(0).mean()}
    for modality, stack, level in layers_of(model):
        path, layer = paths[modality], f"{modality}.{level + 1}"
        below, above = path.h[level : level + 2]
        seen, present = batch.seen[modality], batch.present(modality)
        there = weights if present is None else weights * present
        log_p = stack[level].decoder(above).log_prob(below, None if level else seen)
        log_q = path.laws[level].log_prob(above)
        expected[f"{layer}.reconstruction"] = -(there * log_p).sum(0).mean()
        expected[f"{layer}.wake"] = -(there * log_q).sum(0).mean()
    for part, value in expected.items():
        if part in found:
            torch.testing.assert_close(found[part], value, msg=part)
    assert expected.keys() >= {part for part in found if not part.startswith("account")}


def test_sleep_halves_the_wake_phase_and_adds_half_of_the_dreams() -> None:
    model = zoo.bernoulli()
    batch = zoo.batch(model)
    wake = parts(model, batch, ReweightedWakeSleep(5, sleep=False))
    both = parts(model, batch, ReweightedWakeSleep(5))
    dreams = model.decode(model.prior.sample((1, 20_000)))["x"]
    for level, layer in enumerate(zoo.only_stack(model).layers):
        torch.testing.assert_close(both[f"x.{level + 1}.wake"], wake[f"x.{level + 1}.wake"] / 2)
        big = model.decode(model.prior.sample((1, batch.rows)))["x"]
        assert big.h[level].shape[1] == batch.rows
        log_q = layer.encoder(dreams.h[level]).log_prob(dreams.h[level + 1]).detach()
        # six dreams against very many: five standard deviations of the mean of six
        error = SIGMAS * log_q.std() / math.sqrt(batch.rows) / 2
        assert (both[f"x.{level + 1}.sleep"] + log_q.mean() / 2).abs() < error


def log_q_above_its_mean(paths: dict[str, Path], batch: Batch) -> Tensor:
    """What log w lacks where log Q of a draw gives way to its mean, minus the entropy."""
    total = torch.zeros(())
    for name, path in paths.items():
        present = batch.present(name)
        for law, h in zip(path.laws, path.h[1:], strict=True):
            excess = (law.log_prob(h) + law.entropy()).detach()
            total = total + (excess if present is None else torch.where(present, excess, 0))
    return total


@pytest.mark.parametrize(("model_name", "rule_name"), list(zoo.trainings(*zoo.plain_models())))
def test_the_account_adds_up_to_the_bound(model_name: str, rule_name: str) -> None:
    model, rule = zoo.models()[model_name](), zoo.rules()[rule_name]()
    batch = zoo.batch(model, holes=True)
    paths = same_paths(model, batch, rule.samples)
    log_w = model.log_weights(paths, batch).detach()
    if isinstance(rule, TargetPropagation) and rule.samples == 1:
        log_w = log_w + log_q_above_its_mean(paths, batch)
    account = {n: v for n, v in parts(model, batch, rule).items() if n.startswith("account.")}
    kinds = ("prior", "reconstruction", "entropy")
    terms = [value for name, value in account.items() if name.endswith(kinds)]
    if any(model.named_stacks()):
        torch.testing.assert_close(torch.stack(terms).sum(), -log_w.mean())
    if "account.bound" in account:
        bound = math.log(rule.samples) - log_w.logsumexp(0)
        torch.testing.assert_close(account["account.bound"], bound.mean())


def from_above(model: Model, path: Path, target: str) -> list[Tensor]:
    """The targets ĥ_1, …, ĥ_L of a path, by the formulas of the rule's docstring."""
    stack, h = zoo.only_stack(model), path.h
    if target == "long":
        better = [path.code]
    else:
        better = [model.prior.reconstruct(path.code, path.laws[-1].stddev)]
    for level in reversed(range(1, len(stack.layers))):
        down = stack[level].decoder(better[0]).mean
        if target == "difference":
            down = h[level] + down - stack[level].decoder(h[level + 1]).mean
        better.insert(0, down)
    return better


@pytest.mark.parametrize("target", ["difference", "long"])
@pytest.mark.parametrize("depth", [2, 3, 4])
@torch.no_grad()
def test_targets_come_down_from_the_top(target: str, depth: int) -> None:
    model = zoo.gaussian(depth)
    batch = zoo.batch(model)
    path = same_paths(model, batch)["x"]
    with torch.enable_grad():
        found = parts(model, batch, TargetPropagation(1, target))
    better = from_above(model, path, target)
    for level in range(1, depth):
        decoder = zoo.only_stack(model)[level].decoder
        expected = -decoder(better[level]).log_prob(path.h[level]).mean()
        torch.testing.assert_close(found[f"x.{level}.target"], expected)


@torch.no_grad()
def test_a_code_that_is_data_is_its_own_target() -> None:
    model = zoo.with_raw_modality()
    batch = zoo.batch(model)
    paths = same_paths(model, batch)
    with torch.enable_grad():
        found = parts(model, batch, TargetPropagation(1, "difference"))
    spread = torch.zeros(1, batch.rows, 4, dtype=torch.float64)
    spread[..., :2] = paths["image"].laws[-1].stddev
    better = model.prior.reconstruct(joint_code(paths), spread)[..., :2]
    decoder = dict(model.named_stacks())["image"][1].decoder
    expected = -decoder(better).log_prob(paths["image"].h[1]).mean()
    torch.testing.assert_close(found["image.1.target"], expected)


ROWS, BLOCKS = 500, 60


def repeated(model: Model, rule: Rule, x: Tensor) -> dict[str, Tensor]:
    """A rule's gradient of one row, in BLOCKS independent means over ROWS repetitions."""
    batch = Batch.of(x.expand(ROWS, -1))
    found = [zoo.gradients(model, batch, rule, seed) for seed in range(BLOCKS)]
    return {name: torch.stack([block[name] for block in found]) for name in found[0]}


def deviations(blocks: Tensor, expected: Tensor | float = 0.0) -> Tensor:
    """How many standard errors the mean of the blocks is away from what is expected."""
    error = blocks.std(0) / math.sqrt(len(blocks)) + 1e-12
    return ((blocks.mean(0) - expected) / error).abs()


def exact_kl(model: Model, x: Tensor) -> Tensor:
    """KL(Q‖P) of one row up to a constant, where all encoders above the first are exact."""
    layer = zoo.only_stack(model)[0]
    mean, scale = layer.encoder(x).parameters
    A, b, sigma = zoo.affine(layer.decoder)
    q = MultivariateNormal(mean, torch.diag(scale**2))
    spread = 0.5 * (A.square() * scale**2 / sigma[:, None] ** 2).sum()
    reconstruction = spread - Normal(A @ mean + b, sigma).log_prob(x).sum()
    return reconstruction + kl_divergence(q, zoo.exact_marginal(model, 1))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_under_exact_encoders_the_expected_gradient_is_that_of_kl(depth: int) -> None:
    model = zoo.with_exact_upper_encoders(depth)
    x = 2 * zoo.randn(3)
    first = [n for n, p in model.named_parameters() if "layers.0.encoder" in n]
    first = [n for n in first if "missing" not in n]
    parameters = dict(model.named_parameters())
    slopes = torch.autograd.grad(exact_kl(model, x), [parameters[n] for n in first])
    found = repeated(model, TargetPropagation(), x)
    for name, slope in zip(first, slopes, strict=True):
        # at most 9 numbers, each within five standard errors of 30,000 repetitions
        assert deviations(found[name], slope).max() < SIGMAS, name
        assert deviations(found[name]).max() > 3 * SIGMAS, "the test would see nothing"


def test_without_exact_encoders_above_the_expected_gradient_is_another() -> None:
    model = zoo.with_exact_upper_encoders(2)
    upper = zoo.only_stack(model)[1].encoder
    with torch.no_grad():
        upper.net.first.bias += 0.5
    x = 2 * zoo.randn(3)
    local, exact = (repeated(model, rule, x) for rule in (TargetPropagation(), Backprop()))
    name = "stacks.x.layers.0.encoder.net.first.bias"
    assert deviations(local[name] - exact[name]).max() > 3 * SIGMAS
    upper_name = "stacks.x.layers.1.encoder.net.first.bias"
    assert deviations(local[upper_name] - exact[upper_name]).max() < SIGMAS


def tiny(depth: int) -> Model:
    """One real number under layers of one real number each, encoders not exact."""
    model = zoo.linear_gaussian((1,) * (depth + 1), prior="diagonal")
    with torch.no_grad():
        for low in zoo.only_stack(model).layers:
            low.encoder.net.first.bias += 0.4
    return model


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_dreg_and_iwae_have_the_same_expected_gradient(depth: int) -> None:
    model, x = tiny(depth), zoo.randn(1)
    dreg, iwae, elbo = (repeated(model, Backprop(3, b), x) for b in ("dreg", "iwae", "elbo"))
    seen = 0.0
    for name in dreg:
        assert deviations(dreg[name] - iwae[name]).max() < SIGMAS, name
        if "encoder" in name:
            seen = max(seen, deviations(elbo[name] - iwae[name]).max().item())
    assert seen > 3 * SIGMAS, "the test would see nothing"


def test_dreg_has_less_noise_than_iwae_where_encoders_are_near_exact() -> None:
    model = zoo.linear_gaussian((1, 1), prior="diagonal")
    x = zoo.randn(1)
    dreg, iwae = (repeated(model, Backprop(5, bound), x) for bound in ("dreg", "iwae"))
    name = "stacks.x.layers.0.encoder.net.first.bias"
    assert (dreg[name].std(0) < iwae[name].std(0)).all()


@pytest.mark.parametrize(("low", "high"), list(pairwise([1, 5, 50])))
def test_bounds_rise_with_samples(low: int, high: int) -> None:
    model = zoo.gaussian(2)
    batch = zoo.batch(model, 400)
    few, many = (
        parts(model, batch, Backprop(k, "iwae"))["account.bound"].item() for k in (low, high)
    )
    assert few > many


@pytest.mark.parametrize(
    ("rule", "model", "message"),
    [
        (TargetPropagation(1), zoo.bernoulli, "layers x.1, x.2, x.3 are discrete.*samples=5"),
        (TargetPropagation(1), zoo.mixed, "layers x.2 are discrete"),
        (TargetPropagation(1, "long"), zoo.mixed, "layers x.2 are discrete"),
        (Backprop(5, "dreg"), zoo.mixed, "layers x.2 are discrete.*bound='iwae'"),
        (Backprop(1, "dreg"), zoo.bernoulli, "layers x.1, x.2, x.3 are discrete"),
        (ReweightedWakeSleep(1, sleep=False), zoo.gaussian, "at least two samples"),
    ],
)
def test_rules_refuse_before_training_what_they_cannot_train(
    rule: Rule, model: Callable[[], Model], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rule.check(model())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TargetPropagation(0), "at least one sample a row, but got samples=0"),
        (lambda: ReweightedWakeSleep(0), "at least one sample a row"),
        (lambda: Backprop(-1), "at least one sample a row, but got samples=-1"),
        (lambda: TargetPropagation(1, "short"), "decoder, difference, long, but is 'short'"),
        (lambda: Backprop(1, "vae"), "elbo, iwae, dreg, but is 'vae'"),
    ],
)
def test_impossible_rules_are_refused(make: Callable[[], Rule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

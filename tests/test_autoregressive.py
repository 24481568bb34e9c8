"""The autoregressive law against sums over all its values, alone and as a family of layers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from genprop.autoregressive import AutoregressiveBernoulli
from genprop.conditional import Autoregressive
from genprop.data import Batch
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.priors.autoregressive import AutoregressivePrior
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.stack import LATENTS, Stack, is_discrete

DRAWS = 20_000


def make(
    elements: int = 4, units: int = 5, rows: tuple[int, ...] = (zoo.ROWS,), particles: int = 64
) -> AutoregressiveBernoulli:
    """A law whose elements depend strongly on each other."""
    weights = 2 * zoo.randn(elements, units), 2 * zoo.randn(elements, units)
    c, b = zoo.randn(*rows, units), zoo.randn(*rows, elements)
    return AutoregressiveBernoulli(c, b, *weights, particles=particles)


def with_particles(law: AutoregressiveBernoulli, particles: int) -> AutoregressiveBernoulli:
    return AutoregressiveBernoulli(*law.parameters, particles=particles)


def every(law: AutoregressiveBernoulli) -> Tensor:
    """All values, ``(values, 1, elements)``."""
    return zoo.support(law)[:, None]


def summed(law: AutoregressiveBernoulli, x: Tensor, seen: Tensor) -> Tensor:
    """Log P(x_seen) of each row, by a sum over all values."""
    agrees = ((every(law) == x) | ~seen).all(-1)
    return torch.where(agrees, law.log_prob(every(law)), -math.inf).logsumexp(0)


def by_loop(law: AutoregressiveBernoulli, x: Tensor) -> Tensor:
    """Log P(x), written as it is defined."""
    total = torch.zeros(x.shape[:-1], dtype=x.dtype)
    for j in range(x.shape[-1]):
        hidden = torch.sigmoid(law.c + x[..., :j] @ law.W[:j])
        p = torch.sigmoid(law.b[..., j] + hidden @ law.V[j])
        total = total + x[..., j] * p.log() + (1 - x[..., j]) * (1 - p).log()
    return total


def assert_mean(samples: Tensor, expected: Tensor, slack: float = 1e-12) -> None:
    """Within five standard errors of the mean over the first dimension, and the slack."""
    error = 5 * samples.std(0) / math.sqrt(len(samples)) + slack
    assert ((samples.mean(0) - expected).abs() <= error).all()


def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has even a small law computed a few elements at a time, and again in the backward pass."""
    monkeypatch.setattr("genprop.autoregressive.NUMBERS_AT_ONCE", 60)
    monkeypatch.setattr("genprop.autoregressive.PIECE", 60)


def test_all_values_have_total_probability_one() -> None:
    law = make(6)
    total = law.log_prob(every(law)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_elements_are_the_conditionals_of_the_joint() -> None:
    law = make()
    x = law.sample()
    for j in range(4):
        up_to = torch.arange(4) <= j
        before = torch.arange(4) < j
        expected = summed(law, x, up_to) - summed(law, x, before)
        torch.testing.assert_close(law.elements(x)[:, j], expected)


def test_draws_follow_the_law() -> None:
    law = make(rows=())
    which = (law.sample((DRAWS,)) @ torch.tensor([8.0, 4, 2, 1]).double()).long()
    counts = which.bincount(minlength=16)
    expected = DRAWS * law.log_prob(zoo.support(law)).exp()
    # Pearson's statistic of 16 outcomes; beyond this once in 100,000 such tests
    assert ((counts - expected).square() / expected).sum() < chi2.ppf(1 - 1e-5, 15)


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_log_prob_and_gradients_are_those_of_the_definition(
    pieces: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    law = make(7, 5)
    x = law.sample(shape).requires_grad_()
    wanted = [x, *(p.requires_grad_() for p in law.parameters)]
    expected = by_loop(law, x)
    if pieces:
        in_pieces(monkeypatch)
    found = law.log_prob(x)
    torch.testing.assert_close(found, expected)
    pull = zoo.randn(*found.shape)
    for a, b in zip(
        torch.autograd.grad(found, wanted, pull),
        torch.autograd.grad(expected, wanted, pull),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_what_a_graph_keeps_does_not_grow_with_elements_times_units() -> None:
    rows, elements, units = 200, 400, 300
    law = AutoregressiveBernoulli(
        *(torch.randn(*shape) for shape in [(rows, units), (rows, elements)]),
        *(0.1 * torch.randn(elements, units, requires_grad=True) for _ in range(2)),
    )
    x = law.sample()
    kept = 0

    def pack(tensor: Tensor) -> Any:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        law.log_prob(x).sum().backward()
    # twenty pieces of twenty elements: what each starts from, its values and its weights
    assert kept < 0.1 * rows * elements * units


@pytest.mark.parametrize("pieces", [False, True])
def test_a_mask_leaves_the_marginal_and_its_gradient(
    pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = make()
    parameters = [p.requires_grad_() for p in law.parameters]
    x = law.sample()
    if pieces:
        in_pieces(monkeypatch)
    for seen in zoo.patterns(law):
        found, expected = law.log_prob(x, seen), summed(law, x, seen)
        torch.testing.assert_close(found, expected)
        slopes = torch.autograd.grad(found.sum(), parameters, retain_graph=True)
        for a, b in zip(slopes, torch.autograd.grad(expected.sum(), parameters), strict=True):
            torch.testing.assert_close(a, b)


def test_particles_estimate_the_marginal_without_bias() -> None:
    law = make(5, particles=3)
    x, seen = law.sample(), torch.tensor([False, False, True, False, True])
    estimates = law.log_prob(x.expand(4000, zoo.ROWS, 5), seen)
    truth = summed(law, x, seen)
    assert_mean(estimates.exp(), truth.exp())
    assert (estimates.mean(0) < truth).all()
    assert (estimates.std(0) > 0.01).all()


def test_particles_estimate_the_gradient_of_the_marginal() -> None:
    law = make(5, particles=7)  # fewer than the values of three unseen elements
    parameters = [p.requires_grad_() for p in law.parameters]
    x, seen = law.sample(), torch.tensor([False, False, True, False, True])
    expected = torch.autograd.grad(summed(law, x, seen).sum(), parameters)
    found = [
        torch.autograd.grad(law.log_prob(x.expand(60, zoo.ROWS, 5), seen).mean(0).sum(), parameters)
        for _ in range(40)
    ]
    for slopes, slope in zip(zip(*found, strict=True), expected, strict=True):
        # weights that are made to sum to one bias it by about one in so many particles
        assert_mean(torch.stack(slopes), slope, slack=0.15 * float(slope.abs().max()))


def test_what_is_seen_up_to_the_last_element_is_exact_with_one_particle() -> None:
    law = make(8)
    one = with_particles(law, 1)
    x = law.sample()
    for last in range(9):
        seen = torch.arange(8) < last
        torch.testing.assert_close(one.log_prob(x, seen), summed(law, x, seen))
    assert (one.log_prob(x, torch.zeros(8, dtype=torch.bool)) == 0).all()
    slopes = [p.requires_grad_() for p in one.parameters]
    nothing = one.log_prob(x, torch.zeros(8, dtype=torch.bool)).sum()
    assert not any(slope.any() for slope in torch.autograd.grad(nothing, slopes))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([(), (3,), (1,), (2, 1), (2, 3)]), min_size=3, max_size=3),
    st.sampled_from([2, 64]),
    st.integers(0, 2**31),
)
def test_rows_of_any_shape_are_each_what_they_are_alone(
    shapes: list[tuple[int, ...]], particles: int, seed: int
) -> None:
    torch.manual_seed(seed)
    law = make(5, 3, rows=shapes[0], particles=particles)
    x = (torch.rand(*shapes[1], 5) < 0.5).double()
    seen = torch.rand(*shapes[2], 5) < 0.5
    whole = torch.broadcast_shapes(*((*shape, 5) for shape in shapes))
    log_prob = law.log_prob(x, seen)
    assert log_prob.shape == whole[:-1]
    conditional = law.given(x, seen)
    draws = conditional.sample((2, 3))
    assert draws.shape == (2, 3, *whole)
    assert conditional.mean.shape == whole
    assert ((draws == x) | ~seen).all()
    assert ((draws == 0) | (draws == 1)).all()
    exact = particles == 64
    for row, (c, b, value, mask) in enumerate(
        zip(
            law.c.expand(*whole[:-1], 3).reshape(-1, 3),
            *(v.expand(whole).reshape(-1, 5) for v in (law.b, x, seen)),
            strict=True,
        )
    ):
        alone = law.with_parameters(c, b, law.W, law.V)
        if exact or _is_exact(mask):
            torch.testing.assert_close(log_prob.reshape(-1)[row], alone.log_prob(value, mask))
        if exact:
            mean = conditional.mean.reshape(-1, 5)[row]
            torch.testing.assert_close(mean, alone.given(value, mask).mean)


def _is_exact(seen: Tensor) -> bool:
    """Whether at most one element before the last seen one is unseen."""
    places = seen.nonzero()[:, 0].tolist()
    return not places or places[-1] + 1 - len(places) <= 1


@pytest.mark.parametrize("particles", [1, 3, 64])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30, 7.0])
def test_what_is_not_seen_changes_nothing(particles: int, garbage: float) -> None:
    law = make(5, particles=particles)
    parameters = [p.requires_grad_() for p in law.parameters]
    x, seen = law.sample(), torch.tensor([False, True, False, False, True])
    outcomes = []
    for filled in (x, torch.where(seen, x, garbage)):
        torch.manual_seed(5)
        log_prob = law.log_prob(filled, seen)
        slopes = torch.autograd.grad(log_prob.sum(), parameters)
        outcomes.append((log_prob, law.given(filled, seen).sample((3,)), *slopes))
    for a, b in zip(*outcomes, strict=True):
        assert torch.equal(a, b)


def exact_moments(law: AutoregressiveBernoulli, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and second moments of one row given what is seen, by a sum over all values."""
    values = zoo.support(law)
    agrees = ((values == x) | ~seen).all(-1)
    p = torch.where(agrees, law.log_prob(values), -math.inf).softmax(0)
    return p @ values, values.T @ (p[:, None] * values)


@pytest.mark.parametrize(
    ("particles", "bias"),
    # of 2^5 values; without enough particles to list them, an error of about 1 / particles
    [(64, 1e-12), (30, 0.04)],
)
def test_conditionals_are_those_of_the_joint(particles: int, bias: float) -> None:
    law = make(6, 5, rows=(), particles=particles)
    x = law.sample()
    for unseen in ((0, 1, 2, 3, 4), (0, 3), (5,), (2, 3, 4, 5), ()):
        seen = torch.ones(6, dtype=torch.bool)
        seen[list(unseen)] = False
        # each of many rows has particles of its own
        rows = law.given(x.expand(DRAWS // 4, 6), seen)
        draws = rows.sample()
        mean, squares = exact_moments(law, x, seen)
        assert_mean(draws, mean, bias)
        assert_mean(draws[:, :, None] * draws[:, None], squares, bias)
        if len(unseen) <= math.log2(particles):
            torch.testing.assert_close(law.given(x, seen).mean, mean)


def test_one_conditional_gives_many_different_draws_where_nothing_stands_in_the_way() -> None:
    law = make(8, rows=(), particles=2)
    x, seen = torch.ones(8).double(), torch.arange(8) < 2
    draws = law.given(x, seen).sample((DRAWS,))
    expected = exact_moments(law, x, seen)[0]
    assert_mean(draws, expected)


def test_conditional_log_prob_is_joint_over_marginal() -> None:
    law = make(5)
    x = law.sample()
    for seen in zoo.patterns(law):
        expected = law.log_prob(x) - summed(law, x, seen)
        torch.testing.assert_close(law.given(x, seen).log_prob(x), expected)


@pytest.mark.parametrize("scale", [0.05, 0.5, 2.0, "elementwise"])
@pytest.mark.parametrize("particles", [64, 15])
def test_denoise_is_the_posterior_mean(scale: float | str, particles: int) -> None:
    law = make(4, particles=particles)
    width = zoo.widths(zoo.ROWS, 4) if scale == "elementwise" else torch.tensor(scale).double()
    y = law.sample((2,)) + width * zoo.randn(2, zoo.ROWS, 4)
    misfit = -0.5 * ((y - every(law)[:, None]) / width).square().sum(-1)
    weights = (law.log_prob(every(law))[:, None] + misfit).softmax(0)
    mean = (weights[..., None] * every(law)[:, None]).sum(0)
    if particles == 64:
        torch.testing.assert_close(law.denoise(y, width), mean)
    else:
        found = law.denoise(y.expand(1000, *y.shape), width)
        assert_mean(found, mean, slack=0.03)  # self-normalised: biased by about 1 / particles


@pytest.mark.parametrize("particles", [64, 3])
def test_denoise_keeps_what_was_seen_without_noise(particles: int) -> None:
    law = make(6, particles=particles)
    x = law.sample()
    scale = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]).double()
    found = law.denoise(x, scale)
    torch.testing.assert_close(found[:, ::2], x[:, ::2])
    assert torch.isfinite(law.denoise(torch.full_like(x, 0.5), scale)).all()
    torch.testing.assert_close(law.denoise(x, 1e-3), x)


def test_entropy_is_minus_the_mean_log_probability_or_says_the_way_out() -> None:
    law = make(5)
    log_p = law.log_prob(every(law))
    torch.testing.assert_close(law.entropy(), -(log_p.exp() * log_p).sum(0))
    assert make(5, rows=()).entropy().shape == ()
    with pytest.raises(ValueError, match=r"2\^7 vectors, more than particles=64; give more"):
        make(7).entropy()


def test_mean_is_exact_without_dependence_and_mode_is_greedy() -> None:
    law = make()
    c, b, W, V = law.parameters
    alone = law.with_parameters(c, b, 0 * W, V)
    x = every(alone)
    torch.testing.assert_close(alone.mean, (alone.log_prob(x).exp()[..., None] * x).sum(0))
    torch.testing.assert_close(alone.variance, alone.mean * (1 - alone.mean))
    p = law.log_prob(every(law)).exp()[..., None]
    torch.testing.assert_close(law.mean[:, 0], (p * every(law)).sum(0)[:, 0])
    assert ((law.logits(law.mode) > 0) == (law.mode == 1)).all()


def test_straight_through_draws_carry_the_gradient_of_the_mean() -> None:
    law = make()
    parameters = [p.requires_grad_() for p in law.parameters]
    x, pull = law.straight_through(), zoo.randn(zoo.ROWS, 4)
    assert ((x.detach() - x.detach().round()).abs() < 1e-12).all()
    found = torch.autograd.grad((pull * x).sum(), parameters)
    expected = torch.autograd.grad((pull * law.mean).sum(), parameters)
    torch.testing.assert_close(found, expected)


def test_detached_laws_carry_no_gradient_and_keep_their_particles() -> None:
    law = make(particles=5)
    for p in law.parameters:
        p.requires_grad_()
    x = law.sample()
    assert not x.requires_grad
    assert law.log_prob(x).requires_grad
    assert not law.detach().log_prob(x).requires_grad
    assert law.detach().particles == 5


@pytest.mark.parametrize("size", [1e3, 1e12])
def test_extreme_parameters_give_finite_numbers(size: float) -> None:
    law = make(8, particles=4)
    law = law.with_parameters(*(size * p for p in law.parameters))
    parameters = [p.requires_grad_() for p in law.parameters]
    x, seen = law.sample(), torch.rand(zoo.ROWS, 8) < 0.5
    numbers = (law.log_prob(x), law.log_prob(1 - x, seen), law.denoise(x, 0.3), law.mean)
    slopes = torch.autograd.grad(sum(n.sum() for n in numbers[:2]), parameters)
    for values in (*numbers, *slopes, law.given(1 - x, seen).mean):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make(particles=0), "need a particle, but got 0"),
        (lambda: Autoregressive(0), "but got elements=0, units=64 and particles=64"),
        (lambda: Autoregressive(2, 0), "elements=2, units=0"),
        (lambda: Autoregressive(2, particles=0), "particles=0"),
        (lambda: AutoregressivePrior(0), "at least one element"),
    ],
)
def test_impossible_laws_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_family_is_discrete_and_has_a_name() -> None:
    assert is_discrete(Autoregressive(3))
    assert "autoregressive" in LATENTS
    stack = Stack.build(Autoregressive(5), (4, 3), "autoregressive", units=(6,))
    for level, sizes in enumerate([(5, 4), (4, 3)]):
        layer = stack[level]
        assert (layer.below, layer.above) == sizes
        for side in (layer.encoder, layer.decoder):
            assert isinstance(side.family, Autoregressive)


def exact_log_prob(model: Model, x: Tensor, seen: Tensor) -> np.ndarray:
    """Log P(x_seen) of a model of two layers of zeros and ones, by a sum over all hidden values."""
    stack = zoo.only_stack(model)
    low, high = (zoo.support(make(stack[level].above)) for level in (0, 1))
    log_high = model.prior.log_prob(high)[:, None] + stack[1].decoder(high[:, None]).log_prob(low)
    log_x = stack[0].decoder(low[:, None]).log_prob(x, seen)
    joint = log_high[..., None] + log_x
    return joint.flatten(0, 1).logsumexp(0).detach().numpy()


@pytest.mark.parametrize("holes", [False, True])
def test_importance_sampling_agrees_with_the_sum_over_all_codes(holes: bool) -> None:
    model = zoo.autoregressive()
    x = zoo.batch(model, 20).x["x"]
    seen = torch.rand(x.shape) < (0.6 if holes else 1.1)
    estimate = importance(model, Batch.of(x, {"x": seen} if holes else None), samples=4000)
    error = estimate.log_prob - exact_log_prob(model, x, seen)
    # of 20 rows one leaves 4.5 standard errors once in 7,000 such tests
    assert (np.abs(error) <= 4.5 * estimate.std_error + 1e-6).all()


@pytest.mark.parametrize("rule", [ReweightedWakeSleep(5), TargetPropagation(5)])
def test_layers_learn_what_depends_on_each_other(rule: Any) -> None:
    """Two of three elements are copies: independent layers above nothing could not say that."""
    torch.manual_seed(1)
    first = torch.rand(300, 2) < 0.5
    x = torch.cat([first, first[:, :1]], -1).double()
    layers = Stack.build(Autoregressive(3, 8), (2,), "autoregressive", units=(8,))
    model = Model(layers, AutoregressivePrior(2, 8)).double()
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(100):
        adam.zero_grad()
        for term in rule(model, Batch.of(x)):
            if term.parts and term.value.requires_grad:
                term.value.backward()
        adam.step()
    found = importance(model, Batch.of(zoo.support(make(3))[[0, 2, 5, 7]]), samples=500)
    # the truth is a quarter each; a bit of it may be left with the four impossible values
    np.testing.assert_allclose(np.exp(found.log_prob), 0.25, atol=0.05)

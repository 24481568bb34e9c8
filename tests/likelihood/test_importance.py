"""Importance sampling against exact answers, and what its Estimate says of itself."""

import numpy as np
import pytest
import torch
import zoo

from genprop.conditional import unbounded_scale
from genprop.data import Batch
from genprop.likelihood.estimate import Estimate, estimate_from_weights, joined
from genprop.likelihood.exact import exact as closed
from genprop.likelihood.importance import importance
from genprop.likelihood.pareto import pareto_khat, pareto_smoothed
from genprop.likelihood.simulate import simulated
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.prior import Prior


def exact(model: Model, x: torch.Tensor, seen: torch.Tensor | None = None) -> np.ndarray:
    """Log P(x_seen) of a linear-Gaussian model, by the closed form."""
    return closed(model, Batch.of(x, seen)).log_prob


def with_wide_encoders(sizes: tuple[int, ...]) -> Model:
    """Q(h_l) = N(mean, (2 std)²) of P(h_l), whatever h_{l-1}: the weights P / Q are bounded."""
    model = zoo.linear_gaussian(sizes)
    ((_, stack),) = model.named_stacks()
    with torch.no_grad():
        for level in range(len(sizes) - 1):
            law = zoo.exact_marginal(model, level + 1)
            first = stack[level].encoder.net.first
            first.weight.zero_()
            first.bias.copy_(torch.cat([law.mean, unbounded_scale(2 * law.stddev)]))
    return model


@pytest.mark.parametrize("sizes", [(3, 2), (3, 2, 2), (4, 3, 2, 2)])
@pytest.mark.parametrize("holes", [False, True])
def test_it_agrees_with_the_exact_likelihood_within_its_error(sizes, holes):
    model = with_wide_encoders(sizes)
    x = zoo.exact_marginal(model).sample((20,))
    seen = torch.rand(x.shape) < 0.6 if holes else None
    estimate = importance(model, Batch.of(x, seen), samples=5000)
    error = estimate.log_prob - exact(model, x, seen)
    # of 20 rows one leaves 4.5 standard errors once in 7,000 such tests; rounding comes to 1e-6
    assert (np.abs(error) <= 4.5 * estimate.std_error + 1e-6).all()


def test_it_errs_to_the_side_it_says():
    model = zoo.linear_gaussian((3, 2, 2))
    x = zoo.exact_marginal(model).sample((40,))
    few = importance(model, Batch.of(x.repeat(200, 1)), samples=3)
    errors = (few.log_prob.reshape(200, 40) - exact(model, x)).mean(0)
    assert few.bound == "lower"
    assert errors.mean() < -3 * errors.std() / np.sqrt(errors.size)


def test_samples_are_streamed_to_the_same_law(monkeypatch):
    model = with_wide_encoders((3, 2))
    batch = Batch.of(zoo.exact_marginal(model).sample((10,)))
    whole = importance(model, batch, samples=3000)
    monkeypatch.setattr("genprop.likelihood.parts.NUMBERS_AT_ONCE", 40_000)
    parts = importance(model, batch, samples=3000)
    assert parts.samples == 3000
    spread = 4.5 * np.hypot(whole.std_error, parts.std_error)
    assert (np.abs(whole.log_prob - parts.log_prob) < spread).all()


def test_a_fill_value_is_not_noticed():
    model = zoo.linear_gaussian((3, 2))
    x = zoo.exact_marginal(model).sample((5,))
    seen = torch.rand(x.shape) < 0.5
    values = []
    for fill in (0.0, 1e6, float("nan")):
        torch.manual_seed(0)
        filled = torch.where(seen, x, fill)
        values.append(importance(model, Batch.of(filled, seen), samples=50).log_prob)
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


class Undensified(Prior):
    """A law without a density."""

    discrete = False

    def __init__(self):
        super().__init__()
        self.elements = 2

    def sample(self, shape):
        return torch.randn(*shape, 2)

    def loss(self, h, seen=None):
        return h.square().sum(-1)

    def reconstruct(self, h, scale):
        return h

    def condition(self, h, seen):
        raise AssertionError

    def refit(self, codes):
        pass


def test_a_prior_without_a_density_is_told_the_way_out():
    model = zoo.linear_gaussian((3, 2))
    model = Model(dict(model.named_stacks()), Undensified())
    with pytest.raises(TypeError, match="Undensified has none; use"):
        importance(model, Batch.of(torch.zeros(2, 3)), 10)
    with pytest.raises(ValueError, match="at least one sample"):
        importance(model, Batch.of(torch.zeros(2, 3)), 0)


def test_estimates_join_and_print_and_become_frames():
    weights = np.log(np.random.default_rng(0).exponential(size=(6, 500)))
    whole = estimate_from_weights(weights, pareto_khat(weights), "importance")
    split = joined(
        [estimate_from_weights(w, pareto_khat(w), "importance") for w in np.split(weights, 3)]
    )
    np.testing.assert_allclose(whole.log_prob, split.log_prob)
    assert list(whole.to_pandas().columns) == ["log_prob", "std_error", "ess", "khat"]
    assert len(whole.to_pandas()) == 6
    assert "6 rows, importance with 500 samples, lower bound" in str(whole)


def test_khat_tells_light_from_heavy_tails():
    rng = np.random.default_rng(0)
    light, heavy = rng.uniform(0.5, 1.5, (1, 20_000)), rng.pareto(1.0, (1, 20_000))
    assert pareto_khat(np.log(light))[0] < 0.3
    assert pareto_khat(np.log(heavy))[0] > 0.8
    assert np.isnan(pareto_khat(np.zeros((1, 10)))).all()


def test_one_row_has_no_error_of_the_mean():
    zeros = np.zeros(1)
    assert np.isnan(Estimate(zeros, zeros, zeros, zeros, 3, "point", "exact").mean_std_error)


def with_poor_encoders(width: float, shift: float = 0.0) -> Model:
    """Encoders as wide as the posterior's marginals times a factor, and off by some of them."""
    model = zoo.linear_gaussian((3, 2))
    layer = zoo.only_stack(model)[0]
    zoo.invert(layer, zoo.exact_marginal(model, 1), width)
    with torch.no_grad():
        bias = layer.encoder.net.first.bias
        bias[:2] += shift * layer.encoder(torch.zeros(3).double()).stddev
    return model


@pytest.mark.parametrize("options", [{"widen": 0.3}, {"refine": 40}, {"widen": 0.2, "refine": 40}])
def test_better_proposals_leave_the_answer_and_raise_the_effective_size(options):
    model = with_poor_encoders(0.4, shift=1.0)
    batch = Batch.of(zoo.exact_marginal(model).sample((40,)))
    truth = closed(model, batch).log_prob
    plain = importance(model, batch, 2000)
    better = importance(model, batch, 2000, **options)
    assert plain.unreliable > 0.5
    assert better.unreliable < plain.unreliable / 3
    assert np.median(better.ess) > 3 * np.median(plain.ess)
    # of 40 rows one leaves 4.5 standard errors once in 4,000 such tests
    assert (np.abs(better.log_prob - truth) < 4.5 * better.std_error).all()


@pytest.mark.parametrize("name", ["two-modalities", "nested-two-modalities", "bernoulli"])
def test_a_widened_proposal_agrees_on_every_kind_of_row(name):
    model = zoo.models()[name]()
    batch = zoo.batch(model, rows=8, holes=True)
    one, other = importance(model, batch, 4000), importance(model, batch, 4000, widen=0.3)
    error = np.hypot(one.std_error, other.std_error)
    assert (np.abs(one.log_prob - other.log_prob) < 4.5 * error + 1e-9).all()


def test_a_refined_proposal_takes_rows_with_holes():
    model = zoo.two_modalities()
    batch = zoo.batch(model, rows=8, holes=True)
    one, other = importance(model, batch, 4000), importance(model, batch, 4000, refine=10)
    error = np.hypot(one.std_error, other.std_error)
    assert (np.abs(one.log_prob - other.log_prob) < 4.5 * error + 1e-9).all()
    assert all(p.grad is None for p in model.parameters())


def test_discrete_levels_cannot_be_refined_and_shares_are_shares():
    model = zoo.bernoulli()
    with pytest.raises(ValueError, match="are discrete"):
        importance(model, zoo.batch(model), 10, refine=3)
    for options in ({"widen": 1.0}, {"widen": -0.1}, {"refine": -1}):
        with pytest.raises(ValueError, match="share from 0 to below 1"):
            importance(model, zoo.batch(model), 10, **options)


@pytest.mark.parametrize("name", ["three-layers", "nested-two-modalities", "bernoulli"])
def test_simulated_paths_have_the_law_that_the_posterior_weighs(name):
    # E_P(h,x)[f / P(h, x)] of a normalised f over h is the integral of P(x), 1, for each x: here
    # the mean over x of the weights of the encoder's own draws and those of the model agree
    model = zoo.models()[name]()
    h, x = simulated(model, (1500,))
    posterior = Posterior(model, Batch.of(x), smooth=False)
    ratio = posterior.log_q(h[None]) - posterior.log_prob(h[None])
    # E[Q(h | x) / P(h, x) · P(x)] = 1, with P(x) known by importance sampling
    estimate = importance(model, Batch.of(x), 200)
    w = np.exp(ratio[0].detach().numpy() + estimate.log_prob)
    assert abs(w.mean() - 1) < 4.5 * w.std() / np.sqrt(len(w)) + 0.01


def test_smoothing_lowers_the_error_of_heavy_weights():
    rng = np.random.default_rng(0)
    log_w = np.log(rng.pareto(2.0, (400, 1000)) + 1e-9)  # their mean is 1
    smoothed, khat = pareto_smoothed(log_w)
    plain = np.log(np.exp(log_w).mean(1))
    assert np.median(np.abs(smoothed)) < np.median(np.abs(plain))
    np.testing.assert_allclose(np.sqrt((np.exp(smoothed) - 1) ** 2).mean(), 0.06, atol=0.03)
    assert 0.4 < khat.mean() < 0.6
    light = rng.uniform(0.5, 1.5, (20, 1000))
    np.testing.assert_allclose(pareto_smoothed(np.log(light))[0], np.log(light.mean(1)), atol=5e-3)


def test_bits_are_nats_by_the_logarithm_of_two():
    zeros = np.zeros(2)
    found = Estimate(
        np.log([0.5, 0.25]), zeros, zeros, zeros, 1, "point", "exact", zeros, zeros + 3
    )
    np.testing.assert_allclose(found.bits, [-1, -2])
    assert np.isclose(found.bits_per_dimension, 3 / 6)
    moved = found.shifted(zeros + 1)
    np.testing.assert_allclose(moved.log_prob, found.log_prob + 1)
    np.testing.assert_allclose(moved.smoothed, 1)
    assert np.isnan(Estimate(zeros, zeros, zeros, zeros, 1, "point", "x").bits_per_dimension)
    assert len(joined([found, moved]).dimensions) == 4

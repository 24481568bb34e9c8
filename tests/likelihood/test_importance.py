"""Importance sampling against exact answers, and what its Estimate says of itself."""

import numpy as np
import pytest
import torch
import zoo
from scipy.stats import kstest

from genprop.conditional import unbounded_scale
from genprop.data import Batch
from genprop.likelihood.estimate import Estimate, estimate_from_weights, joined
from genprop.likelihood.importance import importance
from genprop.likelihood.pareto import pareto_khat
from genprop.model import Model
from genprop.prior import Prior


@torch.no_grad()
def exact(model: Model, x: torch.Tensor, seen: torch.Tensor | None = None) -> np.ndarray:
    """Log P(x_seen) of a linear-Gaussian model, by algebra."""
    law = zoo.exact_marginal(model)
    values = []
    for row, mask in zip(x, torch.ones_like(x).bool() if seen is None else seen, strict=True):
        covariance = law.covariance_matrix[mask][:, mask]
        part = torch.distributions.MultivariateNormal(law.loc[mask], covariance)
        values.append(float(part.log_prob(row[mask])) if mask.any() else 0.0)
    return np.array(values)


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
    x = zoo.exact_marginal(model).sample((30,))
    seen = torch.rand(x.shape) < 0.6 if holes else None
    estimate = importance(model, Batch.of(x, seen), samples=20_000)
    error = estimate.log_prob - exact(model, x, seen)
    # of 30 rows one leaves 4.5 standard errors once in 5,000 such tests; rounding comes to 1e-6
    assert (np.abs(error) <= 4.5 * estimate.std_error + 1e-6).all()


def test_it_errs_to_the_side_it_says():
    model = zoo.linear_gaussian((3, 2, 2))
    x = zoo.exact_marginal(model).sample((40,))
    truth = exact(model, x)
    few = [importance(model, Batch.of(x), samples=3) for _ in range(200)]
    errors = np.stack([e.log_prob - truth for e in few]).mean(0)
    assert few[0].bound == "lower"
    assert errors.mean() < -3 * errors.std() / np.sqrt(errors.size)


def test_its_intervals_cover_at_their_nominal_rate():
    model = with_wide_encoders((3, 2))
    x = zoo.exact_marginal(model).sample((400,))
    estimate = importance(model, Batch.of(x), samples=4000)
    standard = (estimate.log_prob - exact(model, x)) / estimate.std_error
    # the z-scores of 400 rows: a Kolmogorov-Smirnov p below 1e-4 would be no accident
    assert kstest(standard, "norm").pvalue > 1e-4


def test_samples_are_streamed_to_the_same_law(monkeypatch):
    model = with_wide_encoders((3, 2))
    batch = Batch.of(zoo.exact_marginal(model).sample((10,)))
    whole = importance(model, batch, samples=3000)
    monkeypatch.setattr("genprop.likelihood.importance.NUMBERS_AT_ONCE", 2000)
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

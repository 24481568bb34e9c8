"""Poisson and negative binomial laws against sums over all counts, and their families."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from genprop.counting import NegativeBinomial, Poisson
from genprop.counts import Counts, IndependentNegativeBinomial, IndependentPoisson

EVERY = torch.arange(40_000, dtype=torch.float64)  # all counts that matter here
LOG_RATES = torch.tensor([-2.0, 0.5, 3.0, 6.0], dtype=torch.float64)
LOG_SIZES = torch.tensor([1.0, -0.5, -1.0, 2.0], dtype=torch.float64)
LOW = torch.tensor([-1.0, 0.0, 2.0, 0.0], dtype=torch.float64)
STEP = torch.tensor([0.5, 1.0, 3.0, 0.1], dtype=torch.float64)
LAWS = {
    "poisson": IndependentPoisson(LOG_RATES, LOW, STEP),
    "negative binomial": IndependentNegativeBinomial(LOG_RATES, LOG_SIZES, LOW, STEP),
}
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def grid() -> Tensor:
    return LOW + STEP * EVERY[:, None]


@every_law
def test_all_counts_have_total_probability_one(law: Counts) -> None:
    torch.testing.assert_close(law.elements(grid()).exp().sum(0), torch.ones(4).double())


@every_law
def test_moments_entropy_and_mode_are_those_of_the_sum(law: Counts) -> None:
    x, log_mass = grid(), law.elements(grid())
    p = log_mass.exp()
    torch.testing.assert_close((p * x).sum(0), law.mean)
    torch.testing.assert_close((p * (x - law.mean).square()).sum(0), law.variance)
    # counts farther than 12 standard deviations are left out of the entropy
    torch.testing.assert_close(law.entropy(), -(p * log_mass).sum(), rtol=1e-4, atol=0)
    torch.testing.assert_close(law.elements(law.mode), log_mass.max(0).values)


def test_masses_are_those_of_scipy() -> None:
    n = EVERY[:200, None]
    rate, size = LOG_RATES.exp(), LOG_SIZES.exp()
    poisson = stats.poisson(rate.numpy()).logpmf(n.numpy())
    binomial = stats.nbinom(size.numpy(), (size / (size + rate)).numpy()).logpmf(n.numpy())
    for law, expected in zip(LAWS.values(), (poisson, binomial), strict=True):
        np.testing.assert_allclose(law.log_mass(n).numpy(), expected, rtol=1e-9, atol=1e-9)


@every_law
def test_draws_are_on_the_grid_and_have_the_moments(law: Counts) -> None:
    torch.manual_seed(0)
    x = law.sample((50_000,))
    n = (x - LOW) / STEP
    torch.testing.assert_close(n, n.round(), rtol=0, atol=1e-9)
    assert ((x.mean(0) - law.mean).abs() < 5 * law.stddev / 50_000**0.5).all()
    torch.testing.assert_close(x.var(0), law.variance, rtol=0.1, atol=0)


@every_law
@pytest.mark.parametrize("scale", [0.02, 0.3, 3.0, 30.0])
@pytest.mark.parametrize("away", [0.0, 25.0])
def test_denoise_is_the_posterior_mean(law: Counts, scale: float, away: float) -> None:
    torch.manual_seed(1)
    y = law.sample() + scale * torch.randn(4).double() + away
    log_joint = law.elements(grid()) - 0.5 * ((y - grid()) / scale).square()
    expected = (log_joint.softmax(0) * grid()).sum(0)
    # where a law is wide the sum takes strides
    torch.testing.assert_close(law.denoise(y, scale), expected, rtol=1e-4, atol=1e-4)


@every_law
def test_what_is_below_zero_is_impossible(law: Counts) -> None:
    assert law.log_prob(LOW - STEP).item() == -math.inf


@every_law
@pytest.mark.parametrize("garbage", [-1.0, 1e30])
def test_a_count_that_is_not_seen_changes_neither_value_nor_slope(
    law: Counts, garbage: float
) -> None:
    parameters = [p.clone().requires_grad_() for p in law.parameters]
    seen = torch.tensor([True, False, True, False])
    x = law.sample()
    found = []
    for filled in (x, torch.where(seen, x, garbage)):
        log_prob = law.with_parameters(*parameters).log_prob(filled, seen)
        found.append((log_prob, *torch.autograd.grad(log_prob, parameters)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_units_are_those_of_standardised_counts() -> None:
    family = Poisson((2.0, 8.0), (4.0, 2.0))
    law = family(torch.zeros(2))
    n = torch.tensor([3.0, 8.0])
    x = (n - torch.tensor([2.0, 8.0])) / torch.tensor([4.0, 2.0])
    expected = stats.poisson([2.0, 8.0]).logpmf(n.numpy()).sum()
    assert law.log_prob(x).item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(law.mean, torch.zeros(2))


def test_clustered_counts_tend_to_poissons_as_the_size_grows() -> None:
    wide = IndependentNegativeBinomial(LOG_RATES, torch.full((4,), 20.0).double(), LOW, STEP)
    near = EVERY[:600, None]
    torch.testing.assert_close(
        wide.log_mass(near).exp(), LAWS["poisson"].log_mass(near).exp(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("make", [Poisson, NegativeBinomial])
@pytest.mark.parametrize("arguments", [((),), ((0.0,),), ((1.0,), (0.0,)), ((1.0,), (1.0, 1.0))])
def test_families_without_a_positive_mean_are_refused(make, arguments) -> None:
    with pytest.raises(ValueError, match="positive mean for each element"):
        make(*arguments)

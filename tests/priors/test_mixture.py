"""What only a mixture prior promises: EM that finds clusters, from any start alike."""

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from conditioning import PATTERNS, assert_conditional, known
from scipy.stats import chi2
from torch import Tensor

from genprop.conditional import unbounded_scale
from genprop.model import Model
from genprop.persistence import load_model, save_model
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.mixture import MixturePrior
from genprop.stack import Stack

COVARIANCES = ("diagonal", "full")
every_covariance = pytest.mark.parametrize("covariance", COVARIANCES)
ROWS = 4000


def prior(covariance: str, components: int = 3, elements: int = 2) -> MixturePrior:
    return MixturePrior(elements, components, covariance).double()


def clusters(covariance: str) -> MixturePrior:
    """Three clusters, eight or more of their widths apart, of unequal sizes."""
    truth = zoo.perturbed(prior(covariance), 0.3)
    with torch.no_grad():
        truth.loc.copy_(torch.tensor([[-9.0, 0.0], [0.0, 9.0], [9.0, -3.0]]))
    return truth


def likelihood(prior: MixturePrior | GaussianPrior, h: Tensor) -> float:
    return prior.log_prob(h).mean().item()


def covariances(prior: MixturePrior) -> Tensor:
    parts = prior.law.components
    return parts.covariance if prior.covariance == "full" else torch.diag_embed(parts.variance)


@every_covariance
def test_refit_finds_the_clusters(covariance: str) -> None:
    truth, found = clusters(covariance), prior(covariance)
    h = truth.sample((ROWS,))
    found.refit(h)
    best = min(
        permutations(range(3)),
        key=lambda order: (found.loc[list(order)] - truth.loc).square().sum(),
    )
    order = list(best)
    widths = covariances(truth).diagonal(dim1=-2, dim2=-1).sqrt()
    rows = ROWS * truth.law.weights[:, None]
    # five standard errors of a cluster's share, mean and covariances, of which the largest is that
    # of a variance; and EM's 1e-4 of the whole variance, about 50
    assert ((found.loc[order] - truth.loc).abs() < 5 * widths / rows.sqrt()).all()
    share = truth.law.weights
    assert ((found.law.weights[order] - share).abs() < 5 * (share / ROWS).sqrt()).all()
    error = 5 * math.sqrt(2) * widths[:, :, None] * widths[:, None, :] / rows.sqrt()[:, None] + 6e-3
    assert ((covariances(found)[order] - covariances(truth)).abs() < error).all()


@every_covariance
def test_refit_gains_what_maximum_likelihood_may(covariance: str) -> None:
    truth, found = clusters(covariance), prior(covariance)
    h = truth.sample((ROWS,))
    found.refit(h)
    gain = (found.log_prob(h) - truth.log_prob(h)).sum().item()
    freedom = sum(p.numel() for p in found.parameters()) - 1  # of the logits one is redundant
    if covariance == "full":
        freedom -= 3 * 3  # nor do the diagonal and what is above it count
    # clusters apart are as regular as one Gaussian: Wilks; what EM adds to the variances, a
    # hundredth of them, costs less than a thousandth of a nat a row
    assert -1e-3 * ROWS < gain < chi2.ppf(1 - 1e-5, freedom) / 2


@every_covariance
def test_refit_is_no_worse_than_the_gradient(covariance: str) -> None:
    h = clusters(covariance).sample((500,))
    learned = prior(covariance)
    start = likelihood(learned, h)
    search = torch.optim.Adam(learned.parameters(), lr=0.1)
    for _ in range(100):
        search.zero_grad()
        learned.loss(h).mean().backward()
        search.step()
    reached = likelihood(learned, h)
    learned.refit(h)
    assert start + 1 < reached <= likelihood(learned, h) + 1e-3


@every_covariance
def test_refit_depends_on_the_codes_alone(covariance: str) -> None:
    h = zoo.perturbed(prior(covariance)).sample((300,))
    numpys = np.random.get_state()[1].copy()
    torchs = torch.get_rng_state()
    a, b = zoo.perturbed(prior(covariance), 3.0), prior(covariance)
    torch.set_rng_state(torchs)
    a.refit(h)
    b.refit(h)
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(one, other)
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert torch.equal(torch.get_rng_state(), torchs)


@every_covariance
def test_refit_knows_no_units(covariance: str) -> None:
    h = clusters(covariance).sample((300,))
    a, b = prior(covariance), prior(covariance)
    units = torch.tensor([20.0, 0.05], dtype=torch.float64)
    a.refit(h)
    b.refit(5 + units * h)
    expected = a.log_prob(h) - units.log().sum()
    torch.testing.assert_close(b.log_prob(5 + units * h), expected, atol=1e-6, rtol=1e-6)


@every_covariance
def test_clusters_are_worth_more_than_one_gaussian(covariance: str) -> None:
    h = clusters(covariance).sample((2000,))
    gaussian, mixture = GaussianPrior(2, "full").double(), prior(covariance)
    gaussian.refit(h[:1000])
    mixture.refit(h[:1000])
    assert likelihood(mixture, h[1000:]) > likelihood(gaussian, h[1000:]) + 2


@every_covariance
def test_refit_is_finite_of_as_many_codes_as_components(covariance: str) -> None:
    found = prior(covariance)
    h = zoo.randn(3, 2)
    found.refit(h)
    assert all(torch.isfinite(p).all() for p in found.parameters())
    assert torch.isfinite(found.log_prob(h)).all()


def test_fewer_codes_than_components_are_refused() -> None:
    with pytest.raises(ValueError, match="10 components is fitted to at least as many codes, but"):
        MixturePrior(2).refit(torch.randn(9, 2))


def test_impossible_mixtures_are_refused() -> None:
    with pytest.raises(ValueError, match="elements=0 and components=10"):
        MixturePrior(0)
    with pytest.raises(ValueError, match="elements=2 and components=0"):
        MixturePrior(2, 0)
    with pytest.raises(ValueError, match="diagonal, full, but is 'spherical'"):
        MixturePrior(2, covariance="spherical")


@every_covariance
def test_a_saved_mixture_comes_back(covariance: str, tmp_path: Path) -> None:
    model = Model(Stack(elements=2), zoo.perturbed(prior(covariance)))
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model").prior
    h = model.prior.sample((5,))
    assert isinstance(loaded, MixturePrior)
    assert torch.equal(loaded.log_prob(h), model.prior.log_prob(h))


def six() -> MixturePrior:
    return MixturePrior(6, 3, "full").double()


def test_conditionals_in_six_dimensions_are_the_textbooks() -> None:
    truth, exact = known(), six()
    tril = torch.linalg.cholesky(truth.covariances)
    with torch.no_grad():
        exact.logits.copy_(truth.weights.log())
        exact.loc.copy_(truth.means)
        exact.log_scale.copy_(unbounded_scale(tril.diagonal(dim1=-2, dim2=-1)))
        exact.below.copy_(tril)
    h = truth.sample(len(PATTERNS))
    assert_conditional(exact.condition(h, PATTERNS), truth, h, PATTERNS)


def test_conditionals_in_six_dimensions_are_learned() -> None:
    truth, found = known(), six()
    found.refit(truth.sample(20_000))
    h = truth.sample(len(PATTERNS))
    # of 20000 codes a cluster has 4000 or more: what is known of it has a standard error of about
    # 1/60 of its width, and a conditional mean adds up to six of these
    assert_conditional(found.condition(h, PATTERNS), truth, h, PATTERNS, slack=0.1)

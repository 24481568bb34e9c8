"""What every prior promises, over the priors of the zoo."""

import math
from itertools import product

import pytest
import torch
import zoo
from scipy.stats import chi2
from torch import Tensor

from genprop.autoregressive import AutoregressiveBernoulli
from genprop.conditional import Bernoulli
from genprop.distributions import Product
from genprop.mixture import MixtureNormal
from genprop.prior import DensityPrior, LawPrior, Prior
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gaussian import GaussianPrior

DRAWS = 20_000
STEP = 0.3
AXIS = STEP * torch.arange(-80, 81, dtype=torch.float64)

every_prior = pytest.mark.parametrize("name", zoo.priors())
every_density = pytest.mark.parametrize(
    "name", [n for n, make in zoo.priors().items() if isinstance(make(), DensityPrior)]
)
# those whose marginals, conditionals and posterior means are known in closed form
every_law = pytest.mark.parametrize(
    "name", [n for n, make in zoo.priors().items() if isinstance(make(), LawPrior)]
)
# a law with hidden units or components has many best fits, and refit promises none of them
WITH_HIDDEN_UNITS = (AutoregressiveBernoulli, MixtureNormal)
every_law_of_one_fit = pytest.mark.parametrize(
    "name",
    [
        n
        for n, make in zoo.priors().items()
        if isinstance(prior := make(), LawPrior) and not isinstance(prior.law, WITH_HIDDEN_UNITS)
    ],
)


def make(name: str) -> Prior:
    return zoo.priors()[name]()


def density(name: str) -> DensityPrior:
    prior = make(name)
    assert isinstance(prior, DensityPrior)
    return prior


def codes(prior: Prior) -> tuple[Tensor, float]:
    """All codes ``(points, elements)``, or a grid over them, and the log of each one's weight."""
    if not prior.discrete:
        return torch.cartesian_prod(AXIS, AXIS), 2 * math.log(STEP)
    law = getattr(prior, "law", None)
    if isinstance(law, Product):
        return zoo.support(law), 0.0
    return torch.tensor(list(product((0.0, 1.0), repeat=prior.elements))).double(), 0.0


def completions(prior: Prior, h: Tensor, seen: Tensor) -> tuple[Tensor, float]:
    """Like ``codes``, but of those codes that agree with h where it is seen."""
    if prior.discrete:
        every_code = codes(prior)[0]
        return torch.unique(torch.where(seen, h, every_code), dim=0), 0.0
    axes = [value[None] if held else AXIS for value, held in zip(h, seen, strict=True)]
    return torch.cartesian_prod(*axes), math.log(STEP) * int((~seen).sum())


def masks(prior: Prior) -> Tensor:
    """All patterns of seen variables, ``(patterns, elements)``."""
    law = getattr(prior, "law", None)
    return zoo.patterns(law if isinstance(law, Product) else None, prior.elements)


@every_prior
@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    prior = make(name)
    h = prior.sample(shape)
    assert h.shape == (*shape, prior.elements)
    assert not h.requires_grad
    assert prior.loss(h).shape == shape
    assert prior.reconstruct(h, 0.5).shape == h.shape
    seen = torch.rand(h.shape) < 0.5
    assert prior.loss(h, seen).shape == shape
    assert prior.condition(h, seen).sample((2,)).shape == (2, *h.shape)


@every_prior
def test_discrete_codes_are_zeros_and_ones(name: str) -> None:
    prior = make(name)
    h = prior.sample((50,))
    assert bool(((h == 0) | (h == 1)).all()) == prior.discrete


@every_law
def test_loss_is_minus_log_prob(name: str) -> None:
    prior = density(name)
    h = prior.sample((6,))
    torch.testing.assert_close(prior.loss(h), -prior.log_prob(h))
    for seen in masks(prior):
        torch.testing.assert_close(prior.loss(h, seen), -prior.log_prob(h, seen))


@every_density
def test_loss_is_at_least_minus_log_prob(name: str) -> None:
    prior = density(name)
    h = prior.sample((3000,))
    gap = prior.loss(h) + prior.log_prob(h)
    # on average over the prior's own codes, so that it also holds (as Gibbs' inequality) of a loss
    # that bounds -log of another law than the density's; five standard errors
    assert gap.mean() + 5 * gap.std() / math.sqrt(3000) + 1e-3 > 0


@every_density
def test_total_probability_is_one(name: str) -> None:
    prior = density(name)
    h, log_weight = codes(prior)
    assert prior.log_prob(h).logsumexp(0).item() + log_weight == pytest.approx(0, abs=1e-4)


@every_law
def test_a_mask_leaves_the_marginal(name: str) -> None:
    prior = density(name)
    h = prior.sample(())
    for seen in masks(prior):
        whole, log_weight = completions(prior, h, seen)
        total = prior.log_prob(whole).logsumexp(0) + log_weight
        torch.testing.assert_close(prior.log_prob(h, seen), total, atol=1e-4, rtol=0)


@every_prior
def test_what_is_not_seen_changes_nothing(name: str) -> None:
    prior = make(name)
    h, seen = prior.sample((len(masks(prior)),)), masks(prior)
    torch.manual_seed(1)
    one = prior.loss(h, seen)
    torch.manual_seed(1)
    assert torch.equal(one, prior.loss(torch.where(seen, h, 1e30), seen))


@every_prior
def test_loss_is_differentiable_in_code_and_parameters(name: str) -> None:
    prior = make(name)
    h = prior.sample((6,)).requires_grad_()
    prior.loss(h).sum().backward()
    for p in (h, *prior.parameters()):
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()
        assert p.grad.abs().sum() > 0


@every_density
def test_draws_have_the_priors_moments(name: str) -> None:
    prior = density(name)
    all_codes, log_weight = codes(prior)
    p = (prior.log_prob(all_codes) + log_weight).exp()[:, None]
    h = prior.sample((DRAWS,))
    for draws, values in ((h, all_codes), (h[:, :1] * h, all_codes[:, :1] * all_codes)):
        # within five standard errors, and the grid's own error
        error = 5 * draws.std(0) / math.sqrt(DRAWS) + 1e-3
        assert ((draws.mean(0) - (p * values).sum(0)).abs() < error).all()


@every_law
@pytest.mark.parametrize("scale", [0.5, 1.0, "elementwise"])
def test_reconstruction_is_the_posterior_mean_and_tweedies_formula(
    name: str, scale: float | str
) -> None:
    prior = density(name)
    width = zoo.widths(prior.elements) if scale == "elementwise" else torch.tensor(scale).double()
    all_codes = codes(prior)[0]
    noisy = prior.sample((4,)) + width * zoo.randn(4, prior.elements)
    noisy.requires_grad_()
    misfit = -0.5 * ((noisy - all_codes[:, None]) / width).square().sum(-1)
    joint = prior.log_prob(all_codes)[:, None] + misfit
    (slope,) = torch.autograd.grad(joint.logsumexp(0).sum(), noisy, retain_graph=True)
    mean = (joint.softmax(0)[..., None] * all_codes[:, None]).sum(0)
    torch.testing.assert_close(mean, noisy + width**2 * slope, atol=1e-4, rtol=0)
    torch.testing.assert_close(prior.reconstruct(noisy, width), mean, atol=1e-4, rtol=0)


@every_law
def test_reconstruction_may_have_another_noise_in_every_element_of_every_row(name: str) -> None:
    prior = make(name)
    h, width = prior.sample((3, 4)), zoo.widths(3, 4, prior.elements)
    whole = prior.reconstruct(h, width)
    rows = [prior.reconstruct(a, b) for a, b in zip(h[0], width[0], strict=True)]
    torch.testing.assert_close(whole[0], torch.stack(rows))


@every_law
def test_condition_is_the_joint_over_the_marginal(name: str) -> None:
    prior = density(name)
    seen = masks(prior)
    h = prior.sample((len(seen),))
    conditional = prior.condition(h, seen).log_prob(h)
    torch.testing.assert_close(conditional, prior.log_prob(h) - prior.log_prob(h, seen))


@every_prior
def test_condition_holds_what_is_seen(name: str) -> None:
    prior = make(name)
    seen = masks(prior)
    h = prior.sample((len(seen),))
    draws = prior.condition(h, seen).sample((10,))
    assert torch.equal(draws[:, seen], h[seen].expand(10, -1))
    if prior.discrete:
        assert ((draws == 0) | (draws == 1)).all()


@every_law
def test_condition_draws_what_the_joint_says(name: str) -> None:
    prior = density(name)
    h = prior.sample(())
    for seen in masks(prior)[:-1]:
        whole = completions(prior, h, seen)[0]
        mean = prior.log_prob(whole).softmax(0) @ whole
        law = prior.condition(h, seen)
        draws = law.sample((DRAWS // 4,))
        # five standard errors, and the grid's own error
        error = 5 * draws.std(0) / math.sqrt(DRAWS / 4) + 1e-3
        assert ((draws.mean(0) - mean).abs() < error).all()
        torch.testing.assert_close(law.mean.detach(), mean.detach(), atol=1e-3, rtol=0)


@every_law_of_one_fit
def test_refit_finds_the_law_of_many_codes(name: str) -> None:
    truth, found = density(name), density(name)
    rows = 4000
    h = truth.sample((rows,))
    found.refit(h)
    gain = (found.log_prob(h) - truth.log_prob(h)).sum().item()
    freedom = sum(p.numel() for p in found.parameters())
    if not freedom:
        assert gain == 0
        return
    # Wilks: twice the gain of maximum likelihood over the truth is chi-squared; the weak pull of
    # a factorial prior towards zero costs less than a hundredth of a nat
    assert -0.01 < gain < chi2.ppf(1 - 1e-5, freedom) / 2


@every_law_of_one_fit
def test_refit_fits_anew_from_any_start(name: str) -> None:
    h = make(name).sample((500,))
    a, b = make(name), make(name)
    a.refit(h)
    b.refit(h)
    torch.testing.assert_close(a.loss(h), b.loss(h), atol=1e-3, rtol=1e-3)


@every_prior
def test_refit_leaves_codes_gradients_and_training_as_they_were(name: str) -> None:
    prior = make(name)
    kept = prior.sample((50,)).requires_grad_()
    codes = 1.0 * kept
    learned = [p.requires_grad for p in prior.parameters()]
    state = torch.get_rng_state()
    prior.refit(codes)
    assert kept.grad is None
    assert torch.equal(codes, kept)
    assert [p.requires_grad for p in prior.parameters()] == learned
    assert all(p.grad is None or not p.grad.any() for p in prior.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "name", ["standard", "full", "factorial-gaussian", "mixture-full", "parzen"]
)
def test_refit_touches_no_layer_below(name: str) -> None:
    model = zoo.gaussian()
    model.prior = make(name)
    layers = {n: p.clone() for n, p in model.stacks.named_parameters()}
    model.prior.refit(model.encode(zoo.batch(model, 50))["x"].code[0])
    for n, p in model.stacks.named_parameters():
        assert torch.equal(p, layers[n])
        assert p.grad is None


NOT_VARYING = ["diagonal", "full", "factorial-gaussian", "factorial-logistic", "parzen"]


@pytest.mark.parametrize("name", [*NOT_VARYING, "mixture-diagonal", "mixture-full"])
def test_refit_is_finite_where_codes_do_not_vary(name: str) -> None:
    prior = make(name)
    prior.refit(torch.ones(5, 2, dtype=torch.float64))
    h = prior.sample((3,))
    assert torch.isfinite(h).all()
    assert torch.isfinite(prior.loss(h)).all()


def test_refit_is_finite_where_units_never_change() -> None:
    prior = FactorialPrior(Bernoulli(2))
    prior.refit(torch.tensor([[0.0, 1.0]] * 20))
    assert torch.isfinite(prior.loss(torch.tensor([[1.0, 0.0]]))).all()
    torch.testing.assert_close(prior.law.mean, torch.tensor([0.0, 1.0]), atol=0.02, rtol=0)


@every_prior
def test_state_is_saved_and_loaded(name: str) -> None:
    prior, other = make(name), make(name)
    h = prior.sample((5,))
    other.load_state_dict(prior.state_dict())
    torch.manual_seed(1)
    one = prior.loss(h)
    torch.manual_seed(1)
    assert torch.equal(one, other.loss(h))


@every_prior
def test_no_gradient_makes_a_parameter_non_finite(name: str) -> None:
    prior = make(name)
    with torch.no_grad():
        for parameter_name, p in prior.named_parameters():
            if "scale" in parameter_name or parameter_name == "outputs":
                p.fill_(-1e6)
    h = prior.sample((5,))
    assert torch.isfinite(h).all()
    assert torch.isfinite(prior.loss(h)).all()


def test_standard_gaussian_is_what_torch_says() -> None:
    prior = GaussianPrior(3)
    h = torch.randn(5, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(h).sum(-1)
    torch.testing.assert_close(prior.log_prob(h), expected)
    assert not list(prior.parameters())


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_refit_sets_mean_and_covariance_of_the_codes(covariance: str) -> None:
    prior = GaussianPrior(3, covariance).double()
    h = zoo.randn(50, 3) @ zoo.randn(3, 3) + zoo.randn(3)
    prior.refit(h)
    expected = h.mT.cov(correction=0)
    if covariance == "diagonal":
        expected = expected.diag().diag()
    law = prior.law
    found = law.covariance if hasattr(law, "covariance") else torch.diag(law.variance)
    torch.testing.assert_close(law.mean, h.mean(0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_impossible_gaussian_priors_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one element, but got 0"):
        GaussianPrior(0)
    with pytest.raises(ValueError, match="standard, diagonal, full, but is 'banded'"):
        GaussianPrior(2, "banded")

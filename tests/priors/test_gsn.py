"""What only chains of corruptions and reconstructions promise."""

import math
from collections.abc import Callable

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor, nn

from genprop.conditional import (
    Autoregressive,
    Bernoulli,
    Categorical,
    Family,
    Gaussian,
    unbounded_scale,
)
from genprop.description import describe, rebuild
from genprop.distributions import IndependentBernoulli, IndependentNormal
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.prior import DensityPrior, FollowingPrior
from genprop.priors.gsn import ChainPrior, GSNPrior, NeighbourPrior
from genprop.rules.target import TargetPropagation

DRAWS = 20_000


def chains() -> dict[str, Callable[[], ChainPrior]]:
    """A prior of each kind, not at its starting point."""

    def gsn(family: Callable[[], Family], by: float) -> Callable[[], ChainPrior]:
        return lambda: zoo.perturbed(GSNPrior(family(), 0.6, 3, (6,), 4), by)

    return {
        "gaussian": gsn(lambda: Gaussian(2), 0.2),
        "gaussian-net": gsn(lambda: Gaussian(2, "net"), 0.2),
        "bernoulli": gsn(lambda: Bernoulli(3), 0.5),
        "categorical": gsn(lambda: Categorical((2, 3)), 0.5),
        "autoregressive": gsn(lambda: Autoregressive(3, 4), 0.5),
        "neighbour": zoo.neighbours,
    }


every_chain = pytest.mark.parametrize("name", chains())


def assert_mean(samples: Tensor, expected: Tensor, slack: float = 0.0) -> None:
    """Within five standard errors of the mean over the first dimension, and the slack."""
    error = 5 * samples.std(0) / math.sqrt(len(samples)) + slack + 1e-9
    assert ((samples.mean(0) - expected).abs() < error).all()


def assert_normal(draws: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Their mean and covariance are these, within five standard errors."""
    assert_mean(draws, mean)
    away = draws - mean
    assert_mean(away[:, :, None] * away[:, None], covariance)


def covariance(elements: int) -> Tensor:
    factor = zoo.randn(elements, elements)
    return factor @ factor.mT / elements + 0.3 * torch.eye(elements)


class Correlated(IndependentNormal):
    """N(loc, L Lᵀ), of which chains need no more than draws."""

    def __init__(self, loc: Tensor, tril: Tensor) -> None:
        super().__init__(loc, torch.ones_like(loc))
        self.tril = tril

    def draw(self, shape: torch.Size) -> Tensor:
        noise = zoo.randn(*shape, *self.loc.shape)
        return self.loc + (self.tril @ noise[..., None])[..., 0]


class CorrelatedFamily(Family):
    """Its outputs are loc and L."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.outputs = elements, elements + elements**2

    def forward(self, outputs: Tensor) -> Correlated:
        loc, tril = outputs.split((self.elements, self.elements**2), -1)
        return Correlated(loc, tril.unflatten(-1, (self.elements, self.elements)))


class Reversed(nn.Module):
    """P(h | h̃) for h ~ N(0, Σ), where some of h̃ is given without noise and some is absent."""

    def __init__(self, covariance: Tensor, noise: float) -> None:
        super().__init__()
        self.precision, self.noise = torch.linalg.inv(covariance), noise

    def forward(self, inputs: Tensor) -> Tensor:
        noisy, held, is_given, absent = inputs.chunk(4, -1)
        shown = noisy + held
        told = torch.where(absent > 0, 0, torch.where(is_given > 0, 1e10, self.noise**-2))
        left = torch.linalg.inv(self.precision + torch.diag_embed(told))
        loc = (left @ (told * shown)[..., None])[..., 0]
        return torch.cat([loc, torch.linalg.cholesky(left).flatten(-2)], -1)


def exact_chain(covariance: Tensor, noise: float, steps: int) -> GSNPrior:
    """The chain of N(0, Σ), whose reconstruction is the corruption's reverse."""
    prior = GSNPrior(CorrelatedFamily(len(covariance)), noise, steps=steps).double()
    prior.net = Reversed(covariance, noise)
    return prior


def test_the_chain_of_an_exact_reverse_rests_at_its_law() -> None:
    truth = covariance(4)
    draws = exact_chain(truth, 1.0, 40).sample((DRAWS,))
    assert_normal(draws, torch.zeros(4), truth)


@pytest.mark.parametrize("seen", [[0], [1, 4], [0, 2, 3, 5], []])
def test_the_clamped_chain_rests_at_the_conditional(seen: list[int]) -> None:
    truth = covariance(6)
    prior, h = exact_chain(truth, 1.0, 40), zoo.randn(6)
    mask = torch.zeros(6, dtype=torch.bool)
    mask[seen] = True
    draws = prior.condition(torch.where(mask, h, 1e30), mask).sample((DRAWS // 2,))
    assert torch.equal(draws[:, mask], h[mask].expand(DRAWS // 2, -1))
    gain = truth[~mask][:, mask] @ torch.linalg.inv(truth[mask][:, mask])
    left = truth[~mask][:, ~mask] - gain @ truth[mask][:, ~mask]
    assert_normal(draws[:, ~mask], gain @ h[mask], left)


def test_it_would_not_if_the_seen_were_corrupted_and_put_back() -> None:
    truth = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    prior, h = exact_chain(truth, 1.0, 1), torch.tensor([2.0, 0.0]).double().expand(DRAWS, 2)
    none = torch.zeros(2, dtype=torch.bool)
    for _ in range(40):
        drawn = prior._law(prior.corruption.draw(h), none).sample()
        h = torch.stack([torch.full((DRAWS,), 2.0).double(), drawn[:, 1]], -1)
    # the conditional mean is 1.6 and the variance 0.36
    assert h[:, 1].mean() < 1.45
    assert h[:, 1].var() > 0.4


def test_independent_units_rest_where_algebra_says() -> None:
    """The moments of h' = A(h + noise·ε) + σ·ε' at rest, which are not those of N(0, Σ)."""
    noise, sigma = 0.8, torch.tensor([0.3, 0.6]).double()
    A = 0.5 * torch.tensor([[1.0, 0.6], [-0.4, 0.8]]).double()
    prior = GSNPrior(Gaussian(2), noise, units=(), steps=40).double()
    with torch.no_grad():
        for p in prior.parameters():
            p.zero_()
        prior.net.first.weight[:, :2] = A
        prior.family.log_scale.copy_(unbounded_scale(sigma))
    at_rest = torch.zeros(2, 2).double()
    for _ in range(200):
        at_rest = A @ (at_rest + noise**2 * torch.eye(2)) @ A.mT + torch.diag(sigma**2)
    assert_normal(prior.sample((DRAWS,)), torch.zeros(2), at_rest)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "autoregressive"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("clamped", [False, True])
def test_draws_follow_the_law_of_the_chain(name: str, steps: int, clamped: bool) -> None:
    prior = chains()[name]()
    prior.steps = steps
    codes = zoo.support(prior.family(torch.zeros(prior.family.outputs)))
    mask = torch.zeros(prior.elements, dtype=torch.bool)
    mask[: 2 * clamped] = True  # a whole group of the categorical code
    held = codes[1]
    draws = prior.condition(held.expand(DRAWS, -1), mask).sample()
    counts = (draws[:, None] == codes).all(-1).double().sum(0)
    expected = DRAWS * law_of_chain(prior, codes, held, mask)
    possible = expected > 0
    assert not counts[~possible].any()
    statistic = ((counts - expected).square() / expected)[possible].sum()
    # beyond this once in 100,000 such tests
    assert statistic < chi2.ppf(1 - 1e-5, int(possible.sum()) - 1)


@torch.no_grad()
def law_of_chain(prior: ChainPrior, codes: Tensor, held: Tensor, mask: Tensor) -> Tensor:
    """The probability of each code after the chain's steps, by matrices over all codes."""
    squares = (codes[:, None] - codes).square()
    spread = (-0.5 * (prior.corruption.precision(codes)[0] * squares)[..., ~mask].sum(-1)).exp()
    kept = (codes[:, mask] == held[mask]).all(-1)
    law = prior._law(torch.where(mask, held, codes), mask)
    # what is drawn in place of a given element is not used: its values are summed over
    onto = ((torch.where(mask, held, codes)[:, None] == codes).all(-1)).double()
    back = law.log_prob(codes[:, None]).exp().T @ onto
    corrupt = spread * kept  # onto one corrupted code for each of the noisy part's values
    corrupt = corrupt / corrupt.sum(-1, keepdim=True)
    p = kept / kept.double().sum() @ back
    for _ in range(prior.steps - 1):
        p = p @ corrupt @ back
    return p


@pytest.mark.parametrize("walkback", [1, 4])
def test_the_loss_is_what_walkback_says(walkback: int) -> None:
    prior = zoo.perturbed(GSNPrior(Gaussian(2), 0.7, walkback, (6,), 4), 0.3).eval()
    h = prior.sample((5, 6))
    torch.manual_seed(3)
    found = prior.loss(h)
    torch.manual_seed(3)
    state, total = h, torch.zeros(5, 6).double()
    for step in range(walkback):
        noisy = state + 0.7 * zoo.randn(6, 2)
        law = prior.family(prior.net(torch.cat([noisy, torch.zeros(5, 6, 6)], -1)))
        total = total - law.log_prob(h) / walkback
        if step + 1 < walkback:
            state = law.sample()
    start = torch.distributions.Normal(0.0, math.sqrt(1.49))
    anchor = torch.distributions.kl_divergence(torch.distributions.Normal(h, 0.7), start)
    torch.testing.assert_close(found, total + anchor.sum(-1))


AXIS = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
STEP = float(AXIS[1] - AXIS[0])


def one_step(prior: GSNPrior, h: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss of codes ``(rows, 1)``, and -log of the law of one step, by quadrature."""
    law = prior._law(AXIS, torch.zeros(1, dtype=torch.bool))
    log_p = law.log_prob(h[:, None])
    weights = torch.distributions.Normal(h, prior.noise).log_prob(AXIS.T).exp() * STEP
    mean = -(weights * log_p).sum(-1) + prior.corruption.divergence(h)[:, 0]
    start = prior.corruption.start(h).log_prob(AXIS) + math.log(STEP)
    return mean, -(start + log_p).logsumexp(-1)


@pytest.mark.parametrize("scale", ["learned", "net"])
def test_the_mean_loss_bounds_the_law_of_one_step(scale: str) -> None:
    prior = zoo.perturbed(GSNPrior(Gaussian(1, scale), 0.6, 1, (5,)), 0.3)
    h = torch.linspace(-2, 2, 9).double()[:, None]
    mean, exact = one_step(prior, h)
    assert (mean > exact).all()
    # draws of a row share their noise, but rows do not
    found = prior.loss(h.repeat(2000, 1)).unflatten(0, (2000, 9))
    assert_mean(found, mean)


def test_the_mean_loss_of_an_exact_reverse_is_minus_log_prob() -> None:
    """For h ~ N(0, 1) the bound is tight, as P_0 is then the law of what is corrupted."""
    noise = 0.6
    prior = GSNPrior(Gaussian(1), noise, 1, ()).double()
    with torch.no_grad():
        for p in prior.parameters():
            p.zero_()
        prior.net.first.weight[0, 0] = 1 / (1 + noise**2)
        prior.family.log_scale.fill_(
            unbounded_scale(torch.tensor(noise / math.sqrt(1 + noise**2))).item()
        )
    h = torch.linspace(-2, 2, 9).double()[:, None]
    mean, exact = one_step(prior, h)
    expected = -torch.distributions.Normal(0.0, 1.0).log_prob(h[:, 0])
    torch.testing.assert_close(exact, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(mean, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "autoregressive"])
def test_the_mean_loss_bounds_the_law_of_one_discrete_step(name: str) -> None:
    prior = chains()[name]()
    prior.walkback, prior.steps = 1, 1
    codes = zoo.support(prior.family(torch.zeros(prior.family.outputs)))
    none = torch.zeros(prior.elements, dtype=torch.bool)
    exact = -law_of_chain(prior, codes, codes[0], none).log()
    loss = prior.loss(codes.repeat_interleave(4000, 0)).detach().unflatten(0, (len(codes), 4000))
    assert (loss.mean(1) + 5 * loss.std(1) / math.sqrt(4000) > exact).all()
    assert (loss.mean(1) > exact - 0.05).all()


@every_chain
def test_practice_changes_neither_the_value_nor_the_gradient_in_the_code(name: str) -> None:
    prior = chains()[name]()
    outcomes = []
    for training in (True, False):
        torch.manual_seed(5)
        h = prior.sample((7,)).requires_grad_()
        prior.train(training)
        loss = prior.loss(h)
        outcomes.append((loss, *torch.autograd.grad(loss.sum(), h)))
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b)


def test_practice_teaches_what_to_do_with_what_is_given_and_absent() -> None:
    prior = zoo.perturbed(GSNPrior(Gaussian(2), units=(6,)))
    h = prior.sample((50,))
    # inputs for what is given, and for what is said to be given or absent
    extra = slice(2, 8)
    slopes = {}
    for training in (True, False):
        prior.train(training)
        prior.zero_grad()
        prior.loss(h).mean().backward()
        slopes[training] = prior.net.first.weight.grad[:, extra]
    assert not slopes[False].any()
    assert (slopes[True].abs().sum(0) > 0).all()


@every_chain
def test_frozen_priors_do_not_practise(name: str) -> None:
    prior = chains()[name]()
    prior.requires_grad_(False)
    h = prior.sample((4,)).requires_grad_()
    prior.loss(h).sum().backward()
    assert h.grad is not None
    assert all(p.grad is None for p in prior.parameters())
    prior.requires_grad_(True)
    prior.loss(h).sum()
    assert all(p.requires_grad for p in prior.parameters())


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["gaussian", "bernoulli", "neighbour"]),
    st.sampled_from([(), (1,), (3,), (2, 3)]),
    st.sampled_from([(), (3,), (2, 1), (2, 3)]),
    st.sampled_from([math.nan, math.inf, -1e30]),
)
def test_codes_and_masks_of_any_shape(
    name: str, shape: tuple[int, ...], mask_shape: tuple[int, ...], garbage: float
) -> None:
    prior = chains()[name]()
    h, seen = prior.sample(shape), torch.rand(*mask_shape, prior.elements) < 0.5
    whole = torch.broadcast_shapes(shape, mask_shape)
    outcomes = []
    for filling in (0.0, garbage):
        torch.manual_seed(2)
        filled = torch.where(seen, h, filling)
        loss, draws = prior.loss(filled, seen), prior.condition(filled, seen).sample((2,))
        assert loss.shape == whole
        assert draws.shape == (2, *whole, prior.elements)
        outcomes.append((loss, draws))
    for a, b in zip(*outcomes, strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)
    nothing = prior.loss(h, torch.zeros(prior.elements, dtype=torch.bool))
    assert (nothing == 0).all()


def test_reconstruction_is_the_nets_at_its_own_noise_and_the_code_without() -> None:
    prior = zoo.perturbed(GSNPrior(Gaussian(2, "net"), 0.7, units=(6,)), 0.3)
    h = zoo.randn(5, 2)
    law = prior._law(h, torch.zeros(2, dtype=torch.bool))
    torch.testing.assert_close(prior.reconstruct(h, 0.7), law.mean)
    torch.testing.assert_close(prior.reconstruct(h, 0.0), h)
    assert torch.isfinite(prior.reconstruct(h, 100.0)).all()


@pytest.mark.parametrize("scale", [0.1, 0.6, 3.0, "elementwise"])
def test_reconstruction_is_exact_for_independent_gaussians(scale: float | str) -> None:
    noise, wide = 0.6, torch.tensor([0.5, 2.0]).double()
    prior = GSNPrior(Gaussian(2), noise, units=()).double()
    kept = wide**2 / (wide**2 + noise**2)
    with torch.no_grad():
        for p in prior.parameters():
            p.zero_()
        prior.net.first.weight[:, :2] = torch.diag(kept)
        prior.family.log_scale.copy_(unbounded_scale(noise * kept.sqrt()))
    width = zoo.widths(2) if scale == "elementwise" else torch.tensor(scale).double()
    h = 2 * zoo.randn(5, 2)
    truth = IndependentNormal(torch.zeros(2).double(), wide)
    torch.testing.assert_close(prior.reconstruct(h, width), truth.denoise(h, width))


@pytest.mark.parametrize("scale", [0.3, 1.0, "elementwise"])
def test_reconstruction_is_exact_for_independent_bits(scale: float | str) -> None:
    prior, odds = GSNPrior(Bernoulli(3), 0.4, units=()).double(), zoo.randn(3)
    told = math.log((1 - 0.2) / 0.2)
    with torch.no_grad():
        for p in prior.parameters():
            p.zero_()
        prior.net.first.weight[:, :3] = 2 * told * torch.eye(3)
        prior.net.first.bias.copy_(odds - told)
    width = zoo.widths(3) if scale == "elementwise" else torch.tensor(scale).double()
    y = IndependentBernoulli(odds).sample((5,)) + width * zoo.randn(5, 3)
    truth = IndependentBernoulli(odds)
    torch.testing.assert_close(prior.reconstruct(y, width), truth.denoise(y, width))


def three_modes(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of a mixture with weights 0.5, 0.3 and 0.2, its modes, and the weights."""
    modes = torch.tensor([[-1.5, -1.0], [1.5, -1.0], [0.0, 1.6]])
    shares = torch.tensor([0.5, 0.3, 0.2])
    which = torch.multinomial(shares, rows, replacement=True)
    return modes[which] + 0.25 * torch.randn(rows, 2), modes, shares


def learn(prior: ChainPrior, codes: Tensor, steps: int, lr: float = 0.01) -> None:
    """Mini-batches of 100, the rate falling to zero."""
    adam = torch.optim.Adam(prior.parameters(), lr=lr)
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.02, steps)
    for index in torch.randint(len(codes), (steps, 100)):
        adam.zero_grad()
        prior.loss(codes[index]).mean().backward()
        adam.step()
        falling.step()


def test_it_visits_separate_modes_in_proportion() -> None:
    torch.manual_seed(0)
    codes, modes, shares = three_modes(1000)
    prior = GSNPrior(Gaussian(2, "net"), noise=0.8, units=(64, 64))
    learn(prior, codes, 500)
    draws = prior.sample((2000,))
    distance, nearest = (draws[:, None] - modes).norm(dim=-1).min(-1)
    found = nearest.bincount(minlength=3) / len(draws)
    # a tenth for what the net has not learned, of which 0.01 is the draws' own error; a unit that
    # cannot say "here or there" leaves a share of the draws on their way between two modes
    assert ((found - shares).abs() < 0.1).all()
    assert (distance < 1.0).double().mean() > 0.75


def test_it_learns_what_one_element_tells_of_another() -> None:
    torch.manual_seed(0)
    first = torch.randn(2000, 1)
    codes = torch.cat([first, 0.8 * first + 0.6 * torch.randn(2000, 1)], -1)
    prior = GSNPrior(Gaussian(2, "net"), noise=1.0, units=(32,), steps=20)
    learn(prior, codes, 350)
    h, seen = torch.tensor([[1.5, 0.0], [-1.5, 0.0]]), torch.tensor([True, False])
    draws = prior.condition(h, seen).sample((2000,))[..., 1]
    # E = 0.8 · h and the scale is 0.6; 2,000 rows and a small net leave this much
    torch.testing.assert_close(draws.mean(0), torch.tensor([1.2, -1.2]), atol=0.2, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.full((2,), 0.6), atol=0.12, rtol=0)


def test_refit_makes_codes_more_probable(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    codes, _, _ = three_modes(100)
    prior = GSNPrior(Gaussian(2), units=(8,))
    monkeypatch.setattr("genprop.descent.PATIENCE", 3)
    monkeypatch.setattr("genprop.descent.CHECKS", 1)
    before = prior.loss(codes).mean()
    prior.refit(codes)
    assert prior.loss(codes).mean() < before - 0.2


def neighbours(target: str, noise: float = 0.5) -> tuple[NeighbourPrior, Tensor]:
    family = Gaussian(3, scale=0.5)
    prior = NeighbourPrior(family, noise, 2, (8,), 5, target=target, bank=40).double()
    codes = zoo.randn(30, 3)
    prior.follow(codes)
    return prior, codes


def test_the_nearest_target_is_the_nearest_code() -> None:
    prior, codes = neighbours("nearest")
    noisy = 1.5 * zoo.randn(4, 20, 3)
    every = torch.ones_like(noisy, dtype=torch.bool)
    found = prior.aim(noisy, noisy, every)
    assert torch.equal(found, codes[(noisy[..., None, :] - codes).norm(dim=-1).argmin(-1)])
    known = torch.tensor([True, False, True])
    away = (noisy[..., None, :] - codes)[..., known].norm(dim=-1)
    found = prior.aim(noisy, torch.where(known, noisy, 0), known.expand_as(noisy))
    assert torch.equal(found, codes[away.argmin(-1)])


def test_the_soft_target_is_a_step_of_the_mean_shift() -> None:
    prior, codes = neighbours("soft", noise=0.7)
    noisy = zoo.randn(20, 3).requires_grad_()
    kernels = -0.5 * ((noisy[:, None] - codes) / 0.7).square().sum(-1)
    (score,) = torch.autograd.grad(kernels.logsumexp(-1).sum(), noisy)
    every = torch.ones(20, 3, dtype=torch.bool)
    found = prior.aim(noisy, noisy, every)
    torch.testing.assert_close(found, (noisy + 0.49 * score).detach())


def test_the_soft_target_is_between_the_nearest_code_and_the_mean_of_all() -> None:
    noisy = zoo.randn(20, 3)
    every = torch.ones(20, 3, dtype=torch.bool)
    for noise, other in ((1e-3, "nearest"), (1e4, "mean")):
        prior, codes = neighbours("soft", noise)
        nearest = codes[(noisy[:, None] - codes).norm(dim=-1).argmin(-1)]
        limit = nearest if other == "nearest" else codes.mean(0).expand(20, 3)
        torch.testing.assert_close(prior.aim(noisy, noisy, every), limit, atol=1e-5, rtol=0)


def test_the_soft_target_of_bits_is_their_mean_given_the_corrupted_ones() -> None:
    prior = NeighbourPrior(Bernoulli(4), 0.4, target="soft", bank=20).double()
    codes = (torch.rand(15, 4) < 0.5).double()
    prior.follow(codes)
    noisy = (torch.rand(10, 4) < 0.5).double()
    differ = (noisy[:, None] - codes).abs().sum(-1)
    likelihood = 0.8 ** (4 - differ) * 0.2**differ
    expected = likelihood @ codes / likelihood.sum(-1, keepdim=True)
    every = torch.ones(10, 4, dtype=torch.bool)
    torch.testing.assert_close(prior.aim(noisy, noisy, every), expected)


def test_neighbours_teach_the_net_and_the_net_teaches_the_code() -> None:
    prior = zoo.neighbours()
    same = GSNPrior(prior.family, prior.noise, prior.walkback, prior.units, prior.steps).double()
    same.net.load_state_dict(prior.net.state_dict())
    h = zoo.randn(7, 2).requires_grad_()
    losses = []
    for each in (prior, same):
        torch.manual_seed(4)
        loss = each.eval().loss(h)
        losses.append((loss, *torch.autograd.grad(loss.sum(), h)))
    for a, b in zip(*losses, strict=True):
        torch.testing.assert_close(a, b)
    # with one code and no more walkback the net learns to say that code, whatever h is
    only = torch.tensor([[0.3, -0.7]]).double()
    prior = NeighbourPrior(Gaussian(2, 0.5), 0.5, 1, (8,), 5, bank=3).double()
    prior.follow(only)
    learn(prior, 2 * zoo.randn(1000, 2), 150, lr=0.03)
    found = prior.reconstruct(2 * zoo.randn(20, 2), 0.5)
    torch.testing.assert_close(found, only.expand(20, 2), atol=0.15, rtol=0)


def test_it_follows_codes_evenly_and_says_so_if_there_are_none() -> None:
    prior = NeighbourPrior(Gaussian(1, 0.5), bank=4)
    with pytest.raises(ValueError, match="has none yet; give it some by follow"):
        prior.loss(torch.zeros(2, 1))
    prior.follow(torch.arange(8.0)[:, None])
    assert prior.codes[:, 0].tolist() == [0, 2, 4, 6]
    prior.follow(torch.tensor([[5.0]]))
    h = torch.zeros(3, 1)
    assert (prior.aim(h, h, torch.ones(3, 1, dtype=torch.bool)) == 5).all()
    assert prior.codes.shape == (4, 1)


@pytest.mark.parametrize("target", ["nearest", "soft"])
def test_its_chain_goes_to_codes(target: str) -> None:
    torch.manual_seed(0)
    _, codes, _ = three_modes(1)
    prior = NeighbourPrior(Gaussian(2, 0.2), 0.6, 1, (64, 64), 20, target)
    prior.follow(codes)
    learn(prior, codes.repeat(100, 1), 250)
    distance = torch.cdist(prior.sample((500,)), codes).min(-1).values
    # a scale of 0.2 leaves one draw of 20 further than 0.5 from the very code it is a draw of; a
    # small net, which cannot jump half-way between two codes, does the rest
    assert (distance < 0.5).double().mean() > 0.7


@every_chain
def test_priors_are_rebuilt_from_their_description_and_weights(name: str) -> None:
    prior = chains()[name]()
    again = rebuild(describe(prior)).double()
    again.load_state_dict(prior.state_dict())
    h = prior.sample((5,))
    for each in (prior, again):
        torch.manual_seed(3)
        each.last = each.loss(h)
    assert torch.equal(prior.last, again.last)


def test_it_has_no_density_and_importance_sampling_says_so() -> None:
    model = zoo.gaussian(2)
    model.prior = chains()["gaussian"]()
    assert not isinstance(model.prior, DensityPrior | FollowingPrior)
    assert isinstance(chains()["neighbour"](), FollowingPrior)
    with pytest.raises(TypeError, match="GSNPrior"):
        importance(model, zoo.batch(model), 5)


@pytest.mark.parametrize(
    ("name", "samples"),
    [("gaussian", 1), ("gaussian", 5), ("neighbour", 1), ("neighbour", 5), ("bernoulli", 5)],
)
def test_a_model_learns_with_it(name: str, samples: int) -> None:
    model: Model = zoo.bernoulli((4, 3)) if name == "bernoulli" else zoo.gaussian(2)
    model.prior = chains()[name]()
    batch = zoo.batch(model, holes=True)
    for term in TargetPropagation(samples)(model, batch):
        assert torch.isfinite(term.value)
        if term.parts and term.value.requires_grad:
            term.value.backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in model.prior.parameters()
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GSNPrior(Gaussian(2), walkback=0), "walkback=0 and steps=100"),
        (lambda: GSNPrior(Gaussian(2), steps=0), "walkback=1 and steps=0"),
        (lambda: GSNPrior(Gaussian(2), noise=0.0), "must be positive, but is 0.0"),
        (lambda: GSNPrior(Bernoulli(2), noise=1.5), "above 0 and at most 1, but is 1.5"),
        (lambda: NeighbourPrior(Gaussian(2), target="far"), "nearest, soft, but is 'far'"),
        (lambda: NeighbourPrior(Gaussian(2), bank=0), "at least one code, but got bank=0"),
    ],
)
def test_impossible_chains_are_refused(make: Callable[[], ChainPrior], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

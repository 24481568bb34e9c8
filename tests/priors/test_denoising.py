"""What only the denoising prior promises."""

import math
from functools import cache

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from genprop.description import describe, rebuild
from genprop.diffusion import mixing
from genprop.multivariate import JointNormal
from genprop.nets import constant
from genprop.priors.denoising import DenoisingPrior, _random_states

ELEMENTS, DRAWS = 6, 2000
STANDARD = JointNormal(torch.zeros(2).double(), torch.eye(2).double())


class Knowing(nn.Module):
    """The best u for codes of N(mean, covariance), whatever is noisy, given or absent."""

    def __init__(self, law: JointNormal) -> None:
        super().__init__()
        self.mean, self.covariance = law.mean, law.covariance

    def forward(self, z: Tensor, level: Tensor, rest: Tensor | None = None) -> Tensor:
        return self.with_trace(z, level, rest=rest)[0]

    def coupling(self, noisy: Tensor) -> None:
        return None

    def with_trace(
        self, z: Tensor, level: Tensor, coupling: None = None, rest: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        alpha, sigma = mixing(level)
        rest = z.new_zeros(*z.shape[:-1], 3 * z.shape[-1]) if rest is None else rest
        *states, held = rest.chunk(3, -1)
        patterns, which = unique(torch.cat(states, -1))
        given, absent = patterns.bool().chunk(2, -1)
        noisy = ~(given | absent)
        gain, spread = self.conditional(noisy, given)
        loc = self.mean + times(gain[which], torch.where(given[which], held - self.mean, 0))
        shown = torch.where(noisy[which], z - alpha * loc, 0)
        square = torch.eye(z.shape[-1]).double() * sigma[..., None] ** 2
        keep = alpha[..., None] * torch.linalg.solve(
            alpha[..., None] ** 2 * spread[which] + square, spread[which]
        )
        u = torch.where(noisy[which], (alpha * z - loc - times(keep.mT, shown)) / sigma, 0)
        kept = noisy[which].double() * (alpha - keep.diagonal(dim1=-2, dim2=-1))
        return u, (kept / sigma).sum(-1)

    def conditional(self, noisy: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """What the given elements add to the noisy ones' mean, and what variance they leave."""
        across = torch.where(noisy[:, :, None] & given[:, None, :], self.covariance, 0)
        block = torch.where(given[:, :, None] & given[:, None, :], self.covariance, 0)
        block = block + torch.diag_embed((~given).double())
        gain = torch.linalg.solve(block, across.mT).mT
        both = noisy[:, :, None] & noisy[:, None, :]
        return gain, torch.where(both, self.covariance - gain @ across.mT, 0)


def unique(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows, and which of them each is."""
    found, which = rows.reshape(-1, rows.shape[-1]).unique(dim=0, return_inverse=True)
    return found, which.reshape(rows.shape[:-1])


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("...ij,...j->...i", matrix, vector)


def gaussian() -> JointNormal:
    """A correlated law whose principal spreads are between 0.3 and 1.5."""
    turn = torch.linalg.qr(zoo.randn(ELEMENTS, ELEMENTS)).Q
    covariance = turn @ torch.diag(torch.linspace(0.3, 1.5, ELEMENTS).double() ** 2) @ turn.mT
    return JointNormal(0.5 * zoo.randn(ELEMENTS), torch.linalg.cholesky(covariance))


def knowing(law: JointNormal, **how: object) -> DenoisingPrior:
    """A prior whose net is the best for the law."""
    prior = DenoisingPrior(ELEMENTS, units=(1, 1), **how).double()
    prior.net = Knowing(law)
    return prior


def fresh(elements: int = 2, **how: object) -> DenoisingPrior:
    return DenoisingPrior(elements, units=(8, 8), **how).double()


def moved(elements: int = 2, **how: object) -> DenoisingPrior:
    return zoo.perturbed(fresh(elements, **how), 0.2)


def random_masks(rows: int, elements: int = ELEMENTS) -> Tensor:
    """Masks of four patterns, in any order."""
    return (torch.rand(4, elements) < 0.5)[torch.randint(4, (rows,))]


# ---- with the best net for a Gaussian ------------------------------------------------------------


def test_the_density_is_that_of_the_codes_that_the_net_knows() -> None:
    law = gaussian()
    prior, h = knowing(law), law.sample((300,))
    for seen in (None, random_masks(1).expand(300, -1), random_masks(300)):
        gap = prior.log_prob(h, seen) - law.log_prob(h, seen)
        # the ends: under 0.003 nats an element on average, more in the tails of a shifted law
        assert gap.mean().abs() < 0.003 * ELEMENTS
        assert gap.abs().max() < 0.3


def test_the_bound_is_tight_where_the_net_is_the_best() -> None:
    law = gaussian()
    prior = knowing(law, levels_per_row=1)
    repeats = 3000
    for seen in (None, torch.tensor([True, False, True, True, False, True])):
        for h in law.sample((3,)):
            loss = prior.loss(
                h.expand(repeats, -1), None if seen is None else seen.expand(repeats, -1)
            )
            # at most five standard errors (strata only make it smaller), and the ends
            error = 5 * loss.std() / math.sqrt(repeats) + 0.05
            assert (loss.mean() + law.log_prob(h, seen)).abs() < error


def test_reconstruction_is_the_posterior_mean_of_the_law_that_the_net_knows() -> None:
    law = gaussian()
    prior, h = knowing(law), 2 * zoo.randn(5, ELEMENTS)
    for scale in (0.1, 0.7, 5.0):
        torch.testing.assert_close(prior.reconstruct(h, scale), law.denoise(h, scale))
    torch.testing.assert_close(prior.reconstruct(h, 0.0), h)


@pytest.mark.parametrize("sampler", ["flow", "reverse"])
def test_both_samplers_draw_from_the_law_that_the_net_knows(sampler: str) -> None:
    law = gaussian()
    prior = knowing(law, sampler=sampler, steps=16 if sampler == "flow" else 30)
    assert_moments(prior.sample((DRAWS,)), law.mean, law.covariance)


def assert_moments(draws: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Within five standard errors, and one per cent for the steps and the ends."""
    spread = covariance.diagonal()
    error = 5 * (spread / DRAWS).sqrt() + 0.01
    assert ((draws.mean(0) - mean).abs() < error).all()
    both = (spread[:, None] * spread + covariance**2) / DRAWS
    assert ((draws.mT.cov() - covariance).abs() < 5 * both.sqrt() + 0.02).all()


@pytest.mark.parametrize("sampler", ["flow", "reverse"])
def test_conditional_draws_have_the_exact_mean_and_covariance(sampler: str) -> None:
    law = gaussian()
    prior = knowing(law, sampler=sampler, steps=16 if sampler == "flow" else 30)
    seen = torch.tensor([True, False, False, True, False, True])
    h = law.sample(())
    draws = prior.condition(torch.where(seen, h, 1e30), seen).sample((DRAWS,))
    assert torch.equal(draws[:, seen], h[seen].expand(DRAWS, -1))
    spread = Knowing(law).conditional(~seen[None], seen[None])[1][0]
    exact = law.given(h, seen).mean
    assert_moments(draws[:, ~seen], exact[~seen], spread[~seen][:, ~seen])


def test_conditional_density_is_exact_where_the_net_is() -> None:
    law = gaussian()
    prior, h, seen = knowing(law), law.sample((100,)), random_masks(100)
    gap = prior.condition(h, seen).log_prob(h) - law.given(h, seen).log_prob(h)
    assert gap.mean().abs() < 0.003 * ELEMENTS
    assert gap.abs().max() < 0.3


# ---- at the start, and of any net ----------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 3), max_size=3), st.booleans(), st.booleans())
def test_it_starts_as_the_standard_gaussian(shape: list[int], masked: bool, partly: bool) -> None:
    prior = fresh(steps=2)
    h = zoo.randn(*shape, 2)
    seen = torch.rand(h.shape) < 0.5 if masked and partly else None
    exact = STANDARD.log_prob(h) if seen is None else STANDARD.log_prob(h, seen)
    torch.testing.assert_close(prior.loss(h, seen), -exact)
    torch.testing.assert_close(prior.log_prob(h, seen), exact)
    torch.testing.assert_close(prior.reconstruct(h, 0.5), h / 1.25)


def test_at_the_start_reconstruction_is_exact_for_another_noise_in_every_element() -> None:
    h, scale = zoo.randn(5, 2), zoo.widths(5, 2)
    torch.testing.assert_close(fresh().reconstruct(h, scale), h / (1 + scale**2))


def test_draws_of_a_row_share_their_noise_and_rows_do_not() -> None:
    prior, h = moved(), zoo.randn(2)
    loss = prior.loss(h.expand(3, 4, 2))
    torch.testing.assert_close(loss, loss[:1].expand(3, 4))
    assert len(loss[0].unique()) == 4


def test_of_an_unseen_row_the_loss_and_the_log_density_are_zero() -> None:
    prior, h = moved(), zoo.randn(3, 2)
    seen = torch.tensor([[False, False], [True, False], [False, False]])
    for value in (
        prior.loss(h, seen),
        prior.log_prob(h, seen),
        prior.condition(h, ~seen).log_prob(h),
    ):
        assert torch.equal(value == 0, torch.tensor([True, False, True]))


def test_learning_of_conditionals_leaves_the_value_and_the_codes_gradient_alone() -> None:
    prior = moved()
    h = zoo.randn(5, 2).requires_grad_()
    values, grads, learned = [], [], []
    for training in (True, False):
        torch.manual_seed(1)
        prior.train(training).zero_grad()
        loss = prior.loss(h)
        values.append(loss)
        grads.append(torch.autograd.grad(loss.sum(), h, retain_graph=True)[0])
        loss.sum().backward()
        learned.append(prior.net.rest.weight.grad)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(grads[0], grads[1])
    assert learned[0].abs().sum() > 0
    assert learned[1] is None


def test_a_prior_held_constant_still_tells_codes_how_to_please_it() -> None:
    prior = moved()
    h = zoo.randn(5, 2).requires_grad_()
    torch.manual_seed(1)
    (free,) = torch.autograd.grad(prior.loss(h).sum(), h)
    torch.manual_seed(1)
    with constant(prior):
        (held,) = torch.autograd.grad(prior.loss(h).sum(), h)
        after = torch.rand(())
    torch.testing.assert_close(held, free)
    # nor does it spend any time, or noise, on what only its parameters could learn
    torch.manual_seed(1)
    prior.eval().loss(h)
    assert torch.equal(after, torch.rand(()))


def test_learned_levels_move_in_training_only() -> None:
    prior, h = moved(levels="learned"), zoo.randn(50, 2)
    start = prior.noise_levels.mass.clone()
    prior.eval().loss(h)
    with constant(prior.train()):
        prior.loss(h)
    assert torch.equal(prior.noise_levels.mass, start)
    prior.loss(h)
    assert not torch.equal(prior.noise_levels.mass, start)


def test_hutchinsons_estimate_is_within_its_error() -> None:
    law, h = moved(ELEMENTS, steps=3), zoo.randn(200, ELEMENTS)
    rough = moved(ELEMENTS, steps=3, divergence="hutchinson", probes=30)
    rough.load_state_dict(law.state_dict())
    for seen in (None, random_masks(200)):
        exact, none = law.estimate(h, seen)
        value, error = rough.estimate(h, seen)
        assert not none.any()
        assert (error > 0).all() if seen is None else error.any()
        # of 200 z-scores with 29 degrees of freedom the mean square is 29/27
        z = ((value - exact) / error.clamp_min(1e-12))[error > 1e-9]
        assert z.square().mean().item() == pytest.approx(29 / 27, abs=5 * math.sqrt(2.5 / len(z)))


def test_log_density_has_a_gradient_where_the_code_needs_one() -> None:
    prior, h = moved(steps=3), zoo.randn(3, 2)
    assert not prior.log_prob(h).requires_grad
    h.requires_grad_()
    torch.autograd.gradcheck(lambda x: prior.log_prob(x), h)
    with torch.no_grad():
        assert not prior.log_prob(h).requires_grad


def test_what_the_flow_draws_is_where_the_noise_went() -> None:
    prior = moved(steps=30)
    torch.manual_seed(1)
    h = prior.sample((5,))
    torch.manual_seed(1)
    noise = zoo.randn(5, 2)
    # change of variables: the density of the noise by the volume of the map
    volume = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda z: flow_of(prior, z), z).det().abs()
            for z in noise
        ]
    )
    exact = STANDARD.log_prob(noise) - volume.log()
    torch.testing.assert_close(prior.log_prob(h), exact, atol=1e-4, rtol=1e-4)


def flow_of(prior: DenoisingPrior, z: Tensor) -> Tensor:
    from genprop.diffusion import flow

    return flow(lambda x, level: (prior.net(x, level),), z, prior.steps, up=False)[0]


def test_many_rows_are_the_same_as_few() -> None:
    prior, h = moved(), zoo.randn(5000, 2)
    seen = torch.rand(5000, 2) < 0.5
    for mask in (None, seen):
        whole = prior.log_prob(h, mask)
        part = prior.log_prob(h[-7:], None if mask is None else mask[-7:])
        torch.testing.assert_close(whole[-7:], part)


# ---- after learning a law that is known ----------------------------------------------------------


def two_hills() -> MixtureSameFamily:
    hills = Normal(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([[0.3, 0.6], [0.5, 0.4]]))
    return MixtureSameFamily(Categorical(torch.tensor([0.4, 0.6])), Independent(hills, 1))


@cache
def learned(parts: tuple[int, ...] | None = None) -> DenoisingPrior:
    torch.manual_seed(3)
    prior = DenoisingPrior(2, units=(32, 32), parts=parts)
    updates = 300
    codes = two_hills().sample((updates, 128))
    adam = torch.optim.Adam(prior.parameters(), 8e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, updates)
    for batch in codes:
        adam.zero_grad()
        prior.loss(batch).mean().backward()
        adam.step()
        decay.step()
    return prior.eval()


def test_what_was_learned_is_a_law() -> None:
    axis = torch.linspace(-5, 5, 201)
    log_p = learned().log_prob(torch.cartesian_prod(axis, axis))
    assert log_p.exp().sum().item() * 0.05**2 == pytest.approx(1, abs=0.01)


def test_density_and_bound_are_near_the_truth_after_learning() -> None:
    prior, h = learned(), two_hills().sample((4000,))
    truth, density = two_hills().log_prob(h).mean(), prior.log_prob(h).mean()
    with torch.no_grad():
        bound = torch.stack([prior.loss(h) for _ in range(10)]).mean()
    # KL(truth‖P) and KL(truth‖P') of a small net after some seconds; N(0, I) is 0.94 nats away.
    # Both laws are normalised, so that neither can be better than the truth
    assert -0.02 < truth - density < 0.15
    assert -0.02 < truth + bound < 0.15
    assert (density + bound).abs() < 0.1


@pytest.mark.parametrize("parts", [None, (1, 1)])
def test_marginals_and_conditionals_are_learned(parts: tuple[int, ...] | None) -> None:
    prior, h = learned(parts), two_hills().sample((2000,))
    seen = torch.tensor([True, False]).expand(2000, 2)
    hills = two_hills().component_distribution.base_dist
    one = MixtureSameFamily(
        two_hills().mixture_distribution, Normal(hills.loc[:, 0], hills.scale[:, 0])
    )
    truth = one.log_prob(h[:, 0])
    assert (truth - prior.log_prob(h, seen)).mean() < 0.15
    rest = prior.condition(h, seen)
    assert (two_hills().log_prob(h) - truth - rest.log_prob(h)).mean() < 0.2
    weights = one.mixture_distribution.logits + one.component_distribution.log_prob(h[:, :1])
    above = (1 - hills.cdf(torch.zeros(2))[:, 1]) @ weights.softmax(-1).T
    assert (((rest.sample()[:, 1] > 0).float() - above).mean().abs()) < 0.05
    # the noise of draws alone would make this the mean of above · (1 - above)
    misfit = ((rest.sample((9,))[..., 1] > 0).float().mean(0) - above).square().mean()
    assert misfit < (above * (1 - above)).mean() / 9 + 0.06


@pytest.mark.parametrize("sampler", ["flow", "reverse"])
def test_draws_after_learning_are_like_the_codes(sampler: str) -> None:
    prior = DenoisingPrior(2, units=(32, 32), sampler=sampler, steps=30)
    prior.load_state_dict(learned().state_dict())
    draws, codes = prior.sample((DRAWS,)), two_hills().sample((DRAWS,))
    assert ((draws.mean(0) - codes.mean(0)).abs() < 0.1).all()
    assert ((draws.mT.cov() - codes.mT.cov()).abs() < 0.12).all()


def test_refit_learns_a_law() -> None:
    torch.manual_seed(0)
    prior = DenoisingPrior(2, units=(16, 16), masked=False)
    codes = two_hills().sample((400,))
    before = prior.log_prob(codes).mean()
    prior.refit(codes)
    assert prior.log_prob(two_hills().sample((2000,))).mean() > before + 0.15


def test_parts_practise_whole_and_at_levels_of_their_own() -> None:
    torch.manual_seed(0)
    seen = torch.rand(4000, 5) < 0.8
    noisy, given = _random_states(seen, (2, 3))
    assert not (noisy & (given > 0)).any()
    assert not (noisy | (given > 0))[~seen].any()
    told = torch.where(noisy, -1, given)  # -1 noisy, 0 absent, between seen through noise, 1 clear
    parts = [(told[:, part], seen[:, part]) for part in (slice(0, 2), slice(2, 5))]
    alike = torch.stack(
        [torch.where(s, t, -2).amax(1) == torch.where(s, t, 2).amin(1) for t, s in parts]
    ).all(0)
    # half the rows, and of those with parts in pieces about a fifth by chance
    assert 0.5 < alike.float().mean() < 0.75
    through = (given > 0) & (given < 1)
    assert 0.05 < through.float().mean() < 0.15  # of 0.8 / 3 that are given, a half of a half
    both = through[:, 0] & through[:, 2]
    assert (given[both, 0] != given[both, 2]).all()
    plain = _random_states(seen, None)[1]
    assert set(plain.unique().tolist()) == {0.0, 1.0}


def test_parts_make_up_the_code() -> None:
    for parts in ((2, 2), (3, 0), (4, -1)):
        with pytest.raises(ValueError, match="parts are the sizes of the codes that make up 3"):
            DenoisingPrior(3, parts=parts)


# ---- what it refuses, and what it keeps ----------------------------------------------------------


def test_without_masks_it_takes_whole_rows_only() -> None:
    prior, h = moved(masked=False), zoo.randn(3, 2)
    whole = torch.tensor([[True, True], [False, False], [True, True]])
    torch.manual_seed(1)
    assert (prior.loss(h, whole) == 0).tolist() == [False, True, False]
    torch.testing.assert_close(prior.log_prob(h, whole)[0], prior.log_prob(h)[0])
    for call in (prior.loss, prior.log_prob, prior.condition):
        with pytest.raises(ValueError, match="make it with masked=True"):
            call(h, torch.tensor([True, False]).expand(3, 2))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"elements": 0}, "at least one element"),
        ({"units": (8,)}, "two positive widths"),
        ({"levels": "uniform"}, "levels must be fixed or learned, but is 'uniform'"),
        ({"levels_per_row": 0}, "levels_per_row must be at least 1, but is 0"),
        ({"steps": 0}, "steps must be at least 1, but is 0"),
        ({"probes": 1}, "probes must be at least 2, but is 1"),
        ({"sampler": "langevin"}, "sampler must be one of flow, reverse, but is 'langevin'"),
        ({"divergence": "none"}, "divergence must be one of exact, hutchinson, but is 'none'"),
    ],
)
def test_impossible_priors_are_refused(how: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenoisingPrior(**{"elements": 2, **how})


def test_it_is_rebuilt_from_its_description_and_weights() -> None:
    prior = moved(3, levels="learned", sampler="reverse", steps=5)
    prior.loss(zoo.randn(9, 3))
    other = rebuild(describe(prior)).double()
    other.load_state_dict(prior.state_dict())
    assert describe(other) == describe(prior)
    h = zoo.randn(4, 3)
    assert torch.equal(other.log_prob(h), prior.log_prob(h))
    assert torch.equal(other.noise_levels.mass, prior.noise_levels.mass)


def test_candidates_bring_draws_to_the_conditional_that_the_density_implies() -> None:
    prior = zoo.perturbed(DenoisingPrior(2, units=(8, 8)))
    code, seen = torch.tensor([[0.75, 0.0]]).double(), torch.tensor([[True, False]])
    grid = torch.linspace(-6, 6, 1201).double()
    p = prior.log_prob(torch.stack([torch.full_like(grid, 0.75), grid], -1)).softmax(0)
    mean = float((p * grid).sum())
    spread = float((p * (grid - mean) ** 2).sum().sqrt())
    draws, misses = 4000, []
    for prior.candidates in (1, 8):
        found = prior.condition(code, seen).sample((draws,))
        assert (found[..., 0] == 0.75).all()
        misses.append(abs(float(found[..., 1].mean()) - mean) / spread)
    # 4,000 resampled draws of 32,000 err by 1.1/√4000 = 0.017; 0.07 is four times that
    assert misses[1] < 0.07 < misses[0], misses

"""Annealing: normalisers without bias, bounds from both sides, and weighted particles."""

import math

import pytest
import targets
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop.bridge import KernelMaker
from genprop.kernel import LogDensity
from genprop.samplers.annealed import Annealed, Plan, annealed, linear, pilot, sigmoid
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.langevin import MALA
from genprop.samplers.metropolis import Independence, MetropolisHastings

PARTICLES = 4000


def makers() -> dict[str, KernelMaker]:
    return {
        "hmc": lambda log_prob: HMC(log_prob, steps=3, step_size=0.5),
        "mala": mala,
        "random-walk": lambda log_prob: MetropolisHastings(log_prob, step_size=1.5),
    }


def mala(log_prob: LogDensity) -> MALA:
    return MALA(log_prob, step_size=0.8)


def assert_bias_free(weights: Tensor, expected: float = 1.0) -> None:
    """Their mean is 1, within five standard errors that are small enough to say something."""
    assert (weights.std(0) / math.sqrt(len(weights)) < 0.1).all()
    targets.assert_mean(weights, expected)


@pytest.mark.parametrize("maker", makers())
@pytest.mark.parametrize("target", targets.targets())
@pytest.mark.parametrize("resample", [0.0, 0.7])
def test_the_mean_weight_is_the_normaliser(maker: str, target: str, resample: float) -> None:
    law = targets.targets()[target]()
    # with resampling weights depend on each other, but 40 runs beside each other do not
    base = targets.wide().expand(torch.Size([40]))
    found = annealed(
        base, law.log_prob, makers()[maker], sigmoid(6), PARTICLES // 40, resample=resample
    )
    assert found.particles.shape == (PARTICLES // 40, 40, 2)
    assert_bias_free((found.log_normaliser - law.log_normaliser).exp())


@pytest.mark.parametrize("maker", makers())
def test_back_from_exact_draws_the_mean_of_inverse_weights_is_one_over_the_normaliser(
    maker: str,
) -> None:
    law = targets.gaussian(0.5)
    exact = law.sample(PARTICLES)
    base = targets.wide(1.0)  # inverse weights have a variance if it is not too broad
    found = annealed(base, law.log_prob, makers()[maker], linear(5), exact=exact)
    assert_bias_free((law.log_normaliser - found.log_weights).exp())
    # back at the base they are its draws
    reached = annealed(base, law.log_prob, makers()[maker], linear(60), exact=exact[:1000])
    targets.assert_mean(reached.particles.square(), 1.0)


@pytest.mark.parametrize("target", targets.targets())
def test_forth_and_back_enclose_the_normaliser(target: str) -> None:
    law = targets.targets()[target]()
    plan, base = linear(30), targets.wide()
    rows = base.expand(torch.Size([60]))
    exact = law.sample(8 * 60).reshape(8, 60, 2)
    low = annealed(rows, law.log_prob, mala, plan, 8).log_normaliser
    high = annealed(rows, law.log_prob, mala, plan, exact=exact).log_normaliser
    error = 5 * max(low.std().item(), high.std().item()) / math.sqrt(60)
    assert low.mean() < law.log_normaliser + error
    assert high.mean() > law.log_normaliser - error
    assert low.mean() < high.mean()
    # by 30 steps they have come close
    assert high.mean() - low.mean() < 1


def test_more_steps_bring_both_bounds_nearer() -> None:
    law, base = targets.banana(), targets.wide().expand(torch.Size([100]))
    exact = law.sample(400).reshape(4, 100, 2)
    gaps = []
    for steps in (2, 8, 32):
        low = annealed(base, law.log_prob, mala, linear(steps), 4).log_normaliser
        high = annealed(base, law.log_prob, mala, linear(steps), exact=exact).log_normaliser
        gaps.append((high.mean() - low.mean()).item())
    assert gaps[0] > gaps[1] > gaps[2] > 0


def test_without_a_way_to_go_it_is_importance_sampling() -> None:
    law, base = targets.modes(), targets.wide()
    torch.manual_seed(1)
    found = annealed(base, law.log_prob, mala, linear(1), 50)
    torch.manual_seed(1)
    x = base.sample((50,))
    torch.testing.assert_close(found.log_weights, law.log_prob(x) - base.log_prob(x))
    log_mean = found.log_weights.logsumexp(0) - math.log(50)
    torch.testing.assert_close(found.log_normaliser, log_mean)
    square = (2 * found.log_weights).logsumexp(0)
    torch.testing.assert_close(found.effective, (2 * found.log_weights.logsumexp(0) - square).exp())


def test_weighted_particles_are_draws_of_the_target() -> None:
    law = targets.modes(distance=12.0)
    base = targets.wide(6.0)
    plan = pilot(base, law.log_prob, mala, share=0.9)
    found = annealed(base, law.log_prob, mala, plan, PARTICLES, transitions=2, resample=0.5)
    right = (found.log_weights.softmax(0) * (found.particles[:, 0] > 0)).sum()
    # particles of one ancestor count as one: generous
    assert abs(right.item() - 0.7) < 0.1
    assert found.log_normaliser.item() == pytest.approx(law.log_normaliser, abs=0.2)


def test_every_row_has_temperatures_settings_and_a_normaliser_of_its_own() -> None:
    widths = torch.tensor([0.05, 1.0, 1.0]).double()[:, None]
    base = MultivariateNormal(torch.zeros(3, 2).double(), torch.eye(2).double())

    def log_prob(x: Tensor) -> Tensor:
        normal = -0.5 * (x / widths).square().sum(-1) - 2 * widths[:, 0].log()
        return normal - math.log(2 * math.pi) + torch.tensor([0.0, 5.0, -5.0]).double()

    plan = pilot(base, log_prob, mala, share=0.9, transitions=2)
    assert plan.beta.shape[1:] == (3,)
    assert (plan.beta.diff(dim=0) >= 0).all()
    assert torch.equal(plan.beta[[0, -1]], torch.tensor([[0.0] * 3, [1.0] * 3]).double())
    # where base and target are the same, one step is enough
    assert (plan.beta[1] == 1).tolist() == [False, True, True]
    found = annealed(base, log_prob, mala, plan, 400, transitions=2)
    expected = torch.tensor([0.0, 5.0, -5.0]).double()
    torch.testing.assert_close(found.log_normaliser, expected, atol=0.3, rtol=0)
    torch.testing.assert_close(found.log_normaliser[1:], expected[1:])
    assert found.acceptance.shape == (len(plan.beta) - 1, 3)


def test_a_pilot_makes_steps_of_equal_size_and_tunes_the_kernel() -> None:
    law = MultivariateNormal(torch.ones(5).double(), 0.01 * torch.eye(5).double())
    base = targets.wide(elements=5)
    plan = pilot(base, law.log_prob, mala, particles=200, share=0.8, transitions=3)
    found = annealed(base, law.log_prob, mala, plan, 1000, transitions=3)
    assert ((found.acceptance - 0.574).abs() < 0.2).all()
    assert plan.scale is not None
    # from the widths of the base to those of the target
    torch.testing.assert_close(plan.scale[-1], torch.full((5,), 0.1).double(), atol=0.04, rtol=0)
    assert found.log_normaliser.item() == pytest.approx(0, abs=0.5)
    untuned = annealed(base, law.log_prob, mala, Plan(plan.beta), 1000)
    assert untuned.log_weights.var() > 3 * found.log_weights.var()


def test_a_target_that_is_zero_or_no_number_somewhere_loses_particles_only() -> None:
    def half(x: Tensor) -> Tensor:
        normal = -0.5 * x.square().sum(-1) - math.log(2 * math.pi)
        return torch.where(x[..., 0] > 0, normal, torch.where(x[..., 1] > 0, math.nan, -math.inf))

    base = targets.wide(2.0).expand(torch.Size([50]))
    for resample in (0.0, 0.5):
        found = annealed(base, half, mala, linear(5), 100, resample=resample)
        assert torch.isfinite(found.particles).all()
        assert not torch.isnan(found.log_weights).any()
        assert_bias_free((found.log_normaliser - math.log(0.5)).exp())
    assert torch.isfinite(pilot(base, half, mala).beta).all()
    nowhere = annealed(base, lambda x: x[..., 0] * math.nan, mala, linear(3), 5, resample=0.5)
    assert (nowhere.log_normaliser == -math.inf).all()
    assert torch.isfinite(nowhere.particles).all()


def test_a_row_that_arrives_early_waits_for_the_others_without_harm() -> None:
    base = MultivariateNormal(torch.zeros(2, 1).double(), torch.eye(1).double())
    scale = torch.tensor([1.0, 0.1]).double()[:, None]

    def half(x: Tensor) -> Tensor:
        return torch.where(x > 0, -0.5 * (x / scale).square() - scale.log(), -math.inf).sum(-1)

    plan = pilot(base, half, mala, share=0.9)
    assert (plan.beta[2] == 1).tolist() == [True, False]
    found = annealed(base, half, mala, plan, 200)
    expected = torch.full((2,), 0.5 * math.log(math.pi / 2)).double()
    torch.testing.assert_close(found.log_normaliser, expected, atol=0.5, rtol=0)


def test_an_independence_proposal_anneals_bits() -> None:
    base = zoo.IndependentBernoulli(torch.zeros(4).double())
    bits = zoo.support(base)

    def log_prob(x: Tensor) -> Tensor:
        spins = 2 * x - 1
        return (spins * spins.roll(1, -1)).sum(-1)

    def make(log_density: LogDensity) -> MetropolisHastings:
        return MetropolisHastings(log_density, Independence.of(base))

    exact = log_prob(bits).logsumexp(0).item()
    plan = pilot(base, log_prob, make, share=0.9)
    found = annealed(base, log_prob, make, plan, PARTICLES)
    assert_bias_free((found.log_weights - exact).exp())


def test_the_same_seed_gives_the_same_particles_and_no_gradient_is_kept() -> None:
    mean = torch.ones(2).double().requires_grad_()

    def log_prob(x: Tensor) -> Tensor:
        return -(x - mean).square().sum(-1)

    runs: list[Annealed] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(annealed(targets.wide(), log_prob, mala, linear(4), 20, resample=0.9))
    assert torch.equal(runs[0].particles, runs[1].particles)
    assert not torch.equal(runs[0].particles, runs[2].particles)
    assert mean.grad is None
    assert not runs[0].log_weights.requires_grad


@pytest.mark.parametrize("plan", [linear(7), sigmoid(7), sigmoid(7, 2.0)])
def test_plans_rise_from_base_to_target(plan: Plan) -> None:
    assert plan.beta[0] == 0
    assert plan.beta[-1] == 1
    assert len(plan.beta) == 8
    assert (plan.beta.diff() > 0).all()
    torch.testing.assert_close(plan.beta + plan.beta.flip(0), torch.ones(8).double())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"particles": 0}, "particles=0"),
        ({"transitions": 0}, "transitions=0"),
        ({"resample": 1.5}, "and 1.5"),
        ({"resample": 0.5, "exact": torch.zeros(2, 2)}, "cannot resample"),
    ],
)
def test_impossible_runs_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annealed(targets.wide(), targets.modes().log_prob, mala, linear(2), **arguments)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one step, but got 0"):
        linear(0)
    with pytest.raises(ValueError, match="steepness must be positive"):
        sigmoid(3, 0.0)
    with pytest.raises(ValueError, match="at least two particles"):
        pilot(targets.wide(), targets.modes().log_prob, mala, particles=1)
    with pytest.raises(ValueError, match="law for each of them"):
        annealed(targets.wide(), lambda x: torch.zeros(7, 3), mala, linear(2), 7)


def test_a_target_that_is_too_far_is_said_to_be() -> None:
    far = MultivariateNormal(torch.full((2,), 1e4).double(), 1e-4 * torch.eye(2).double())
    with pytest.raises(RuntimeError, match="after 5 steps"):
        pilot(targets.wide(), far.log_prob, mala, most=5)

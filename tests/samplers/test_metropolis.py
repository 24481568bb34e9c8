"""Metropolis-Hastings: random walks, encoders as proposals, and ratios from a score."""

import math

import pytest
import targets
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop.distributions import IndependentNormal
from genprop.kernel import run
from genprop.leapfrog import score
from genprop.samplers.metropolis import (
    Independence,
    MetropolisHastings,
    RandomWalk,
    loop_residual,
    score_ratio,
)

CHAINS = 10_000


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def turning(x: Tensor) -> Tensor:
    """A field that turns round the origin: the gradient of nothing, its curl is 2."""
    return torch.stack([-x[..., 1], x[..., 0]], -1)


@pytest.mark.parametrize(("elements", "target"), [(1, 0.44), (5, 0.234)])
def test_a_random_walk_comes_near_the_acceptance_it_aims_at(elements: int, target: float) -> None:
    scales = torch.tensor([0.01, 100.0]).double()[:, None]
    kernel = MetropolisHastings(lambda x: normal(x / scales))
    start = scales * zoo.randn(40, 2, elements)
    state = run(kernel, start, draws=1, warmup=400).state
    acceptance = run(kernel, state, draws=60).info["acceptance"].mean((0, 1))
    # steps that go to and fro are rather too long
    assert ((acceptance > target - 0.12) & (acceptance < target + 0.05)).all()
    assert (state.step_size.std(0) > 0).all()


def test_an_independence_proposal_that_is_the_target_is_always_accepted() -> None:
    law = MultivariateNormal(torch.ones(3, 2).double(), torch.eye(2).double())
    kernel = MetropolisHastings(lambda x: law.log_prob(x) + 2, Independence.of(law))
    chain = run(kernel, zoo.randn(50, 3, 2), draws=3, warmup=3)
    torch.testing.assert_close(chain.info["acceptance"], torch.ones(50, 3, 3).double())
    assert torch.equal(chain.state.step_size, torch.full((50, 3), 0.5).double())


def test_an_encoder_proposes_and_the_posterior_of_every_row_comes_out() -> None:
    # h ~ N(0, 1), x ~ N(h, 0.5²); the encoder is too broad and beside the posterior
    x = torch.tensor([-1.0, 0.0, 2.0]).double()[:, None]
    encoder = IndependentNormal(0.6 * x, torch.tensor([0.7]).double())

    def log_prob(h: Tensor) -> Tensor:
        return normal(h) + normal((x - h) / 0.5)

    kernel = MetropolisHastings(log_prob, Independence.of(encoder))
    h = run(kernel, encoder.sample((CHAINS,)), draws=1, thin=25).draws[:, 0]
    targets.assert_mean(h, 0.8 * x)
    targets.assert_mean((h - 0.8 * x).square(), 0.2)


def test_the_integral_of_a_score_is_exact_for_gaussians() -> None:
    law = MultivariateNormal(zoo.randn(2), torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double())
    x, other = zoo.randn(5, 2), 3 * zoo.randn(5, 2)
    ratio = score_ratio(lambda x: score(law.log_prob, x)[1], points=2)
    torch.testing.assert_close(ratio(x, other), law.log_prob(other) - law.log_prob(x))


def test_the_integral_of_a_score_gets_better_with_the_square_of_the_points() -> None:
    log_prob = targets.banana().log_prob
    x, other = zoo.randn(50, 2), zoo.randn(50, 2)
    exact = log_prob(other) - log_prob(x)
    errors = [
        (score_ratio(lambda x: score(log_prob, x)[1], points)(x, other) - exact).abs().mean()
        for points in (9, 17)
    ]
    assert errors[0] < 0.1
    assert (errors[0] / errors[1]).item() == pytest.approx(4, rel=0.1)


def test_a_chain_of_ratios_is_the_chain_of_the_density() -> None:
    start, chains = zoo.randn(20, 2), []
    ratio = score_ratio(lambda x: -x)
    for kernel in (MetropolisHastings(normal), MetropolisHastings(None, log_ratio=ratio)):
        torch.manual_seed(1)
        chains.append(run(kernel, start, draws=20, warmup=20))
    density, ratios = chains
    torch.testing.assert_close(density.draws, ratios.draws)
    torch.testing.assert_close(
        density.info["log_prob"] - normal(start)[:, None], ratios.info["log_prob"]
    )


def test_a_denoiser_is_enough_to_leave_a_law_unchanged() -> None:
    law, noise = targets.modes(), 0.4

    def reconstruct(h: Tensor) -> Tensor:
        """E[h' | h' + noise·ε = h], where the law is that of h' + noise·ε."""
        return h + noise**2 * score(law.log_prob, h)[1]

    ratio = score_ratio(lambda h: (reconstruct(h) - h) / noise**2)
    before = law.sample(20_000)
    chain = run(MetropolisHastings(None, log_ratio=ratio, step_size=1.5), before, 1, thin=4)
    assert 0.2 < chain.info["accepted"].double().mean() < 0.8
    targets.assert_same_law(before, chain.draws[:, 0])


def test_a_closed_loop_in_a_gradient_field_is_zero() -> None:
    x = zoo.randn(20, 2)
    straight = loop_residual(lambda x: -x, x, 1.0)
    torch.testing.assert_close(straight, torch.zeros(20).double())
    bent = loop_residual(lambda x: score(targets.banana().log_prob, x)[1], x, 0.3, points=100)
    assert bent.abs().max() < 1e-3


def test_a_closed_loop_in_a_field_that_turns_is_its_curl_times_the_area() -> None:
    x = zoo.randn(20, 2)
    torch.manual_seed(1)
    found = loop_residual(turning, x, 0.3)
    torch.manual_seed(1)
    a, b = 0.3 * zoo.randn(20, 2), 0.3 * zoo.randn(20, 2)
    area = 0.5 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    torch.testing.assert_close(found, 2 * area)


def test_a_start_outside_the_support_is_refused() -> None:
    kernel = MetropolisHastings(lambda x: torch.where(x[..., 0] > 0, -x[..., 0], math.nan))
    with pytest.raises(ValueError, match="not finite at the start of 1 of 2 chains"):
        kernel.init(torch.tensor([[1.0], [-1.0]]))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="either log_prob or log_ratio"):
        MetropolisHastings(None)
    with pytest.raises(ValueError, match="either log_prob or log_ratio"):
        MetropolisHastings(normal, log_ratio=score_ratio(turning))
    with pytest.raises(ValueError, match=r"must be positive, but is 0\.0"):
        MetropolisHastings(normal, RandomWalk(), step_size=0.0)
    with pytest.raises(ValueError, match="points is 1"):
        score_ratio(turning, points=1)


def test_a_proposal_of_other_elements_is_refused() -> None:
    kernel = MetropolisHastings(normal, Independence.of(targets.wide(elements=3)))
    with pytest.raises(ValueError, match="over the same elements"):
        run(kernel, zoo.randn(4, 2), draws=1)

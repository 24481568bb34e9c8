"""Langevin dynamics, with and without a correction."""

import math

import pytest
import targets
import torch
import zoo
from torch import Tensor
from torch.distributions import Independent, Normal

from genprop.kernel import run
from genprop.leapfrog import score
from genprop.samplers.langevin import MALA, Langevin

CHAINS = 20_000


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def test_acceptance_is_that_of_metropolis_and_hastings() -> None:
    log_prob, step, scale = targets.banana().log_prob, 0.7, zoo.widths(6, 2)
    kernel = MALA(log_prob, step)
    state = kernel.init(zoo.randn(6, 2))._replace(scale=scale)
    torch.manual_seed(1)
    _, info = kernel.step(state)
    torch.manual_seed(1)

    def proposal(x: Tensor) -> Independent:
        drift = 0.5 * (step * scale) ** 2 * score(log_prob, x)[1]
        return Independent(Normal(x + drift, step * scale), 1)

    x = state.position
    there = proposal(x).mean + step * scale * torch.randn_like(x)
    odds = log_prob(there) + proposal(there).log_prob(x)
    odds = odds - log_prob(x) - proposal(x).log_prob(there)
    torch.testing.assert_close(info.acceptance, odds.exp().clamp(max=1))
    assert (info.acceptance < 1).any()


def test_every_chain_of_every_row_finds_its_own_step_and_scales() -> None:
    scales = torch.tensor([[1.0, 1.0], [0.01, 0.01], [1.0, 0.01]]).double()
    kernel = MALA(lambda x: normal(x / scales))
    state = run(kernel, scales * zoo.randn(100, 3, 2), draws=1, warmup=400).state
    strides = state.step_size[..., None] * state.scale
    found = (strides / scales).median(0).values
    # without the scales every element would move by the step of the narrowest
    assert ((found > 0.1) & (found < 3)).all()
    assert (state.step_size.std(0) > 0).all()
    acceptance = run(kernel, state, draws=50).info["acceptance"].mean((0, 1))
    assert ((acceptance - 0.574).abs() < 0.12).all()


@pytest.mark.parametrize("step", [0.3, 1.0])
def test_the_bias_of_dynamics_as_they_are_is_what_is_said(step: float) -> None:
    scale = 1.5
    kernel = Langevin(lambda x: -x / scale**2, step)
    expected = scale**2 / (1 - step**2 / (4 * scale**2))
    start = math.sqrt(expected) * zoo.randn(CHAINS, 2)
    chain = run(kernel, start, draws=1, thin=10)
    targets.assert_mean(chain.draws[:, 0].square() - start.square(), 0.0)
    assert chain.info["accepted"].all()


def test_dynamics_as_they_are_come_near_the_law() -> None:
    law = targets.modes()
    kernel = Langevin(lambda x: score(law.log_prob, x)[1], 0.1)
    exact = law.sample(CHAINS)
    moved = run(kernel, exact, draws=1, thin=20).draws[:, 0]
    # the bias is of the order of the square of the step
    assert (targets.statistics(moved) - targets.statistics(exact)).mean(0).abs().max() < 0.03


@pytest.mark.parametrize("outside", [math.nan, math.inf])
def test_no_chain_goes_where_the_score_is_not_finite(outside: float) -> None:
    kernel = Langevin(lambda x: torch.where(x > 0, -x, outside), 0.5)
    chain = run(kernel, torch.rand(100, 1).double() + 0.1, draws=20)
    assert (chain.draws > 0).all()
    assert not chain.info["accepted"].all()
    assert torch.equal(chain.info["accepted"].double(), chain.info["acceptance"])


def test_a_run_that_is_continued_is_one_that_never_stopped() -> None:
    kernel, start = Langevin(lambda x: -x, 0.5), zoo.randn(4, 3, 2)
    torch.manual_seed(1)
    whole = run(kernel, start, draws=6).draws
    torch.manual_seed(1)
    first = run(kernel, start, draws=2)
    second = run(kernel, first.state, draws=4)
    assert torch.equal(whole, torch.cat([first.draws, second.draws], 1))


@pytest.mark.parametrize(
    "arguments", [{"step_size": 0.0}, {"step_size": math.inf}, {"target": 1.0}, {"target": 0.0}]
)
def test_impossible_settings_are_refused(arguments: dict[str, float]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        MALA(normal, **arguments)


def test_impossible_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be positive, but is -1\.0"):
        Langevin(normal, -1.0)

"""Pyro's samplers in the form of genprop's chains."""

import math

import pytest
import targets
import torch
import zoo
from torch import Tensor
from torch.distributions import Distribution

from genprop.samplers.nuts import nuts


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


@pytest.mark.parametrize("trajectory", [None, 1.5])
def test_moments_of_a_gaussian(trajectory: float | None) -> None:
    law = targets.gaussian(0.5)
    chain = nuts(law.log_prob, zoo.randn(2, 2), 80, warmup=50, trajectory=trajectory)
    assert chain.draws.shape == (2, 80, 2)
    exact = law.sample(100_000)
    # worth fifty independent draws at least: five standard errors of their moments
    away = (chain.draws.flatten(0, 1).mean(0) - exact.mean(0)) / exact.std(0)
    assert (away.abs() < 0.7).all()
    wide = chain.draws.flatten(0, 1).std(0) / exact.std(0)
    assert ((wide > 0.5) & (wide < 1.5)).all()
    assert 0.5 < chain.info["acceptance"].mean() < 1


def test_rows_are_one_target_and_told_of_alike() -> None:
    means = torch.tensor([[0.0], [50.0]]).double()
    chain = nuts(lambda x: normal(x - means), means + zoo.randn(2, 2, 1), 40, warmup=30)
    assert chain.draws.shape == (2, 40, 2, 1)
    assert {part.shape for part in chain.info.values()} == {(2, 40, 2)}
    assert ((chain.draws.mean((0, 1)) - means).abs() < 1).all()
    assert torch.equal(chain.info["acceptance"][..., 0], chain.info["acceptance"][..., 1])
    assert (chain.info["gradients"] >= 1).all()
    assert chain.state.covariance.shape == (2, 2)


@pytest.mark.parametrize("options", [{}, {"dense": True}, {"trajectory": 1.0}])
def test_a_run_that_is_continued_is_one_that_never_stopped(options: dict[str, float]) -> None:
    log_prob, start = targets.banana().log_prob, zoo.randn(1, 2)
    torch.manual_seed(1)
    whole = nuts(log_prob, start, 12, warmup=25, **options)
    torch.manual_seed(1)
    first = nuts(log_prob, start, 5, warmup=25, **options)
    second = nuts(log_prob, first.state, 7, **options)
    torch.testing.assert_close(whole.draws, torch.cat([first.draws, second.draws], 1))
    for name in ("acceptance", "step_size", "accepted", "gradients"):
        both = torch.cat([first.info[name], second.info[name]], 1)
        torch.testing.assert_close(whole.info[name][:, :5], both[:, :5])
        torch.testing.assert_close(whole.info[name][:, 6:], both[:, 6:])


def test_torchs_generator_is_used_as_it_stands() -> None:
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(nuts(normal, torch.zeros(1, 2), 3).draws)
    draws.append(nuts(normal, torch.zeros(1, 2), 3).draws)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[2], draws[3])


@pytest.mark.parametrize("validates", [True, False])
def test_the_validation_of_distributions_is_left_as_it_was(validates: bool) -> None:
    before = Distribution._validate_args
    try:
        Distribution.set_default_validate_args(validates)
        nuts(normal, torch.zeros(1, 2), 2, warmup=2)
        assert Distribution._validate_args == validates
    finally:
        Distribution.set_default_validate_args(before)


def test_no_gradient_is_kept_and_no_mode_is_changed() -> None:
    mean = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        chain = nuts(lambda x: normal(x - mean), torch.zeros(1, 2), 3, warmup=3)
        assert not torch.is_grad_enabled()
    assert mean.grad is None
    assert not chain.draws.requires_grad


@pytest.mark.parametrize("outside", [math.nan, -math.inf, math.inf])
def test_no_chain_goes_where_the_density_is_not_finite(outside: float) -> None:
    def half(x: Tensor) -> Tensor:
        return torch.where(x[..., 0] > 0, -x[..., 0], outside)

    chain = nuts(half, torch.ones(2, 1).double(), 20, step_size=0.7)
    assert (chain.draws > 0).all()
    assert chain.info["diverging"].any()
    assert chain.info["accepted"].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0}, "draws=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"target": 1.0}, "target=1.0"),
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"start": torch.zeros(2)}, r"have shape \(2,\)"),
    ],
)
def test_impossible_runs_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nuts(normal, **{"start": torch.zeros(1, 2), "draws": 1, **arguments})


def test_a_start_outside_the_support_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite at the start of 1 of 2 chains"):
        nuts(lambda x: torch.where(x[..., 0] > 0, 0.0, math.nan), torch.tensor([[1.0], [-1.0]]), 1)

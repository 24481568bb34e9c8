"""Hamiltonian Monte Carlo: its dynamics, its adaptation, and laws of known moments."""

import math

import pytest
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop.kernel import run
from genprop.leapfrog import Point, leapfrog
from genprop.leapfrog import score as score_of
from genprop.samplers.hamiltonian import HMC

CHAINS = 4000
BEND, NARROW = 0.5, 0.5


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def banana(x: Tensor) -> Tensor:
    """x_1 ~ N(0, 1), x_2 ~ N(BEND·(x_1² - 1), NARROW²)."""
    bent = x[..., 1] - BEND * (x[..., 0].square() - 1)
    return -0.5 * (x[..., 0].square() + (bent / NARROW).square())


def funnel(x: Tensor) -> Tensor:
    """v ~ N(0, 1), x ~ N(0, e^v)."""
    v, y = x[..., 0], x[..., 1]
    return -0.5 * v.square() - 0.5 * y.square() * torch.exp(-v) - 0.5 * v


def score(x: Tensor) -> tuple[Tensor, Tensor]:
    return score_of(banana, x)


def begin(rows: int = 5) -> Point:
    x = zoo.randn(rows, 2)
    return Point(x, zoo.randn(rows, 2), *score(x))


def follow(point: Point, steps: int, stride: Tensor) -> Point:
    for _ in range(steps):
        point = leapfrog(score, point, stride)
    return point


def assert_mean(values: Tensor, expected: float | Tensor) -> None:
    """Of independent chains, within five standard errors."""
    error = 5 * values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - expected).abs() < error).all(), (values.mean(0), expected, error)


DIAGONAL = torch.tensor([0.2, 0.1]).double()
TRIANGLE = torch.tensor([[0.2, 0.0], [-0.15, 0.1]]).double()
every_stride = pytest.mark.parametrize("stride", [DIAGONAL, TRIANGLE], ids=["diagonal", "dense"])


@every_stride
def test_the_leapfrog_is_reversible(stride: Tensor) -> None:
    start, stride = begin(), stride[None] / 5
    end = follow(start, 20, stride)
    back = follow(end._replace(momentum=-end.momentum), 20, stride)
    torch.testing.assert_close(back.position, start.position)
    torch.testing.assert_close(back.momentum, -start.momentum)


@every_stride
def test_the_leapfrog_keeps_volumes(stride: Tensor) -> None:
    start = begin(rows=1)

    def moved(phase: Tensor) -> Tensor:
        x, p = phase[None, :2], phase[None, 2:]
        end = follow(Point(x, p, *score(x)), 3, stride[None])
        return torch.cat([end.position[0], end.momentum[0]])

    phase = torch.cat([start.position[0], start.momentum[0]])
    columns = [(moved(phase + 1e-6 * e) - moved(phase - 1e-6 * e)) / 2e-6 for e in torch.eye(4)]
    determinant = torch.linalg.det(torch.stack(columns, 1))
    assert determinant.item() == pytest.approx(1, abs=1e-6)


def test_the_error_of_the_energy_falls_with_the_square_of_the_step() -> None:
    start = begin()
    errors = [
        (follow(start, steps, torch.full((2,), 0.4 / steps).double()).energy - start.energy).abs()
        for steps in (100, 200)
    ]
    assert (errors[0] < 0.01).all()
    torch.testing.assert_close(
        errors[0] / errors[1], torch.full((5,), 4.0).double(), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("correlation", [0.0, 0.95])
def test_moments_of_correlated_gaussians(correlation: float, dense: bool) -> None:
    covariance = torch.tensor([[1.0, correlation, 0], [correlation, 1, 0], [0, 0, 0.01]]).double()
    law = MultivariateNormal(torch.tensor([1.0, -2.0, 3.0]).double(), covariance)
    start = torch.zeros(CHAINS, 3).double()
    x = run(HMC(law.log_prob, dense=dense), start, draws=1, warmup=100, thin=30).draws[:, 0]
    away = x - law.mean
    assert_mean(away, 0)
    assert_mean(away[:, :, None] * away[:, None], covariance)


def test_moments_of_a_banana() -> None:
    start = torch.zeros(CHAINS, 2).double()
    x = run(HMC(banana), start, draws=1, warmup=100, thin=60).draws[:, 0]
    assert_mean(x, 0)
    assert_mean(x.square(), torch.tensor([1.0, 2 * BEND**2 + NARROW**2]).double())
    assert_mean(x[:, 0].square() * x[:, 1], 2 * BEND)


def test_a_funnel_is_left_unchanged() -> None:
    v = zoo.randn(CHAINS)
    start = torch.stack([v, torch.exp(0.5 * v) * zoo.randn(CHAINS)], -1)
    x = run(HMC(funnel, step_size=0.3), start, draws=1, thin=30).draws[:, 0]
    assert_mean(x, 0)
    assert_mean(x[:, 0].square(), 1)
    assert_mean(x[:, 1] * torch.exp(-0.5 * x[:, 0]), 0)
    assert_mean(x[:, 1].square() * torch.exp(-x[:, 0]), 1)


def test_every_chain_of_every_row_finds_its_own_step_and_scales() -> None:
    scales = torch.tensor([[1.0, 1.0], [0.01, 0.01], [1.0, 0.01]]).double()

    def rows(x: Tensor) -> Tensor:
        return normal(x / scales)

    state = run(HMC(rows), torch.zeros(300, 3, 2).double(), draws=1, warmup=200).state
    strides = state.step_size[..., None] * state.scale
    # without the scales every element would move by the step of the narrowest
    found = (strides / scales).median(0).values
    assert ((found > 0.2) & (found < 3)).all()
    assert (state.step_size.std(0) > 0).all()


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_a_long_warm_up_comes_near_the_acceptance_it_aims_at(target: float) -> None:
    kernel = HMC(lambda x: normal(x / 0.01), target=target)
    state = run(kernel, torch.zeros(50, 5).double(), draws=1, warmup=500).state
    acceptance = run(kernel, state, draws=50).info["acceptance"].mean().item()
    # the mean of log steps that go to and fro is a little small, and so is taken rather too often
    assert target - 0.05 < acceptance < min(target + 0.2, 1)


def test_a_second_warm_up_begins_anew() -> None:
    kernel = HMC(lambda x: normal(x / 0.01))
    first = run(kernel, torch.zeros(50, 2).double(), draws=1, warmup=40).state
    assert first.warmup.share == 1
    second = run(kernel, first, draws=1, warmup=40).state
    assert second.warmup.share == 1
    assert torch.isfinite(second.step_size).all()
    assert not torch.equal(first.step_size, second.step_size)


def test_draws_change_no_setting() -> None:
    kernel = HMC(banana)
    first = run(kernel, torch.zeros(5, 2).double(), draws=1, warmup=20).state
    later = run(kernel, first, draws=5).state
    assert torch.equal(first.step_size, later.step_size)
    assert torch.equal(first.scale, later.scale)


def test_divergences_are_flagged_and_refused() -> None:
    kernel = HMC(lambda x: normal(x / 1e-3), step_size=1.0)
    start = 1e-3 * zoo.randn(50, 2)
    chain = run(kernel, start, draws=3)
    assert chain.info["diverging"].all()
    assert not chain.info["accepted"].any()
    assert (chain.info["acceptance"] == 0).all()
    assert torch.equal(chain.draws, start[:, None].expand(-1, 3, -1))
    assert not run(HMC(normal), start, draws=3).info["diverging"].any()


def test_one_chain_that_diverges_leaves_the_others_alone() -> None:
    def steep_or_not(x: Tensor) -> Tensor:
        return normal(x / torch.tensor([1e-9, 1.0]).double()[:, None])

    chain = run(HMC(steep_or_not, step_size=0.5), torch.full((20, 2, 2), 1e-9).double(), draws=10)
    assert chain.info["diverging"][:, :, 0].all()
    assert not chain.info["diverging"][:, :, 1].any()
    assert chain.info["accepted"][:, :, 1].double().mean() > 0.8


def test_dense_scales_learn_what_correlates_and_so_take_longer_steps() -> None:
    law = MultivariateNormal(
        torch.zeros(2).double(), torch.tensor([[1.0, 0.99], [0.99, 1.0]]).double()
    )
    start = law.sample((50,))
    plain, dense = (
        run(HMC(law.log_prob, dense=dense), start, draws=1, warmup=600).state
        for dense in (False, True)
    )
    found = dense.scale @ dense.scale.mT
    correlation = found[:, 0, 1] / (found[:, 0, 0] * found[:, 1, 1]).sqrt()
    assert 0.9 < correlation.median() < 0.99
    assert dense.step_size.median() > 2 * plain.step_size.median()


@pytest.mark.parametrize("dense", [False, True])
def test_elements_that_are_not_free_stay_and_the_others_follow_their_conditional(
    dense: bool,
) -> None:
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    law = MultivariateNormal(torch.zeros(2).double(), covariance)
    free = torch.tensor([[True, False], [False, True], [False, False], [True, True]])
    start = torch.full((CHAINS, 4, 2), 1.5).double()
    chain = run(HMC(law.log_prob, free=free, dense=dense), start, draws=1, warmup=60, thin=20)
    x = chain.draws[:, 0]
    assert torch.equal(x[:, ~free], start[:, ~free])
    for moved in (x[:, 0, 0], x[:, 1, 1]):
        assert_mean(moved, 0.8 * 1.5)
        assert_mean((moved - 1.2).square(), 1 - 0.8**2)
    assert_mean(x[:, 3], 0)
    assert torch.isfinite(chain.state.step_size).all()


def test_nothing_overflows_where_nothing_can_move() -> None:
    kernel = HMC(normal, steps=1, free=torch.zeros(3, dtype=torch.bool))
    chain = run(kernel, torch.ones(2, 3), draws=2, warmup=800)
    assert torch.equal(chain.draws, torch.ones(2, 2, 3))
    assert torch.isfinite(chain.state.step_size).all()
    assert torch.isfinite(chain.state.scale).all()


def test_a_start_outside_the_support_is_refused() -> None:
    kernel = HMC(lambda x: torch.where(x[..., 0] > 0, -x[..., 0], -math.inf))
    with pytest.raises(ValueError, match="not finite at the start of 2 of 3 chains"):
        kernel.init(torch.tensor([[1.0], [-1.0], [-2.0]]))


@pytest.mark.parametrize(
    "arguments",
    [{"steps": 0}, {"step_size": 0.0}, {"step_size": math.inf}, {"target": 1.0}, {"target": 0.0}],
)
def test_impossible_settings_are_refused(arguments: dict[str, float]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        HMC(normal, **arguments)

"""Held elements: they never move, and the free ones follow their conditional."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import targets
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop.kernel import Kernel, LogDensity, run
from genprop.multivariate import JointNormal
from genprop.samplers.clamped import Clamped, FreeElements, PutBack
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.langevin import MALA
from genprop.samplers.metropolis import MetropolisHastings
from genprop.samplers.tempering import Tempering

ELEMENTS = 6
CHAINS = 1500


class Here(NamedTuple):
    position: Tensor


class Told(NamedTuple):
    acceptance: Tensor
    accepted: Tensor


class Factors(Kernel[Here]):
    """x_j = w_j s + ε_j, s and ε N(0, 1): draws s given x, then all of x given s."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def init(self, position: Tensor) -> Here:
        return Here(position)

    def step(self, state: Here) -> tuple[Here, Told]:
        precision = 1 + self.weights.square().sum()
        mean = (state.position * self.weights).sum(-1, keepdim=True) / precision
        s = mean + torch.randn_like(mean) / precision.sqrt()
        position = s * self.weights + torch.randn_like(state.position)
        one = torch.ones_like(position[..., 0])
        return Here(position), Told(one, one > 0)


def makers() -> dict[str, Callable[[LogDensity], Kernel[Any]]]:
    return {
        "hmc": lambda log_prob: HMC(log_prob, steps=5),
        "mala": MALA,
        "random-walk": MetropolisHastings,
    }


def six() -> MultivariateNormal:
    mix = zoo.randn(ELEMENTS, ELEMENTS)
    return MultivariateNormal(zoo.randn(ELEMENTS), mix @ mix.mT + 0.5 * torch.eye(ELEMENTS))


def patterns() -> Tensor:
    """Nothing, something or all of a row held."""
    return torch.tensor(
        [[0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1], [1] * 6]
    ).bool()


@pytest.mark.parametrize("maker", makers())
def test_any_kernel_draws_the_conditionals_of_a_gaussian(maker: str) -> None:
    law, seen = six(), patterns()
    x = law.sample((len(seen),))
    kernel = Clamped(makers()[maker], law.log_prob, x, seen)
    exact = JointNormal(law.mean, law.scale_tril).given(x, seen)
    start = exact.sample((CHAINS,))
    chain = run(kernel, start, draws=1, thin=10)
    assert (chain.info["accepted"][..., :3].double().mean((0, 1)) > 0.1).all()
    targets.assert_mean(chain.draws[:, 0] - exact.mean, 0.0)
    targets.assert_mean(chain.draws[:, 0].square() - start.square(), 0.0)


@pytest.mark.parametrize("maker", makers())
def test_any_kernel_comes_to_the_conditionals_from_elsewhere(maker: str) -> None:
    law, seen = six(), patterns()
    x = law.sample((len(seen),))
    kernel = Clamped(makers()[maker], law.log_prob, x, seen)
    draws = run(kernel, zoo.randn(60, *x.shape), draws=10, warmup=150, thin=5).draws
    assert torch.equal(draws[..., seen], x[seen].expand(60, 10, -1))
    exact = JointNormal(law.mean, law.scale_tril).given(x, seen)
    targets.assert_mean(draws.mean(1) - exact.mean, 0.0)


def test_what_is_held_never_moves_whatever_the_start_says() -> None:
    law, seen = six(), patterns()
    x = law.sample((len(seen),))
    kernel = Clamped(MALA, law.log_prob, x, seen)
    chain = run(kernel, zoo.randn(5, *x.shape), draws=3, warmup=3)
    assert torch.equal(chain.draws[..., seen], x[seen].expand(5, 3, -1))
    assert (chain.draws[..., ~seen] != x[~seen]).all()


def test_rows_that_hold_more_are_filled_up_and_the_target_sees_whole_rows_only() -> None:
    x, seen = zoo.randn(4, ELEMENTS), patterns()
    free = FreeElements(x, seen)
    whole = torch.where(seen, x, zoo.randn(3, 4, ELEMENTS))
    packed = free.pack(whole)
    assert packed.shape == (3, 4, 5)
    assert torch.equal(free.unpack(packed), whole)
    # the fillings have the same density, wherever the free elements are
    log_prob = free.density(lambda x: x.sum(-1))
    rest = torch.randn_like(packed)
    fill = torch.tensor([3, 1, 5, 0])[:, None] <= torch.arange(5)
    other = torch.where(fill, rest, packed)
    assert torch.equal(free.unpack(other), whole)
    normal = torch.where(fill, -0.5 * rest.square(), 0).sum(-1)
    torch.testing.assert_close(log_prob(other) - log_prob(packed), normal)


@settings(deadline=None, max_examples=30)
@given(seen=arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 5))))
def test_packing_is_undone_by_unpacking(seen: Any) -> None:
    mask = torch.from_numpy(seen)
    x = torch.randn(mask.shape)
    free = FreeElements(x, mask)
    whole = torch.where(mask, x, torch.randn(2, *mask.shape))
    packed = free.pack(whole)
    assert torch.equal(free.unpack(packed), whole)
    assert packed.shape[-1] == max(1, int((~mask).sum(-1).max()))


def test_elements_may_be_held_at_all_temperatures() -> None:
    law = targets.modes(distance=16.0)
    held = FreeElements(torch.zeros(2).double(), torch.tensor([False, True]))
    base = targets.wide(8.0, elements=1)
    kernel = Tempering(MALA, base, held.density(law.log_prob), ladder=5)
    draws = held.unpack(run(kernel, torch.zeros(300, 1).double(), 8, 80, thin=4).draws)
    assert (draws[..., 1] == 0).all()
    # given x_2 = 0 the mode whose mean there is 0 has more
    log_odds = torch.tensor([0.3, 0.7]).double().log()
    log_odds = log_odds - 0.5 * (torch.tensor([0.0, 0.5]) / 0.7).square()
    targets.assert_mean((draws[..., 0] > 0).double().mean(1), log_odds.softmax(0)[1])


def test_putting_back_is_exact_where_elements_are_independent_on_the_way() -> None:
    weights = torch.tensor([2.0, 1.0, -1.0]).double()
    covariance = torch.outer(weights, weights) + torch.eye(3)
    seen = torch.tensor([[True, False, False], [False, True, True]])
    x = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, -2.0]]).double()
    kernel = PutBack(Factors(weights), x, seen)
    chain = run(kernel, zoo.randn(10_000, 2, 3), draws=1, thin=40)
    draws = chain.draws[:, 0]
    assert torch.equal(draws[:, seen], x[seen].expand(10_000, -1))
    exact = JointNormal(torch.zeros(3).double(), torch.linalg.cholesky(covariance)).given(x, seen)
    reference = exact.sample((10_000,))
    targets.assert_mean(draws - exact.mean, 0.0)
    targets.assert_mean(draws.square() - reference.square(), 0.0)


def test_a_run_that_is_continued_is_one_that_never_stopped() -> None:
    law, seen = six(), patterns()
    x = law.sample((len(seen),))
    kernel = Clamped(MALA, law.log_prob, x, seen)
    torch.manual_seed(1)
    whole = run(kernel, x.expand(3, -1, -1), draws=6, warmup=4)
    torch.manual_seed(1)
    first = run(kernel, x.expand(3, -1, -1), draws=2, warmup=4)
    second = run(kernel, first.state, draws=4)
    assert torch.equal(whole.draws, torch.cat([first.draws, second.draws], 1))

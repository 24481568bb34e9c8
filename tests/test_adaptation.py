"""What kernels learn in a warm-up, and that it stays with chains that are put elsewhere."""

import pytest
import targets
import torch
import zoo
from torch import Tensor

from genprop.adaptation import Tuned, moved, new_warmup, scale_of, steadied, tuned
from genprop.kernel import run
from genprop.samplers.clamped import Clamped
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.langevin import MALA, MALAState
from genprop.samplers.metropolis import Independence, MetropolisHastings


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


@pytest.mark.parametrize("kernel", [HMC(normal), MALA(normal), MetropolisHastings(normal)])
def test_chains_that_are_put_elsewhere_keep_their_settings(kernel: HMC) -> None:
    state = run(kernel, zoo.randn(4, 3, 2), draws=1, warmup=30).state
    there = zoo.randn(4, 3, 2)
    after = moved(kernel, state, there)
    assert isinstance(after, Tuned)
    assert torch.equal(after.position, there)
    torch.testing.assert_close(after.log_prob, normal(there))
    assert after.step_size is state.step_size
    assert after.scale is state.scale
    assert after.warmup is state.warmup


def test_the_law_may_be_another_one() -> None:
    state = run(MALA(normal), zoo.randn(4, 2), draws=1, warmup=30).state
    after = moved(MALA(lambda x: 3 * normal(x)), state, state.position)
    torch.testing.assert_close(after.gradient, 3 * state.gradient)
    assert after.step_size is state.step_size


def test_kernels_within_kernels_keep_theirs() -> None:
    kernel = Clamped(MALA, normal, torch.zeros(2).double(), torch.tensor([True, False]))
    state = run(kernel, zoo.randn(4, 2), draws=1, warmup=30).state
    after = moved(kernel, state, torch.ones(4, 2).double())
    assert torch.equal(after.position, torch.tensor([[0.0, 1.0]]).double().expand(4, 2))
    assert after.inner.step_size is state.inner.step_size


def test_a_kernel_that_learns_nothing_begins_anew() -> None:
    kernel = MetropolisHastings(normal, Independence.of(targets.wide()))
    state = kernel.init(zoo.randn(4, 2))
    assert torch.equal(moved(kernel, state, torch.ones(4, 2)).position, torch.ones(4, 2))


def test_scales_are_those_of_the_positions_and_of_what_never_moved_stay() -> None:
    variance = torch.tensor([4.0, 0.0, 4.0])
    before = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(scale_of(variance, 100, before), torch.full((3,), 2.0))
    free = torch.tensor([True, False, True])
    held = scale_of(variance, 10, torch.tensor([1.0, 1e9, 1.0]), free)
    torch.testing.assert_close(held[free], torch.tensor([2.0, 2.0]))


def settle(state: MALAState, level: float, rounds: int) -> list[float]:
    """Steps that follow an acceptance of exp(-step), towards a half."""
    steps = []
    for n in range(rounds):
        misfit = 0.5 - torch.exp(-state.step_size / level)
        state = tuned(state, misfit, 0.09 * (n + 1) / rounds)
        steps.append(state.step_size.item())
    return steps


@pytest.mark.parametrize("level", [1e-2, 1.0, 1e2])
def test_a_steady_step_goes_to_its_target_without_turning_back(level: float) -> None:
    state = MALA(normal).init(torch.zeros(1, 1))
    steps = torch.tensor(settle(steadied(state, 400), level, 60))
    assert steps[-1].item() == pytest.approx(0.693 * level, rel=0.15)
    first = steps[0] > steps[-1]
    assert ((steps[:10].diff() < 0) == first).all()


def test_a_warm_up_begins_with_nothing() -> None:
    warmup = new_warmup(torch.zeros(3, 2), torch.ones(3))
    assert warmup.share == 0
    assert warmup.spread.size == 0

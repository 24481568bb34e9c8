"""Parallel tempering: modes in proportion, and every temperature at its own law."""

import pytest
import targets
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop.kernel import LogDensity, run
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.langevin import MALA
from genprop.samplers.metropolis import MetropolisHastings
from genprop.samplers.tempering import Tempering, geometric

CHAINS = 10_000
LADDER = (0.0, 0.1, 0.4, 1.0)


def mala(log_prob: LogDensity) -> MALA:
    return MALA(log_prob, step_size=0.8)


def bridge_draws(law: MultivariateNormal, base: MultivariateNormal) -> Tensor:
    """Exact draws at each temperature of LADDER but the base's: all of them are Gaussian."""
    draws = []
    for beta in LADDER[1:]:
        precision = (1 - beta) * base.precision_matrix + beta * law.precision_matrix
        weighed = beta * law.precision_matrix @ law.mean
        mean = torch.linalg.solve(precision, weighed)
        draws.append(MultivariateNormal(mean, precision_matrix=precision).sample((CHAINS,)))
    return torch.stack(draws)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_exact_draws_stay_exact_at_every_temperature(rounds: int) -> None:
    law = MultivariateNormal(
        torch.tensor([1.0, 0.0]).double(), torch.tensor([[1.0, 0.5], [0.5, 0.6]]).double()
    )
    base = targets.wide()
    kernel = Tempering(mala, base, law.log_prob, LADDER)
    before = bridge_draws(law, base)
    state = run(kernel, kernel.start(before), draws=1, thin=rounds).state
    after = state.inner.position
    assert (state.swaps[0] > 0.1).any()
    for one, other in zip(before, after, strict=True):
        targets.assert_same_law(one, other)
    # what the inner kernel knows is of where the swaps took it
    torch.testing.assert_close(state.inner.log_prob[-1], law.log_prob(after[-1]))


def test_swaps_are_accepted_as_often_as_the_laws_overlap() -> None:
    law = MultivariateNormal(torch.zeros(2).double(), 0.5 * torch.eye(2).double())
    base = targets.wide()
    kernel = Tempering(mala, base, law.log_prob, LADDER)
    draws = torch.cat([base.sample((1, CHAINS)), bridge_draws(law, base)])
    gain = law.log_prob(draws) - base.log_prob(draws)
    rise = torch.tensor(LADDER).double().diff()[:, None]
    expected = (rise * (gain[:-1] - gain[1:])).clamp(max=0).exp().mean(1)
    state = run(kernel, kernel.start(draws[1:]), draws=4).state
    # within five standard errors, of each side
    assert ((state.swaps.mean(1) - expected).abs() < 0.03).all()


def test_two_far_modes_are_visited_in_proportion() -> None:
    law = targets.modes(distance=20.0)
    start = torch.tensor([-10.0, 0.0]).double().expand(300, 2)
    kernel = Tempering(mala, targets.wide(8.0), law.log_prob, ladder=6)
    chain = run(kernel, start, draws=8, warmup=140, thin=8)
    right = (chain.draws[..., 0] > 0).double().mean(1)
    targets.assert_mean(right, 0.7)
    assert (right.diff() != 0).any()
    stuck = run(mala(law.log_prob), start, draws=20, thin=4)
    assert (stuck.draws[..., 0] < 0).all()


def test_every_temperature_is_tuned_for_itself_and_keeps_it_through_swaps() -> None:
    law = MultivariateNormal(torch.zeros(2).double(), 0.01 * torch.eye(2).double())
    kernel = Tempering(HMC, targets.wide(), law.log_prob, ladder=LADDER)
    state = run(kernel, torch.zeros(50, 2).double(), draws=1, warmup=60).state
    strides = (state.inner.step_size[..., None] * state.inner.scale).mean((1, 2))
    assert (strides.diff() < 0).all()
    later = run(kernel, state, draws=5).state
    assert torch.equal(later.inner.step_size, state.inner.step_size)
    assert torch.equal(later.inner.scale, state.inner.scale)


def test_rows_have_targets_and_bases_of_their_own() -> None:
    means = torch.tensor([[-3.0, 0.0], [3.0, 5.0]]).double()
    base = MultivariateNormal(means, 9 * torch.eye(2).double())
    law = MultivariateNormal(means + 1, torch.eye(2).double())
    kernel = Tempering(mala, base, law.log_prob, ladder=3, transitions=2)
    chain = run(kernel, base.sample((2000,)), draws=1, thin=25)
    assert chain.info["swap_acceptance"].shape == (2000, 1, 2)
    targets.assert_mean(chain.draws[:, 0], means + 1)


def test_a_run_that_is_continued_is_one_that_never_stopped() -> None:
    law = targets.modes()
    kernel = Tempering(MetropolisHastings, targets.wide(), law.log_prob, LADDER)
    torch.manual_seed(1)
    whole = run(kernel, torch.zeros(4, 2).double(), draws=7, warmup=5)
    torch.manual_seed(1)
    first = run(kernel, torch.zeros(4, 2).double(), draws=2, warmup=5)
    second = run(kernel, first.state, draws=5)
    assert torch.equal(whole.draws, torch.cat([first.draws, second.draws], 1))
    assert torch.equal(whole.state.swaps, second.state.swaps)


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ((0.0,), "rises from 0 to 1"),
        ((0.1, 1.0), "rises from 0 to 1"),
        ((0.0, 0.9), "rises from 0 to 1"),
        ((0.0, 0.5, 0.5, 1.0), "rises from 0 to 1"),
        (1, "temperatures=1"),
    ],
)
def test_impossible_ladders_are_refused(ladder: int | tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tempering(mala, targets.wide(), targets.modes().log_prob, ladder)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="transitions must be at least 1, but is 0"):
        Tempering(mala, targets.wide(), targets.modes().log_prob, transitions=0)
    with pytest.raises(ValueError, match=r"ratio=1\.0"):
        geometric(3, 1.0)


def test_a_base_over_other_rows_is_refused() -> None:
    base = MultivariateNormal(torch.zeros(5, 2).double(), torch.eye(2).double())
    kernel = Tempering(mala, base, lambda x: -x.square().sum(-1), LADDER)
    with pytest.raises((ValueError, RuntimeError)):
        run(kernel, zoo.randn(4, 3, 2), draws=1)

"""Sweeps and trajectories in turn: the law stays, and chains agree where sweeps alone do not."""

from collections.abc import Callable
from typing import Any

import exact
import numpy as np
import pytest
import torch
import zoo

from genprop.convergence import convergence
from genprop.data import Batch
from genprop.kernel import Kernel, run
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.samplers.flips import variables_of
from genprop.samplers.gibbs import Gibbs
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.in_turn import Around, InTurn


def in_turn(posterior: Posterior) -> InTurn:
    _, real = variables_of(posterior)
    return InTurn(Gibbs(posterior), HMC(posterior.log_prob, free=real))


@pytest.mark.parametrize("make", [zoo.gaussian, zoo.mixed])
@torch.no_grad()
def test_it_leaves_the_joint_law_as_it_is(make: Callable[[], Model]) -> None:
    exact.assert_joint_law_stays(make(), in_turn, 3000, masks=exact.holes)


@torch.no_grad()
def test_chains_agree_where_encoders_know_nothing() -> None:
    torch.manual_seed(3)
    model = zoo.linear_gaussian((4, 3, 2))
    x = 3 * zoo.exact_marginal(model).sample((40,))
    for p in model.stacks["x"].layers[0].encoder.parameters():
        p.mul_(0.1)  # proposals as wide as the prior, of which few are accepted far out
    posterior = Posterior(model, Batch.of(x))

    def disagreement(kernel: Kernel[Any]) -> float:
        """R-hat of the worst element, of a row that is among the worst tenth."""
        draws = run(kernel, posterior.start(4), draws=100, warmup=100).draws
        return float(np.quantile(convergence(draws.numpy()).rhat.max(-1), 0.9))

    # of four chains of 100 draws
    assert disagreement(in_turn(posterior)) < 1.1
    assert disagreement(Gibbs(posterior)) > 1.5


def test_trajectories_keep_what_they_learned() -> None:
    model = zoo.gaussian()
    posterior = Posterior(model, zoo.batch(model))
    for kernel in (in_turn(posterior), Around(Gibbs(posterior), HMC(posterior.log_prob))):
        state = run(kernel, posterior.start(2), draws=1, warmup=20).state
        after, _ = kernel.step(state)
        assert (state.step_size != kernel.hmc.step_size).all()
        assert torch.equal(after.step_size, state.step_size)
        assert torch.equal(after.scale, state.scale)
        torch.testing.assert_close(after.log_prob, posterior.log_prob(after.position))

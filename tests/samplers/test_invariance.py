"""All kernels of the zoo on all targets: exact draws stay exact, others come to be."""

import math

import pytest
import targets
import torch
import zoo

from genprop.convergence import convergence
from genprop.kernel import run
from genprop.samplers.metropolis import Independence, MetropolisHastings

CHAINS = 20_000
TRANSITIONS = {"random-walk": 15}  # for a draw that is nearly independent of the last

every_kernel = pytest.mark.parametrize("name", zoo.kernels())
every_target = pytest.mark.parametrize("target", targets.targets())


@every_kernel
@every_target
def test_exact_draws_stay_exact(name: str, target: str) -> None:
    law = targets.targets()[target]()
    before = law.sample(CHAINS)
    chain = run(zoo.kernels()[name](law.log_prob), before, draws=1, thin=4)
    assert chain.info["accepted"].double().mean() > 0.02
    targets.assert_same_law(before, chain.draws[:, 0])


@every_kernel
def test_chains_from_elsewhere_agree(name: str) -> None:
    law = targets.gaussian(0.5)
    start = torch.tensor([[-3.0, 3.0], [3.0, 3.0], [-3.0, -3.0], [3.0, -3.0]]).double()
    kernel = zoo.kernels()[name](law.log_prob)
    thin = TRANSITIONS.get(name, 3)
    draws = run(kernel, start.repeat(8, 1), draws=90, warmup=60, thin=thin).draws
    assert (convergence(draws.numpy()).rhat < 1.02).all()
    # chains are independent, so that their means are; of 32 a fifth of the widths shows
    exact = targets.statistics(law.sample(200_000)).mean(0)
    targets.assert_mean(targets.statistics(draws).mean(1), exact)


def test_a_lattice_of_bits_is_left_unchanged() -> None:
    bits = zoo.support(zoo.IndependentBernoulli(torch.zeros(4).double()))

    def log_prob(x: torch.Tensor) -> torch.Tensor:
        """Neighbours on a ring like to be equal, and each likes to be 1."""
        spins = 2 * x - 1
        return 0.4 * (spins * spins.roll(1, -1)).sum(-1) + 0.2 * spins.sum(-1)

    exact = log_prob(bits).softmax(0)
    before = bits[torch.multinomial(exact, CHAINS, replacement=True)]
    kernel = MetropolisHastings(
        log_prob, Independence.of(zoo.IndependentBernoulli(torch.zeros(4).double()))
    )
    after = run(kernel, before, draws=1, thin=4).draws[:, 0]
    assert (after != before).any(-1).double().mean() > 0.5
    index = (after * torch.tensor([8.0, 4, 2, 1]).double()).sum(-1).long()
    counts = torch.bincount(index, minlength=16)
    misfit = (counts - CHAINS * exact).square() / (CHAINS * exact)
    # chi-squared of 15 degrees of freedom, mean 15 and variance 30
    assert misfit.sum().item() < 15 + 5 * math.sqrt(30)

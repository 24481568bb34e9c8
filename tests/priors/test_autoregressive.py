"""What only the autoregressive prior promises."""

import math

import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Autoregressive, Bernoulli
from genprop.description import describe, rebuild
from genprop.priors.autoregressive import AutoregressivePrior
from genprop.priors.factorial import FactorialPrior

STAY = 0.9


def chain(rows: int, elements: int = 5) -> Tensor:
    """Rows whose first bit is fair and whose others repeat the one before nine times of ten."""
    steps = torch.rand(rows, elements) > STAY
    steps[:, 0] = torch.rand(rows) < 0.5
    return (steps.cumsum(-1) % 2).double()


def chain_entropy(elements: int = 5) -> float:
    flip = -(STAY * math.log(STAY) + (1 - STAY) * math.log(1 - STAY))
    return math.log(2) + (elements - 1) * flip


def test_it_finds_a_chain_that_independent_units_cannot() -> None:
    train, test = chain(1200), chain(3000)
    found, factorial = AutoregressivePrior(5, 16).double(), FactorialPrior(Bernoulli(5)).double()
    for prior in (found, factorial):
        prior.refit(train)
    entropy = chain_entropy()
    # the mean of 3,000 test rows has a standard error of 0.02 nats; 31 free numbers cost 0.013
    assert found.loss(test).mean().item() == pytest.approx(entropy, abs=0.08)
    assert factorial.loss(test).mean().item() == pytest.approx(5 * math.log(2), abs=0.02)
    # and what it says of a bit whose neighbours are known is what the chain says
    h, seen = torch.ones(1, 5).double(), torch.tensor([[True, True, False, True, True]])
    odds = STAY**2 / (STAY**2 + (1 - STAY) ** 2)
    assert found.condition(h, seen).mean[0, 2].item() == pytest.approx(odds, abs=0.03)


def test_it_is_a_factorial_prior_of_autoregressive_units() -> None:
    prior = zoo.perturbed(AutoregressivePrior(6, 4))
    same = FactorialPrior(Autoregressive(6, 4, particles=1024)).double()
    same.load_state_dict(prior.state_dict())
    h, seen = prior.sample((7,)), torch.rand(7, 6) < 0.5
    assert torch.equal(prior.log_prob(h, seen), same.log_prob(h, seen))


def test_refit_keeps_what_no_step_improves() -> None:
    prior = zoo.perturbed(AutoregressivePrior(5, 8))
    prior.refit(chain(150))
    h = chain(500)
    first = prior.loss(h).mean()
    prior.refit(chain(150))
    # a second fit starts where the first one ended; on other rows it may lose a little
    assert prior.loss(h).mean() < first + 0.1


def test_it_is_rebuilt_from_its_description_and_weights() -> None:
    prior = zoo.perturbed(AutoregressivePrior(4, 3, particles=8))
    again = rebuild(describe(prior)).double()
    again.load_state_dict(prior.state_dict())
    assert (again.elements, again.units, again.particles) == (4, 3, 8)
    assert again.law.particles == 8
    h = prior.sample((5,))
    assert torch.equal(prior.log_prob(h), again.log_prob(h))


@pytest.mark.parametrize("unseen", [10, 11])
def test_ten_unseen_elements_are_summed_out_exactly(unseen: int) -> None:
    prior = zoo.perturbed(AutoregressivePrior(12, 3))
    h = prior.sample((2,))
    seen = torch.arange(12) >= unseen
    one, two = prior.log_prob(h, seen), prior.log_prob(h, seen)
    assert torch.equal(one, two) == (unseen <= 10)
    torch.testing.assert_close(one, two, atol=0.5, rtol=0)

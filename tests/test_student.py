"""Student's law against SciPy's, a grid, and the Gaussian it tends to."""

import numpy as np
import pytest
import torch
from scipy import stats

from genprop.distributions import IndependentNormal
from genprop.student import IndependentStudent


def law() -> IndependentStudent:
    torch.manual_seed(0)
    loc, scale = torch.randn(3, 2).double(), torch.rand(2).double() + 0.5
    return IndependentStudent(loc, scale, torch.tensor([2.5, 8.0]).double())


def as_scipy(each: IndependentStudent):
    return stats.t(each.df.numpy(), each.loc.numpy(), each.scale.numpy())


def test_density_and_entropy_are_those_of_scipy() -> None:
    x = law().sample((5,))
    np.testing.assert_allclose(law().elements(x), as_scipy(law()).logpdf(x.numpy()))
    np.testing.assert_allclose(law().entropy(), as_scipy(law()).entropy().sum(-1))
    np.testing.assert_allclose(law().variance[0], as_scipy(law()).var()[0])


def test_log_prob_is_the_sum_over_elements() -> None:
    x = law().sample()
    everything = torch.ones(3, 2, dtype=torch.bool)
    torch.testing.assert_close(law().log_prob(x), law().elements(x).sum(-1))
    torch.testing.assert_close(law().log_prob(x, everything), law().log_prob(x))


def test_draws_have_the_law() -> None:
    x = law().sample((50_000,))
    for row, element in ((0, 0), (2, 1)):
        df, loc = law().df[element].item(), law().loc[row, element].item()
        drawn = (x[:, row, element] - loc) / law().scale[element]
        # a seed is fixed; Kolmogorov's statistic is below this in 99.9 % of all of them
        assert stats.kstest(drawn.numpy(), "t", args=(df,)).statistic < 1.95 / 50_000**0.5


@pytest.mark.parametrize("scale", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("away", [0.0, 25.0])
def test_denoise_is_the_posterior_mean(scale: float, away: float) -> None:
    y = law().sample() + scale * torch.randn(3, 2).double() + away
    grid = torch.linspace(-1000, 1000, 400_001, dtype=torch.float64)[:, None, None]
    log_joint = law().elements(grid.expand(-1, 1, 2)) - 0.5 * ((y - grid) / scale).square()
    expected = (log_joint.softmax(0) * grid).sum(0)
    torch.testing.assert_close(law().denoise(y, scale), expected, rtol=0, atol=1e-8)


def test_reparameterised_draws_carry_the_gradient_of_the_entropy() -> None:
    torch.manual_seed(2)
    parameters = [p.requires_grad_() for p in law().parameters]
    made = law().with_parameters(*parameters)
    loc, scale, df = parameters
    log_prob = made.log_prob(made.rsample((200_000,))).mean(0)
    expected = torch.autograd.grad(-made.entropy().sum(), (scale, df))
    found = torch.autograd.grad(log_prob.sum(), (scale, df))
    # of 200,000 draws
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.03, atol=0.01)
    assert loc.grad is None


def test_it_tends_to_the_gaussian() -> None:
    one = IndependentStudent(law().loc, law().scale, torch.full((2,), 1e6).double())
    other = IndependentNormal(law().loc, law().scale)
    x = other.sample((4,))
    torch.testing.assert_close(one.log_prob(x), other.log_prob(x), rtol=1e-4, atol=1e-4)

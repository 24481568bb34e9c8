"""What corruptions draw, and what they say of their draws."""

import math
from collections.abc import Callable

import pytest
import torch
import zoo
from scipy.stats import chi2
from torch import Tensor

from genprop.corruption import Additive, Corruption, Redrawn
from genprop.distributions import IndependentBernoulli, IndependentCategorical

DRAWS = 20_000


def redrawn() -> dict[str, tuple[Redrawn, Tensor]]:
    """Corruptions of discrete codes with all codes there are."""
    bits = zoo.support(IndependentBernoulli(torch.zeros(3)))
    groups = zoo.support(IndependentCategorical(torch.zeros(6), (2, 3, 1)))
    return {
        "bits": (Redrawn(0.4), bits),
        "all noise": (Redrawn(1.0), bits),
        "groups": (Redrawn(0.4, (2, 3, 1)), groups),
    }


every_redrawn = pytest.mark.parametrize("name", redrawn())


def probabilities(corruption: Redrawn, codes: Tensor) -> Tensor:
    """C(h̃ | h) for all h (first dimension) and h̃, from its definition, variable by variable."""
    start, table = 0, torch.ones(len(codes), len(codes), dtype=torch.float64)
    for n in corruption.sizes or (1,) * codes.shape[-1]:
        part = codes[:, start : start + n]
        same = (part[:, None] == part).all(-1)
        values = n if corruption.sizes else 2
        table *= (1 - corruption.noise) * same + corruption.noise / values
        start += n
    return table


@every_redrawn
def test_variables_are_redrawn_from_all_their_values(name: str) -> None:
    corruption, codes = redrawn()[name]
    for h, p in zip(codes[:3], probabilities(corruption, codes), strict=False):
        drawn = corruption.draw(h.expand(DRAWS, -1))
        which = (drawn[:, None] == codes).all(-1).double()
        assert (which.sum(-1) == 1).all()
        counts, expected = which.sum(0), DRAWS * p
        statistic = ((counts - expected).square() / expected).sum()
        assert statistic < chi2.ppf(1 - 1e-5, len(codes) - 1)


def test_gaussian_noise_is_added() -> None:
    h = zoo.randn(2)
    noise = Additive(0.7).draw(h.expand(DRAWS, 2)) - h
    # a standard error of a mean, and of a variance: five of each
    assert (noise.mean(0).abs() < 5 * 0.7 / math.sqrt(DRAWS)).all()
    assert (noise.var(0) / 0.49 - 1).abs().max() < 5 * math.sqrt(2 / DRAWS)


@every_redrawn
def test_divergence_and_precision_are_those_of_the_table(name: str) -> None:
    corruption, codes = redrawn()[name]
    table = probabilities(corruption, codes)
    start = corruption.start(codes).log_prob(codes)
    torch.testing.assert_close(start, torch.full_like(start, -math.log(len(codes))))
    expected = (table * (table.log() - start)).sum(-1)
    torch.testing.assert_close(corruption.divergence(codes).sum(-1), expected)
    squares = (codes[:, None] - codes).square()
    told = -0.5 * (corruption.precision(codes)[0] * squares).sum(-1)
    torch.testing.assert_close(table.log() - table.log().diag()[:, None], told)


def test_divergence_of_gaussian_noise_is_that_of_torch() -> None:
    h = zoo.randn(7, 3)
    corruption = Additive(0.7)
    own = torch.distributions.Normal(h, 0.7)
    start = corruption.start(h)
    whole = torch.distributions.Normal(start.loc, start.scale)
    torch.testing.assert_close(
        corruption.divergence(h), torch.distributions.kl_divergence(own, whole)
    )
    # P_0 is what becomes of N(0, 1)
    torch.testing.assert_close(start.scale.square(), torch.full((3,), 1.49, dtype=h.dtype))
    noisy = corruption.draw(h)
    fit = -0.5 * (corruption.precision(h) * (noisy - h).square()).sum(-1)
    constant = own.log_prob(noisy).sum(-1) - fit
    torch.testing.assert_close(constant, constant[:1].expand(7))


@pytest.mark.parametrize("make", [lambda: Additive(0.5), lambda: Redrawn(0.5)])
def test_noise_may_be_shared_by_draws(make: Callable[[], Corruption]) -> None:
    corruption, h = make(), torch.ones(4, 5, 3)
    shared = corruption.draw(h, (5, 3))
    assert torch.equal(shared, shared[:1].expand(4, 5, 3))
    assert not torch.equal(shared[0, 0], shared[0, 1])
    own = corruption.draw(h)
    assert not torch.equal(own[0], own[1])


@every_redrawn
def test_the_nearest_code_is_one(name: str) -> None:
    corruption, codes = redrawn()[name]
    y = 2 * zoo.randn(50, codes.shape[-1])
    best = codes[(y[:, None] - codes).square().sum(-1).argmin(-1)]
    assert torch.equal(corruption.nearest(y), best)
    assert torch.equal(Additive(1.0).nearest(y), y)


def test_a_variable_has_one_number_for_all_its_elements() -> None:
    u = Redrawn(0.5, (2, 3)).uniform(torch.zeros(10, 5))
    assert torch.equal(u[:, [0, 2]].repeat_interleave(torch.tensor([2, 3]), -1), u)
    assert len(Additive(0.5).uniform(torch.zeros(10, 5)).unique()) == 50


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Additive(0.0), "must be positive, but is 0.0"),
        (lambda: Additive(math.nan), "must be positive, but is nan"),
        (lambda: Redrawn(0.0), "above 0 and at most 1, but is 0.0"),
        (lambda: Redrawn(1.5), "above 0 and at most 1, but is 1.5"),
    ],
)
def test_impossible_noise_is_refused(make: Callable[[], Corruption], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

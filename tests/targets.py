"""Laws over two elements that can be drawn from exactly, for kernels to leave unchanged.

Their densities lack a constant that is known, as those of posteriors lack one that is not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import zoo
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

CONSTANT = 1.7
BEND, NARROW = 0.5, 0.5


@dataclass(frozen=True)
class Target:
    """A law, and log P + CONSTANT."""

    sample: Callable[[int], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    log_normaliser: float = CONSTANT


def targets() -> dict[str, Callable[[], Target]]:
    return {
        "gaussian": gaussian,
        "modes": modes,
        "funnel": funnel,
        "banana": banana,
    }


def gaussian(correlation: float = 0.95) -> Target:
    """Of two scales, strongly correlated."""
    covariance = torch.tensor([[1.0, 2 * correlation], [2 * correlation, 4.0]]).double()
    law = MultivariateNormal(torch.tensor([0.5, -1.0]).double(), covariance)
    return Target(lambda n: law.sample((n,)), lambda x: law.log_prob(x) + CONSTANT)


def modes(distance: float = 2.5) -> Target:
    """Three tenths and seven tenths of the mass, at a distance of that many widths."""
    means = torch.tensor([[-0.5 * distance, 0.0], [0.5 * distance, 0.5]]).double()
    parts = Independent(Normal(means, torch.tensor([[1.0, 0.7], [1.0, 0.7]]).double()), 1)
    law = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7]).double()), parts)
    return Target(lambda n: law.sample((n,)), lambda x: law.log_prob(x) + CONSTANT)


def funnel() -> Target:
    """v ~ N(0, 1), x ~ N(0, e^v)."""

    def sample(n: int) -> Tensor:
        v = zoo.randn(n)
        return torch.stack([v, torch.exp(0.5 * v) * zoo.randn(n)], -1)

    def log_prob(x: Tensor) -> Tensor:
        v, y = x[..., 0], x[..., 1]
        squares = v.square() + y.square() * torch.exp(-v)
        return -0.5 * (squares + v) - math.log(2 * math.pi) + CONSTANT

    return Target(sample, log_prob)


def banana() -> Target:
    """x_1 ~ N(0, 1), x_2 ~ N(BEND·(x_1² - 1), NARROW²)."""

    def sample(n: int) -> Tensor:
        x = zoo.randn(n)
        return torch.stack([x, BEND * (x.square() - 1) + NARROW * zoo.randn(n)], -1)

    def log_prob(x: Tensor) -> Tensor:
        bent = (x[..., 1] - BEND * (x[..., 0].square() - 1)) / NARROW
        constant = math.log(2 * math.pi * NARROW)
        return -0.5 * (x[..., 0].square() + bent.square()) - constant + CONSTANT

    return Target(sample, log_prob)


def wide(scale: float = 3.0, elements: int = 2) -> MultivariateNormal:
    """A base that covers all of them."""
    return MultivariateNormal(
        torch.zeros(elements).double(), scale**2 * torch.eye(elements).double()
    )


def assert_mean(values: Tensor, expected: float | Tensor, errors: float = 5) -> None:
    """Of independent draws along the first dimension, within so many standard errors."""
    error = errors * values.std(0) / math.sqrt(len(values)) + 1e-9
    assert ((values.mean(0) - expected).abs() <= error).all(), (values.mean(0), expected, error)


def statistics(x: Tensor) -> Tensor:
    """Values, squares, their product, and whether they are in either tail, ``(draws, 9)``."""
    tails = [x > 1.5, x < -1.5]
    both = x[..., :1] * x[..., 1:]
    return torch.cat([x, x.square(), both, *(tail.double() for tail in tails)], -1)


def assert_same_law(before: Tensor, after: Tensor) -> None:
    """Draws ``(draws, 2)`` and where a kernel took each of them, of the same marginals.

    The draws are independent, so the mean of what changed is zero within five of its standard
    errors; the law's own moments need not be known, and most of their noise cancels.
    """
    assert_mean(statistics(after) - statistics(before), 0.0)

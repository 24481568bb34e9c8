"""Hamilton's equations for a log-density, followed in leaps."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.kernel import LogDensity
from genprop.shapes import Elements, PerRow

Score = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Positions ``(…, elements)`` to log-densities ``(…)`` and their gradients."""


class Point(NamedTuple):
    """A point of phase space, with momenta that are N(0, I) whatever the scale of an element."""

    position: Tensor
    momentum: Tensor
    log_prob: Tensor
    gradient: Tensor

    @property
    def energy(self) -> PerRow:
        """-log P(x) + ½|p|², which exact dynamics conserve."""
        return 0.5 * self.momentum.square().sum(-1) - self.log_prob


def leapfrog(score: Score, at: Point, stride: Elements) -> Point:
    """One step of the leapfrog, which is reversible and keeps volumes.

    Args:
        score: log-density and its gradient at a position.
        at: where it begins.
        stride: step size times scale of each element, or times a matrix.

    >>> def score(x):
    ...     return -0.5 * x.square().sum(-1), -x
    >>> start = Point(torch.ones(1), torch.zeros(1), *score(torch.ones(1)))
    >>> leapfrog(score, start, torch.tensor([1.0])).position
    tensor([0.5000])
    """
    half = at.momentum + 0.5 * _pulled(stride, at.gradient)
    position = at.position + _stretched(stride, half)
    log_prob, gradient = score(position)
    return Point(position, half + 0.5 * _pulled(stride, gradient), log_prob, gradient)


def _stretched(stride: Tensor, momentum: Elements) -> Elements:
    return stride * momentum if stride.ndim <= momentum.ndim else _matmul(stride, momentum)


def _pulled(stride: Tensor, gradient: Elements) -> Elements:
    return stride * gradient if stride.ndim <= gradient.ndim else _matmul(stride.mT, gradient)


def _matmul(matrix: Tensor, vector: Elements) -> Elements:
    return (matrix @ vector[..., None])[..., 0]


def score(log_prob: LogDensity, position: Elements) -> tuple[PerRow, Elements]:
    """The log-density and its gradient at a position, neither with a graph.

    >>> score(lambda x: -0.5 * x.square().sum(-1), torch.tensor([3.0, 1.0]))
    (tensor(-5.), tensor([-3., -1.]))
    """
    with torch.enable_grad():
        x = position.detach().requires_grad_()
        value = log_prob(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    # any force that depends on the position alone leaves the leapfrog reversible
    return value.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)

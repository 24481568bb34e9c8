"""The geometric path from a law that is known to one that is not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from genprop.kernel import Kernel, LogDensity
from genprop.shapes import Elements, PerRow

KernelMaker = Callable[[LogDensity], Kernel[Any]]
"""A log-density to a kernel that leaves it unchanged: ``HMC``, ``MALA``, or a lambda."""


@runtime_checkable
class KnownLaw(Protocol):
    """A normalised law that can be drawn from, as torch's distributions of one event dimension.

    It is the same for all rows, or has one law for each of them in its batch shape.
    """

    @property
    def batch_shape(self) -> torch.Size:
        """The rows that have laws of their own, or none."""

    def sample(self, sample_shape: torch.Size, /) -> Tensor:
        """Draws ``(*sample_shape, *batch_shape, elements)``."""

    def log_prob(self, value: Tensor, /) -> Tensor:
        """Log-densities of draws, nats."""


def draws_like(law: KnownLaw, position: Elements) -> Elements:
    """A draw of the law for each chain of each row, shaped as the positions.

    >>> law = torch.distributions.MultivariateNormal(torch.zeros(3, 2), torch.eye(2))
    >>> draws_like(law, torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3, 2])
    """
    chains = position.shape[: position.ndim - 1 - len(law.batch_shape)]
    draws = law.sample(chains)
    if draws.shape != position.shape:
        raise ValueError(
            f"a law of batch shape {tuple(law.batch_shape)} draws {tuple(draws.shape)}, but the "
            f"chains have positions of shape {tuple(position.shape)}; it must be one law, or one "
            f"for each of the chains' rows, over the same elements"
        )
    return draws


@dataclass(frozen=True)
class Bridge:
    r"""log f_β(x) = (1 - β) log P_0(x) + β log f_1(x), from β = 0 to β = 1.

    Where the target f_1 is not a finite number it counts as zero.

    Args:
        base: P_0, normalised.
        log_prob: log f_1, up to a constant for each row.

    References:
        Neal, 2001, Annealed importance sampling (equation 3).

    >>> base = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    >>> bridge = Bridge(base, lambda x: base.log_prob(x) + 3)
    >>> bridge.at(0.5)(torch.zeros(2)) - base.log_prob(torch.zeros(2))
    tensor(1.5000)
    """

    base: KnownLaw
    log_prob: LogDensity

    def gain(self, x: Elements) -> PerRow:
        """Log f_1(x) - log P_0(x), -inf where f_1 is zero."""
        target = self.log_prob(x)
        target = torch.where(torch.isfinite(target), target, -torch.inf)
        return target - self.base.log_prob(x)

    def at(self, beta: float | Tensor) -> LogDensity:
        """Log f_β as a function of x."""
        return partial(self.between, beta)

    def between(self, beta: float | Tensor, x: Elements) -> PerRow:
        """Log f_β(x), for a β of all, or one that broadcasts with ``(chains, *rows)``.

        It is finite everywhere, so that a chain that is nowhere may still find its way.
        """
        return (1 - beta) * _floored(self.base.log_prob(x)) + beta * _floored(self.log_prob(x))


def _floored(log_prob: Tensor) -> Tensor:
    # far enough from the end of the numbers that differences stay finite
    lowest = torch.finfo(log_prob.dtype).min / 8
    return torch.where(torch.isfinite(log_prob), log_prob, lowest)

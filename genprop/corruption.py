"""Noise of one level, which a denoising auto-encoder learns to take away again."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from genprop.distributions import (
    IndependentBernoulli,
    IndependentCategorical,
    IndependentNormal,
    Product,
)
from genprop.shapes import Elements


class Corruption(ABC):
    """C(h̃ | h), independent noise, beside P_0(h̃), a simple law of what is corrupted."""

    @abstractmethod
    def start(self, like: Elements) -> Product:
        """P_0 of one code, its type and device those of a tensor ``(…, elements)``."""

    @abstractmethod
    def draw(self, h: Elements, shape: Sequence[int] | None = None) -> Elements:
        """h̃ ~ C(· | h); noise of a shape of its own is shared by what it broadcasts over."""

    @abstractmethod
    def divergence(self, h: Elements) -> Elements:
        """KL(C(· | h) ‖ P_0) in nats, element by element."""

    @abstractmethod
    def precision(self, like: Elements) -> Elements:
        """1 / w² of each element, such that log C(h̃ | h) = const - ½ Σ_j (h̃_j - h_j)² / w_j²."""

    @abstractmethod
    def nearest(self, y: Elements) -> Elements:
        """The corrupted code that is nearest to any real numbers."""

    @abstractmethod
    def uniform(self, like: Elements) -> Elements:
        """A number between 0 and 1 for every variable, the same in all of its elements."""


class Additive(Corruption):
    """h̃ ~ N(h, noise² I); P_0 is N(0, (1 + noise²) I), which corrupts N(0, I).

    Args:
        noise: the scale.

    Raises:
        ValueError: it is not positive.

    >>> Additive(1.0).divergence(torch.tensor([0.0, 2.0]))
    tensor([0.0966, 1.0966])
    """

    def __init__(self, noise: float) -> None:
        if not 0 < noise < math.inf:
            raise ValueError(f"the noise of real-valued codes must be positive, but is {noise}")
        self.noise = noise

    def start(self, like: Elements) -> IndependentNormal:
        zeros = like.new_zeros(like.shape[-1])
        return IndependentNormal(zeros, torch.full_like(zeros, math.sqrt(1 + self.noise**2)))

    def draw(self, h: Elements, shape: Sequence[int] | None = None) -> Elements:
        noise = torch.randn(h.shape if shape is None else shape, dtype=h.dtype, device=h.device)
        return h + self.noise * noise

    def divergence(self, h: Elements) -> Elements:
        own, whole = self.noise**2, 1 + self.noise**2
        return 0.5 * ((own + h.square()) / whole - 1 + math.log(whole / own))

    def precision(self, like: Elements) -> Elements:
        return torch.full_like(like, self.noise**-2)

    def nearest(self, y: Elements) -> Elements:
        return y

    def uniform(self, like: Elements) -> Elements:
        return torch.rand_like(like)


class Redrawn(Corruption):
    """Each variable is redrawn from all its values alike with probability ``noise``; so is P_0.

    Args:
        noise: the probability.
        sizes: how many elements each one-hot variable has; without, each element is a variable of
            its own, 0 or 1.

    Raises:
        ValueError: it is not above 0 and at most 1.

    >>> Redrawn(0.5).draw(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, noise: float, sizes: Sequence[int] | None = None) -> None:
        if not 0 < noise <= 1:
            raise ValueError(
                f"the noise of discrete codes is the probability that a variable is redrawn, above "
                f"0 and at most 1, but is {noise}"
            )
        self.noise, self.sizes = noise, sizes

    def start(self, like: Elements) -> IndependentBernoulli | IndependentCategorical:
        return self._law(like.new_zeros(like.shape[-1]))

    def draw(self, h: Elements, shape: Sequence[int] | None = None) -> Elements:
        like = h if shape is None else h.new_empty(tuple(shape))
        redrawn = self.uniform(like) < self.noise
        return torch.where(redrawn, self.start(like).sample(like.shape[:-1]), h)

    def divergence(self, h: Elements) -> Elements:
        if self.sizes is None:
            return torch.full_like(h, self._divergence(2))
        # those of a variable's elements add up to its own
        shares = [self._divergence(n) / n for n in self.sizes for _ in range(n)]
        return h.new_tensor(shares).expand_as(h)

    def precision(self, like: Elements) -> Elements:
        if self.sizes is None:
            return torch.full_like(like, 2 * self._log_odds(2))
        # two values of a one-hot variable differ in two elements
        odds = [self._log_odds(n) for n in self.sizes for _ in range(n)]
        return like.new_tensor(odds).expand_as(like)

    def nearest(self, y: Elements) -> Elements:
        return self._law(y - 0.5).mode

    def uniform(self, like: Elements) -> Elements:
        if self.sizes is None:
            return torch.rand_like(like)
        one = torch.rand((*like.shape[:-1], len(self.sizes)), dtype=like.dtype, device=like.device)
        return one.repeat_interleave(torch.tensor(self.sizes, device=like.device), -1)

    def _law(self, logits: Tensor) -> IndependentBernoulli | IndependentCategorical:
        if self.sizes is None:
            return IndependentBernoulli(logits)
        return IndependentCategorical(logits, tuple(self.sizes))

    def _divergence(self, n: int) -> float:
        """Log n minus the entropy of a variable of n values once it is corrupted."""
        kept, other = self._odds(n)
        return math.log(n) + kept * math.log(kept) + (n - 1) * other * math.log(other)

    def _log_odds(self, n: int) -> float:
        """Log C(h | h) - log C(h̃ | h) for another value h̃."""
        kept, other = self._odds(n)
        return math.log(kept / other)

    def _odds(self, n: int) -> tuple[float, float]:
        return 1 - self.noise + self.noise / n, self.noise / n

"""What a top-level prior P(h) can do."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributions import Distribution

from genprop.distributions import Product, Scale
from genprop.mixture import MixtureNormal
from genprop.nets import constant
from genprop.shapes import Elements, PerRow, Seen

Law = Product | MixtureNormal


class Prior(nn.Module, ABC):
    """P(h), a law of codes that can be trained on them and can please them.

    Attributes:
        elements: the size of a code.
        discrete: whether codes are zeros and ones rather than real numbers.
    """

    elements: int
    discrete: bool

    @abstractmethod
    def sample(self, shape: Sequence[int]) -> Elements:
        """Codes h ~ P(h), ``shape + (elements,)``."""

    @abstractmethod
    def loss(self, h: Elements, seen: Seen | None = None) -> PerRow:
        """An upper bound on -log P(h_seen) in nats, differentiable in h and the parameters.

        Without a mask all of h counts.
        """

    @abstractmethod
    def reconstruct(self, h: Elements, scale: Scale) -> Elements:
        """E[h' | h' + scale·ε = h] for h' ~ P, ε ~ N(0, I).

        Where P has a density it is h + scale²·∇log P_scale(h), P_scale being P with that noise
        (Tweedie's formula).
        """

    @abstractmethod
    def condition(self, h: Elements, seen: Seen) -> Distribution:
        """P(h_unseen | h_seen), any pattern row by row; draws are whole codes, the seen held."""

    @abstractmethod
    def refit(self, codes: Elements) -> None:
        """Fits P(h) anew to the codes ``(rows, elements)``; the layers below are not touched."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it P(h) is constant in all parameters, also in those that are others' as well."""
        with constant(self):
            yield


class DensityPrior(Prior, ABC):
    """A prior whose log-density can be computed."""

    @abstractmethod
    def log_prob(self, h: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(h_seen) in nats; without a mask all of h counts."""


class FollowingPrior(Prior, ABC):
    """A prior that keeps codes of the training rows, or what it needs of them."""

    @abstractmethod
    def follow(self, codes: Elements) -> None:
        """Takes note of the codes ``(rows, elements)`` as the encoders make them now.

        Training calls it before every epoch, because codes move with their encoders. Those of
        modalities that a row lacks are drawn given its others (``genprop.codes.whole_codes``).
        """


class LawPrior(DensityPrior, ABC):
    """A density prior whose law is a distribution that knows its own conditionals."""

    @property
    @abstractmethod
    def law(self) -> Law:
        """P(h) as a distribution."""

    def sample(self, shape: Sequence[int]) -> Elements:
        return self.law.sample(shape)

    def log_prob(self, h: Elements, seen: Seen | None = None) -> PerRow:
        return self.law.log_prob(h, seen)

    def loss(self, h: Elements, seen: Seen | None = None) -> PerRow:
        return -self.log_prob(h, seen)

    def reconstruct(self, h: Elements, scale: Scale) -> Elements:
        return self.law.denoise(h, scale)

    def condition(self, h: Elements, seen: Seen) -> Distribution:
        return self.law.given(h, seen)


def known_part(h: Elements, seen: Seen | None) -> tuple[Elements, Seen]:
    """A code, zero where it is not seen, and what is seen of it, of the same shape."""
    if seen is None:
        return h, torch.ones_like(h, dtype=torch.bool)
    h, seen = torch.broadcast_tensors(h, seen)
    return torch.where(seen, h, 0), seen

"""Laws of hidden values that can be drawn from and weighed: what estimators begin with."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.simulate import simulated
from genprop.posterior import Posterior
from genprop.shapes import Elements, PerRow

DRAWS = 64  # that tell the mean and the spread of an encoder's law
PATHS = 8  # in each step of a refinement
RATE = 0.1  # at first, in standard deviations of the encoder's law


class Proposal(ABC):
    """A normalised law of a posterior's positions, one for each row."""

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """The rows."""

    @abstractmethod
    def sample(self, shape: Sequence[int], /) -> Elements:
        """Draws ``(draws, rows, elements)`` for a shape ``(draws,)``."""

    @abstractmethod
    def log_prob(self, position: Elements, /) -> PerRow:
        """Log-densities of positions ``(draws, rows, elements)``, nats."""


class FromEncoder(Proposal):
    """Q(h | x_seen), with the prior's word where a row shows nothing of a modality.

    Args:
        posterior: of the rows.
    """

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size((self.posterior.batch.rows,))

    @torch.no_grad()
    def sample(self, shape: Sequence[int], /) -> Elements:
        (draws,) = shape
        return self.posterior.start(draws)

    def log_prob(self, position: Elements, /) -> PerRow:
        return self.posterior.log_q(position)


class FromModel(Proposal):
    """P(h), whatever the rows are.

    Args:
        posterior: of the rows.
    """

    def __init__(self, posterior: Posterior) -> None:
        model, self.rows = posterior.model, posterior.batch.rows
        self.model = model
        nothing = {n: torch.full_like(x[:1], math.nan) for n, x in posterior.batch.x.items()}
        self.joint = Posterior(model, Batch.of(nothing), posterior.smooth)

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size((self.rows,))

    def sample(self, shape: Sequence[int], /) -> Elements:
        return simulated(self.model, (*shape, self.rows))[0]

    def log_prob(self, position: Elements, /) -> PerRow:
        # the one row that shows nothing, for every draw of every row
        return self.joint.log_prob(position[..., None, :])[..., 0]


class Refined(Proposal):
    r"""The encoder's draws, moved and stretched for each row: h = m + e^r (h' - m'), h' ~ Q.

    m' is the mean of Q in the row. m and r are found for each element of each row by gradient
    steps that raise the bound E log P(x_seen, h) + Σ r; what the encoder knows of how levels
    depend on each other stays.

    Args:
        posterior: of the rows; all levels real-valued.
        steps: of Adam, whose rate falls to zero.

    References:
        Cremer, Li, Duvenaud, 2018, Inference suboptimality in variational autoencoders.
    """

    def __init__(self, posterior: Posterior, steps: int) -> None:
        self.encoder = FromEncoder(posterior)
        draws = posterior.start(DRAWS)
        self.centre, self.spread = draws.mean(0), draws.std(0).clamp_min(1e-6)
        self.shift, self.stretch = torch.zeros_like(self.centre), torch.zeros_like(self.centre)
        self._refine(posterior, steps)

    @property
    def batch_shape(self) -> torch.Size:
        return self.encoder.batch_shape

    def sample(self, shape: Sequence[int], /) -> Elements:
        return self._moved(self.encoder.sample(shape))

    def log_prob(self, position: Elements, /) -> PerRow:
        shift = self.shift * self.spread
        back = self.centre + (position - self.centre - shift) * torch.exp(-self.stretch)
        return self.encoder.log_prob(back) - self.stretch.sum(-1)

    def _moved(self, h: Tensor) -> Tensor:
        moved: Tensor = self.centre + self.shift * self.spread
        return moved + torch.exp(self.stretch) * (h - self.centre)

    @torch.enable_grad()
    def _refine(self, posterior: Posterior, steps: int) -> None:
        parts = [self.shift.requires_grad_(), self.stretch.requires_grad_()]
        adam = torch.optim.Adam(parts, lr=RATE)
        fall = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 1e-3, max(1, steps))
        for _ in range(steps):
            h = self._moved(self.encoder.sample((PATHS,)))
            bound = posterior.log_prob(h).mean(0).sum() + self.stretch.sum()
            # the model's own parameters must get no gradient
            for part, gradient in zip(parts, torch.autograd.grad(-bound, parts), strict=True):
                part.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            adam.step()
            fall.step()
        self.shift, self.stretch = (part.detach() for part in parts)


class Mixed(Proposal):
    """Draws of one law or, with a probability, of another.

    Args:
        law: the one.
        other: the other.
        share: its probability, above 0 and below 1.
    """

    def __init__(self, law: Proposal, other: Proposal, share: float) -> None:
        self.law, self.other, self.share = law, other, share

    @property
    def batch_shape(self) -> torch.Size:
        return self.law.batch_shape

    def sample(self, shape: Sequence[int], /) -> Elements:
        (draws,) = shape
        # how many of either is drawn at random: so weights are those of independent draws
        others = int((torch.rand(draws) < self.share).sum())
        parts = [(self.law, draws - others), (self.other, others)]
        return torch.cat([law.sample((count,)) for law, count in parts if count])

    def log_prob(self, position: Elements, /) -> PerRow:
        one = self.law.log_prob(position) + math.log1p(-self.share)
        return torch.logaddexp(one, self.other.log_prob(position) + math.log(self.share))

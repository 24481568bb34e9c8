"""Decoders' errors that go together: one covariance for all rows, estimated after training."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.conditional import Gaussian, unbounded_scale
from genprop.distributions import Product
from genprop.multivariate import JointNormal
from genprop.shapes import Elements, Outputs, Seen

SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
FEWEST, JUDGED = 8, 300  # rows without which, and by which, shares are chosen
LEAST = 1e-4  # eigenvalue of a correlation matrix


class CorrelatedGaussian(Gaussian):
    r"""x ~ N(μ, Σ) with μ from the net and one Σ for all rows, of which no element is zero by rule.

    A code says what rows have in common; what it leaves of x need not be independent. With Σ, what
    is seen of a row tells of what is not seen beside what its code tells::

        E[x_m | h, x_s] = μ_m(h) + Σ_ms Σ_ss⁻¹ (x_s - μ_s(h))

    In training elements are independent, so that codes are asked to explain what they can; then
    ``learn`` finds the variances and correlations of what they left. Until then Σ is diagonal.

    Args:
        elements: dimensions.
        blocks: how many belong together, side by side; all unless given. Correlations across
            blocks, which are more than those within and weaker, are drawn in further.

    Raises:
        ValueError: no element, or blocks of another number of them.

    References:
        Schäfer, Strimmer, 2005, A shrinkage approach to large-scale covariance matrix estimation
        (correlations drawn towards none; here by as much as held-out rows like best).

    >>> family = CorrelatedGaussian(2).eval()
    >>> errors = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 2)
    >>> family.learn(errors, torch.ones(1000, 2, dtype=torch.bool))
    >>> law = family(torch.zeros(1, 2)).given(torch.ones(1, 2), torch.tensor([[True, False]]))
    >>> law.mean.detach().round(decimals=1)
    tensor([[1., 1.]])
    """

    root: Tensor

    def __init__(self, elements: int, blocks: Sequence[int] | None = None) -> None:
        super().__init__(elements)
        self.blocks = tuple(blocks or (elements,))
        if sum(self.blocks) != elements:
            raise ValueError(f"blocks hold all {elements} elements together, but are {self.blocks}")
        self.register_buffer("root", torch.eye(elements))

    def forward(self, outputs: Outputs) -> Product:
        if self.training:
            return super().forward(outputs)
        loc, scale = self._split(outputs)
        return JointNormal(loc, scale[:, None] * self.root)

    @torch.no_grad()
    def learn(self, errors: Elements, seen: Seen) -> None:
        """Variances and correlations of errors x - μ, from rows with holes.

        Args:
            errors: of rows.
            seen: True where an element was observed.
        """
        mask = seen.to(errors.dtype)
        count = mask.sum(0)
        variance = (errors * mask).square().sum(0) / count.clamp_min(1)
        known = (count > 1) & (variance > 0)
        scale = torch.where(known, variance.sqrt(), 1)
        assert self.log_scale is not None
        self.log_scale.copy_(torch.where(known, unbounded_scale(scale), self.log_scale))
        z = (errors / scale * mask).double()
        block = torch.arange(len(self.blocks)).repeat_interleave(torch.tensor(self.blocks))
        alike = (block[:, None] == block).to(z)
        shares = best_shares(z, seen, alike)
        self.root.copy_(torch.linalg.cholesky(shares.drawn_in(correlations(z, seen), alike)))


def correlations(z: Tensor, seen: Tensor) -> Tensor:
    """Of standardised rows, zero where not seen, each pair by the rows that show both."""
    mask = seen.to(z.dtype)
    found: Tensor = (z.mT @ z) / (mask.mT @ mask).clamp_min(1)
    values, vectors = torch.linalg.eigh(found.fill_diagonal_(1.0))
    found = vectors * values.clamp_min(LEAST) @ vectors.mT
    spread = found.diagonal().sqrt()
    found = found / spread / spread[:, None]
    return found


class Shares(NamedTuple):
    """How much of correlations is taken away: of those within a block, and of those across."""

    within: float
    across: float

    def drawn_in(self, correlation: Tensor, alike: Tensor) -> Tensor:
        """The matrix with that much less of them, positive definite as it was.

        Args:
            correlation: a correlation matrix.
            alike: 1.0 where both elements are of one block.
        """
        blocks = (self.across - self.within) * alike * correlation
        eye = torch.eye(len(correlation)).to(correlation)
        return (1 - self.across) * correlation + blocks + self.within * eye


def best_shares(z: Tensor, seen: Tensor, alike: Tensor) -> Shares:
    """Those under which every second row is most likely, correlations being the others'."""
    pairs = [Shares(w, a) for w in SHARES for a in SHARES if a >= w]
    if len(z) < FEWEST:
        return pairs[-1]
    learned = correlations(z[::2], seen[::2])
    judged, shown = z[1::2][:JUDGED], seen[1::2][:JUDGED]
    mask = None if bool(shown.all()) else shown

    def score(shares: Shares) -> float:
        root = torch.linalg.cholesky(shares.drawn_in(learned, alike))
        return float(JointNormal(torch.zeros_like(judged), root).log_prob(judged, mask).sum())

    return max(pairs, key=score)

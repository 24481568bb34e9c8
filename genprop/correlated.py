"""Decoders' errors that go together: one covariance for all rows, estimated after training."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.conditional import Gaussian, unbounded_scale
from genprop.distributions import Product
from genprop.multivariate import JointNormal
from genprop.shapes import Elements, Outputs, Seen

FOLDS = 5  # of rows, by which eigenvalues are judged
FEWEST, JUDGED = 20, 300  # rows without which nothing is learned, and by which trust is chosen
TRUSTS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
LEAST = 1e-4  # eigenvalue of a correlation matrix
WORK = 2e9  # cubed elements of all patterns of holes that are judged


class CorrelatedGaussian(Gaussian):
    r"""x ~ N(μ, Σ) with μ from the net and one Σ for all rows, of which no element is zero by rule.

    A code says what rows have in common; what it leaves of x need not be independent. With Σ, what
    is seen of a row tells of what is not seen beside what its code tells::

        E[x_m | h, x_s] = μ_m(h) + Σ_ms Σ_ss⁻¹ (x_s - μ_s(h))

    In training elements are independent, so that codes are asked to explain what they can; then
    ``learn`` finds the variances and correlations of what they left. Until then Σ is diagonal.

    Args:
        elements: dimensions.
        blocks: how many belong together, side by side, as the elements of one modality; all unless
            given. Each has a trust t_b in [0, 1], by which correlations across are multiplied,
            t_a t_b between blocks a and b: one that tells nothing of others must not make theirs
            be drawn towards none.

    Raises:
        ValueError: no element, or blocks of another number of them.

    References:
        Bartz, 2016, arXiv 1611.00798, Cross-validation based nonlinear shrinkage (eigenvalues).
        Schäfer, Strimmer, 2005, A shrinkage approach to large-scale covariance matrix estimation
        (correlations drawn towards none; here across blocks, as held-out rows like best).

    >>> family = CorrelatedGaussian(2).eval()
    >>> errors = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 2)
    >>> family.learn(errors[None], torch.ones(1, 1000, 2, dtype=torch.bool))
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
            errors: of the rows in several passes, ``(passes, rows, elements)``.
            seen: True where an element was observed.
        """
        mask = seen.to(errors.dtype)
        count = mask.sum((0, 1))
        variance = (errors * mask).square().sum((0, 1)) / count.clamp_min(1)
        known = (count > 1) & (variance > 0)
        scale = torch.where(known, variance.sqrt(), 1)
        assert self.log_scale is not None
        self.log_scale.copy_(torch.where(known, unbounded_scale(scale), self.log_scale))
        rows = Rows((errors / scale * mask).cpu().double(), seen.cpu())
        if rows.number < FEWEST:
            self.root.copy_(torch.eye(self.elements))
            return
        block = torch.arange(len(self.blocks)).repeat_interleave(torch.tensor(self.blocks))
        trust = best_trust(rows, block)
        self.root.copy_(torch.linalg.cholesky(trusted(cleaned(rows), trust, block)))


class Rows(NamedTuple):
    """Standardised errors, zero where not seen, and what was seen: ``(passes, rows, elements)``."""

    z: Tensor
    seen: Tensor

    @property
    def number(self) -> int:
        """How many rows; passes of a row are not independent of each other."""
        return self.z.shape[1]

    def take(self, rows: Tensor) -> "Rows":
        """Some of the rows, in all passes."""
        return Rows(self.z[:, rows], self.seen[:, rows])

    def products(self) -> Tensor:
        """E[z_i z_j] by the rows that show both; not always positive definite."""
        z, mask = self.z.flatten(0, 1), self.seen.flatten(0, 1).to(self.z.dtype)
        found: Tensor = (z.mT @ z) / (mask.mT @ mask).clamp_min(1)
        return found + torch.diag((found.diagonal() == 0).to(found))


def cleaned(rows: Rows) -> Tensor:
    """Their correlations with the eigenvalues that other rows show.

    The sample's largest eigenvalues are too large and its smallest too small, the more so the
    fewer rows there are for an element. What is found along each eigenvector of all folds but one
    in the one that is left out is not.
    """
    from scipy.optimize import isotonic_regression

    _, vectors = torch.linalg.eigh(rows.products())
    fold = torch.arange(rows.number) % FOLDS
    shown = torch.stack([_along(rows.take(fold != k), rows.take(fold == k)) for k in range(FOLDS)])
    rising = isotonic_regression(shown.mean(0).numpy()).x
    values = torch.as_tensor(rising).clamp_min(LEAST)
    found = vectors * values @ vectors.mT
    spread = found.diagonal().sqrt()
    scaled: Tensor = found / spread / spread[:, None]
    return scaled


def _along(learned: Rows, judged: Rows) -> Tensor:
    """The variance of some rows along each eigenvector of others."""
    _, vectors = torch.linalg.eigh(learned.products())
    shown: Tensor = torch.einsum("ji,jk,ki->i", vectors, judged.products(), vectors)
    return shown


def trusted(correlation: Tensor, trust: Tensor, block: Tensor) -> Tensor:
    """A correlation matrix with less of what stands across blocks; positive definite if it was.

    Args:
        correlation: ``(elements, elements)``.
        trust: of each block, from 0 to 1.
        block: the block of each element.
    """
    each = trust[block]
    return correlation * torch.where(block[:, None] == block, 1.0, each * each[:, None])


def best_trust(rows: Rows, block: Tensor) -> Tensor:
    """The trust in each block by which every second row is told best by all the others.

    A row is told well where each of its blocks is by its other blocks.
    """
    trust = torch.ones(int(block.max()) + 1, dtype=rows.z.dtype)
    if len(trust) == 1:
        return trust
    second = torch.arange(rows.number) % 2 == 1
    learned, judges = cleaned(rows.take(~second)), _judges(rows.take(second))

    def score(trust: Tensor) -> float:
        return _missed(trusted(learned, trust, block).float(), judges, block)

    trust = min((trust * t for t in TRUSTS), key=score)
    for number in range(len(trust)):
        tried = [trust.index_fill(0, torch.tensor(number), t) for t in TRUSTS]
        trust = min(tried, key=score)
    return trust


def _judges(rows: Rows) -> Rows:
    """The first rows, of their first pass, that have one of the commonest patterns of holes."""
    z, seen = rows.z[0].float(), rows.seen[0]
    _, which, count = torch.unique(seen, dim=0, return_inverse=True, return_counts=True)
    patterns = max(8, int(WORK / z.shape[1] ** 3))
    common = torch.isin(which, count.argsort(descending=True, stable=True)[:patterns])
    chosen = common.nonzero()[:JUDGED, 0]
    return Rows(z[chosen], seen[chosen])


def _missed(covariance: Tensor, rows: Rows, block: Tensor) -> float:
    """Squared errors of E[x_b | x_seen but for b], their mean in each block b, summed over blocks.

    With P the inverse covariance of what a row shows they are P_bb⁻¹ (P x)_b.
    """
    patterns, which = torch.unique(rows.seen, dim=0, return_inverse=True)
    missed = torch.zeros_like(rows.z)
    for number, seen in enumerate(patterns):
        both, here = seen[:, None] & seen, which == number
        precision = torch.linalg.inv(torch.where(both, covariance, torch.diag((~seen).float())))
        pulls = rows.z[here] @ precision
        for b in block.unique():
            own = block == b
            errors = torch.linalg.solve(precision[own][:, own], pulls[:, own].mT).mT
            missed[here[:, None] & own] = errors.flatten()
    found, shown = missed.square().sum(0), rows.seen.sum(0)
    every = [found[block == b].sum() / shown[block == b].sum().clamp_min(1) for b in block.unique()]
    return float(sum(every))

"""Correlations of many elements by few rows, with holes: eigenvalues and trust by left-out rows.

References:
    Bartz, 2016, arXiv 1611.00798, Cross-validation based nonlinear shrinkage (eigenvalues).
    Dempster, Laird, Rubin, 1977, Maximum likelihood from incomplete data (holes).
    Schäfer, Strimmer, 2005, A shrinkage approach to large-scale covariance matrix estimation
    (correlations drawn towards none; here across blocks, as held-out rows like best).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genprop.patterns import Patterns, patterns_of, seen_block

FOLDS = 5  # of rows, by which eigenvalues are judged
STEPS = 6  # of expectation; with few rows more learn them by heart
FEWEST, JUDGED = 20, 300  # rows without which nothing is learned, and by which trust is chosen
TRUSTS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
LEAST = 1e-4  # eigenvalue of a correlation matrix
# cubed elements of all patterns of holes: of all steps, and of those by which trust is chosen
COMPLETED, CHOSEN = 5e11, 2e9


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

    def telling(self, elements: Tensor | slice = slice(None)) -> "Rows":
        """Those that show any of some elements, of these alone."""
        z, seen = self.z[..., elements], self.seen[..., elements]
        return Rows(z, seen).take(seen.any(-1).any(0))


def correlations(rows: Rows, block: Tensor) -> Tensor:
    """The correlations of all elements, and within a block those that it shows by itself.

    Where rows have holes, pairs across blocks are seen in fewer rows than pairs within, and what
    these tell exactly (an element may be nearly a sum of others) would be blurred by the former.

    Args:
        rows: with holes or without.
        block: the block of each element.
    """
    found = cleaned(rows)
    if bool(rows.seen.all()) or bool((block == block[0]).all()):
        return found
    carry = torch.eye(len(found), dtype=found.dtype)
    for own in _each(block):
        part, place = rows.telling(own), own.nonzero()
        if part.number >= FEWEST:
            carry[place, place.mT] = _power(cleaned(part), 0.5) @ _power(found[own][:, own], -0.5)
    return carry @ found @ carry.mT


def cleaned(rows: Rows) -> Tensor:
    """Their correlations with the eigenvalues that other rows show.

    The sample's largest eigenvalues are too large and its smallest too small, the more so the
    fewer rows there are for an element. What is found along each eigenvector of all folds but one
    in the one that is left out is not. Holes are filled by expectation (EM), from independence.
    """
    elements = rows.z.shape[-1]
    found = torch.eye(elements, dtype=rows.z.dtype)
    patterns = patterns_of(rows.seen.flatten(0, 1))
    most = int(COMPLETED / (len(patterns) * elements**3))
    for _ in range(1 if bool(rows.seen.all()) else min(max(most, 1), STEPS)):
        found = _rebuilt(*completed(rows, patterns, found))
    return found


def completed(rows: Rows, patterns: Patterns, correlation: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of E[z zᵀ | z_seen] over each fold, ``(FOLDS, elements, elements)``, and its rows."""
    fold = (torch.arange(rows.number) % FOLDS).repeat(len(rows.z))
    filled = rows.z.flatten(0, 1).clone()
    sums = torch.zeros(FOLDS, *correlation.shape, dtype=filled.dtype)
    for shown, here in patterns:
        if bool(shown.all()):
            continue
        hidden = (~shown).nonzero()
        across = correlation[shown][:, ~shown]
        root = torch.linalg.cholesky(correlation[shown][:, shown])
        gain = torch.cholesky_solve(across, root)
        filled[here[:, None], hidden.mT] = filled[here][:, shown] @ gain
        left = correlation[~shown][:, ~shown] - across.mT @ gain
        for k, times in enumerate(fold[here].bincount(minlength=FOLDS).tolist()):
            sums[k, hidden, hidden.mT] += times * left
    for k in range(FOLDS):
        sums[k] += filled[fold == k].mT @ filled[fold == k]
    return sums, fold.bincount(minlength=FOLDS)


def _rebuilt(sums: Tensor, count: Tensor) -> Tensor:
    """Correlations of the eigenvectors of all folds and the eigenvalues that left-out ones show."""
    from scipy.optimize import isotonic_regression

    total, number, shown = sums.sum(0), count.sum(), torch.zeros_like(sums[0, 0])
    for left, rows in zip(sums, count, strict=True):
        _, vectors = torch.linalg.eigh((total - left) / (number - rows))
        shown += (left @ vectors * vectors).sum(0) / rows / FOLDS
    values = torch.as_tensor(isotonic_regression(shown.numpy()).x).clamp_min(LEAST)
    _, vectors = torch.linalg.eigh(total / number)
    found = vectors * values @ vectors.mT
    spread = found.diagonal().sqrt()
    scaled: Tensor = found / spread / spread[:, None]
    return scaled


def _power(matrix: Tensor, power: float) -> Tensor:
    """Of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    raised: Tensor = vectors * values.clamp_min(LEAST**2) ** power @ vectors.mT
    return raised


def _each(block: Tensor) -> list[Tensor]:
    """The elements of each block, as masks."""
    return [block == b for b in block.unique()]


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
    learned, (judges, seen) = correlations(rows.take(~second), block), _judges(rows.take(second))
    patterns = patterns_of(seen)

    def score(trust: Tensor) -> float:
        return _missed(trusted(learned, trust, block).float(), judges, patterns, block)

    trust = min((trust * t for t in TRUSTS), key=score)
    for number in range(len(trust)):
        tried = [trust.index_fill(0, torch.tensor(number), t) for t in TRUSTS]
        trust = min(tried, key=score)
    return trust


def _judges(rows: Rows) -> tuple[Tensor, Tensor]:
    """The first rows, of their first pass, that have one of the commonest patterns of holes."""
    z, seen = rows.z[0].float(), rows.seen[0]
    most = max(8, int(CHOSEN / z.shape[1] ** 3))
    common = sorted(patterns_of(seen), key=lambda pattern: -len(pattern[1]))[:most]
    chosen = torch.cat([here for _, here in common]).sort().values[:JUDGED]
    return z[chosen], seen[chosen]


def _missed(covariance: Tensor, z: Tensor, patterns: Patterns, block: Tensor) -> float:
    """Squared errors of E[x_b | x_seen but for b], their mean in each block b, summed over blocks.

    With P the inverse covariance of what a row shows they are P_bb⁻¹ (P x)_b.
    """
    blocks = _each(block)
    missed, shown = torch.zeros_like(z), torch.zeros_like(block)
    for seen, here in patterns:
        shown += len(here) * seen
        precision = torch.linalg.inv(seen_block(covariance, seen))
        pulls = z[here] @ precision
        for own in blocks:
            errors = torch.linalg.solve(precision[own][:, own], pulls[:, own].mT).mT
            missed[here[:, None], own.nonzero().mT] = errors
    found = missed.square().sum(0)
    return float(sum(found[own].sum() / shown[own].sum().clamp_min(1) for own in blocks))

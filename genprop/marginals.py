"""Densities of the seen elements of joint Gaussians."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from genprop.by_pattern import ByPattern, log_det, places, solved
from genprop.patterns import seen_block
from genprop.shapes import Elements, PerRow, Seen

SIZES = 8


def log_marginal(away: Elements, covariance: Tensor, seen: Seen) -> PerRow:
    """-½ awayᵀ Σ_seen⁻¹ away - ½ log |Σ_seen|, the log-density but for ½ log 2π an element.

    Args:
        away: x - mean, zero where unseen, ``(…, *laws, elements)``.
        covariance: Σ, ``(*laws, elements, elements)``; it broadcasts.
        seen: True where seen, any pattern row by row; it broadcasts.
    """
    found: Tensor = _Marginal.apply(away, covariance, seen)  # type: ignore[no-untyped-call]
    return found


class Shown(NamedTuple):
    """Rows that show about as many elements as each other, in matrices no larger than that.

    Attributes:
        rows: which they are.
        which: the pattern of each, ``(rows, *laws)``, of the following.
        order: the seen elements, and others up to the common size, ``(patterns, size)``.
        seen: which of these are seen.
    """

    rows: Tensor
    which: Tensor
    order: Tensor
    seen: Tensor

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Where in a whole matrix each number of the small ones is."""
        return self.order[:, :, None], self.order[:, None, :]

    def roots(self, covariance: Tensor) -> ByPattern:
        """Cholesky's roots of Σ_seen, with ones on the diagonal elsewhere."""
        small = covariance[(..., *self.places)].movedim(-3, 0)
        wide = [len(self.seen), *[1] * (covariance.ndim - 2), self.seen.shape[-1]]
        seen = self.seen.reshape(wide)
        if not bool(seen.all()):
            small = seen_block(small, seen)
        return ByPattern(torch.linalg.cholesky(small), self.which, covariance.shape[:-2])


class _Marginal(torch.autograd.Function):
    """``log_marginal``, whose gradient cannot be differentiated again.

    In Σ it is ½ (pull pullᵀ - Σ_seen⁻¹), where ``pull`` = Σ_seen⁻¹ away is zero where nothing is
    seen, so that no row needs a matrix of its own.
    """

    @staticmethod
    def forward(ctx: Any, away: Tensor, covariance: Tensor, seen: Tensor) -> Tensor:
        values, masks = _by_row(away, seen, covariance.ndim - 2)
        found, pull = torch.zeros_like(values[..., 0]), torch.zeros_like(values)
        parts = []
        for shown in _shown(masks):
            part = values[:, shown.rows]
            index = shown.order[shown.which].expand(*part.shape[:-1], -1)
            roots = shown.roots(covariance)
            white = roots.apply(solved, part.gather(-1, index))
            volume = roots.by_row(log_det(roots.every))
            found[:, shown.rows] = -0.5 * white.square().sum(-1) - volume
            if any(ctx.needs_input_grad):
                back = roots.apply(lambda root, x: solved(root.mT, x, upper=True), white)
                pull[:, shown.rows] = torch.zeros_like(part).scatter_(-1, index, back)
                parts.append((shown, roots.every))
        ctx.parts, ctx.shape = parts, away.shape
        ctx.save_for_backward(pull, covariance)
        return found.reshape(away.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pull, covariance = ctx.saved_tensors
        grad = grad.reshape(pull.shape[:-1])
        weighed = pull * grad[..., None]
        left, right = weighed.flatten(0, 1), pull.flatten(0, 1)
        squares = left.movedim(0, -1) @ right.movedim(0, -2)
        by_law = 0.5 * squares.sum_to_size(covariance.shape)
        for shown, roots in ctx.parts:
            _add_inverses(by_law, shown, roots, -0.5 * grad[:, shown.rows].sum(0))
        return -weighed.reshape(ctx.shape), by_law, None


def _add_inverses(whole: Tensor, shown: Shown, roots: Tensor, weights: Tensor) -> None:
    """Adds the inverses of Σ_seen to matrices of all elements, by weights ``(rows, *laws)``."""
    laws, elements = whole.shape[:-2], whole.shape[-1]
    which = shown.which, *places(laws, whole.device)
    weights = weights.sum_to_size(torch.broadcast_shapes(*(w.shape for w in which)))
    total = roots.new_zeros(roots.shape[:-2]).index_put(which, weights, accumulate=True)
    inverses = torch.cholesky_inverse(roots).mul_(total[..., None, None]).movedim(0, -3)
    inverses.diagonal(dim1=-2, dim2=-1).mul_(shown.seen)
    row, column = shown.places
    flat = whole.view(*laws, elements**2)
    flat.index_add_(-1, (row * elements + column).flatten(), inverses.flatten(-3))


def _by_row(away: Tensor, seen: Tensor, laws: int) -> tuple[Tensor, Tensor]:
    """Values ``(draws, rows, *laws, elements)`` and their masks without draws."""
    lead = away.shape[: away.ndim - 1 - laws]
    masks = seen.reshape(*[1] * (away.ndim - seen.ndim), *seen.shape)
    draws = next((i for i in range(len(lead)) if masks.shape[i] != 1), len(lead))
    rows, own = lead[draws:], masks.shape[len(lead) :]
    values = away.reshape(lead[:draws].numel(), rows.numel(), *away.shape[len(lead) :])
    masks = masks.expand(*lead[:draws], *rows, *own)[(0,) * draws]
    return values, masks.reshape(rows.numel(), *own)


def _shown(masks: Tensor) -> Iterator[Shown]:
    """Rows of masks ``(rows, *laws, elements)`` by how much they show."""
    elements = masks.shape[-1]
    patterns, which = masks.reshape(-1, elements).unique(dim=0, return_inverse=True)
    which = which.reshape(masks.shape[:-1])
    counts = patterns.sum(-1)
    # the seen ones first, in their order
    order = patterns.long().argsort(dim=-1, descending=True, stable=True)
    sizes = counts
    if len(counts.unique()) > SIZES:
        step = -(-elements // SIZES)
        sizes = (-(-counts // step) * step).clamp_max(elements)
    if which.numel() > len(which):  # laws whose masks differ
        sizes = torch.full_like(sizes, elements)
    of_row = sizes[which[(slice(None), *[0] * (which.ndim - 1))]]
    for size in sizes.unique().tolist():
        if size == 0:
            continue
        some, rows = (sizes == size).nonzero()[:, 0], (of_row == size).nonzero()[:, 0]
        place = torch.zeros_like(sizes)
        place[some] = torch.arange(len(some), device=masks.device)
        among = torch.arange(size, device=masks.device) < counts[some, None]
        yield Shown(rows, place[which[rows]], order[some, :size], among)

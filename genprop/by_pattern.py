"""Matrices by the pattern of what rows show, and what they do to vectors."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 2**22
ROWS_OF_ONE = 8  # that share a matrix: of fewer it is copied for each


class ByPattern(NamedTuple):
    """Matrices of masks, of which many rows may have the same.

    Attributes:
        every: those that occur, ``(patterns, *batch, elements, elements)``.
        which: of each row.
        batch: of laws, with which rows broadcast.
    """

    every: Tensor
    which: Tensor
    batch: torch.Size

    @property
    def each(self) -> Tensor:
        """Those of all rows, one beside the other."""
        return self.by_row(self.every)

    def chosen(self, law: Tensor) -> "ByPattern":
        """Those of one law for each place, of the last dimension of laws.

        Args:
            law: which one, ``(…, rows)``; where all laws share a matrix it is that.
        """
        which, (*rows, laws) = self.which[..., 0], self.batch or (1,)
        for number, place in zip(rows, places(rows, law.device), strict=True):
            which = which * number + place
        which = which * laws + law.clamp_max(laws - 1)
        return ByPattern(self.every.flatten(0, len(self.batch)), which, torch.Size())

    def apply(self, function: Callable[[Tensor, Tensor], Tensor], vectors: Tensor) -> Tensor:
        """A function of matrices and vectors ``(…, *rows, *batch, elements)``.

        Where a matrix for each row would be too much, or many rows share one, it goes pattern by
        pattern; what comes out is the same, up to rounding.

        Args:
            function: broadcasts a matrix over all vectors that share it.
            vectors: one for each row and law, in any number of draws.
        """
        if not self.batch and self.which.ndim > 1 and self.which.shape == vectors.shape[:-1]:
            flat = ByPattern(self.every, self.which.flatten(), self.batch)
            return flat.apply(function, vectors.flatten(0, -2)).reshape(vectors.shape)
        along = vectors.ndim - len(self.batch) - 2
        by_row = vectors.shape[max(along, 0) :][:1] + torch.Size([1] * len(self.batch))
        rows, numbers = self.which.numel(), self.every.shape[1:].numel()
        few = rows <= ROWS_OF_ONE * len(self.every) and rows * numbers <= NUMBERS_AT_ONCE
        if self.which.shape != by_row or few:
            return function(self.each, vectors)
        there, which, count = self.which.unique(return_inverse=True, return_counts=True)
        order = which.flatten().argsort(stable=True)
        parts = vectors.index_select(along, order).split(count.tolist(), along)
        made = [
            function(self.every[i], part) for i, part in zip(there.tolist(), parts, strict=True)
        ]
        return torch.cat(made, along).index_select(along, order.argsort())

    def by_row(self, every: Tensor) -> Tensor:
        """What there is of each mask and law, for all rows."""
        return every[(self.which, *places(self.batch, self.which.device))]


def places(shape: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
    """An index for each dimension of a shape; together they broadcast to all of its places.

    >>> [index.tolist() for index in places((2, 3), torch.device("cpu"))]
    [[[0], [1]], [0, 1, 2]]
    """
    after = range(len(shape) - 1, -1, -1)
    return tuple(
        torch.arange(n, device=device).reshape(-1, *[1] * k)
        for n, k in zip(shape, after, strict=True)
    )


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Each matrix times its vector."""
    product: Tensor = torch.einsum("...ij,...j->...i", matrices, vectors)
    return product


def solved(matrix: Tensor, vectors: Tensor, upper: bool = False) -> Tensor:
    """Of triangular matrices; leading dimensions that they lack are columns of one solve."""
    vectors = vectors.expand(torch.broadcast_shapes(vectors.shape, matrix.shape[:-1]))
    extra = vectors.ndim + 1 - matrix.ndim
    columns = vectors.reshape(vectors.shape[:extra].numel(), *vectors.shape[extra:]).movedim(0, -1)
    solved: Tensor = torch.linalg.solve_triangular(matrix, columns, upper=upper)
    return solved.movedim(-1, 0).reshape(vectors.shape)


def log_det(tril: Tensor) -> Tensor:
    """Log of a triangular matrix's determinant."""
    found: Tensor = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return found

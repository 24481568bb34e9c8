"""Rows by what they lack: each pattern of holes, and the rows that have it."""

import torch
from torch import Tensor

Patterns = list[tuple[Tensor, Tensor]]


def patterns_of(seen: Tensor) -> Patterns:
    """Every mask that occurs among ``(rows, elements)``, and the numbers of its rows.

    >>> patterns_of(torch.tensor([[True, False], [True, True], [True, False]]))
    [(tensor([ True, False]), tensor([0, 2])), (tensor([True, True]), tensor([1]))]
    """
    every, which = torch.unique(seen, dim=0, return_inverse=True)
    return [(mask, (which == number).nonzero()[:, 0]) for number, mask in enumerate(every)]


def seen_block(matrices: Tensor, seen: Tensor) -> Tensor:
    """What of matrices belongs to seen elements, with ones on the diagonal elsewhere.

    Args:
        matrices: ``(…, elements, elements)``.
        seen: masks ``(…, elements)``, which broadcast with them.

    >>> seen_block(torch.full((2, 2), 3.0), torch.tensor([True, False]))
    tensor([[3., 0.],
            [0., 1.]])
    """
    both = seen[..., :, None] & seen[..., None, :]
    return torch.where(both, matrices, torch.diag_embed((~seen).to(matrices.dtype)))

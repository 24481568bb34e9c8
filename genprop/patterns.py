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

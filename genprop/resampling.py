"""Draws picked by their weights, and some of many rows."""

import torch
from torch import Tensor


def resampled(log_w: Tensor, draws: int) -> Tensor:
    """Numbers of samples, each row's own, every one as often as its weight says.

    Args:
        log_w: logs of weights, ``(samples, rows)``.
        draws: how many, ``(draws, rows)``.

    References:
        Rubin, 1988, Using the SIR algorithm to simulate posterior distributions.

    >>> resampled(torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]]), 3)
    tensor([[0, 1],
            [0, 1],
            [0, 1]])
    """
    return torch.multinomial(log_w.softmax(0).T, draws, replacement=True).T


def picked(values: Tensor, chosen: Tensor) -> Tensor:
    """Values ``(samples, rows, …)`` of the numbers ``(draws, rows)``: ``(draws, rows, …)``."""
    return values[chosen, torch.arange(chosen.shape[1], device=chosen.device)]


def evenly(rows: int, most: int, device: torch.device) -> Tensor:
    """Numbers of rows, evenly spread over all, so many at most.

    >>> evenly(10, 4, torch.device("cpu"))
    tensor([0, 2, 5, 7])
    """
    kept = min(rows, most)
    return torch.arange(kept, device=device) * rows // max(kept, 1)

"""What is held out of training to decide when to stop, and its bound."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from genprop.data import Batch
from genprop.model import Model

HELD_OUT = ("rows", "cells")


def check_held_out(share: float, what: str) -> None:
    """Refuses what cannot be held out.

    Raises:
        ValueError: the share is not from 0 to below 1, or it is of neither rows nor cells.
    """
    if not 0 <= share < 1:
        raise ValueError(f"validation is the share held out, from 0 to below 1, but is {share!r}")
    if what not in HELD_OUT:
        raise ValueError(f"held_out must be one of {', '.join(HELD_OUT)}, but is {what!r}")


def hold_out(
    data: Batch, share: float, what: str, sizes: Mapping[str, Sequence[int]]
) -> tuple[Batch, Batch | None]:
    """What is trained on, and what is held out, if that is anything.

    Args:
        data: all rows.
        share: of them, or of their seen cells, that is held out.
        what: ``"rows"`` or ``"cells"``.
        sizes: of each modality the elements of its variables.
    """
    return data.split(share) if what == "rows" else data.split_cells(share, sizes)


@torch.no_grad()
def mean_bound(model: Model, batch: Batch, samples: int, rows_at_once: int = 512) -> float:
    """E log (1/K) Σ_k P(x_seen, h_k) / Q(h_k | x_seen), its mean over rows, nats.

    Where encoders are shown less than is seen, it is that of log P(x_seen) - log P(x_shown): what
    the cells that were held back have given the others.
    """
    if batch.shown is not None:
        part = Batch(batch.x, batch.shown)
        whole = replace(batch, shown=None)
        bounds = [mean_bound(model, b, samples, rows_at_once) for b in (whole, part)]
        return bounds[0] - bounds[1]
    total = 0.0
    for start in range(0, batch.rows, rows_at_once):
        rows = batch.take(slice(start, start + rows_at_once))
        log_w = model.log_weights(model.encode(rows, samples), rows)
        total += (log_w.logsumexp(0) - math.log(samples)).cpu().double().sum().item()
    return total / batch.rows

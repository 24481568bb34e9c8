"""Which rows an epoch visits, and in what order."""

import math

import torch
from torch import Tensor

from genprop.data import Batch

MOST = 100  # visits of an epoch, times the rows


def visits(data: Batch, balance: float = 0.0) -> Tensor:
    """The numbers of all rows, shuffled; those that show a rare modality more than once.

    Where 100 of 50,000 rows have a label, a batch has none, as a rule, and the encoder that is told
    a label alone hardly ever practises. Rows that show a modality come again, all of them before
    any once more, until they are a share of the visits; what is trained is then the likelihood
    of such a mixture of rows.

    Args:
        data: the rows.
        balance: the least share of the visits that show each modality, below 1. One that no row
            shows has none.

    Raises:
        ValueError: that would take more than a hundred times as many visits as there are rows, or
            cannot be had at all: of two modalities that no row shows together, by each half.

    >>> x = {"image": torch.ones(90, 1), "label": torch.ones(90, 1)}
    >>> x["label"][3:] = torch.nan
    >>> order = visits(Batch.of(x), balance=0.25)
    >>> len(order), (order < 3).sum().item()
    (116, 29)
    """
    if not balance:
        return torch.randperm(data.rows)
    order = torch.arange(data.rows).repeat_interleave(_repeats(data, balance))
    return order[torch.randperm(len(order))]


def _repeats(data: Batch, balance: float) -> Tensor:
    """How often each row comes, so that every modality has its share."""
    repeats = torch.ones(data.rows, dtype=torch.long)
    rows = [seen.cpu().nonzero()[:, 0] for seen in map(data.present, data.x) if seen is not None]
    shown = [mine for mine in rows if len(mine)]
    # what one modality gains is lost to the shares of the others
    while any([_added(repeats, mine, balance) for mine in shown]):
        if repeats.sum() > MOST * data.rows:
            raise ValueError(
                f"balance={balance:g} asks for that share of the visits for each modality, which "
                f"would take more than {MOST} visits to a row, or cannot be had at all, as rows "
                f"that show one lack another; lower it"
            )
    return repeats


def _added(repeats: Tensor, mine: Tensor, balance: float) -> bool:
    """Repeats these rows until they are a share of all visits; whether that took anything."""
    lacking = math.ceil((balance * repeats.sum() - repeats[mine].sum()) / (1 - balance))
    if lacking <= 0:
        return False
    repeats[mine] += lacking // len(mine)
    repeats[mine[torch.randperm(len(mine))[: lacking % len(mine)]]] += 1
    return True

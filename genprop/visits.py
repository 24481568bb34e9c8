"""Which rows an epoch visits, and in what order."""

import math

import torch
from torch import Tensor

from genprop.data import Batch


def visits(data: Batch, balance: float = 0.0) -> Tensor:
    """The numbers of all rows, shuffled; those that show a rare modality more than once.

    Where 100 of 50,000 rows have a label, a batch has none, as a rule, and the encoder that is told
    a label alone hardly ever practises. Rows that show a modality come again, all of them before
    any once more, until they are a share of the visits; what is trained is then the likelihood
    of such a mixture of rows.

    Args:
        data: the rows.
        balance: the least share of the visits that show a modality, below 1, where it alone is
            rare: of several each is reckoned by itself, and comes to less. One that no row shows
            has none.

    >>> x = {"image": torch.ones(90, 1), "label": torch.ones(90, 1)}
    >>> x["label"][3:] = torch.nan
    >>> order = visits(Batch.of(x), balance=0.25)
    >>> len(order), (order < 3).sum().item()
    (116, 29)
    """
    parts = [torch.randperm(data.rows)]
    for name in data.x if balance else ():
        present = data.present(name)
        mine = torch.arange(data.rows) if present is None else present.cpu().nonzero()[:, 0]
        lacking = math.ceil((balance * data.rows - len(mine)) / (1 - balance))
        if len(mine) and lacking > 0:
            laps = -(-lacking // len(mine))
            again = torch.cat([mine[torch.randperm(len(mine))] for _ in range(laps)])
            parts.append(again[:lacking])
    if len(parts) == 1:
        return parts[0]
    order = torch.cat(parts)
    return order[torch.randperm(len(order))]

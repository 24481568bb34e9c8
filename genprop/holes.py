"""Which cells of data hold nothing, however that is written, and which rows lack the same."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Patterns = list[tuple[Tensor, Tensor]]


def missing_cells(values: NDArray[Any]) -> NDArray[np.bool_]:
    """NaN, None or a table's NA; in an array of texts, which holds none of these, the empty one.

    >>> missing_cells(np.array(["no", ""])), missing_cells(np.array(["", None]))
    (array([False,  True]), array([False,  True]))
    """
    if values.dtype.kind in "biu":
        return np.zeros(values.shape, dtype=bool)
    if values.dtype.kind in "US":
        return np.asarray(values == values.dtype.type())
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    import pandas as pd

    return np.asarray(pd.isna(values))


def patterns_of(seen: Tensor) -> Patterns:
    """Every mask that occurs among ``(rows, elements)``, and the numbers of its rows.

    >>> patterns_of(torch.tensor([[True, False], [True, True], [True, False]]))
    [(tensor([ True, False]), tensor([0, 2])), (tensor([True, True]), tensor([1]))]
    """
    every, which = torch.unique(seen, dim=0, return_inverse=True)
    return [(mask, (which == number).nonzero()[:, 0]) for number, mask in enumerate(every)]

"""Which cells of data hold nothing, however that is written."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


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

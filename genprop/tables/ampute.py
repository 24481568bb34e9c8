"""Making holes whose truth is known: at random, by other columns, or by the values themselves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MECHANISMS = ("mcar", "mar", "self", "quantile")
STEEP = 2.0  # of the logistic law of holes, in standard deviations of what they depend on

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]


def holes(table: Any, rate: float = 0.3, mechanism: str = "mcar", random_state: Any = None) -> Mask:
    r"""Which seen cells to hide, about a share ``rate`` of those of each column that may have any.

    ``"mcar"``    every cell with the same probability.
    ``"mar"``     half of the columns, drawn at random, stay as they are; of the others a cell is
                  hidden with probability sigmoid(a + 2 s), s being a random combination of the
                  columns that stay, standardised, and a such that the rate is met.
    ``"self"``    missing not at random: with probability sigmoid(a + 2 z), z being the cell's own
                  standardised value.
    ``"quantile"`` missing not at random: the cells above the column's (1 - rate) quantile.

    Categories count as the numbers of their codes. Cells that are missing stay so and are not in
    the mask, and of no row the last seen cell is hidden.

    Args:
        table: an array ``(rows, columns)`` or a DataFrame; NaN, None or NA is missing.
        rate: between 0 and 1.
        mechanism: one of ``MECHANISMS``.
        random_state: a seed or a NumPy generator.

    Raises:
        ValueError: an unknown mechanism, a rate outside, or too few columns.

    References:
        Schouten, Lugtig, Vink, 2018, Generating missing values for simulation purposes. Muzellec,
        Josse, Boyer, Cuturi, 2020, Missing data imputation using optimal transport (the logistic
        masks).

    >>> mask = holes(np.random.default_rng(0).normal(size=(1000, 4)), 0.3, "self", 0)
    >>> mask.shape, bool(abs(mask.mean() - 0.3) < 0.03)
    ((1000, 4), True)
    """
    _check(table, rate, mechanism)
    generator = np.random.default_rng(random_state)
    z, seen = _standardised(table)
    if mechanism == "mar":
        chances = _by_others(z, rate, generator)
    elif mechanism == "quantile":
        cuts = [np.quantile(c[s], 1 - rate) for c, s in zip(z.T, seen.T, strict=True)]
        chances = (z > np.array(cuts)).astype(float)
    else:
        chances = np.full(z.shape, rate) if mechanism == "mcar" else _logistic(STEEP * z, rate)
    hidden: Mask = (generator.random(z.shape) < chances) & seen
    return _leaving_one(hidden, seen, generator)


def hide(table: Any, hidden: Mask) -> Any:
    """The same table with these cells missing: those that are True in ``hidden``, as of ``holes``.

    >>> hide(np.array([[1, 2]]), np.array([[True, False]]))
    array([[nan,  2.]])
    """
    if not hasattr(table, "columns"):
        array = np.asarray(unmasked(table))
        if array.dtype.kind in "biu":
            array = array.astype(float)
        nothing: Any = np.nan if array.dtype.kind == "f" else None
        return np.where(hidden, nothing, array)
    rest = table.copy()
    for number in range(table.shape[1]):
        if hidden[:, number].any():
            column = table.iloc[:, number]
            if column.dtype == bool:
                column = column.astype("boolean")
            rest.isetitem(number, column.mask(hidden[:, number]))
    return rest


def unmasked(X: Any) -> Any:
    """What a masked array shows, with NaN (or None) where it shows nothing; all else as it is.

    >>> unmasked(np.ma.array([1, 2], mask=[True, False]))
    array([nan,  2.])
    """
    if not isinstance(X, np.ma.MaskedArray):
        return X
    mask = np.ma.getmaskarray(X)
    return hide(X.data, mask) if mask.any() else X.data


def _standardised(table: Any) -> tuple[Numbers, Mask]:
    """Each column's numbers or codes of categories, with mean 0 and spread 1; what is seen."""
    import pandas as pd

    frame = pd.DataFrame(unmasked(table))
    columns = [_numbers(frame.iloc[:, number]) for number in range(frame.shape[1])]
    x = np.stack(columns, 1)
    seen = ~np.isnan(x)
    mean, spread = np.nanmean(x, 0), np.nanstd(x, 0)
    z = (x - mean) / np.where(spread > 0, spread, 1)
    return np.where(seen, z, 0), seen


def _numbers(series: Any) -> Numbers:
    import pandas as pd

    types = pd.api.types
    if types.is_numeric_dtype(series) or types.is_bool_dtype(series):
        numbers: Numbers = series.to_numpy(dtype=float, na_value=np.nan)
        return numbers
    if types.is_datetime64_any_dtype(series):
        codes = series.rank(method="dense").to_numpy(dtype=float)
        return np.asarray(codes)
    codes = pd.Categorical(series).codes.astype(float)
    return np.where(codes < 0, np.nan, codes)


def _by_others(z: Numbers, rate: float, generator: np.random.Generator) -> Numbers:
    columns = z.shape[1]
    order = generator.permutation(columns)
    kept, lossy = np.split(order, [(columns + 1) // 2])
    scores = z[:, kept] @ generator.normal(size=(len(kept), len(lossy)))
    spread = scores.std(0)
    chances = np.zeros(z.shape)
    chances[:, lossy] = _logistic(STEEP * scores / np.where(spread > 0, spread, 1), rate)
    return chances


def _logistic(scores: Numbers, rate: float) -> Numbers:
    """sigmoid(a + score), a found by halving so that each column's mean is the rate."""
    low, high = np.full(scores.shape[1], -50.0), np.full(scores.shape[1], 50.0)
    for _ in range(60):
        middle = (low + high) / 2
        more = (0.5 * (1 + np.tanh((middle + scores) / 2))).mean(0) < rate
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    chances: Numbers = 0.5 * (1 + np.tanh((low + scores) / 2))
    return chances


def _leaving_one(hidden: Mask, seen: Mask, generator: np.random.Generator) -> Mask:
    """With one cell given back to each row that lost all it had."""
    empty = np.flatnonzero((hidden | ~seen).all(1) & seen.any(1))
    if len(empty):
        place = np.where(seen[empty], generator.random((len(empty), seen.shape[1])), -1).argmax(1)
        hidden[empty, place] = False
    return hidden


def _check(table: Any, rate: float, mechanism: str) -> None:
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism must be one of {', '.join(MECHANISMS)}, but is {mechanism!r}")
    if not 0 < rate < 1:
        raise ValueError(f"rate is the share of cells to hide, between 0 and 1, but is {rate!r}")
    if np.ndim(table) != 2 or min(np.shape(table)) < 1:
        raise ValueError(f"holes need rows and columns, but the shape is {np.shape(table)}")
    if mechanism == "mar" and np.shape(table)[1] < 2:
        raise ValueError("holes that depend on other columns need two columns; use 'mcar'")

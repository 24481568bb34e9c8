"""How well a model draws each of several modalities, hidden whole, and cells of all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genprop.encodings import is_label
from genprop.tables.ampute import hide, holes, unmasked
from genprop.tables.calibration import Calibration, calibration

if TYPE_CHECKING:
    import pandas as pd

Mask = NDArray[np.bool_]
Parts = Mapping[str, Any]


@dataclass(frozen=True)
class ModalCalibration:
    """How draws of modalities compare with the truth.

    Attributes:
        whole: of each modality, hidden whole in all rows and drawn given all others.
        cells: of each modality, where a share of the cells of all together was hidden.
        scores: a DataFrame with a line for each modality, what was ``hidden`` of it, and
            ``score``, ``"squared error"`` of the draws' mean, standardised, or ``"accuracy"`` of
            the most frequent draw: over how many ``cells``, its value ``drawn``, and that of a
            ``baseline``, each column's mean or most frequent category in these rows.
    """

    whole: dict[str, Calibration]
    cells: dict[str, Calibration]
    scores: "pd.DataFrame"


def evaluate_modalities(
    model: Any,
    X: Parts,
    rate: float = 0.3,
    mechanism: str = "mcar",
    draws: int = 50,
    random_state: Any = None,
    **how: Any,
) -> ModalCalibration:
    r"""Hides each modality whole in turn, and then a share of all cells, and compares the draws.

    The squared error is the mean over hidden cells of (x̄ - x)² / s², s being the column's standard
    deviation in these rows; that of the column's mean is about 1.

    Args:
        model: a fitted GenProp. Rows that it was fitted on flatter it.
        X: rows of at least two modalities.
        rate: the share of the cells of all modalities together, as columns of one table.
        mechanism: which of them, as for ``genprop.tables.ampute.holes``.
        draws: of each hidden cell.
        random_state: seed of holes and draws.
        how: as ``impute`` takes it.

    Raises:
        ValueError: a single modality, or what ``holes`` refuses.
    """
    if len(X) < 2:
        raise ValueError(
            f"a modality hidden whole needs another to be drawn from, but there is only {list(X)}; "
            f"give its rows as they are, not as a dict"
        )
    parts = {name: unmasked(part) for name, part in X.items()}
    tables = {name: _table(part) for name, part in parts.items()}
    masks = _masks(tables, rate, mechanism, random_state)

    def judged(hidden: Mapping[str, Mask]) -> dict[str, Calibration]:
        given = {n: hide(x, hidden[n].reshape(np.shape(x))) if n in hidden else x
                 for n, x in parts.items()}  # fmt: skip
        drawn = model.impute(given, draws=draws, random_state=random_state, **how)
        return {n: _calibration(model, n, tables[n], drawn[n], hidden[n]) for n in hidden}

    seen = {name: table.notna().to_numpy() for name, table in tables.items()}
    whole = {name: judged({name: mask})[name] for name, mask in seen.items() if mask.any()}
    cells = judged({name: mask for name, mask in masks.items() if mask.any()})
    of_both = (("whole", whole, seen), ("cells", cells, masks))
    lines = [
        {"modality": name, "hidden": what, **line}
        for name in parts
        for what, found, hidden in of_both
        if name in found
        for line in _lines(found[name], tables[name], hidden[name])
    ]
    import pandas as pd

    return ModalCalibration(whole, cells, pd.DataFrame(lines))


def _table(part: Any) -> Any:
    """A modality's rows as a DataFrame of cells."""
    import pandas as pd

    if hasattr(part, "columns"):
        return part.set_axis([str(name) for name in part.columns], axis=1)
    array = np.asarray(part)
    flat = array.reshape(len(array), -1)
    return pd.DataFrame(flat, columns=[str(number) for number in range(flat.shape[1])])


def _masks(
    tables: Mapping[str, Any], rate: float, mechanism: str, random_state: Any
) -> dict[str, Mask]:
    """Holes of all modalities together, as of one table, by modality."""
    import pandas as pd

    rows = [table.reset_index(drop=True) for table in tables.values()]
    joint = pd.concat(rows, axis=1, ignore_index=True)
    mask = holes(joint, rate, mechanism, random_state)
    ends = np.cumsum([table.shape[1] for table in tables.values()])[:-1]
    return dict(zip(tables, np.split(mask, ends, axis=1), strict=True))


def _calibration(model: Any, name: str, truth: Any, drawn: Any, hidden: Mask) -> Calibration:
    """Of one modality; categories that are written as numbers are told by its encoding."""
    encoding = model.encodings_[name]
    told = is_label(encoding) or encoding.family == "categorical"
    discrete = list(truth.columns) if told else []
    if not hasattr(drawn, "columns"):
        drawn = np.asarray(drawn).reshape(-1, *truth.shape)
    return calibration(truth, drawn, hidden, discrete)


def _lines(found: Calibration, table: Any, hidden: Mask) -> Iterator[dict[str, Any]]:
    """The score of numbers, and that of categories, over all columns that have either."""
    for score, part in (("squared error", found.numbers), ("accuracy", found.categories)):
        if not len(part):
            continue
        numbers = score == "squared error"
        values = part["rmse"] ** 2 if numbers else part["accuracy"]
        plain = _mean_error if numbers else _most_frequent
        places = {name: place for place, name in enumerate(table.columns)}
        base = [plain(table.iloc[:, places[n]], hidden[:, places[n]]) for n in part.index]
        yield {
            "score": score,
            "cells": int(part["cells"].sum()),
            "drawn": float(np.average(values, weights=part["cells"])),
            "baseline": float(np.average(base, weights=part["cells"])),
        }


def _mean_error(column: Any, hidden: Mask) -> float:
    """The standardised squared error of the mean in cells that were hidden."""
    import pandas as pd

    x = pd.to_numeric(column).to_numpy(dtype=float, na_value=np.nan)
    return float(np.mean((x[hidden] - np.nanmean(x)) ** 2)) / (float(np.nanvar(x)) or 1.0)


def _most_frequent(column: Any, hidden: Mask) -> float:
    return float((column[hidden] == column.mode().iloc[0]).mean())

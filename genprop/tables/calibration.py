"""Whether draws of hidden cells are as uncertain as they should be: coverage and scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

LEVELS = (0.5, 0.8, 0.9, 0.95)
BINS = 10

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """How draws of hidden cells compare with the truth.

    Attributes:
        numbers: a DataFrame with a line for each column of numbers: hidden ``cells``, ``rmse`` of
            the draws' mean and ``crps``, both in standard deviations of the truth, and for each
            level of a central interval ``coverage_…`` and ``width_…`` (likewise); coverage is NaN
            where there are too few draws to tell.
        categories: a line for each discrete column: ``cells``, ``accuracy`` of the most frequent
            draw, ``log`` score (nats) and ``brier`` score of the draws' frequencies.
        pit: for each column of numbers the ranks of the truth among its draws, between 0 and 1,
            which are uniform if the draws are calibrated.
    """

    numbers: "pd.DataFrame"
    categories: "pd.DataFrame"
    pit: dict[str, Numbers]

    def coverage(self, level: float = 0.9) -> float:
        """The share of hidden numbers in their central interval; NaN if that cannot be told."""
        if not len(self.numbers):
            return float("nan")
        weights = self.numbers["cells"]
        return float(np.average(self.numbers[f"coverage_{_percent(level)}"], weights=weights))

    def mean(self, score: str) -> float:
        """The mean of a score over all hidden cells of the columns that have it."""
        table = self.numbers if score in self.numbers else self.categories
        return float(np.average(table[score], weights=table["cells"])) if len(table) else np.nan

    def __str__(self) -> str:
        """The coverage and the scores in a sentence."""
        parts = []
        if len(self.numbers):
            covered = f"{self.coverage(0.9):.1%}".replace("nan%", "an unknown share (few draws)")
            parts.append(
                f"{covered} of {int(self.numbers['cells'].sum()):,} hidden numbers "
                f"lie in their 90 % intervals, CRPS {self.mean('crps'):.3f} standard deviations"
            )
        if len(self.categories):
            parts.append(
                f"of {int(self.categories['cells'].sum()):,} hidden categories "
                f"{self.mean('accuracy'):.1%} are met, log score {self.mean('log'):.3f} nats, "
                f"Brier score {self.mean('brier'):.3f}"
            )
        return "; ".join(parts)


def calibration(
    truth: Any,
    draws: Any,
    hidden: Mask,
    discrete: Sequence[str] = (),
    levels: Sequence[float] = LEVELS,
    random_state: Any = 0,
) -> Calibration:
    """Compares draws of cells that were hidden with what they held.

    Args:
        truth: the whole table, an array or a DataFrame.
        draws: completions of it, draws first, as ``impute`` gives them. Of m draws intervals can be
            judged up to the level (m - 1) / (m + 1): with 19 of 90 %, with 39 of 95 %.
        hidden: True where a cell was hidden.
        discrete: columns of numbers to be taken for categories; texts, truth values and categories
            always are.
        levels: of the central intervals.
        random_state: seed by which ties of the truth with draws are broken.

    Raises:
        ValueError: other rows or columns, nothing hidden, or draws that are the truth everywhere.

    References:
        Gneiting, Raftery, 2007, Strictly proper scoring rules. Dawid, 1984, on the probability
        integral transform. Fricker, Ferro, Stephenson, 2013, for scores of few draws.

    >>> truth = np.array([[0.0], [1.0]])
    >>> draws = np.stack([truth - 1, truth - 1, truth + 1, truth + 1])
    >>> found = calibration(truth, draws, np.ones((2, 1), dtype=bool))
    >>> found.coverage(0.5), found.coverage(0.9)
    (1.0, nan)
    """
    frame, drawn = _aligned(truth, draws)
    if hidden.shape != frame.shape or not hidden.any():
        raise ValueError(
            f"hidden must be a mask of shape {frame.shape} with a True in it, but has shape "
            f"{np.shape(hidden)} and {int(np.sum(hidden))} of them"
        )
    generator = np.random.default_rng(random_state)
    numbers: list[dict[str, Any]] = []
    categories: list[dict[str, Any]] = []
    pit: dict[str, Numbers] = {}
    exact: list[bool] = []  # of columns that vary, whether draws are the truth
    for place, name in enumerate(map(str, frame.columns)):
        mask = hidden[:, place]
        if not mask.any():
            continue
        column, values = frame.iloc[:, place], drawn[place][:, mask]
        if _is_discrete(column) or name in discrete:
            categories.append({"column": name, **_of_categories(column[mask], values)})
        else:
            floats, values = _floats(column), np.asarray(values, dtype=float)
            told, pit[name] = _of_numbers(floats, mask, values, levels, generator)
            if np.ptp(floats[mask]) > 0:
                exact.append(bool((values == floats[mask]).all()))
            numbers.append({"column": name, **told})
    if exact and all(exact):
        raise ValueError(
            "every draw of every hidden number is exactly what the table holds, so that the model "
            "must have seen them; hidden is True where a cell was hidden"
        )
    return Calibration(_table(numbers), _table(categories), pit)


def crps(truth: Numbers, draws: Numbers) -> Numbers:
    """The continuous ranked probability score, its estimate from draws without bias.

    E|X - x| - ½ E|X - X'|, X and X' being independent draws.

    Args:
        truth: ``(cells,)``.
        draws: ``(draws, cells)``, at least two.

    >>> crps(np.array([0.0]), np.array([[-1.0], [1.0]]))
    array([0.])
    """
    count = len(draws)
    ordered = np.sort(draws, 0)
    weights = 2 * np.arange(1, count + 1) - count - 1
    apart = 2 * (weights[:, None] * ordered).sum(0) / (count * max(1, count - 1))
    score: Numbers = np.abs(draws - truth).mean(0) - 0.5 * apart
    return score


def _table(lines: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(lines).set_index("column") if lines else pd.DataFrame()


def _of_numbers(
    column: Numbers, mask: Mask, values: Numbers, levels: Sequence[float], generator: Any
) -> tuple[dict[str, float], Numbers]:
    truth = column[mask]
    spread = float(np.nanstd(column)) or 1.0
    told = {
        "cells": float(mask.sum()),
        "rmse": float(np.sqrt(np.mean((values.mean(0) - truth) ** 2))) / spread,
        "crps": float(crps(truth, values).mean()) / spread,
    }
    # of m draws, the truth is one more: its rank is uniform over m + 1 places
    rank = (values < truth).sum(0) + generator.random(len(truth)) * (1 + (values == truth).sum(0))
    pit = rank / (len(values) + 1)
    # beyond all draws the truth would count as covered by chance
    finest = (len(values) - 1) / (len(values) + 1)
    for level in levels:
        low, high = np.quantile(values, (0.5 - level / 2, 0.5 + level / 2), axis=0)
        covered = (np.abs(pit - 0.5) <= level / 2).mean() if level <= finest else np.nan
        told[f"coverage_{_percent(level)}"] = float(covered)
        told[f"width_{_percent(level)}"] = float((high - low).mean()) / spread
    return told, pit


def _of_categories(truth: Any, draws: Any) -> dict[str, float]:
    values = truth.astype(object).to_numpy()
    kinds = list(dict.fromkeys([*values.tolist(), *np.asarray(draws, dtype=object).ravel()]))
    counts = np.stack([(np.asarray(draws, dtype=object) == kind).sum(0) for kind in kinds], -1)
    # half a draw more for each: no category is impossible because few draws missed it
    share = (counts + 0.5) / (counts.sum(-1, keepdims=True) + 0.5 * len(kinds))
    right = np.stack([values == kind for kind in kinds], -1)
    return {
        "cells": float(len(values)),
        "accuracy": float(right[np.arange(len(values)), counts.argmax(-1)].mean()),
        "log": float(-np.log(share[right]).mean()),
        "brier": float(((share - right) ** 2).sum(-1).mean()),
    }


def _aligned(truth: Any, draws: Any) -> tuple[Any, list[Any]]:
    """The truth as a DataFrame, and for each column its draws ``(draws, rows)``."""
    import pandas as pd

    frame = pd.DataFrame(truth)
    if hasattr(draws, "columns"):
        columns = [draws.iloc[:, place] for place in range(draws.shape[1])]
        if draws.shape[1] != frame.shape[1] or len(draws) % len(frame):
            raise ValueError(f"the draws have shape {draws.shape}, the truth {frame.shape}")
        drawn = [c.astype(object).to_numpy().reshape(-1, len(frame)) for c in columns]
    else:
        array = np.asarray(draws)
        if array.shape[1:] != frame.shape:
            raise ValueError(f"the draws have shape {array.shape}, the truth {frame.shape}")
        drawn = [array[:, :, place] for place in range(frame.shape[1])]
    times = [pd.api.types.is_datetime64_any_dtype(frame.iloc[:, p]) for p in range(frame.shape[1])]
    return frame, [_seconds(d) if t else d for d, t in zip(drawn, times, strict=True)]


def _seconds(times: Any) -> Numbers:
    import pandas as pd

    flat = pd.Series(np.asarray(times, dtype=object).ravel())
    return _floats(pd.to_datetime(flat, utc=True)).reshape(np.shape(times))


def _floats(column: Any) -> Numbers:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        start = pd.Timestamp(0, tz="UTC" if column.dt.tz is not None else None)
        column = (column - start) / pd.Timedelta(seconds=1)
    numbers: Numbers = column.to_numpy(dtype=float, na_value=np.nan)
    return numbers


def _is_discrete(column: Any) -> bool:
    import pandas as pd

    types = pd.api.types
    number = types.is_numeric_dtype(column) and not types.is_bool_dtype(column)
    return not (number or types.is_datetime64_any_dtype(column))


def _percent(level: float) -> str:
    return f"{100 * level:g}"

"""Raw data as users hold it: arrays, tensors, DataFrames, dicts of them; and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from genprop.encoding import missing_cells

FEWEST_ROWS = 2


@dataclass(frozen=True)
class Raw:
    """One modality as it was given.

    Attributes:
        values: its numbers or categories, ``(rows, *event)``.
        seen: which of them are observed.
        columns: a table's column names, or None.
        given: the object itself.
    """

    values: NDArray[Any]
    seen: NDArray[np.bool_]
    columns: tuple[str, ...] | None
    given: Any

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.values)


def checked(estimator: Any, X: Any, reset: bool) -> dict[str, Raw]:
    """The modalities of X, each checked as scikit-learn does; NaN is welcome.

    Args:
        estimator: whose ``n_features_in_`` and ``feature_names_in_`` are set or compared.
        X: an array, tensor or DataFrame (modality ``"x"``), or a dict of them.
        reset: True in fit.

    Raises:
        ValueError: no rows, a wrong width, infinities, other modalities than in fit.
    """
    if not holds_modalities(X):
        return {"x": _one(estimator, X, reset)}
    if not reset and list(X) != list(estimator.encodings_):
        raise ValueError(
            f"the model was fitted on modalities {list(estimator.encodings_)}, but got {list(X)}"
        )
    raws = {str(name): _modality(name, part, reset) for name, part in X.items()}
    rows = {name: raw.rows for name, raw in raws.items()}
    if not raws or len(set(rows.values())) > 1:
        raise ValueError(f"all modalities must have the same rows, but have {rows}")
    return raws


def holds_modalities(X: Any) -> bool:
    """Whether X is a dict of modalities; a sparse matrix may be a dict, too, but is none."""
    return isinstance(X, Mapping) and not issparse(X)


def frame(values: NDArray[Any], columns: Sequence[str], index: Any = None) -> Any:
    """A DataFrame of values ``(rows, columns)``."""
    import pandas as pd

    return pd.DataFrame(values, columns=list(columns), index=index)


def like(values: NDArray[Any], raw: Raw) -> Any:
    """Whole new values ``(rows, *event)`` in the container in which the raw ones came."""
    if isinstance(raw.given, torch.Tensor):
        return torch.as_tensor(values, dtype=raw.given.dtype)
    return values if raw.columns is None else frame(values, raw.columns, raw.given.index)


def completed(draws: NDArray[Any], raw: Raw) -> Any:
    """Draws ``(draws, rows, *event)`` in which every observed cell is the raw one, to the bit.

    Returns:
        An array or tensor of that shape; of a DataFrame one DataFrame, keyed by draw.
    """
    if raw.columns is not None:
        import pandas as pd

        frames = [_filled(raw.given, draw, raw.seen) for draw in draws]
        return pd.concat(frames, keys=range(len(frames)), names=["draw"])
    if isinstance(raw.given, torch.Tensor):
        seen = torch.as_tensor(raw.seen, device=raw.given.device)
        drawn = torch.as_tensor(draws, dtype=raw.given.dtype, device=raw.given.device)
        return torch.where(seen, raw.given, drawn)
    kind = np.result_type(raw.values, np.float32) if raw.values.dtype.kind in "biu" else None
    return np.where(raw.seen, raw.values, draws.astype(kind or raw.values.dtype))


def _filled(frame: Any, draw: NDArray[Any], seen: NDArray[np.bool_]) -> Any:
    filled = frame.copy()
    for number, name in enumerate(frame.columns):
        if seen[:, number].all():
            continue
        column = frame[name]
        values = draw[:, number]
        if str(column.dtype) in ("Int64", "Int32", "Int16", "Int8", "UInt8", "boolean"):
            column = column.astype("Float64")
        filled[name] = column.where(seen[:, number], values)
    return filled


def _one(estimator: Any, X: Any, reset: bool) -> Raw:
    values = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X
    any_dtype = _categorical(estimator, reset)
    if hasattr(X, "columns") and not any_dtype:
        _refuse_text(X)
    options = _options(any_dtype, reset)
    return _raw(validate_data(estimator, values, reset=reset, **options), X)


def _refuse_text(table: Any) -> None:
    """Names the columns of a DataFrame that hold neither numbers nor truth values."""
    import pandas as pd

    kinds = pd.api.types
    for name in table.columns:
        column = table[name]
        if kinds.is_numeric_dtype(column) or kinds.is_bool_dtype(column):
            continue
        numbers = pd.to_numeric(column, errors="coerce")
        if kinds.is_datetime64_any_dtype(column) or (numbers.isna() & column.notna()).any():
            raise ValueError(
                f"column {name!r} holds {column.dtype} values, not numbers; leave it out, turn it "
                f"into numbers, or give visible='categorical' if all columns are categories"
            )


def _modality(name: Any, X: Any, reset: bool) -> Raw:
    values = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X
    if np.ndim(values) == 1:
        values = np.asarray(values)[:, None]
    return _raw(check_array(values, input_name=str(name), **_options(True, reset)), X)


def _options(any_dtype: bool, reset: bool) -> dict[str, Any]:
    return {
        "dtype": None if any_dtype else "numeric",
        "ensure_all_finite": "allow-nan",
        "allow_nd": True,
        "ensure_min_samples": FEWEST_ROWS if reset else 1,
    }


def _categorical(estimator: Any, reset: bool) -> bool:
    if reset:
        return bool(estimator.visible == "categorical")
    return "x" in estimator.encodings_ and estimator.encodings_["x"].family == "categorical"


def _raw(values: NDArray[Any], given: Any) -> Raw:
    names = getattr(given, "columns", None)
    columns = None if names is None else tuple(str(name) for name in names)
    return Raw(values, ~missing_cells(values), columns, given)

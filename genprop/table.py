"""Raw data as users hold it: arrays, tensors, DataFrames, dicts of them; and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from genprop.holes import missing_cells
from genprop.names import check_names
from genprop.tables.ampute import unmasked
from genprop.tables.encoding import FAMILY, is_mixed

FEWEST_ROWS = 2
Data = Any  # array, tensor, DataFrame, or a dict of them by modality


@dataclass(frozen=True)
class Raw:
    """One modality as it was given.

    Attributes:
        values: its numbers or categories, ``(rows, *event)``; of columns in families of their
            own a DataFrame.
        seen: which of them are observed.
        columns: a table's column names, or None.
        given: the object itself.
        choices: of a table whose columns each have a family of their own, those that the user
            chose, by column; None of all else.
    """

    values: Any
    seen: NDArray[np.bool_]
    columns: tuple[str, ...] | None
    given: Any
    choices: Mapping[str, str] | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.values)

    def shaped(self, event: tuple[int, ...]) -> "Raw":
        """The same cells, in rows of another shape."""
        shape = (self.rows, *event)
        return replace(self, values=self.values.reshape(shape), seen=self.seen.reshape(shape))


def checked(estimator: Any, X: Any, reset: bool) -> dict[str, Raw]:
    """The modalities of X, each checked as scikit-learn does; NaN is welcome.

    Args:
        estimator: whose ``n_features_in_`` and ``feature_names_in_`` are set or compared.
        X: an array (masked or with NaN), tensor or DataFrame (modality ``"x"``), or a dict of them;
            a modality that it leaves out is missing in all rows.
        reset: True in fit.

    Raises:
        ValueError: no rows, a wrong width, infinities, modalities that fit did not know, in fit
            also arguments of modalities that there are not.
    """
    if reset:
        _check_named(estimator, X if holds_modalities(X) else {"x": X})
    if not holds_modalities(X):
        _check_alone(estimator, X, reset)
        X = unmasked(X)
        choices = _choices(estimator, {"x": X}, "x", reset)
        if choices is not None:
            validate_data(estimator, X, reset=reset, skip_check_array=True)
            return {"x": _table(estimator, "x", X, choices, reset)}
        return {"x": _one(estimator, X, reset)}
    if not reset and (not X or set(X) - set(estimator.encodings_)):
        raise ValueError(
            f"the model was fitted on modalities {list(estimator.encodings_)}, but got {list(X)}"
        )
    parts = {str(name): unmasked(part) for name, part in X.items()}
    raws = {name: _part(estimator, parts, name, reset) for name in parts}
    rows = {name: raw.rows for name, raw in raws.items()}
    if not raws or len(set(rows.values())) > 1:
        raise ValueError(f"all modalities must have the same rows, but have {rows}")
    if reset:
        return raws
    (count,) = set(rows.values())
    return {n: raws.get(n) or _absent(estimator, n, count) for n in estimator.encodings_}


def _check_named(estimator: Any, parts: Mapping[Any, Any]) -> None:
    """Whether arguments by modality name those there are; columns are checked by the table."""
    for argument in ("hidden", "visible", "weights", "hide"):
        named = getattr(estimator, argument)
        if isinstance(named, Mapping) and not (argument == "visible" and _by_column(named, parts)):
            check_names(argument, named, parts)


def _by_column(visible: Mapping[Any, Any], parts: Mapping[Any, Any]) -> bool:
    """Whether the names are those of columns, which only a table alone can leave at that."""
    return set(parts) == {"x"} and hasattr(parts["x"], "columns") and "x" not in set(visible)


def _check_alone(estimator: Any, X: Any, reset: bool) -> None:
    if not reset and "x" not in estimator.encodings_:
        names = list(estimator.encodings_)
        raise ValueError(
            f"the model was fitted on modalities {names}, but got a {type(X).__name__}; give a "
            f"dict, such as {{{names[0]!r}: rows}}"
        )


def holds_modalities(X: Any) -> bool:
    """Whether X is a dict of modalities; a sparse matrix may be a dict, too, but is none."""
    return isinstance(X, Mapping) and not issparse(X)


def without(X: Any, name: str) -> Any:
    """The other modalities, if X holds several."""
    if not holds_modalities(X):
        return X
    return {n: part for n, part in X.items() if n != name} or X


def frame(values: NDArray[Any], columns: Sequence[str], index: Any = None) -> Any:
    """A DataFrame of values ``(rows, columns)``."""
    import pandas as pd

    return pd.DataFrame(values, columns=list(columns), index=index)


def like(values: Any, raw: Raw) -> Any:
    """Whole new values ``(rows, *event)`` in the container in which the raw ones came."""
    if raw.choices is not None and raw.columns is not None:
        return values.set_axis(raw.given.index)
    if isinstance(raw.given, torch.Tensor):
        return torch.as_tensor(values, dtype=raw.given.dtype)
    return values if raw.columns is None else frame(values, raw.columns, raw.given.index)


def completed(draws: Any, raw: Raw) -> Any:
    """Draws ``(draws, rows, *event)`` in which every observed cell is the raw one, to the bit.

    Returns:
        An array or tensor of that shape; of a DataFrame one DataFrame, keyed by draw.
    """
    if raw.choices is not None and raw.columns is None:
        return np.stack([np.where(raw.seen, np.asarray(raw.values), draw) for draw in draws])
    if raw.columns is not None:
        import pandas as pd

        fill = _filled if raw.choices is None else _filled_alike
        frames = [fill(raw.given, draw, raw.seen) for draw in draws]
        return pd.concat(frames, keys=range(len(frames)), names=["draw"])
    if isinstance(raw.given, torch.Tensor):
        seen = torch.as_tensor(raw.seen, device=raw.given.device)
        drawn = torch.as_tensor(draws, dtype=raw.given.dtype, device=raw.given.device)
        return torch.where(seen, raw.given.reshape(seen.shape), drawn)
    return np.where(raw.seen, raw.values, draws).astype(_whole_kind(raw.values, draws), copy=False)


def _whole_kind(values: NDArray[Any], draws: NDArray[Any]) -> Any:
    """The type of values without a hole: that of the categories, or of the numbers as they came."""
    if draws.dtype.kind != "f" or values.dtype.kind not in "biuf":
        return draws.dtype
    return values.dtype if values.dtype.kind == "f" else np.result_type(values, np.float32)


def _filled_alike(table: Any, drawn: Any, seen: NDArray[np.bool_]) -> Any:
    """The table with its holes filled from one of the same columns and types."""
    filled = table.copy()
    for number in range(table.shape[1]):
        if not seen[:, number].all():
            values = drawn.iloc[:, number].set_axis(table.index)
            if seen[:, number].any():  # else the column may be of no type
                values = table.iloc[:, number].where(seen[:, number], values)
            filled.isetitem(number, values)
    return filled


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


def _part(estimator: Any, parts: Mapping[str, Any], name: str, reset: bool) -> Raw:
    choices = _choices(estimator, parts, name, reset)
    if choices is not None:
        return _table(estimator, name, parts[name], choices, reset)
    raw = _modality(name, parts[name], reset)
    event = raw.values.shape[1:] if reset else estimator.encodings_[name].event
    return raw.shaped(event) if {event, raw.values.shape[1:]} == {(), (1,)} else raw


def _choices(
    estimator: Any, parts: Mapping[str, Any], name: str, reset: bool
) -> Mapping[str, str] | None:
    """The families that the user chose for columns, if each column is to have one of its own."""
    if not reset:
        fitted = estimator.encodings_.get(name)
        return {} if fitted is not None and fitted.family == FAMILY else None
    visible = estimator.visible
    if isinstance(visible, Mapping):
        visible = visible if _by_column(visible, parts) else visible.get(name, "auto")
    if isinstance(visible, Mapping):
        return {str(column): kind for column, kind in visible.items()}
    mixed = visible == "auto" and hasattr(parts[name], "columns") and is_mixed(parts[name])
    return {} if mixed or visible == FAMILY else None


def _table(estimator: Any, name: str, X: Any, choices: Mapping[str, str], reset: bool) -> Raw:
    """A DataFrame, or an array as one, as it is: each column is checked by its own code."""
    import pandas as pd

    _refuse_no_rows(X, reset)
    named = hasattr(X, "columns")
    array = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X
    table = X if named else pd.DataFrame(np.asarray(array))
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    if not reset:
        _check_columns(estimator.encodings_[name], table, named)
    columns = tuple(table.columns) if named else None
    return Raw(table, table.notna().to_numpy(), columns, X, choices)


def _refuse_no_rows(X: Any, reset: bool) -> None:
    fewest = FEWEST_ROWS if reset else 1
    if np.ndim(X) != 2 or len(X) < fewest:
        raise ValueError(
            f"a table needs rows and columns, at least {fewest} of the former, but has shape "
            f"{np.shape(X)}"
        )


def _check_columns(encoding: Any, table: Any, named: bool) -> None:
    known = [code.name for code in encoding.codes]
    if named and encoding.named and list(table.columns) != known:
        new = [c for c in table.columns if c not in known]
        gone = [c for c in known if c not in table.columns]
        what = f"new are {new}, missing are {gone}" if new or gone else "their order differs"
        raise ValueError(f"the model was fitted on columns {known}; {what}")
    if table.shape[1] != len(known):
        raise ValueError(
            f"the model was fitted on {len(known)} columns, but the table has {table.shape[1]}"
        )


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
    alone = np.ndim(values) == 1  # one value a row, which check_array refuses
    if alone:
        values = np.asarray(values)[:, None]
    whole = check_array(values, input_name=str(name), **_options(True, reset))
    return _raw(whole[:, 0] if alone else whole, X)


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


def _absent(estimator: Any, name: str, rows: int) -> Raw:
    """A modality of which nothing is seen."""
    encoding = estimator.encodings_[name]
    kind = object if encoding.family in ("categorical", FAMILY) else np.float64
    values = np.full((rows, *encoding.event), np.nan, dtype=kind)
    given = values if encoding.columns is None else frame(values, encoding.columns)
    if encoding.family == FAMILY:
        return _table(estimator, name, given, {}, reset=False)
    return Raw(values, np.zeros(values.shape, dtype=bool), encoding.columns, given)


def _raw(values: NDArray[Any], given: Any) -> Raw:
    names = getattr(given, "columns", None)
    columns = None if names is None else tuple(str(name) for name in names)
    return Raw(values, ~missing_cells(values), columns, given)

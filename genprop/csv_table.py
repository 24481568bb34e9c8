"""Tables in CSV files: what pandas alone does not see in them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

TIME = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?"


def typed(table: "pandas.DataFrame", path: Path) -> "pandas.DataFrame":
    """A table as pandas reads it, with names of rows, whole numbers beside holes, and times.

    Args:
        table: what `pandas.read_csv` made of the file.
        path: the file, which is read again where whole numbers became floats.

    Raises:
        ValueError: the first line holds numbers, and so no names.
    """
    import pandas

    names = [str(name) for name in table.columns]
    if names[0] == "Unnamed: 0":
        return table.set_index(names[0]).rename_axis(None)
    if all(_is_number(name) for name in names) and names != [str(n) for n in range(len(names))]:
        raise ValueError(
            f"Expected column names in the first line of {path}, but it holds numbers only; "
            "put a line of names above the data."
        )
    whole = [name for name, column in table.items() if _is_whole(column)]
    if whole:  # floats, for their holes: only their texts tell 7 from 7.0
        again = pandas.read_csv(path, low_memory=False, dtype_backend="numpy_nullable")[whole]
        table = table.assign(**again.select_dtypes("Int64"))
    for name in table.columns:
        table[name] = _as_times(table[name])
    return table


def _is_whole(column: "pandas.Series[Any]") -> bool:
    """Whether these are floats of which some miss and all others are whole."""
    known = column.dropna()
    is_open = column.dtype.kind == "f" and 0 < len(known) < len(column)
    return is_open and bool((known % 1 == 0).all())


def _as_times(column: "pandas.Series[Any]") -> "pandas.Series[Any]":
    """Texts that are all times as ISO 8601 writes them, as times; else the column itself."""
    import pandas

    texts = column.dropna()
    if pandas.api.types.is_numeric_dtype(column) or not texts.astype(str).str.fullmatch(TIME).all():
        return column
    try:
        return pandas.to_datetime(column, format="ISO8601") if len(texts) else column
    except ValueError:
        return column


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

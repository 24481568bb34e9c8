"""Data files: arrays, tables and images from disk, and results written whole or not at all."""

import importlib.util
import json
import math
import os
import uuid
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from genprop.csv_table import typed
from genprop.folders import check_folder, modality_of, read_folder, write_folder
from genprop.idx import is_idx, read_idx

if TYPE_CHECKING:
    import pandas

READ = (".npy", ".npz", ".csv", ".csv.gz", ".parquet", ".idx")
WRITTEN = (".npy", ".npz", ".csv", ".csv.gz", ".parquet")


def read_data(
    path: Path, key: str | None = None, modalities: Collection[str] = ()
) -> "np.ndarray | pandas.DataFrame | dict[str, Any]":
    """The data in a file, as an array, a table, or one of them for every named modality.

    The ending says what the file is: `.npy` and `.npz` (arrays; pickled objects are refused),
    `.csv`, `.csv.gz` and `.parquet` (a DataFrame). The first line of a CSV file names its columns;
    a first column without a name holds the names of the rows, as pandas writes them; a column of
    nothing but ISO 8601's times, such as 2014-07-29, holds times. Any other
    file is an IDX file (that of MNIST, gzipped or not) if its first four bytes say so.
    A folder holds such a file for each modality, by its name without the ending.

    Args:
        path: the file or folder.
        key: the array wanted from an `.npz` archive. Without it an archive of one array is
            that array, and one of several is a dict of them, which must agree in their rows.
        modalities: names that are kept, as a dict of one, if an array has one of them in its
            archive, or its file has.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not of a known kind, or does not hold what was asked for.
    """
    _check_readable(path)
    ending = "" if path.is_dir() else _ending(path)
    if key is not None and ending != ".npz":
        raise ValueError(
            f"The key {key!r} names an array of an .npz archive, but {path} is not one; "
            "leave the key out."
        )
    if path.is_dir():
        return read_folder(path, read_data)
    data = _read_file(path, ending, key)
    if isinstance(data, dict) and len(data) == 1 and not set(data) & set(modalities):
        (data,) = data.values()
    name = modality_of(path)
    return {name: data} if name in modalities and not isinstance(data, dict) else data


def _read_file(
    path: Path, ending: str, key: str | None
) -> "np.ndarray | pandas.DataFrame | dict[str, np.ndarray]":
    if ending == ".npz":
        return _read_npz(path, key)
    if ending == ".npy":
        return _read_npy(path)
    if ending in (".csv", ".csv.gz"):
        return _read_csv(path)
    if ending == ".parquet":
        return _read_parquet(path)
    return _read_idx(path)


def write_data(path: Path, data: "np.ndarray | pandas.DataFrame | dict[str, Any]") -> None:
    """Write an array, a table or a dict of arrays as the ending of the path says.

    `.npy` holds one array; `.npz` a dict of arrays, or one array under the name `data`. In `.csv`,
    `.csv.gz` and `.parquet` an array of shape (rows, columns) gets the column names x0, x1, ...,
    and one of shape (draws, rows, columns) is stacked into one row for each draw of each row,
    led by the columns `draw` and `row`. A DataFrame keeps its index unless that is the plain
    range 0, 1, ..., n - 1 without a name. A path without any ending is a folder, of a file for each
    modality (one array or table is modality `x`): `.csv` of a table, `.npy` of an array.

    Args:
        path: where to write; an older file there is replaced only when the new one is complete,
            and a folder must be new or empty.
        data: what to write.
    """
    check_writable(path)
    ending = _ending(path)
    if not path.suffix:
        write_folder(path, data if isinstance(data, dict) else {"x": data}, write_data)
        return
    if ending == ".npz":
        parts = data if isinstance(data, dict) else {"data": data}
        arrays = {name: _plain(part) for name, part in parts.items()}
        with atomic(path) as fresh:
            _write_npz(fresh, arrays)
        return
    if isinstance(data, dict):
        raise ValueError(
            f"Expected one array or table for {path}, but got a dict of {_listed(data)}; "
            "write it to an .npz file, or to a folder, whose name has no ending."
        )
    if ending == ".npy":
        array = _plain(data)
        with atomic(path) as fresh:
            np.save(fresh, array, allow_pickle=False)
        return
    _write_table(path, ending, data)


def write_json(path: Path, content: Any) -> None:
    """Write `json_text(content)` to a file, whole or not at all."""
    check_writable(path, endings=(".json",))
    text = json_text(content)
    with atomic(path) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")


def json_text(content: Any) -> str:
    """Standard JSON: arrays become lists, and numbers that are not finite become null.

    >>> json_text({"bound": np.array([1.0, np.nan]), "rows": np.int64(3)}).split()
    ['{', '"bound":', '[', '1.0,', 'null', '],', '"rows":', '3', '}']
    """
    return json.dumps(_jsonable(content), indent=2, allow_nan=False)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside `path`, of the same ending, whose file takes its place when all went well.

    When the block raises, the new file is removed and an older one at `path` is left as it was. A
    link at `path` stays a link: the file that it points to is replaced.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"Expected a file to write at {path}, but that is a folder or a device.")
    fresh = target.with_name(f".{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        yield fresh
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Raises, before any work is done, if nothing can be written into a folder."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ValueError(f"Expected a folder at {folder}, but {place} is a file.")
    if not os.access(place, os.W_OK):
        raise ValueError(f"The folder {place} is not writable; choose another.")


def check_writable(path: Path, endings: tuple[str, ...] = WRITTEN) -> None:
    """Raise, before any work is done, if a file cannot be written at `path`.

    Args:
        path: the file to be.
        endings: the endings that are known; by default those of `write_data`.
    """
    is_folder = endings == WRITTEN and not path.suffix
    if not is_folder and not path.name.lower().endswith(endings):
        raise ValueError(f"Expected a file that ends in {_either(endings)}, but got {path}.")
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Expected a folder at {folder} to write {path.name} in, but there is none; "
            "create it first."
        )
    if is_folder:
        check_folder(path)
    elif path.is_dir():
        raise ValueError(f"Expected a file to write at {path}, but that is a folder.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"The folder {folder} is not writable; choose another for {path.name}.")
    if _ending(path) == ".parquet":
        _require_parquet(path)


def _check_readable(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"Expected a data file at {path}, but there is none.")
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"Expected a data file at {path}, but that is not a file.")


def _ending(path: Path) -> str:
    """The longest known ending of a file's name, or an empty text."""
    name = path.name.lower()
    return max((known for known in READ if name.endswith(known)), key=len, default="")


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser raises into a sentence about the file."""
    try:
        yield
    except Exception as error:  # on damaged bytes the parsers raise nearly anything
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        message = f"Expected {path} to be {kind}, but it cannot be read: {cause}."
        raise ValueError(message) from error


def _read_npy(path: Path) -> np.ndarray:
    with _reading(path, "an .npy array"), path.open("rb") as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    _require_rows(array, str(path))
    return array


def _read_npz(path: Path, key: str | None) -> dict[str, np.ndarray]:
    with _reading(path, "an .npz archive"), path.open("rb") as stream, _archive(stream) as archive:
        names = list(archive.files)
        arrays = {name: archive[name] for name in names if key in (None, name)}
    if key is not None and key not in names:
        raise ValueError(f"{path} holds no array {key!r}; it holds {_listed(names)}.")
    if not arrays:
        raise ValueError(f"Expected an array in {path}, but the archive is empty.")
    if len(arrays) > 1:
        return _aligned(path, arrays)
    ((name, array),) = arrays.items()
    _require_rows(array, f"{name!r} in {path}")
    return arrays


def _archive(stream: BinaryIO) -> np.lib.npyio.NpzFile:
    """The open archive; `np.load` also opens lone arrays, which here are a mistake."""
    archive = np.load(stream, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it holds one bare array; name it .npy")
    return archive


def _aligned(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if len({array.shape[:1] or None for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
        raise ValueError(
            f"Expected the arrays of {path} to be modalities with the same number of rows, but "
            f"their shapes are {shapes}; give the key of the one that is meant."
        )
    for name, array in arrays.items():
        _require_rows(array, f"{name!r} in {path}")
    return arrays


def _require_rows(array: np.ndarray, where: str) -> None:
    if array.ndim == 0:
        raise ValueError(f"Expected {where} to be an array with rows, but it is a single value.")


def _read_csv(path: Path) -> "pandas.DataFrame":
    import pandas

    with _reading(path, "a CSV table"):
        table = pandas.read_csv(path, low_memory=False)
    return typed(table, path)


def _require_parquet(path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"A Parquet file such as {path} needs pyarrow; pip install pyarrow.")


def _read_parquet(path: Path) -> "pandas.DataFrame":
    import pandas

    _require_parquet(path)
    with _reading(path, "a Parquet table"):
        return pandas.read_parquet(path)


def _read_idx(path: Path) -> np.ndarray:
    named_so = _ending(path) == ".idx" or "ubyte" in path.name.lower()
    if not named_so and not is_idx(path):
        raise ValueError(f"Expected a file that ends in {_either(READ)}, but got {path}.")
    with _reading(path, "an IDX file"):
        return read_idx(path)


def _plain(data: "np.ndarray | pandas.DataFrame") -> np.ndarray:
    """An array that needs no pickle."""
    array = np.asarray(data)
    if array.dtype.hasobject:
        raise ValueError(
            "Expected numbers for an .npy or .npz file, but some values are Python objects; "
            "write .csv, .parquet or a folder."
        )
    return array


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As `np.savez_compressed`, which could not hold an array named `file` or `allow_pickle`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_table(path: Path, ending: str, data: "np.ndarray | pandas.DataFrame") -> None:
    table = _table(data)
    with atomic(path) as fresh:
        if ending == ".parquet":
            table.to_parquet(fresh)
        else:
            table.to_csv(fresh, index=not _has_plain_index(table))


def _table(data: "np.ndarray | pandas.DataFrame") -> "pandas.DataFrame":
    import pandas

    if isinstance(data, pandas.DataFrame):
        return _with_names(data)
    values = data[:, None] if data.ndim == 1 else data
    if values.ndim not in (2, 3):
        raise ValueError(
            "Expected an array of shape (rows, columns) or (draws, rows, columns) for a table, "
            f"but got {data.shape}; write .npy, or reshape it."
        )
    columns = [f"x{n}" for n in range(values.shape[-1])]
    table = pandas.DataFrame(
        values.reshape(math.prod(values.shape[:-1]), len(columns)), columns=columns
    )
    if values.ndim == 3:
        draws, rows = np.indices(values.shape[:2])
        table.insert(0, "draw", draws.ravel())
        table.insert(1, "row", rows.ravel())
    return table


def _with_names(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """The same table, its columns named by text and, if its index has levels, those named too."""
    table = table.rename(columns=str)
    if table.index.nlevels > 1:
        names = [f"level_{n}" if name is None else name for n, name in enumerate(table.index.names)]
        table.index = table.index.set_names(names)
    return table


def _has_plain_index(table: "pandas.DataFrame") -> bool:
    import pandas

    index = table.index
    return index.nlevels == 1 and index.name is None and index.equals(pandas.RangeIndex(len(index)))


def _jsonable(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _jsonable(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_jsonable(value) for value in content]
    if isinstance(content, (np.ndarray, np.generic)):
        return _jsonable(content.tolist())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return str(content) if isinstance(content, Path) else content


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"


def _either(endings: tuple[str, ...]) -> str:
    return endings[0] if len(endings) == 1 else f"{', '.join(endings[:-1])} or {endings[-1]}"

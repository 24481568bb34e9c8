"""Folders of data: a file for each modality, whose name it has."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def modality_of(path: Path) -> str:
    """The modality that a file holds by its name, which is that without its ending.

    >>> modality_of(Path("rows/kar.npy")), modality_of(Path("age.csv.gz"))
    ('kar', 'age')
    """
    return Path(path.name.removesuffix(".gz")).stem


def read_folder(folder: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """The data of every file in a folder, by modality; files whose name begins with a dot apart.

    A table of one column is that column, so that it may be a label.

    Args:
        folder: the folder.
        read: reads a file of any known kind, and raises ValueError of any other.

    Raises:
        ValueError: no files, folders within, two files of one name, a file of an unknown kind or of
            several modalities, or files that differ in their rows.
    """
    parts: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        name = modality_of(path)
        if path.is_dir():
            raise ValueError(
                f"Expected {folder} to hold a file for each modality, but {path} is a folder."
            )
        if name in sources:
            raise ValueError(
                f"Expected one file for each modality in {folder}, but {sources[name].name} and "
                f"{path.name} are both {name!r}; rename or remove one."
            )
        sources[name], parts[name] = path, _part(path, read(path))
    rows = {name: len(part) for name, part in parts.items()}
    if len(set(rows.values())) != 1:
        found = ", ".join(f"{name!r} {count:,}" for name, count in rows.items()) or "no file"
        raise ValueError(
            f"Expected the files in {folder} to be modalities with the same number of rows, but "
            f"found {found}."
        )
    return parts


def _part(path: Path, data: Any) -> Any:
    if isinstance(data, dict):
        raise ValueError(
            f"Expected one modality in {path}, but it holds {', '.join(map(repr, data))}; give "
            f"that file alone, or write one file for each."
        )
    return data.iloc[:, 0] if hasattr(data, "columns") and data.shape[1] == 1 else data


def check_folder(folder: Path) -> None:
    """Raises if files that stand there would be mixed with new ones, or none can be made there."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected a folder to write in at {folder}, but that is a file.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"The folder {folder} holds files; choose a new one, or empty it.")


def write_folder(
    folder: Path, parts: Mapping[str, Any], write: Callable[[Path, Any], None]
) -> None:
    """A file for each modality: tables as `.csv`, arrays as `.npy`; all of them or none.

    Args:
        folder: new, or empty.
        parts: by modality.
        write: writes one of them to a file.
    """
    with whole_folder(folder) as fresh:
        for name, part in parts.items():
            ending = ".csv" if hasattr(part, "columns") else ".npy"
            write(fresh / f"{name}{ending}", part)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside it that takes its place when all went well; there it is new or empty."""
    target = Path(os.path.realpath(folder))
    fresh = target.with_name(f".{uuid.uuid4().hex[:8]}-{target.name}")
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if target.is_dir():
            target.rmdir()
        os.rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)

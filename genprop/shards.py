"""Log P(x) of many rows, in parts that processes share and that outlive an interruption."""

import dataclasses
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genprop.estimator import GenProp
from genprop.files import atomic, write_json
from genprop.likelihood.estimate import Estimate, joined
from genprop.likelihood.methods import warn_unreliable
from genprop.seeds import whole_seed
from genprop.table import Data
from genprop.threads import one_thread

PLAN = "plan.json"


def sharded(
    model: GenProp,
    X: Data,
    folder: Path,
    *,
    processes: int = 1,
    rows: int = 1000,
    given: Data = None,
    random_state: Any = None,
    verbose: int = 1,
    **how: Any,
) -> Estimate:
    """``model.log_likelihood(X)``, a part of the rows at a time, each kept in the folder when done.

    Call it again with the same model, rows and settings and it goes on where it was interrupted,
    also with other processes. Each part has a seed of its own, so that the result does not depend
    on who works on it.

    Args:
        model: fitted.
        X: rows, any of their cells missing.
        folder: where parts are kept; it is made if need be.
        processes: that share the work, through Lightning Fabric: with CUDA one for each device.
        rows: of each part.
        given: x_b, as ``GenProp.log_likelihood`` takes it.
        random_state: seed in place of the estimator's; a run that goes on keeps its own.
        verbose: 0 is silent; 1 shows progress on a terminal.
        how: as ``GenProp.log_likelihood`` takes it: method, samples, options.

    Raises:
        ValueError: no row or process, or a folder that holds parts of something else.

    >>> import tempfile
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> model = GenProp(epochs=1, verbose=0, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sharded(model, X, Path(folder), rows=20, samples=50, method="importance").rows
    50
    """
    if min(processes, rows) < 1:
        raise ValueError(
            f"likelihoods need at least one process and one row a part, but got "
            f"processes={processes} and rows={rows}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    seed = _seed(folder, model, X, {"rows": rows, "given": _digest(given), **how}, random_state)
    total = len(next(iter(X.values())) if isinstance(X, Mapping) else X)
    parts = [slice(start, min(start + rows, total)) for start in range(0, total, rows)]
    work = _Work(model, (X, given), how, folder, seed, parts)
    left = [number for number in range(len(parts)) if not work.path(number).exists()]
    if processes == 1 or len(left) < 2:
        work.do(left, verbose)
    else:
        _launch(work, left, min(processes, len(left)), verbose)
    found = joined([_read(work.path(number)) for number in range(len(parts))])
    warn_unreliable(found, found.method)
    return found


class _Work:
    """What processes share; no dataclass, which Fabric would take apart on the way."""

    def __init__(
        self,
        model: GenProp,
        rows: tuple[Data, Data],
        how: dict[str, Any],
        folder: Path,
        seed: int,
        parts: list[slice],
    ) -> None:
        self.model, self.rows, self.how = model, rows, how
        self.folder, self.seed, self.parts = folder, seed, parts

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npz"

    def do(self, numbers: Sequence[int], verbose: int) -> None:
        for number in self._shown(numbers, verbose):
            rows, given = (_rows(data, self.parts[number]) for data in self.rows)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="k-hat is above")
                found = self.model.log_likelihood(
                    rows, given=given, random_state=(self.seed + number) % 2**32, **self.how
                )
            _write(self.path(number), found)

    def _shown(self, numbers: Sequence[int], verbose: int) -> Iterator[int]:
        """The numbers, with a bar on a terminal of how many parts are there of all processes."""
        if not (verbose and sys.stderr.isatty()):
            yield from numbers
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(file=sys.stderr)) as bar:
            task = bar.add_task("log P(x)", total=len(self.parts))
            for number in numbers:
                bar.update(task, completed=len(list(self.folder.glob("part-*.npz"))))
                yield number
            bar.update(task, completed=len(self.parts))


def _launch(work: _Work, left: Sequence[int], processes: int, verbose: int) -> None:
    from lightning_fabric import Fabric

    kind = work.model.model_.like.device.type
    fabric = Fabric(accelerator=kind, devices=processes, strategy="ddp_spawn")
    share: Any = _share
    fabric.launch(share, work, list(left), verbose)


def _share(fabric: Any, work: _Work, left: Sequence[int], verbose: int) -> None:
    """One process's share: every so-many-th part, on its device; the first one shows progress."""
    work.model.model_.to(fabric.device)
    shown = verbose if fabric.global_rank == 0 else 0
    with one_thread():
        work.do(left[fabric.global_rank :: fabric.world_size], shown)


def _seed(folder: Path, model: GenProp, X: Data, how: Mapping[str, Any], random_state: Any) -> int:
    """The seed of what the folder holds, or of what it will hold.

    Raises:
        ValueError: it holds parts of something else.
    """
    plan = {"model": _weights(model), "data": _digest(X), "how": repr(sorted(how.items()))}
    path = folder / PLAN
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in plan.items() if known.get(name) != value]
        if other:
            raise ValueError(
                f"{folder} holds likelihoods of another {' and another '.join(other)}; name an "
                f"empty folder, or delete this one"
            )
        return int(known["seed"])
    chosen = model.random_state if random_state is None else random_state
    seed = whole_seed(chosen)
    write_json(path, {**plan, "seed": seed})
    return seed


def _weights(model: GenProp) -> str:
    found = hashlib.sha256()
    for name, tensor in model.model_.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def _digest(data: Data) -> str:
    """A hash of what was given, whatever holds it."""
    if isinstance(data, Mapping):
        return repr({name: _digest(value) for name, value in data.items()})
    if data is None or isinstance(data, str | list | tuple | set):
        return repr(data)
    if hasattr(data, "columns"):
        from pandas.util import hash_pandas_object

        return hashlib.sha256(hash_pandas_object(data).to_numpy().tobytes()).hexdigest()
    values = np.asarray(data)
    whole = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
    return hashlib.sha256(whole).hexdigest()


def _rows(data: Data, part: slice) -> Data:
    """The part of the rows; what has no rows, as names of modalities, is as it is."""
    if isinstance(data, Mapping):
        return {name: _rows(value, part) for name, value in data.items()}
    if data is None or isinstance(data, str | list | tuple | set):
        return data
    return data.iloc[part] if hasattr(data, "iloc") else data[part]


def _write(path: Path, found: Estimate) -> None:
    parts = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    with atomic(path) as fresh:
        np.savez(fresh, **{name: value for name, value in parts.items() if value is not None})


def _read(path: Path) -> Estimate:
    with np.load(path, allow_pickle=False) as arrays:
        parts = {name: arrays[name] for name in arrays.files}
    return Estimate(**{n: value if value.ndim else value.item() for n, value in parts.items()})

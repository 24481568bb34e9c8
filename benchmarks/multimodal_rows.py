"""The digits in six views: splits, holes, what is given in which rows, and what is measured."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.multimodal_peers import Array, Effort, Filled, Views
from genprop.coherence import agreement

VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")
TRAIN = 1500
GROUPS = 5  # of test rows, each with views of its own given

Labels = NDArray[np.uint8]
Index = NDArray[np.int64]


class Split(NamedTuple):
    """Rows to train and to test on, every view standardised."""

    train: Views
    train_labels: Labels
    test: Views
    labels: Labels


def read(folder: Path, seed: int, effort: Effort) -> Split:
    """Rows in random order, fewer where the effort says so."""
    with np.load(folder / "mfeat.npz") as arrays:
        labels, x = arrays["y"], {name: arrays[name] for name in VIEWS}
    order = np.random.default_rng(seed).permutation(len(labels))  # they are sorted by class
    train, test = order[:TRAIN][: effort.train], order[TRAIN:][: effort.test]
    scaled = {name: standardised(view, train) for name, view in x.items()}
    return Split(
        {name: view[train] for name, view in scaled.items()},
        labels[train],
        {name: view[test] for name, view in scaled.items()},
        labels[test],
    )


def standardised(x: Array, train: Index) -> Array:
    """Mean 0 and standard deviation 1 in training rows; what is constant there is only shifted."""
    scale = x[train].std(0)
    return np.asarray((x - x[train].mean(0)) / np.where(scale > 0, scale, 1), np.float32)


def with_holes(views: Views, rate: float, seed: int) -> Views:
    """Views missing at random at this rate; a row that would lose all keeps one."""
    rng = np.random.default_rng([seed, 1])
    rows = len(next(iter(views.values())))
    gone, kept = rng.random((rows, len(views))) < rate, rng.integers(len(views), size=rows)
    gone[np.arange(rows), kept] &= ~gone.all(1)
    return {
        name: np.where(gone[:, [n]], np.float32(np.nan), x)
        for n, (name, x) in enumerate(views.items())
    }


def patterns(rows: int, seed: int) -> list[tuple[int, tuple[str, ...], Index]]:
    """How many views are given, which, and in which test rows; the same for all contenders."""
    rng, every = np.random.default_rng([seed, 2]), np.arange(rows)
    made = [(len(VIEWS) - 1, tuple(v for v in VIEWS if v != hidden), every) for hidden in VIEWS]
    for count in range(1, len(VIEWS) - 1):
        for group in range(GROUPS):
            chosen = tuple(sorted(rng.choice(VIEWS, count, replace=False)))
            made.append((count, chosen, every[group::GROUPS]))
    return made


def measures(
    name: str, filled: Filled, y: Array, labels: Labels, reader: KNeighborsClassifier
) -> dict[str, Array]:
    """Of each row what is measured; a contender without draws has an error only."""
    found = {"error": ((filled.point[name] - y) ** 2).mean(1)}
    if filled.draws is not None:
        draws = filled.draws[name]
        found["energy"] = energy_score(draws, y)
        finite = np.nan_to_num(draws[0])  # the error and the energy tell what is not
        found["accuracy"] = agreement(finite[None], labels, reader).astype(np.float32)
    return found


def energy_score(draws: Array, y: Array) -> Array:
    """E|X - y| - 1/2 E|X - X'| of each row, X and X' two different draws.

    >>> energy_score(np.array([[[0.0]], [[2.0]]]), np.array([[0.0]]))
    array([0.])
    """
    count = len(draws)
    off = np.linalg.norm(draws - y, axis=-1).mean(0)
    apart = sum(np.linalg.norm(draws - draw, axis=-1).sum(0) for draw in draws)
    return np.asarray(off - 0.5 * apart / (count * (count - 1)))

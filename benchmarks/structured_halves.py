"""Half an image given the other half, beside the answer of the nearest neighbour."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import report
from benchmarks.joint import IMAGES
from benchmarks.multimodal_rows import energy_score
from benchmarks.structured_quadrants import SIDE, Digits, Ordered, train
from benchmarks.structured_quadrants import Effort as Training
from genprop.estimator import GenProp

HALF = SIDE * SIDE // 2
SETS = ("digits", "silhouettes")
SETTINGS: dict[str, Any] = {**IMAGES, "visible": "bernoulli"}

Array = NDArray[Any]


class Effort(NamedTuple):
    """How much is done.

    Attributes:
        minutes: of training the net that reads pixels in order.
        epochs: of the joint model, of all rows of a small set; fewer of many rows.
        rows: visits of rows by the joint model, at most.
        test: rows to test on.
        draws: of each.
        paths: importance samples of the joint model.
    """

    minutes: float
    epochs: int = 60
    rows: int = 300_000
    test: int = 500
    draws: int = 20
    paths: int = 500


class Answer(NamedTuple):
    """What a contender says of the right halves of test rows.

    Attributes:
        draws: ``(draws, rows, pixels)``.
        nll: -log P(right | left) of each row, if it has a density.
    """

    draws: Array
    nll: Array | None = None


def read(name: str, folder: Path | None, effort: Effort) -> tuple[Array, Array]:
    """Rows to train and to test on, the left half before the right one; or seeded noise."""
    file = {"digits": "mnist.npz", "silhouettes": "caltech101_silhouettes28.npz"}[name]
    path = None if folder is None else folder / file
    rng = np.random.default_rng(0)
    if path is None or not path.exists():
        rows = (rng.random((200, 2 * HALF)) < 0.3).astype("f4")
        return rows[:150], rows[150:]
    with np.load(path) as arrays:
        if name == "digits":
            parts = [arrays[n].reshape(-1, SIDE, SIDE) >= 128 for n in ("x_train", "x_test")]
        else:  # sorted by class, and without a split of its own
            x = np.unpackbits(arrays["X"], axis=1)[:, : int(arrays["n_features"])]
            x = x[rng.permutation(len(x))].reshape(-1, SIDE, SIDE)
            parts = [x[:-1000], x[-1000:]]
    train, test = (in_halves(part).astype("f4") for part in parts)
    return train, test[: effort.test]


def in_halves(images: Array) -> Array:
    """The pixels of the left half, then those of the right one.

    >>> in_halves(np.arange(4).reshape(1, 2, 2)).tolist()
    [[0, 2, 1, 3]]
    """
    left, right = np.split(images, 2, axis=2)
    return np.concatenate([half.reshape(len(images), -1) for half in (left, right)], 1)


def whole(halves: Array) -> Array:
    """Images ``(…, side, side)`` of such rows."""
    left, right = np.split(halves, 2, axis=-1)
    shape = (*halves.shape[:-1], SIDE, SIDE // 2)
    return np.concatenate([left.reshape(shape), right.reshape(shape)], -1)


def joint(rows: Array, test: Array, effort: Effort) -> Answer:
    """A genprop model of both halves under one code."""
    model = _joint(rows, effort)
    draws = np.asarray(model.sample(effort.draws, given=_left(test), random_state=0)["right"])
    log_p = model.log_likelihood(
        _named(test), given=["left"], method="importance", samples=effort.paths, random_state=0
    )
    return Answer(draws, -log_p.log_prob)


def lent(rows: Array, test: Array, effort: Effort) -> Answer:
    """The right halves of the training rows whose codes, told the left half alone, are nearest."""
    how = {"method": "neighbours", "donors": _named(rows), "random_state": 0}
    drawn = _joint(rows, effort).impute(_left(test), draws=effort.draws, **how)
    return Answer(np.asarray(drawn["right"]))


def ordered(rows: Array, test: Array, effort: Effort) -> Answer:
    """Pixels of the right half one after the other, each given the left half and those before."""
    known = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    known[:, : SIDE // 2] = True
    torch.manual_seed(0)
    contender = Ordered(known)
    x, y = (_pixels(part) for part in (rows, test))
    contender.begin(x.mean(0).clamp(1e-3, 1 - 1e-3).logit())
    held = max(1, len(x) // 10)
    digits = Digits(x[held:], x[:held][:2000], y)
    train(contender, digits, Training(effort.minutes), 3e-3)
    net = contender.eval().net
    with torch.no_grad():
        nll = torch.cat([-contender.law(p).log_prob(p[:, net.rest]) for p in y.split(200)])
        draws = torch.stack([net.draw(y)[:, net.rest] for _ in range(effort.draws)])
    return Answer(draws.numpy(), nll.numpy())


def nearest(rows: Array, test: Array, effort: Effort) -> Answer:
    """The right half of the training row whose left half differs least."""
    return Answer(rows[_neighbours(rows, test, 1), HALF:])


def neighbours(rows: Array, test: Array, effort: Effort) -> Answer:
    """As many of the nearest as there are draws."""
    return Answer(rows[_neighbours(rows, test, effort.draws), HALF:])


CONTENDERS: dict[str, Callable[[Array, Array, Effort], Answer]] = {
    "pixels in order": ordered,
    "joint code": joint,
    "near in code": lent,
    "nearest neighbour": nearest,
    "20 nearest": neighbours,
}


OURS = ("pixels in order", "joint code", "near in code")


def measure(name: str, contender: str, rows: tuple[Array, Array], effort: Effort) -> report.Row:
    """Fits a contender and scores what it says of the hidden halves."""
    start = time.perf_counter()
    answer = CONTENDERS[contender](*rows, effort)
    right = rows[1][:, HALF:]
    found = {
        "energy": float(energy(answer.draws, right).mean()),
        "best": float(misses(answer.draws, right).min(0).mean()),
        "mean": float(misses(answer.draws.mean(0), right).mean()),
        "nll": None if answer.nll is None else float(answer.nll.mean()),
    }
    report.tell(f"{name}, {contender}: {found}")
    shown = np.concatenate(
        [np.broadcast_to(rows[1][:, :HALF], answer.draws.shape), answer.draws], 2
    )
    return {
        "part": "halves", "setting": name, "contender": contender, **found,
        "minutes": (time.perf_counter() - start) / 60, "images": whole(shown[:8, :12]),
    }  # fmt: skip


def energy(draws: Array, y: Array) -> Array:
    """The energy score of each row; of a single answer its distance."""
    return np.linalg.norm(draws[0] - y, axis=1) if len(draws) == 1 else energy_score(draws, y)


def misses(x: Array, y: Array) -> Array:
    """Squared error of images, of zeros and ones their number of wrong pixels.

    >>> misses(np.array([[[0.0, 1.0]], [[1.0, 1.0]]]), np.array([[1.0, 1.0]])).tolist()
    [[1.0], [0.0]]
    """
    return np.square(x - y).sum(-1)


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """genprop's best energy score beside that of the better answer of neighbours."""
    bars = []
    for name in SETS:
        scores = {
            r["contender"]: r["energy"]
            for r in rows
            if (r["part"], r["setting"]) == ("halves", name)
        }
        ours = min((scores[n] for n in OURS if n in scores), default=None)
        theirs = min((scores[n] for n in scores if n not in OURS), default=None)
        limit = "nearest neighbours'" if theirs is None else f"< {theirs:.4g} (nearest neighbours)"
        holds = None if ours is None or theirs is None else ours < theirs
        bars.append(report.bar(f"energy score of right halves, {name}", ours, limit, holds))
    return bars


def _neighbours(rows: Array, test: Array, count: int) -> Array:
    """The numbers of the nearest training rows by the left half, ``(count, rows)``."""
    left, mine = torch.as_tensor(rows[:, :HALF]), torch.as_tensor(test[:, :HALF])
    found = [torch.cdist(part, left).topk(count, largest=False).indices for part in mine.split(100)]
    return torch.cat(found).T.numpy()


def _joint(rows: Array, effort: Effort) -> GenProp:
    epochs = max(1, min(effort.epochs, effort.rows // len(rows)))
    return GenProp(**SETTINGS, epochs=epochs, batch_size=100, random_state=0).fit(_named(rows))


def _left(rows: Array) -> dict[str, Array]:
    return {"left": rows[:, :HALF]}


def _named(rows: Array) -> dict[str, Array]:
    return {"left": rows[:, :HALF], "right": rows[:, HALF:]}


def _pixels(rows: Array) -> Tensor:
    """Images as rows of pixels, line by line."""
    return torch.as_tensor(whole(rows)).flatten(1)

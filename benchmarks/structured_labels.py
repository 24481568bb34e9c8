"""A digit and its label as two modalities: what is known of the one by the other."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks import report
from benchmarks.joint import IMAGES, LR
from genprop.coherence import Classifier, agreement, fitted_classifier
from genprop.data import Batch
from genprop.estimator import GenProp
from genprop.nets import MLP
from genprop.visits import visits

LABELS = (100, 1000, 0)  # 0 is all
CLASSES = 10
SETTINGS: dict[str, Any] = {
    **IMAGES,
    "visible": {"image": "bernoulli", "label": "categorical"},
    "prior": "denoising",  # codes of one class lie together, apart from those of the others
}
CONTENDERS: dict[str, dict[str, Any]] = {
    "joint code": {},
    # or codes of a label alone stand for the mean of its class, and are drawn so
    "practised joint code": {"top": (16,), "practise": True},
}
# of 784 pixels and one label, the code would be told of the pixels alone; few labels are met often
# instead, or what is drawn by a label alone would hardly be practised
# where all are known labels alone are hidden: 0.977 of 5,000 validation digits are read right in
# place of 0.963; with 1,000 labels it would be 0.893 in place of 0.898
ALL = {"weights": {"label": 1000.0}, "hide": {"label": 0.9}}
FEW = {"weights": {"label": 100.0}, "balance": 0.4}

Array = NDArray[Any]


class Effort(NamedTuple):
    """How much is done.

    Attributes:
        rows: of training digits, with a label or without.
        reader: further ones, to which the classifier of drawn images is fitted.
        test: rows to test on.
        epochs: visits of the rows.
        batch: rows of a mini-batch.
        paths: for each row.
        draws: images of each class.
    """

    rows: int = 50_000
    reader: int = 5000
    test: int = 2000
    epochs: int = 15
    batch: int = 100
    paths: int = 50
    draws: int = 100


class Rows(NamedTuple):
    """Images of zeros and ones with their labels, to train on, to fit a reader to, to test on."""

    train: tuple[Array, Array]
    reader: tuple[Array, Array]
    test: tuple[Array, Array]


def read(folder: Path | None, effort: Effort) -> Rows:
    """MNIST at half ink, the reader's rows from the end of the training set; or seeded noise."""
    path = None if folder is None else folder / "mnist.npz"
    if path is None or not path.exists():
        rng = np.random.default_rng(0)
        labels = rng.integers(CLASSES, size=300)
        x = rng.random((300, 784)) < np.where(np.arange(784) % CLASSES == labels[:, None], 0.5, 0.1)
        parts = [
            (x[start : start + 100].astype("f4"), labels[start : start + 100])
            for start in (0, 100, 200)
        ]
        return Rows(*parts)
    with np.load(path) as arrays:
        x, y = (arrays["x_train"].reshape(-1, 784) >= 128).astype("f4"), arrays["y_train"]
        test, labels = (arrays["x_test"].reshape(-1, 784) >= 128).astype("f4"), arrays["y_test"]
    n, m = effort.rows, effort.reader
    return Rows((x[:n], y[:n]), (x[-m:], y[-m:]), (test[: effort.test], labels[: effort.test]))


def measure(
    contender: str, labelled: int, rows: Rows, reader: Classifier, effort: Effort
) -> report.Row:
    """One model and one supervised net, of the same labels and as many updates."""
    shown = with_labels(rows.train[1], labelled)
    start = time.perf_counter()
    settings = {**SETTINGS, **(FEW if labelled else ALL), **CONTENDERS[contender]}
    model = GenProp(**settings, epochs=effort.epochs, batch_size=effort.batch, random_state=0)
    model.fit({"image": rows.train[0], "label": shown})
    fitted = time.perf_counter() - start
    image, label = rows.test
    told = model.predict({"image": image}, samples=effort.paths, random_state=0)
    images = drawn_images(model, effort.draws)
    wanted = np.arange(CLASSES)
    known = ~np.isnan(shown)
    told_of = Batch.of({"label": torch.as_tensor(shown)[:, None]})
    visited = len(visits(told_of, settings.get("balance", 0.0)))
    updates = effort.epochs * -(-visited // effort.batch)
    net = supervised(rows.train[0][known], rows.train[1][known], updates, effort.batch)
    with torch.no_grad():
        beside = net(torch.as_tensor(image)).argmax(1).numpy()
    found = {
        "accuracy": float((told.astype(int) == label).mean()),
        "supervised": float((beside == label).mean()),
        "coherence": float(agreement(images, wanted, reader).mean()),
        "taught": taught_by(images, rows.test),
    }
    report.tell(f"{contender}, {setting(labelled)}: {found}")
    return {
        "part": "labels",
        "setting": setting(labelled),
        "contender": contender,
        **found,
        "updates": updates,
        "minutes": fitted / 60,
        "images": images,
    }


def setting(labelled: int) -> str:
    """What a number of labels is called."""
    return f"{labelled or 'all'} labels"


def with_labels(labels: Array, count: int) -> Array:
    """As many labels of each class as make this count, the others NaN; 0 keeps all."""
    shown = np.full(len(labels), np.nan)
    for k in range(CLASSES):
        mine = np.flatnonzero(labels == k)
        shown[mine[: count // CLASSES] if count else mine] = k
    return shown


def drawn_images(model: GenProp, draws: int) -> Array:
    """Images drawn given each label, ``(draws, classes, pixels)``."""
    given = {"label": np.arange(float(CLASSES))}
    return np.asarray(model.sample(draws, given=given, random_state=0)["image"])


def supervised(x: Array, y: Array, updates: int, batch: int) -> MLP:
    """A perceptron with the encoder's units that has only the labelled rows."""
    torch.manual_seed(0)
    net = MLP(x.shape[1], CLASSES, SETTINGS["units"], skip=True)
    adam = torch.optim.AdamW(net.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, updates)
    rows, labels = torch.as_tensor(x), torch.as_tensor(y.astype(np.int64))
    for _ in range(updates):
        index = torch.randint(len(rows), (min(batch, len(rows)),))
        loss: Tensor = functional.cross_entropy(net(rows[index]), labels[index])
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return net


def taught_by(images: Array, test: tuple[Array, Array]) -> float:
    """How many real digits a classifier reads that was fitted to drawn ones."""
    labels = np.tile(np.arange(CLASSES), len(images))
    told = fitted_classifier(images.reshape(len(labels), -1), labels).predict(test[0])
    return float((told == test[1]).mean())


def reader_of(rows: Rows) -> tuple[Classifier, float]:
    """A classifier of images fitted on rows of its own, and its accuracy on test rows."""
    reader = fitted_classifier(*rows.reader)
    return reader, float((reader.predict(rows.test[0]) == rows.test[1]).mean())


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """Accuracy beside the supervised net's."""
    bars = []
    for row in (row for row in rows if row["part"] == "labels"):
        name = f"accuracy of P(label | image), {row['contender']}, {row['setting']}"
        holds = row["accuracy"] >= row["supervised"]
        bars.append(
            report.bar(name, row["accuracy"], f">= {row['supervised']:.4f} (supervised)", holds)
        )
    return bars

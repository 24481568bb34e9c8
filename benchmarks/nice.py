"""NICE on the pixels of MNIST: the likelihood of its test digits, samples, and inpainting.

Four additive couplings of odd and even pixels, each net with five hidden layers of 1000 ReLU units,
a last diagonal scale and a logistic prior, over pixels with uniform noise added (Dinh, Krueger,
Bengio, 2015, arXiv 1410.8516), as one dequantising layer under a flow prior, trained by target
propagation. The paper trained for 1500 epochs; here training ends when its minutes are over, and
the weights that were best on 10,000 validation digits are tested. Its β₂ = 0.01 of Adam is taken
for the weight of the new, 1 - 0.99, since as a decay it does not train.

nats   log-density of pixels in [0, 1], as the paper has them: log P(x) + 784 log 256
bits   of the discrete pixels: -log P(x) / (784 log 2), an upper bound by one draw of the noise
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import report
from genprop.data import Batch
from genprop.model import Model
from genprop.prior import DensityPrior
from genprop.priors.flow import FlowPrior
from genprop.quantised import dequantising
from genprop.rules.rule import Rule
from genprop.rules.target import TargetPropagation
from genprop.samplers.ancestral import ancestral
from genprop.samplers.inpainting import inpaint
from genprop.seeds import seeded
from genprop.stack import Stack

SIDE, LEVELS = 28, 256
PAPER_NATS, PAPER_BITS = 1980.50, 4.36
VALIDATION = 10_000
# of inpainting, one after the other: with the paper's 1 steep pixels swing from black to white
SCALES = (0.2, 0.1, 0.05, 0.02)
SEED = 0
COLUMNS = {
    "rows": "rows",
    "count": "digits",
    "nats": "nats in [0, 1]",
    "paper_nats": "paper",
    "bits": "bits a pixel",
    "paper_bits": "paper ",
}


class Size(NamedTuple):
    """What is trained, and on how much."""

    units: tuple[int, ...] = (1000,) * 5
    batch: int = 200
    train: int = 50_000
    test: int = 10_000
    inpainting: int = 500


QUICK = Size(units=(64,), batch=100, train=1000, test=200, inpainting=20)


class Digits(NamedTuple):
    """Pixels 0, 1/256, …, 255/256 of three parts of MNIST, ``(rows, 784)`` each."""

    train: Tensor
    validation: Tensor
    test: Tensor


class Run(NamedTuple):
    """What training came to."""

    epochs: int
    seconds: float
    history: list[report.Row]


def main(argv: Sequence[str] | None = None) -> None:
    """Trains for the minutes that were asked for, prints the table, writes JSON and picture."""
    arguments = parse(argv)
    size = QUICK if arguments.quick else Size()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with seeded(SEED):
        digits = load(arguments.data, size, device)
        model = build(size).to(device)
        done = train(model, digits, size, 60 * arguments.minutes)
        rows = [describe(name, model, x) for name, x in digits._asdict().items()]
        picture = draw(model, digits.test, size) if arguments.plot else None
    result = report.Report(
        benchmark="nice",
        quick=arguments.quick,
        command=arguments.command,
        seeds=[SEED],
        rows=rows,
        bars=judge(rows),
        more={
            "device": device.type,
            "size": size._asdict(),
            "minutes": arguments.minutes,
            "epochs": done.epochs,
            "seconds": done.seconds,
            "history": done.history,
        },
    )
    result.show(COLUMNS)
    report.tell(f"{done.epochs} epochs in {done.seconds:.0f} s on {device.type}")
    result.write(arguments.json)
    if picture is not None:
        picture.savefig(arguments.plot, dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; a --quick run lasts seconds unless told otherwise."""
    made = report.parser("nice", __doc__)
    made.add_argument("--minutes", type=float, help="of training (default 60; 0.1 if --quick)")
    made.add_argument("--plot", type=Path, metavar="FILE", help="where a picture is drawn (.png)")
    arguments = report.parse(made, argv)
    if arguments.data is None and not arguments.quick:
        made.error("--data DIR is needed, the folder of mnist.npz")
    if arguments.minutes is None:
        arguments.minutes = 0.1 if arguments.quick else 60.0
    return arguments


def load(folder: Path | None, size: Size, device: torch.device) -> Digits:
    """The training digits in two parts, and the test digits; without a folder seeded noise."""
    if folder is None:
        noise = torch.randint(LEVELS, (size.train + 2 * size.test, SIDE**2))
        parts = noise.split([size.train, size.test, size.test])
    else:
        with np.load(folder / "mnist.npz") as arrays:
            seen, unseen = (torch.from_numpy(arrays[k]).flatten(1) for k in ("x_train", "x_test"))
        most = len(seen) - VALIDATION
        parts = (seen[:most][: size.train], seen[most:][: size.test], unseen[: size.test])
    return Digits(*((part.float() / LEVELS).to(device) for part in parts))


def build(size: Size) -> Model:
    """The paper's flow over dequantised pixels."""
    prior = FlowPrior(
        SIDE**2, "nice", transforms=4, units=size.units, activation="relu", base="logistic"
    )
    return Model(Stack([dequantising(SIDE**2, LEVELS)]), prior)


def train(model: Model, digits: Digits, size: Size, seconds: float) -> Run:
    """Epochs until the time is over, in the midst of one if need be; the best weights are kept."""
    adam = optimizer(model)
    rule, start = TargetPropagation(), time.perf_counter()
    history: list[report.Row] = []
    best, weights = -math.inf, snapshot(model)

    def left() -> float:
        return seconds - (time.perf_counter() - start)

    while left() > 0:
        updates = epoch(model, rule, digits.train, size.batch, adam, left)
        nats = density(model, digits.validation)
        history.append({"updates": updates, "validation": nats, "seconds": seconds - left()})
        report.tell(f"epoch {len(history)}: {nats:.1f} nats on validation, {left():.0f} s left")
        if nats > best:
            best, weights = nats, snapshot(model)
        if not math.isfinite(nats):
            model.load_state_dict(weights)
            adam = optimizer(model)
    model.load_state_dict(weights)
    return Run(len(history), time.perf_counter() - start, history)


def optimizer(model: Model) -> torch.optim.Adam:
    """Adam with the paper's settings; logarithms of scales, which have far to go, learn faster."""
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if "log_scale" not in name], "lr": 1e-3},
        {"params": [p for name, p in named if "log_scale" in name], "lr": 1e-2},
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-4)


def epoch(
    model: Model,
    rule: Rule,
    rows: Tensor,
    size: int,
    adam: torch.optim.Optimizer,
    left: Callable[[], float],
) -> int:
    """One visit of the rows, or as much of it as there is time for: how many updates."""
    model.train()
    updates = 0
    for index in torch.randperm(len(rows), device=rows.device).split(size):
        if left() <= 0:
            break
        adam.zero_grad()
        for term in rule(model, Batch.of(rows[index])):
            if term.value.requires_grad:
                term.value.backward()
        adam.step()
        updates += 1
    return updates


@torch.no_grad()
def density(model: Model, rows: Tensor) -> float:
    """The mean log-density of pixels in [0, 1] with one draw of the noise, nats."""
    model.eval()
    total = 0.0
    for part in rows.split(1000):
        batch = Batch.of(part)
        total += model.log_weights(model.encode(batch), batch).double().sum().item()
    return total / len(rows) + rows.shape[-1] * math.log(LEVELS)


def snapshot(model: Model) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def bits(nats: float, elements: int = SIDE**2) -> float:
    """Bits an element of the discrete data, of the paper's nats.

    >>> round(bits(1980.50), 2)
    4.36
    """
    return (math.log(LEVELS) - nats / elements) / math.log(2)


def describe(name: str, model: Model, rows: Tensor) -> report.Row:
    """A part's row."""
    nats = density(model, rows)
    paper = {"paper_nats": PAPER_NATS, "paper_bits": PAPER_BITS} if name == "test" else {}
    return {"rows": name, "count": len(rows), "nats": nats, "bits": bits(nats), **paper}


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """The paper's figures of the test digits."""
    (test,) = (row for row in rows if row["rows"] == "test")
    return [
        report.at_least("test log-density, nats in [0, 1]", test["nats"], PAPER_NATS),
        report.at_most("bits a pixel of the test digits", test["bits"], PAPER_BITS),
    ]


def masks() -> dict[str, Tensor]:
    """What is seen in the paper's inpainting, by what is hidden, ``(784,)`` each."""
    row, column = (torch.arange(SIDE**2) // SIDE, torch.arange(SIDE**2) % SIDE)
    middle = (SIDE // 4, SIDE - SIDE // 4)
    noise = torch.rand(SIDE**2, generator=torch.Generator().manual_seed(SEED))
    return {
        "top": row >= SIDE // 2,
        "bottom": row < SIDE // 2,
        "left": column >= SIDE // 2,
        "right": column < SIDE // 2,
        "odd": torch.arange(SIDE**2) % 2 == 0,
        "even": torch.arange(SIDE**2) % 2 == 1,
        "middle rows": (row < middle[0]) | (row >= middle[1]),
        "middle columns": (column < middle[0]) | (column >= middle[1]),
        "75 %": noise >= 0.75,
        "90 %": noise >= 0.9,
    }


def draw(model: Model, rows: Tensor, size: Size) -> Figure:
    """Samples above; below, for two digits of every mask, what was seen and what was made of it."""
    hidden = masks()
    count = len(hidden)
    figure = Figure(figsize=(1.1 * count, 8), layout="constrained")
    axes = figure.subplots(7, count)
    for place, image in zip(axes[:3].flat, ancestral(model, 3 * count)["x"], strict=True):
        show(place, image)
    model.requires_grad_(False)  # only the pixels' gradient is wanted
    x = rows[: 2 * count]
    seen = torch.stack(list(hidden.values())).to(x.device).repeat(2, 1)
    prior = model.prior
    assert isinstance(prior, DensityPrior)
    filled = torch.where(seen, x, torch.rand_like(x))
    for scale in SCALES:
        filled = inpaint(prior.log_prob, filled, seen, size.inpainting, scale=scale)
    pictures = torch.stack([torch.where(seen, x, 0.5), filled]).unflatten(1, (2, count))
    for place, image in zip(axes[3:].flat, pictures.transpose(0, 1).flatten(0, 2), strict=True):
        show(place, image)
    for place, title in zip(axes[3], hidden, strict=True):
        place.set_title(f"{title} hidden", fontsize=7)
    if size is QUICK:
        figure.suptitle(report.NO_RESULT, fontsize=9)
    return figure


def show(axes: Axes, image: Tensor) -> None:
    """A digit, white on black."""
    axes.imshow(image.reshape(SIDE, SIDE).cpu().numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()


if __name__ == "__main__":
    main()

"""Structured outputs: parts of images from other parts, images from labels, labels from images.

quadrants  MNIST, its pixels drawn as zeros and ones with their grey values as probabilities. The
           lower left quadrant is given, then the upper left too, then the upper right. *sampled*
           is -log (1/100) Σ_s P(rest | h_s), h_s ~ P(h | given); *nll* is exact, or by importance
           sampling with 100 draws. A law without latent variables has but one figure. Published:
           Pyro's tutorial (its conditional VAE, its deterministic net) and Sohn et al. (2015).
labels     MNIST at half ink and the digits' labels as two modalities, 100, 1,000 and all labels
           known: accuracy of P(label | image) beside a perceptron of the same units that learns
           from the labelled rows by as many updates; coherence, the share of images drawn given
           a label in which a forest, fitted on other rows, finds it (*reader*: in real images);
           *taught*, how many real digits a forest reads that is fitted to the drawn ones alone,
           which images that are all alike do not teach (Ravuri, Vinyals, 2019).
halves     The right half of digits and of Caltech's silhouettes given the left one: energy score
           of 20 draws, wrong pixels of the best of them, squared error of their mean, and -log P,
           beside the answer of the nearest training row.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import report, structured_halves, structured_labels, structured_quadrants
from genprop.modal_plots import given_beside_drawn
from genprop.plots import save_figure
from genprop.threads import one_thread

PARTS = ("quadrants", "labels", "halves")
FILES = ("mnist.npz", "caltech101_silhouettes28.npz")
KEY = ("part", "setting", "contender")
SIDE = structured_quadrants.SIDE
SETTINGS = {
    "settings": {
        "labels": structured_labels.SETTINGS,
        "labels, contenders": structured_labels.CONTENDERS,
        "all labels": structured_labels.ALL,
        "few labels": structured_labels.FEW,
        "halves": structured_halves.SETTINGS,
    }
}
COLUMNS = {
    "part": "part",
    "setting": "setting",
    "contender": "contender",
    "sampled": "sampled",
    "nll": "nll",
    "pyro": "Pyro",
    "pyro_net": "Pyro, net",
    "sohn": "Sohn",
    "accuracy": "accuracy",
    "supervised": "supervised",
    "coherence": "coherence",
    "reader": "reader",
    "taught": "taught",
    "energy": "energy",
    "best": "best of 20",
    "mean": "mean",
    "minutes": "minutes",
}


@one_thread()
def main(argv: Sequence[str] | None = None) -> None:
    """Measures what was asked for; prints a table, writes the JSON and the pictures."""
    arguments = parse(argv)
    rows, commands = report.kept(arguments.json, arguments.quick)
    more = {**SETTINGS, "commands": [*commands, arguments.command]}
    for row in measured(arguments):
        draw(row, arguments.pictures)
        row.pop("images", None)
        rows = report.merged(rows, [row], KEY)
        result = report.Report(
            "structured", arguments.quick, arguments.command, [0], rows, judge(rows), more
        )
        result.write(arguments.json)
    result.show(COLUMNS)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, the data's folder among them."""
    made = report.parser("structured", __doc__)
    made.add_argument("--only", action="append", metavar="NAME", help="runs with it in their name")
    made.add_argument(
        "--minutes", type=float, default=7, help="of the processor, where time ends training (7)"
    )
    made.add_argument(
        "--pictures", type=Path, metavar="DIR", help="where pictures are drawn (.png)"
    )
    arguments = report.parse(made, argv)
    if arguments.quick:
        arguments.data = None  # seeded noise
    elif arguments.data is None or not all((arguments.data / name).exists() for name in FILES):
        made.error(f"--data must name a folder with {' and '.join(FILES)}")
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    if not arguments.minutes > 0:
        made.error(f"--minutes must be positive, but is {arguments.minutes}")
    if not list(plan(arguments)):
        made.error(f"--only {arguments.only} names none of {', '.join(names())}")
    return arguments


def names() -> list[str]:
    """All runs: part, setting, contender."""
    found = [
        f"quadrants, {q} given, {name}"
        for q in structured_quadrants.PUBLISHED
        for name in structured_quadrants.CONTENDERS
    ]
    found += [
        f"labels, {structured_labels.setting(count)}, {name}"
        for count in structured_labels.LABELS
        for name in structured_labels.CONTENDERS
    ]
    return found + [
        f"halves, {each}, {name}"
        for each in structured_halves.SETS
        for name in structured_halves.CONTENDERS
    ]


def plan(arguments: argparse.Namespace) -> list[list[str]]:
    """The runs that were asked for, in their parts."""
    return [name.split(", ") for name in report.named(names(), arguments.only)]


def measured(arguments: argparse.Namespace) -> Iterator[report.Row]:
    """The rows, one after the other."""
    runs, quick = plan(arguments), arguments.quick
    yield from quadrants([r for r in runs if r[0] == "quadrants"], arguments, quick)
    yield from labels([r for r in runs if r[0] == "labels"], arguments, quick)
    yield from halves([r for r in runs if r[0] == "halves"], arguments, quick)


def quadrants(
    runs: Sequence[Sequence[str]], arguments: argparse.Namespace, quick: bool
) -> Iterator[report.Row]:
    effort = structured_quadrants.Effort(arguments.minutes)
    if quick:
        effort = structured_quadrants.Effort(0.1, held=20, test=20, updates=5)
    if runs:
        digits = structured_quadrants.read(arguments.data, effort)
        for _, given, name in runs:
            yield structured_quadrants.measure(name, int(given.split()[0]), digits, effort)


def labels(
    runs: Sequence[Sequence[str]], arguments: argparse.Namespace, quick: bool
) -> Iterator[report.Row]:
    effort = structured_labels.Effort()
    if quick:
        effort = structured_labels.Effort(epochs=1, paths=3, draws=2)
    if runs:
        rows = structured_labels.read(arguments.data, effort)
        reader, accuracy = structured_labels.reader_of(rows)
        for _, text, name in runs:
            known = 0 if text.startswith("all") else int(text.split()[0])
            row = structured_labels.measure(name, known, rows, reader, effort)
            yield {**row, "reader": accuracy}


def halves(
    runs: Sequence[Sequence[str]], arguments: argparse.Namespace, quick: bool
) -> Iterator[report.Row]:
    effort = structured_halves.Effort(arguments.minutes)
    if quick:
        effort = structured_halves.Effort(0.02, epochs=1, test=10, draws=2, paths=5)
    for _, name, contender in runs:
        rows = structured_halves.read(name, arguments.data, effort)
        yield structured_halves.measure(name, contender, rows, effort)


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """What was asked for of each part."""
    return [
        *structured_quadrants.judge(rows),
        *structured_labels.judge(rows),
        *structured_halves.judge(rows),
    ]


def draw(row: report.Row, folder: Path | None) -> None:
    """Draws beside what was given, where a row has any."""
    if folder is None or "images" not in row:
        return
    images = np.asarray(row["images"], float)
    name = "-".join(str(row[n]).replace(" ", "-") for n in KEY)
    if row["part"] == "labels":
        figure = given_beside_drawn(
            np.arange(images.shape[1]), images, (None, (SIDE, SIDE)), ("label", "images given it")
        )
    else:
        left = images[0].copy()
        left[..., SIDE // 2 :] = np.nan
        shapes = (SIDE, SIDE), (SIDE, SIDE)
        figure = given_beside_drawn(left, images, shapes, ("left half", "completed"))
    save_figure(figure, folder / f"{name}.png")


if __name__ == "__main__":
    main()

"""Can local signals replace the gradient? Every rule of credit assignment on the same networks.

Perceptrons of 6 layers of 256 tanh units (the two energy-based and two goodness-based rules on
networks of their own, named so), networks of signs and of stochastic units, and residual networks
of width 32 and depth 32. MNIST from a folder's mnist.npz; Fashion-MNIST from the folder of its four
idx files; CIFAR-10 from that of its binary files, for contenders of its own (``credit_images``).
10,000 rows of the training set are for validation, unless ``--whole`` trains on them, too, at rates
chosen before; test rows are seen once.

accuracy    of test rows, percent; a stochastic network is asked 20 times
angle       degrees between the update and back-propagation's, mean over hidden layers
seconds     of an update of 100 rows, median
memory      most bytes that an update allocates

A run can be split: --only NAME runs that rule, or those with NAME in their names, and a JSON file
that is there already keeps the runs that are not made again. ``--choose`` tries three learning
rates of every rule first; the one best on validation rows holds for all seeds and data, and for
later parts that keep the same file.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import credit_images, report
from benchmarks.credit_images import CIFAR, IMAGES
from benchmarks.credit_rules import DISCRETE, PERCEPTRONS, THIN, Contender
from benchmarks.memory import peak_allocated
from benchmarks.pool import run_all
from genprop.credit.measure import agreement
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import CreditRule, PreparedRule
from genprop.credit.train import CreditTrainer, evaluate
from genprop.idx import read_idx
from genprop.seeds import seeded

MNIST, FASHION = "MNIST", "Fashion-MNIST"
CONTENDERS = {**PERCEPTRONS, **DISCRETE, **THIN, **IMAGES}
VALIDATION, PASSES = 10_000, 20
FACTORS = (0.3, 1.0, 3.0)
COLUMNS = {
    "data": "data",
    "rule": "rule",
    "seeds": "seeds",
    "accuracy": "test, %",
    "error_of_mean": "±",
    "published": "published",
    "angle": "angle, °",
    "seconds": "s an update",
    "memory": "MB",
    "epochs": "epochs",
    "lr": "lr",
}
# those on back-propagation's own network
LOCAL = [n for n, c in PERCEPTRONS.items() if n != "BP" and c.widths == PERCEPTRONS["BP"].widths]


class Job(NamedTuple):
    """One training run.

    Attributes:
        data: MNIST, Fashion-MNIST or CIFAR-10.
        rule: the contender.
        seed: of weights, order and noise.
        epochs: at most.
        minutes: at most.
        rows: of training, None for all.
        folder: of the data; None stands for seeded noise.
        judged: rows of validation and of test, None for all.
        factor: on the contender's learning rate.
        whole: whether validation rows are trained on, too.
    """

    data: str
    rule: str
    seed: int
    epochs: int
    minutes: float
    rows: int | None
    folder: Path | None
    judged: int | None = None
    factor: float = 1.0
    whole: bool = False


class Digits(NamedTuple):
    """Rows and classes of the three parts."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def main(argv: Sequence[str] | None = None) -> None:
    """Trains all that was asked for, prints the table and writes the JSON."""
    arguments = parse(argv)
    jobs = plan(arguments)
    runs, commands = report.kept(arguments.json, arguments.quick, "runs")
    trials, _ = report.kept(arguments.json, arguments.quick, "trials")
    commands.append(arguments.command)
    for trial in run_all(try_rate, rates(arguments), said):
        trials = report.merged(trials, [trial], ("rule", "factor"))
        result(arguments, runs, trials, commands).write(arguments.json)
    best = chosen(trials)
    jobs = [job._replace(factor=best.get(job.rule, 1.0)) for job in jobs]
    # what was run at another rate is no seed of this one
    runs = [run for run in runs if run["lr"] == _rate(run["rule"], best)]
    if arguments.more:
        there = {(run["data"], run["rule"], run["seed"]) for run in runs}
        jobs = [job for job in jobs if (job.data, job.rule, job.seed) not in there]
    for run in run_all(train, jobs, said):
        runs = report.merged(runs, [run], ("data", "rule", "seed"))
        result(arguments, runs, trials, commands).write(arguments.json)
    result(arguments, runs, trials, commands).show(COLUMNS)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; without folders a quick run has seeded noise for data."""
    made = report.parser("credit", __doc__)
    made.add_argument("--fashion", type=Path, metavar="DIR", help="folder of Fashion-MNIST's files")
    made.add_argument("--cifar", type=Path, metavar="DIR", help="folder of CIFAR-10's binary files")
    made.add_argument("--only", action="append", metavar="TEXT", help="rules with it in their name")
    made.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    made.add_argument("--epochs", type=int, default=30, help="of each run (default 30)")
    made.add_argument("--minutes", type=float, default=math.inf, help="at most, of each run")
    made.add_argument("--rows", type=int, help="training rows, all unless given")
    made.add_argument(
        "--whole", action="store_true", help="with validation rows; give --json its own"
    )
    made.add_argument(
        "--choose",
        action="store_true",
        help="choose learning rates on validation rows, of three",
    )
    made.add_argument("--more", action="store_true", help="only runs that the file does not hold")
    made.add_argument("--share", type=float, default=0.2, help="of the epochs in a trial (0.2)")
    arguments = report.parse(made, argv)
    if arguments.quick:
        arguments.seeds, arguments.epochs, arguments.rows = 1, 1, 200
    if not _folders(arguments) and not arguments.quick:
        made.error("--data DIR (of mnist.npz), --fashion DIR or --cifar DIR is needed")
    if arguments.whole and arguments.choose:
        made.error("--choose needs validation rows that are not trained on; leave --whole out")
    if not list(of_seed(arguments, 0)):
        made.error(f"no rule for these data has any of {arguments.only} in its name")
    return arguments


def plan(arguments: argparse.Namespace) -> list[Job]:
    """Every run."""
    return [job for seed in range(arguments.seeds) for job in of_seed(arguments, seed)]


def of_seed(arguments: argparse.Namespace, seed: int) -> Iterator[Job]:
    """The thin residual networks see one epoch, of Fashion-MNIST where it is there."""
    folders = _folders(arguments) or dict.fromkeys((MNIST, CIFAR))
    for rule in report.named(CONTENDERS, arguments.only):
        data = [name for name in folders if (name == CIFAR) == (rule in IMAGES)]
        for name in data[-1:] if rule in THIN else data:
            epochs = 1 if rule in THIN else arguments.epochs
            limits = (arguments.minutes, arguments.rows)
            more = (folders[name], 200 if arguments.quick else None)
            yield Job(name, rule, seed, epochs, *limits, *more, whole=arguments.whole)


def _folders(arguments: argparse.Namespace) -> dict[str, Path | None]:
    """Those that were given, by the data they hold."""
    given = {MNIST: arguments.data, FASHION: arguments.fashion, CIFAR: arguments.cifar}
    return {name: folder for name, folder in given.items() if folder is not None}


def rates(arguments: argparse.Namespace) -> list[Job]:
    """The trials of learning rates: on one set of data, with one seed, for a share of the time."""
    first: dict[str, Job] = {}
    share = arguments.share
    for job in of_seed(arguments, 0) if arguments.choose else ():
        first.setdefault(job.rule, job)
    return [
        job._replace(epochs=max(1, int(share * job.epochs)), minutes=share * job.minutes, factor=f)
        for job in first.values()
        for f in FACTORS
    ]


def chosen(trials: Iterable[report.Row]) -> dict[str, float]:
    """The factor on each rule's learning rate that was best on validation rows."""
    ordered = sorted(trials, key=lambda trial: trial["accuracy"])
    return {trial["rule"]: trial["factor"] for trial in ordered}


def _rate(rule: str, best: Mapping[str, float]) -> float:
    return CONTENDERS[rule].lr * best.get(rule, 1.0)


def load(job: Job) -> Digits:
    """Rows, of digits and clothes 784 elements within [0, 1], and classes."""
    if job.folder is None:
        generator = torch.Generator().manual_seed(0)
        shape = credit_images.SHAPE if job.data == CIFAR else (784,)
        x = torch.rand(1700, *shape, generator=generator)
        y = torch.randint(10, (1700,), generator=generator)
        seen, unseen = (x[:1500], y[:1500]), (x[1500:], y[1500:])
    elif job.data == MNIST:
        with np.load(job.folder / "mnist.npz") as arrays:
            seen, unseen = (_rows(arrays[f"x_{k}"], arrays[f"y_{k}"]) for k in ("train", "test"))
    elif job.data == CIFAR:
        seen, unseen = credit_images.read(job.folder)
    else:
        seen, unseen = (_rows(*_idx(job.folder, kind)) for kind in ("train", "t10k"))
    most = len(seen[0]) - min(VALIDATION, len(seen[0]) // 6)
    train, validation = (
        (seen[0][part], seen[1][part])
        for part in (slice(None if job.whole else most), slice(most, None))
    )
    counts = zip((train, validation, unseen), (job.rows, job.judged, job.judged), strict=True)
    take = CONTENDERS[job.rule].rows
    return Digits(*((take(x[:count]), y[:count]) for (x, y), count in counts))


def _rows(images: np.ndarray, classes: np.ndarray) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(images.astype(np.float32)).flatten(1) / 255
    return x, torch.from_numpy(classes.astype(np.int64))


def _idx(folder: Path, kind: str) -> Iterator[np.ndarray]:
    """The images and the classes of a part, gzipped or not."""
    for what in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        plain = folder / f"{kind}-{what}"
        yield read_idx(plain if plain.exists() else plain.with_suffix(".gz"))


def start(job: Job) -> tuple[Digits, Contender, CreditNetwork, CreditRule, CreditTrainer]:
    """What a run is made of, nothing trained yet."""
    digits, contender = load(job), CONTENDERS[job.rule]
    if job.judged is not None:
        contender = contender.small()
    network = contender.network(tuple(digits.train[0].shape[1:]), 10)
    trainer = contender.trainer(job.epochs, job.minutes, job.factor)
    return digits, contender, network, contender.rule(network), trainer


def train(job: Job) -> report.Row:
    """One run: what it came to."""
    with seeded(job.seed):
        digits, contender, network, rule, trainer = start(job)
        # the same rows of validation every time, few, for the rules that predict slowly
        history = trainer.fit(network, rule, *digits.train, validation=_some(digits.validation))
        passes = PASSES if contender.unit == "bernoulli" else 1
        loss, right = _judged(network, rule, digits.test, passes)
        validation = _judged(network, rule, digits.validation, passes)[1]
        return {
            "data": job.data,
            "rule": job.rule,
            "seed": job.seed,
            "accuracy": 100 * right,
            "validation": 100 * validation,
            "test_loss": loss,
            "lr": contender.lr * job.factor,
            "rows": len(digits.train[0]),
            "epochs": len(history),
            "updates": history[-1]["updates"],
            "training_seconds": history[-1]["seconds"],
            **cost(network, rule, digits, 7 if job.judged is None else 3),
            "history": [[row["loss"], row["validation"], row["accuracy"]] for row in history],
        }


def try_rate(job: Job) -> report.Row:
    """One trial of a learning rate: how many rows of validation it came to, none if it blew up."""
    with seeded(job.seed):
        digits, contender, network, rule, trainer = start(job)
        found: report.Row = {"accuracy": 0.0, "epochs": 0, "training_seconds": 0.0}
        try:
            history = trainer.fit(network, rule, *digits.train)
        except FloatingPointError:
            pass
        else:
            found["accuracy"] = 100 * _judged(network, rule, digits.validation, 1)[1]
            found["epochs"], found["training_seconds"] = len(history), history[-1]["seconds"]
        head = {"data": job.data, "rule": job.rule, "seed": job.seed}
        return {**head, "factor": job.factor, "lr": contender.lr * job.factor, **found}


def _some(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return part[0][:1000], part[1][:1000]


def _judged(
    network: CreditNetwork, rule: CreditRule, part: tuple[Tensor, Tensor], passes: int
) -> tuple[float, float]:
    device = network.layers[0].weight.device
    return evaluate(network, rule, part[0].to(device), part[1].to(device), passes)


def cost(network: CreditNetwork, rule: CreditRule, digits: Digits, turns: int) -> dict[str, Any]:
    """Angles, bytes and median seconds, over so many turns, of an update of 100 rows."""
    device = network.layers[0].weight.device
    x, y = (part[:100].to(device) for part in digits.validation)
    found = agreement(network, rule, x, y)
    angles = {name: a.angle for name, a in found.items() if math.isfinite(a.angle)}
    hidden = [angle for name, angle in angles.items() if name != f"layer.{len(network.layers)}"]

    def update() -> None:
        for _ in range(rule.rounds if isinstance(rule, PreparedRule) else 0):
            for term in rule.prepare(network, x):
                term.value.backward()
        for term in rule(network, x, y):
            term.value.backward()

    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        update()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {
        "angle": statistics.mean(hidden) if hidden else None,
        "angles": angles,
        "ratios": {name: a.ratio for name, a in found.items()},
        "seconds": statistics.median(seconds),
        "memory": peak_allocated(update, device) / 1e6,
    }


def said(job: Job, run: report.Row) -> str:
    """A run in a line."""
    return (
        f"{job.data}, {job.rule}, lr {run['lr']:.2g}, seed {job.seed}: {run['accuracy']:.2f} % "
        f"after {run['epochs']} epochs, {run['training_seconds']:.0f} s"
    )


def result(
    arguments: argparse.Namespace,
    runs: list[report.Row],
    trials: list[report.Row],
    commands: list[str],
) -> report.Report:
    """All runs as a report."""
    rows = summarise(runs)
    return report.Report(
        benchmark="credit",
        quick=arguments.quick,
        command=arguments.command,
        seeds=sorted({run["seed"] for run in runs}),
        rows=rows,
        bars=judge(rows),
        more={"runs": runs, "trials": trials, "commands": commands},
    )


def summarise(runs: Iterable[report.Row]) -> list[report.Row]:
    """Means over seeds, in the order of the contenders."""
    groups: dict[tuple[str, str], list[report.Row]] = {}
    for run in runs:
        groups.setdefault((run["data"], run["rule"]), []).append(run)
    places = {name: place for place, name in enumerate(CONTENDERS)}
    rows = []
    for (data, rule), group in sorted(groups.items(), key=lambda g: (g[0][0], places[g[0][1]])):
        accuracies = [run["accuracy"] for run in group]
        spread = statistics.stdev(accuracies) if len(group) > 1 else None
        rows.append(
            {
                "data": data,
                "rule": rule,
                "seeds": len(group),
                "accuracy": statistics.mean(accuracies),
                "error_of_mean": None if spread is None else spread / len(group) ** 0.5,
                "published": CONTENDERS[rule].published.get(data),
                "source": CONTENDERS[rule].source or None,
                "lr": statistics.median(run["lr"] for run in group),
                "epochs": statistics.median(run["epochs"] for run in group),
                **{name: _median(group, name) for name in ("angle", "seconds", "memory")},
            }
        )
    return rows


def _median(group: Sequence[report.Row], name: str) -> float | None:
    values = [run[name] for run in group if run[name] is not None]
    return statistics.median(values) if values else None


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """What was asked for, of what was run."""
    found = {(row["data"], row["rule"]): row["accuracy"] for row in rows}

    def less(one: tuple[str, str], other: tuple[str, str]) -> float | None:
        return found[other] - found[one] if one in found and other in found else None

    bp = (MNIST, "BP")
    behind = [less((MNIST, name), bp) for name in LOCAL]
    known = [value for value in behind if value is not None]
    sign = found.get((MNIST, "sign, DTP"))
    bars = [
        report.at_most("MNIST: points DTP is behind BP", less((MNIST, "DTP"), bp), 0.5),
        report.at_most(
            "MNIST: points the best local rule on its net is behind", min(known, default=None), 0.2
        ),
        report.at_most("MNIST: error of the sign network, %", sign and 100 - sign, 2.0),
    ]
    for (data, rule), accuracy in found.items():
        published = CONTENDERS[rule].published.get(data)
        if published is not None:
            name = f"{data}, {rule}: points behind its published row"
            bars.append(report.at_most(name, published - accuracy, 0.5))
    return bars


if __name__ == "__main__":
    main()

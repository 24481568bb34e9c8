"""How many rows a second are trained? genprop beside a hand-written loop, Pyro and pythae.

The same nets, the same updates, on the CPU with torch's own number of threads. Runs are
interleaved; each makes a model of its own, spends one epoch warming up and then times some. What
is compared is the median over all timed epochs.
"""

import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import report
from benchmarks.contenders import (
    Contender,
    Task,
    Timing,
    backprop,
    hand_written,
    pyro_svi,
    pythae_trainer,
    target_propagation,
)
from benchmarks.data import mnist, repeated_digits

ROWS = 10_000
OURS, YARDSTICK, LOOP = "genprop, target propagation", "genprop, back-propagation", "hand-written"
PYRO, PYTHAE = "Pyro SVI", "pythae BaseTrainer"
WIDE, NARROW = "784-(400,400)-50, batch 128", "64-(64,64)-16, batch 64"

CONTENDERS: dict[str, Contender] = {
    OURS: target_propagation,
    YARDSTICK: backprop,
    LOOP: hand_written,
    PYRO: pyro_svi,
    PYTHAE: pythae_trainer,
}
PEERS = {PYRO: "pyro", PYTHAE: "pythae"}
# what has to be imported beside torch before training can start
IMPORTS = {
    OURS: "import genprop.train, genprop.stack, lightning_fabric",
    YARDSTICK: "import genprop.train, genprop.stack, lightning_fabric",
    LOOP: "pass",
    PYRO: "import pyro, pyro.infer",
    PYTHAE: "import pythae.models, pythae.trainers",
}
ASKED = (
    (WIDE, LOOP, 0.9),
    (WIDE, PYRO, 1.4),
    (WIDE, PYTHAE, 1.1),
    (NARROW, LOOP, 0.7),
    (NARROW, PYRO, 2.5),
    (NARROW, PYTHAE, 1.4),
)
COLUMNS = {
    "task": "task",
    "contender": "contender",
    "rows_per_second": "rows/s",
    "of_loop": "of hand-written",
    "epoch": "epoch, s",
    "fastest": "fastest",
    "slowest": "slowest",
    "setup": "set-up, s",
    "imports": "imports, s",
    "note": "",
}


class Effort(NamedTuple):
    """How often each contender runs, and how many epochs each time beside the first."""

    rounds: int
    epochs: int


FULL, QUICK = Effort(rounds=9, epochs=4), Effort(rounds=2, epochs=1)
Timings = dict[str, list[Timing]]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the contenders in turns, prints the table and writes the JSON."""
    made = report.parser("throughput", __doc__)
    arguments = report.parse(made, argv)
    effort = QUICK if arguments.quick else FULL
    names = [name for name in CONTENDERS if is_installed(name)]
    imports = {name: import_seconds(IMPORTS[name]) for name in names}
    rows, bars = [], []
    for task in tasks(arguments.data):
        timings = take_turns(task, names, effort)
        rows += [summarise(task, name, timings, imports) for name in CONTENDERS]
        bars += judge(task, timings)
    result = report.Report(
        benchmark="throughput",
        quick=arguments.quick,
        command=arguments.command,
        seeds=range(effort.rounds),
        rows=rows,
        bars=bars,
        more={"effort": effort._asdict()},
    )
    result.show(COLUMNS)
    result.write(arguments.json)


def tasks(folder: Path | None) -> list[Task]:
    """The two models, with their rows."""
    return [
        Task(WIDE, (400, 400), 50, 128, *mnist(ROWS, folder)),
        Task(NARROW, (64, 64), 16, 64, *repeated_digits(ROWS)),
    ]


def is_installed(name: str) -> bool:
    return name not in PEERS or importlib.util.find_spec(PEERS[name]) is not None


def take_turns(task: Task, names: Sequence[str], effort: Effort) -> Timings:
    """Every contender once, then all again; the epoch that warms up is left out."""
    timings: Timings = {name: [] for name in names}
    for turn in range(effort.rounds):
        for name in names:
            torch.manual_seed(turn)
            timing = CONTENDERS[name](task, effort.epochs + 1)
            timings[name].append(Timing(timing.setup, timing.epochs[1:]))
            report.tell(
                f"[{turn + 1}/{effort.rounds}] {task.name}, {name}: "
                f"{len(task.rows) / statistics.median(timing.epochs[1:]):,.0f} rows/s"
            )
    return timings


def summarise(task: Task, name: str, timings: Timings, imports: dict[str, float]) -> report.Row:
    """A contender's row."""
    row: report.Row = {"task": task.name, "data": task.source, "contender": name}
    if name not in timings:
        return {**row, "note": f"missing: {PEERS[name]} is not installed"}
    epochs = [seconds for timing in timings[name] for seconds in timing.epochs]
    return {
        **row,
        "rows_per_second": len(task.rows) / statistics.median(epochs),
        "of_loop": relative_speed(timings, name, LOOP),
        "epoch": statistics.median(epochs),
        "fastest": min(epochs),
        "slowest": max(epochs),
        "setup": statistics.median(timing.setup for timing in timings[name]),
        "imports": imports[name],
        "epochs": [timing.epochs for timing in timings[name]],
        "note": task.source,
    }


def relative_speed(timings: Timings, one: str, other: str) -> float | None:
    """Rows a second of one contender over those of the other, by their median epochs."""
    if one not in timings or other not in timings:
        return None
    return median_epoch(timings[other]) / median_epoch(timings[one])


def median_epoch(timings: Sequence[Timing]) -> float:
    return statistics.median(seconds for timing in timings for seconds in timing.epochs)


def judge(task: Task, timings: Timings) -> list[report.Row]:
    """The bars of one task."""
    return [
        report.at_least(
            f"{task.name}: rows/s of target propagation over those of {other}",
            relative_speed(timings, OURS, other),
            limit,
        )
        for name, other, limit in ASKED
        if name == task.name
    ]


def import_seconds(statement: str) -> float:
    """What imports cost a fresh interpreter that has torch already."""
    code = (
        f"import time, torch; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()

"""Layers trained in parallel: what does a pipeline of processes gain, and what would n devices?

Stages of associated learning and of a generative stack under target propagation, of seeded random
pixels, one thread a process. Measured are an update of all layers in one process, without a
pipeline; every stage's micro-step, alone; a message's way between two processes, half of there and
back; and an update of the pipeline in two processes.

The model, of N updates on n devices with stages of c_1 … c_n seconds and messages of m seconds:

    T = Σ_k (c_k + m) + (N - 1) max_k (c_k + m),    gain = N c / T

with c the seconds of an update in one process: the first mini-batch's way up, and then one after
another in the step of the slowest stage. The layers are dealt out so that this is as fast as it
can be.
"""

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed
from torch.optim import Adam, Optimizer

from benchmarks import report
from genprop.conditional import Bernoulli
from genprop.credit.associated import AssociatedLearning
from genprop.credit.component_stage import component_stages
from genprop.credit.generative_stage import generative_stages
from genprop.credit.link import Message, Wire, meeting
from genprop.credit.network import CreditNetwork
from genprop.credit.pipeline import LAG, linked, train_stage, train_together
from genprop.credit.stage import Stage
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.stack import Stack
from genprop.threads import one_thread

PIXELS, CLASSES, ROWS = 784, 10, 100
PROCESSES = 2
COLUMNS = {
    "task": "task",
    "devices": "devices",
    "sizes": "layers each",
    "stage_ms": "stages, ms",
    "message_ms": "message, ms",
    "model_ms": "model, ms an update",
    "measured_ms": "measured",
    "model_gain": "model, gain",
    "measured_gain": "measured",
}
Sizes = tuple[int, ...]


class Effort(NamedTuple):
    """How large the layers are, and how often what is repeated.

    Attributes:
        layers: in every task.
        width: of a layer.
        updates: of a timed run.
        rounds: timed runs, of which the median counts.
    """

    layers: int
    width: int
    updates: int
    rounds: int


FULL, QUICK = Effort(8, 400, 60, 5), Effort(4, 8, 4, 1)


def associated(effort: Effort, sizes: Sizes | None) -> list[Stage]:
    """Components of associated learning."""
    network = CreditNetwork.build(PIXELS, (effort.width,) * effort.layers, CLASSES, "relu")
    return list(component_stages(network, AssociatedLearning(network), sizes))


def generative(effort: Effort, sizes: Sizes | None) -> list[Stage]:
    """Layers of 50 codes, whose nets have the width."""
    stack = Stack.build(Bernoulli(PIXELS), (50,) * effort.layers, units=(effort.width,))
    return list(generative_stages(Model(stack, GaussianPrior(50)), sizes))


TASKS: dict[str, Callable[[Effort, Sizes | None], list[Stage]]] = {
    "associated learning": associated,
    "target propagation": generative,
}


@one_thread()
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = report.parse(report.parser("pipeline", __doc__), argv)
    effort = QUICK if arguments.quick else FULL
    rows = [row for task in TASKS for row in measure(task, effort)]
    result = report.Report(
        benchmark="pipeline",
        quick=arguments.quick,
        command=arguments.command,
        seeds=[0],
        rows=rows,
        bars=judge(rows),
        more={"effort": effort._asdict()},
    )
    result.show(COLUMNS)
    result.write(arguments.json)


def measure(task: str, effort: Effort) -> list[report.Row]:
    """A row for each number of devices, from one to one for every layer."""
    alone = together_seconds(task, effort)
    singles = stage_seconds(task, effort, (1,) * effort.layers)
    found = processes_seconds(task, effort, balanced(singles, PROCESSES))
    rows = [_row(task, 1, (effort.layers,), [alone], 0.0, effort, alone, alone)]
    count = 2
    while count <= effort.layers:
        sizes = balanced(singles, count)
        stages = singles if count == effort.layers else stage_seconds(task, effort, sizes)
        measured = found["update"] if count == PROCESSES else None
        rows.append(_row(task, count, sizes, stages, found["message"], effort, alone, measured))
        report.tell(f"{task}, {count} devices: {rows[-1]['model_gain']:.2f} times as fast by model")
        count *= 2
    return rows


def _row(
    task: str,
    devices: int,
    sizes: Sizes,
    stages: Sequence[float],
    message: float,
    effort: Effort,
    alone: float,
    measured: float | None,
) -> report.Row:
    seconds = predicted(stages, message, effort.updates)
    return {
        "task": task,
        "devices": devices,
        "sizes": " ".join(map(str, sizes)),
        "stage_ms": [1e3 * stage for stage in stages],
        "message_ms": 1e3 * message if devices > 1 else None,
        "model_ms": 1e3 * seconds,
        "model_gain": alone / seconds,
        "measured_ms": None if measured is None else 1e3 * measured,
        "measured_gain": None if measured is None else alone / measured,
    }


def predicted(stages: Sequence[float], message: float, updates: int) -> float:
    """Seconds an update by the model.

    >>> predicted([1.0, 3.0], 0.0, 10)
    3.1
    >>> predicted([2.0], 0.5, 10)
    2.0
    """
    steps = [stage + message for stage in stages] if len(stages) > 1 else list(stages)
    return (sum(steps) + (updates - 1) * max(steps)) / updates


def balanced(seconds: Sequence[float], stages: int) -> Sizes:
    """Layers of each stage, so that the slowest stage is as fast as can be.

    >>> balanced([4.0, 1.0, 1.0, 1.0], 2)
    (1, 3)
    """
    layers = len(seconds)
    cuts = [(0, *cut, layers) for cut in combinations(range(1, layers), stages - 1)]
    best = min(cuts, key=lambda cut: max(sum(seconds[a:b]) for a, b in pairwise(cut)))
    return tuple(b - a for a, b in pairwise(best))


def prepare(task: str, effort: Effort, sizes: Sizes | None) -> tuple[list[Stage], list[Optimizer]]:
    """Fresh stages with their optimizers, the same in every process."""
    torch.manual_seed(0)
    stages = TASKS[task](effort, sizes)
    return stages, [Adam(stage.parameters(), 1e-3) for stage in stages]


def batch(task: str) -> Message:
    """One mini-batch, the same ever again: time does not depend on it."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(ROWS, PIXELS, generator=generator) < 0.13).float()
    classes = torch.randint(CLASSES, (ROWS,), generator=generator)
    return (x, torch.eye(CLASSES)[classes]) if task == "associated learning" else (x,)


def together_seconds(task: str, effort: Effort) -> float:
    """Of an update of all layers in one process, as one stage, without a pipeline."""
    stages, optimizers = prepare(task, effort, (effort.layers,))
    data = [batch(task)] * effort.updates
    train_together(stages, optimizers, data[:3])
    return statistics.median(
        timed(lambda: train_together(stages, optimizers, data)) / effort.updates
        for _ in range(effort.rounds)
    )


def stage_seconds(task: str, effort: Effort, sizes: Sizes) -> list[float]:
    """Of each stage's micro-step, all in one process by turns."""
    workers = linked(*prepare(task, effort, sizes))
    updates = effort.updates * effort.rounds
    data = iter([batch(task)] * updates)
    seconds: list[list[float]] = [[] for _ in workers]
    for turn in range(updates + LAG + len(workers) - 1):
        for place, worker in enumerate(workers):
            number = turn - place
            if 0 <= number < updates + LAG:
                spent = timed(lambda w=worker, n=number: w.work(n, updates, data))  # type: ignore[misc]
                if (
                    LAG <= number < updates
                ):  # the first ones make no update, the last ones nothing else
                    seconds[place].append(spent)
    return [statistics.median(spent) for spent in seconds]


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def processes_seconds(task: str, effort: Effort, sizes: Sizes) -> dict[str, float]:
    """Of an update of the pipeline, and of a message, between processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        started = [
            context.Process(target=run, args=(rank, Path(folder), task, effort, sizes), daemon=True)
            for rank in range(len(sizes))
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        if any(process.exitcode for process in started):
            raise RuntimeError("a process of the pipeline failed; its error stands above")
        found: dict[str, float] = json.loads((Path(folder) / "found.json").read_text("utf-8"))
        return found


@one_thread()
def run(rank: int, folder: Path, task: str, effort: Effort, sizes: Sizes) -> None:
    """One process: its stage, timed between barriers."""
    with meeting(folder / "meeting", rank, len(sizes)):
        stages, optimizers = prepare(task, effort, sizes)
        message = message_seconds(rank, stages, task, effort)
        data = [batch(task)] * effort.updates

        def train() -> None:
            train_stage(stages[rank], optimizers[rank], effort.updates, () if rank else data)
            distributed.barrier()

        train()
        update = statistics.median(timed(train) / effort.updates for _ in range(effort.rounds))
        if rank == 0:
            content = {"update": update, "message": message}
            (folder / "found.json").write_text(json.dumps(content), "utf-8")


def message_seconds(rank: int, stages: Sequence[Stage], task: str, effort: Effort) -> float:
    """Half of there and back, of what goes up between the two lowest stages."""
    up = tuple(part.contiguous() for part in stages[0](*batch(task)).up)
    there, back = (Wire(1 - rank, up[0].device) for _ in range(2))

    def exchange() -> None:
        if rank == 0:
            there.send(up)
            back.take()
        else:
            back.send(there.take())

    if rank > 1:
        return 0.0
    exchange()
    spent = [timed(exchange) for _ in range(effort.updates)]
    for wire in (there, back):
        wire.close()
    return statistics.median(spent) / 2


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """Whether the model tells what two processes come to."""
    bars = []
    for row in rows:
        if row["devices"] == PROCESSES:
            miss = abs(row["model_ms"] / row["measured_ms"] - 1)
            bars.append(report.at_most(f"{row['task']}: the model's error, as a share", miss, 0.2))
            name = f"{row['task']}: two processes, times as fast as one"
            bars.append(report.at_least(name, row["measured_gain"], 1.4))
    return bars


if __name__ == "__main__":
    main()

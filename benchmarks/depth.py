"""What does depth cost? Memory and time of an update, target propagation and back-propagation.

Stacks of Gaussian layers of width 256, all nets with two hidden layers of 256 tanh units, batch
128. Each point is measured in a process of its own, after updates that warm up:

saved      the most bytes of distinct activations that autograd graphs hold at a time
allocated  the most bytes allocated at a time while the rule's terms are made and sent backward,
           above what stands before (weights, gradients, the optimizer's state)
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks import report
from benchmarks.memory import peak_allocated, peak_saved
from genprop.conditional import Bernoulli
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule
from genprop.rules.target import TargetPropagation
from genprop.stack import Stack

LOCAL, GLOBAL = "TargetPropagation(1)", "Backprop(1)"
RULES: dict[str, Callable[[], Rule]] = {LOCAL: TargetPropagation, GLOBAL: Backprop}
DEPTHS, QUICK_DEPTHS = (2, 8, 32, 128), (2, 8, 32)
TOLERANCE = 0.05
INSIDES = 4  # hidden layers of a layer's two nets: the least that back-propagation has to keep
KINDS = ("saved", "allocated")
COLUMNS = {
    "rule": "rule",
    "layers": "layers",
    "saved": "saved, MB",
    "allocated": "allocated, MB",
    "seconds": "s an update",
    "seconds_a_layer": "s a layer",
    "parameters": "parameters",
}
COLOURS = {LOCAL: "#0072B2", GLOBAL: "#D55E00"}


class Shape(NamedTuple):
    """The sizes that do not change."""

    width: int = 256
    units: tuple[int, ...] = (256, 256)
    rows: int = 128

    @property
    def tensor(self) -> int:
        """Bytes of one layer's values for the whole batch."""
        return self.width * self.rows * 4


class Point(NamedTuple):
    """What is measured in one process."""

    rule: str
    layers: int
    shape: Shape
    device: str
    updates: int


class Cost(NamedTuple):
    """Peak bytes, and seconds of an update."""

    saved: int
    allocated: int
    seconds: float
    parameters: int


def main(argv: Sequence[str] | None = None) -> None:
    """Measures every point, prints the table, writes the JSON and draws the picture."""
    made = report.parser("depth", __doc__)
    made.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    made.add_argument("--plot", type=Path, metavar="FILE", help="where a picture is drawn (.png)")
    arguments = report.parse(made, argv)
    depths = QUICK_DEPTHS if arguments.quick else DEPTHS
    updates = 3 if arguments.quick else 11
    shape = Shape()
    points = [
        Point(rule, layers, shape, arguments.device, updates) for layers in depths for rule in RULES
    ]
    costs = dict(zip(points, measure_all(points), strict=True))
    rows = [describe(point, cost) for point, cost in costs.items()]
    result = report.Report(
        benchmark="depth",
        quick=arguments.quick,
        command=arguments.command,
        seeds=[0],
        rows=rows,
        bars=judge(costs, shape),
        more={
            "device": arguments.device,
            "shape": shape._asdict(),
            "bytes_of_a_tensor": shape.tensor,
            "tolerance": TOLERANCE,
        },
    )
    result.show(COLUMNS)
    result.write(arguments.json)
    if arguments.plot is not None:
        draw(rows, arguments.quick).savefig(arguments.plot, dpi=150)


def measure_all(points: Sequence[Point]) -> Iterable[Cost]:
    """One after the other, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes:
        for number, point in enumerate(points, start=1):
            cost = processes.submit(measure, point).result()
            report.tell(
                f"[{number}/{len(points)}] {point.rule}, {point.layers} layers: "
                f"{cost.saved / 1e6:.1f} MB saved, {cost.seconds:.3f} s an update"
            )
            yield cost


def measure(point: Point) -> Cost:
    """Memory and time of one rule at one depth."""
    torch.manual_seed(0)
    device, shape = torch.device(point.device), point.shape
    model = build(point.layers, shape).to(device)
    rows = (torch.rand(shape.rows, shape.width, device=device) < 0.5).float()
    batch, rule = Batch.of(rows), RULES[point.rule]()
    adam = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def credit() -> None:
        for term in rule(model, batch):
            term.value.backward()

    def update() -> None:
        # gradients stay allocated, so that only activations come and go
        adam.zero_grad(set_to_none=False)
        credit()
        adam.step()

    update()
    seconds = [timed(update, device) for _ in range(point.updates)]
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(
        saved=peak_saved(credit, model),
        allocated=peak_allocated(credit, device),
        seconds=statistics.median(seconds),
        parameters=parameters,
    )


def build(layers: int, shape: Shape) -> Model:
    """A stack of layers of one width under a standard Gaussian."""
    stack = Stack.build(Bernoulli(shape.width), (shape.width,) * layers, units=shape.units)
    return Model(stack, GaussianPrior(shape.width))


def timed(update: Callable[[], None], device: torch.device) -> float:
    """Seconds of one update."""
    start = time.perf_counter()
    update()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def describe(point: Point, cost: Cost) -> report.Row:
    """A point's row."""
    return {
        "rule": point.rule,
        "layers": point.layers,
        "saved": cost.saved / 1e6,
        "allocated": cost.allocated / 1e6,
        "seconds": cost.seconds,
        "seconds_a_layer": cost.seconds / point.layers,
        "parameters": cost.parameters,
    }


def judge(costs: dict[Point, Cost], shape: Shape) -> list[report.Row]:
    """Growth for each layer, between neighbouring depths, in tensors of the batch."""
    bars = []
    for kind in KINDS:
        steep = max(growth(costs, LOCAL, kind, shape))
        name = f"{LOCAL}: {kind} memory a layer more, in width-{shape.width} tensors of the batch"
        bars.append(report.at_most(name, steep, 1 + TOLERANCE))
    for kind in KINDS:
        flat = min(growth(costs, GLOBAL, kind, shape))
        name = f"{GLOBAL}: the same, which holds the insides of layers too ({kind})"
        bars.append(report.at_least(name, flat, 1 + INSIDES))
    return bars


def growth(costs: dict[Point, Cost], rule: str, kind: str, shape: Shape) -> list[float]:
    """Tensors of the batch that each layer more costs, from one depth to the next."""
    found = [(p.layers, getattr(c, kind)) for p, c in costs.items() if p.rule == rule]
    return [
        (more - less) / (deep - shallow) / shape.tensor
        for (shallow, less), (deep, more) in pairwise(found)
    ]


def draw(rows: Sequence[report.Row], quick: bool) -> Figure:
    """Memory and time over depth, both axes logarithmic."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for rule, colour in COLOURS.items():
        mine = [row for row in rows if row["rule"] == rule]
        layers = [row["layers"] for row in mine]
        for kind, style in zip(KINDS, ("o-", "s:"), strict=True):
            values = [row[kind] for row in mine]
            left.plot(layers, values, style, color=colour, label=f"{rule}, {kind}")
        right.plot(layers, [row["seconds"] for row in mine], "o-", color=colour, label=rule)
    for axes, what in ((left, "peak activation memory, MB"), (right, "seconds an update")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(layers, [str(n) for n in layers])
        axes.set_xlabel("layers")
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    if quick:
        figure.suptitle(report.NO_RESULT, fontsize=9)
    return figure


if __name__ == "__main__":
    main()

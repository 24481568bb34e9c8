"""What is log P(x) of a digit? Every estimator on the same rows, and how far off they can be.

Two models of MNIST (--data DIR with mnist.npz; without it of scikit-learn's digits, as is said).
"binary": Bernoulli pixels, binarised afresh at every visit, under one Gaussian layer of 50 codes.
The test digits are binarised once by a fixed seed. "continuous": the grey values themselves, with
uniform noise of one level of grey, in [0, 1], under ten codes and a Gaussian of one fixed scale, as
the decoders of Wu et al. (2017) with ten codes.

All estimates are of the same first test digits. Importance sampling is from the encoder with K
draws; "refined" moves and stretches the encoder's law for each digit by gradient steps first. AIS
goes from the encoder to the posterior by HMC with steps that a run of its own has tuned.
Last, on digits that the model itself draws, AIS forth and back: the true value lies between the
two, so that the gap bounds the error of AIS on digits that the model explains.

log P      mean over digits, nats; the error is that of the mean over all digits
below AIS  paired difference to AIS, with the standard error of its mean
sampling   median over digits of the Monte Carlo error that the estimate tells
k-hat      share of the digits whose Pareto k-hat is above 0.7
ms         a digit, in one thread
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import report
from benchmarks.data import digits
from genprop.conditional import Bernoulli, Family, Gaussian
from genprop.data import Batch
from genprop.likelihood.annealed import annealed_importance, bidirectional
from genprop.likelihood.compare import compared
from genprop.likelihood.estimate import Estimate
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.target import TargetPropagation
from genprop.stack import Stack
from genprop.threads import one_thread

ASKED = 0.5  # nats, of the mean gap
SCALE = 0.14  # of the continuous model's pixels
AIS = "AIS"
TEST_SEED = 1
COLUMNS = {
    "model": "model",
    "method": "method",
    "rows": "digits",
    "log_prob": "log P",
    "std_error": "error",
    "below": "below AIS",
    "below_error": "error of it",
    "sampling": "sampling",
    "khat": "k-hat",
    "milliseconds": "ms",
}
GAPS = {"model": "model", "rows": "digits", "lower": "lower", "upper": "upper", "gap": "gap"}
GAPS |= {"gap_error": "error of it", "milliseconds": "ms"}


class Effort(NamedTuple):
    """How much is done.

    Attributes:
        updates: mini-batches of 100 in training.
        rows: test digits of the estimates.
        samples: K of importance sampling.
        chains: of AIS, for each digit.
        steps: temperatures of AIS.
        refine: gradient steps of the refined proposal.
        simulated: digits drawn for the gap.
    """

    updates: int = 2000
    rows: int = 40
    samples: tuple[int, ...] = (50, 500, 5000)
    chains: int = 8
    steps: int = 500
    refine: int = 50
    simulated: int = 25


FULL = Effort()
QUICK = Effort(20, 5, (5, 20), 2, 5, 3, 4)


class Task(NamedTuple):
    """A model and its data.

    Attributes:
        name: of the model.
        codes: elements of its code.
        family: of its pixels, given their number.
        noisy: grey values in [0, 1] to what the model is of; drawn anew at every call.
    """

    name: str
    codes: int
    family: Callable[[int], Family]
    noisy: Callable[[Tensor], Tensor]


TASKS = (
    Task("binary", 50, Bernoulli, torch.bernoulli),
    Task(
        "continuous",
        10,
        lambda pixels: Gaussian(pixels, SCALE),
        lambda grey: (grey * 255 + torch.rand_like(grey)) / 256,
    ),
)


@one_thread()
def main(argv: Sequence[str] | None = None) -> None:
    """Trains both models, estimates, prints tables, writes the JSON and the picture."""
    arguments = parse(argv)
    effort = QUICK if arguments.quick else FULL
    train, test, source = images(arguments.data)
    rows: list[report.Row] = []
    gaps: list[report.Row] = []
    for task in TASKS:
        torch.manual_seed(0)
        model = fitted(task, train, effort)
        rows += estimates(task, model, test, effort)
        gaps.append(bracket(task, model, effort))
        # what is done is kept if the second model never is
        result = reported(arguments, source, effort, rows, gaps)
        result.write(arguments.json)
    result.show(COLUMNS)
    report.make_console().print(report.table(f"simulated digits ({source})", gaps, GAPS))
    if arguments.plot is not None:
        draw(rows, gaps, arguments.quick).savefig(arguments.plot, dpi=150)


def reported(
    arguments: argparse.Namespace,
    source: str,
    effort: Effort,
    rows: list[report.Row],
    gaps: list[report.Row],
) -> report.Report:
    """What is known so far."""
    return report.Report(
        benchmark="likelihood",
        quick=arguments.quick,
        command=arguments.command,
        seeds=[0],
        rows=rows,
        bars=judge(rows, gaps),
        more={"data": source, "threads_used": 1, "effort": effort._asdict(), "gaps": gaps},
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = report.parser("likelihood", __doc__)
    made.add_argument("--plot", type=Path, metavar="FILE", help="where a picture is drawn (.png)")
    return report.parse(made, argv)


def images(folder: Path | None) -> tuple[Tensor, Tensor, str]:
    """Grey values in [0, 1] to train and to test on, and what they are."""
    path = None if folder is None else folder / "mnist.npz"
    if path is None or not path.exists():
        grey = digits()
        return grey[:1400], grey[1400:], "scikit-learn's digits in place of MNIST"
    with np.load(path) as arrays:
        parts = [torch.from_numpy(arrays[name]) for name in ("x_train", "x_test")]
    train, test = (part.reshape(len(part), -1).float() / 255 for part in parts)
    return train, test, "MNIST"


def fitted(task: Task, train: Tensor, effort: Effort) -> Model:
    """One Gaussian layer with perceptrons of two hidden layers, by target propagation."""
    pixels = train.shape[1]
    stack = Stack.build(task.family(pixels), (task.codes,), units=(200, 200))
    model, rule = Model(stack, GaussianPrior(task.codes)), TargetPropagation(1)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    fall = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.1, effort.updates)
    began = time.perf_counter()
    for _ in range(effort.updates):
        batch = Batch.of(task.noisy(train[torch.randint(len(train), (100,))]))
        adam.zero_grad()
        for term in rule(model, batch):
            if term.value.requires_grad:
                term.value.backward()
        adam.step()
        fall.step()
    report.tell(f"{task.name}: trained in {time.perf_counter() - began:.0f} s")
    return model.eval().requires_grad_(False)


def estimates(task: Task, model: Model, test: Tensor, effort: Effort) -> Iterator[report.Row]:
    """A row for each estimator, on the same digits."""
    torch.manual_seed(TEST_SEED)
    batch = Batch.of(task.noisy(test[: effort.rows]))
    most = effort.samples[-1]
    ways: dict[str, Callable[[], Estimate]] = {
        "ELBO": lambda: elbo(model, batch, effort.samples[1]),
        **{f"importance {k}": lambda k=k: importance(model, batch, k) for k in effort.samples},
        f"refined {most}": lambda: importance(model, batch, most, refine=effort.refine),
        AIS: lambda: annealed_importance(model, batch, samples=effort.chains, steps=effort.steps),
    }
    found, seconds = {}, {}
    for name, way in ways.items():
        began = time.perf_counter()
        found[name] = way()
        seconds[name] = time.perf_counter() - began
        report.tell(f"{task.name}, {name}: {found[name].mean:.2f} ({seconds[name]:.1f} s)")
    return (described(task, name, found, seconds[name]) for name in ways)


@torch.no_grad()
def elbo(model: Model, batch: Batch, draws: int) -> Estimate:
    """The mean of log-weights, of many draws."""
    log_w = model.log_weights(model.encode(batch, draws), batch).T.double().numpy()
    error = log_w.std(1, ddof=1) / draws**0.5
    nothing = np.full(len(log_w), np.nan)
    return Estimate(log_w.mean(1), error, nothing, nothing, draws, "lower", "ELBO")


def described(task: Task, name: str, found: dict[str, Estimate], seconds: float) -> report.Row:
    estimate, best = found[name], found[AIS]
    apart = compared(best, estimate)
    return {
        "model": task.name,
        "method": name,
        "rows": estimate.rows,
        "log_prob": estimate.mean,
        "std_error": estimate.mean_std_error,
        "below": None if name == AIS else apart.mean,
        "below_error": None if name == AIS else apart.std_error,
        "sampling": float(np.median(estimate.std_error)),
        "khat": None if np.isnan(estimate.khat).all() else estimate.unreliable,
        "milliseconds": 1000 * seconds / estimate.rows,
        "samples": estimate.samples,
    }


def bracket(task: Task, model: Model, effort: Effort) -> report.Row:
    """AIS forth and back on digits that the model draws."""
    began = time.perf_counter()
    found = bidirectional(model, effort.simulated, effort.chains, steps=effort.steps)
    seconds = time.perf_counter() - began
    report.tell(f"{task.name}: {found} ({seconds:.1f} s)")
    return {
        "model": task.name,
        "rows": effort.simulated,
        "lower": found.lower.mean,
        "upper": found.upper.mean,
        "gap": found.gap,
        "gap_error": found.gap_std_error,
        "milliseconds": 1000 * seconds / effort.simulated,
    }


def judge(rows: Sequence[report.Row], gaps: Sequence[report.Row]) -> list[report.Row]:
    """The gap; and that bounds which should be ever tighter are."""
    bars = [
        report.at_most(f"mean gap on simulated digits, {gap['model']}, nats", gap["gap"], ASKED)
        for gap in gaps
    ]
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        plain = [row["log_prob"] for row in mine if row["method"].startswith(("ELBO", "imp"))]
        fall = max(low - high for low, high in pairwise(plain))
        text = f"largest fall from ELBO to importance with more draws, {name}, nats"
        bars.append(report.at_most(text, fall, 0.0))
    return bars


def draw(rows: Sequence[report.Row], gaps: Sequence[report.Row], quick: bool) -> Figure:
    """How far each estimate is below AIS, and the gap."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    for axes, task, gap in zip(figure.subplots(1, len(TASKS)), TASKS, gaps, strict=True):
        mine = [row for row in rows if row["model"] == task.name and row["below"] is not None]
        names = [row["method"] for row in mine]
        below = [row["below"] for row in mine]
        axes.barh(names, below, xerr=[2 * row["below_error"] for row in mine], color="#0072B2")
        axes.axvspan(-max(gap["gap"], 0), 0, color="#E69F00", alpha=0.5)
        axes.invert_yaxis()
        axes.set_title(f"{task.name}: gap of AIS {gap['gap']:.2f} nats", fontsize=10)
        axes.set_xlabel("nats below AIS, ± 2 standard errors")
        axes.grid(axis="x", alpha=0.3)
    if quick:
        figure.suptitle(report.NO_RESULT, fontsize=9)
    return figure


if __name__ == "__main__":
    main()

"""How many effective draws a second? Posteriors of digits: genprop's samplers beside Pyro's.

P(h | x) of 1,000 digits under one fitted Gaussian layer of 16 codes, by the same log-density,
written as leanly as it can be. genprop moves all rows at once. Pyro's HMC and NUTS get each row as
a target of its own, one after the other (a few rows are measured: each more costs the same), or
sets of rows joined into one target. All start from the encoder's draws, have the same chains,
draws and warm-up (MALA takes five transitions for one), and run in one thread.

Effective draws a second are those of the worst coordinate of all rows measured (ArviZ's bulk ESS),
times the rows, by the seconds that they took; warm-up counted, and not counted. Beside it each row
counts with its own worst coordinate, which hides the rows where a sampler is stuck. What is asked
for is genprop's better kernel against Pyro's best way.

warm-up, draws  seconds of either
grads           gradients for each draw of a chain, of all its rows together
R-hat, ESS,     of the worst coordinate of all rows measured; the tail's ESS is small where chains
tail            jump from side to side of a law at a distance that changes slowly
off             root mean square of how far means are from those of genprop's HMC, in errors
median/s        effective draws a second if each row were worth the median coordinate
own/s           the same of each row's own worst coordinate
in all/s        effective draws a second with the warm-up counted
rate/s          and without it
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import report
from benchmarks.data import digits, split_digits
from genprop.conditional import Bernoulli
from genprop.convergence import Convergence, convergence
from genprop.data import Batch
from genprop.kernel import AdaptiveKernel, run
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.target import TargetPropagation
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.langevin import MALA
from genprop.stack import Stack
from genprop.threads import one_thread
from genprop.train import Trainer

CODE = 16
ROWS = 1000
ASKED = 10.0
# lengths of trajectories that served each best on 100 to 300 rows: of steps at most, and of time
STEPS, LENGTH = 6, 2.6
NATIVE, LOOPED, JOINED = "genprop", "Pyro, looped", "Pyro, joined"
KERNELS: dict[str, Callable[["Target"], AdaptiveKernel[Any]]] = {
    "HMC": lambda target: HMC(target, steps=STEPS),
    "MALA": MALA,
}
# transitions for each draw that is kept, so that draws cost about the same
THIN = {"HMC": 1, "MALA": 5}
PYRO = {"HMC": {"trajectory_length": LENGTH}, "NUTS": {}}
COLUMNS = {
    "way": "way",
    "sampler": "sampler",
    "rows": "rows",
    "seconds_warmup": "warm-up",
    "seconds": "draws",
    "gradients": "grads",
    "rhat": "R-hat",
    "off": "off",
    "ess_worst": "ESS",
    "ess_tail": "tail",
    "rate_median": "median/s",
    "rate_own": "own/s",
    "rate_with_warmup": "in all/s",
    "rate": "rate/s",
}
SCALING = {"sampler": "sampler", "rows": "rows", "seconds": "s a draw", "rate_own": "own/s"}
COLOURS = {"HMC": "#0072B2", "MALA": "#009E73", LOOPED: "#E69F00", JOINED: "#D55E00"}


class Effort(NamedTuple):
    """How much is measured.

    Attributes:
        epochs: of training the model.
        chains: of each row.
        draws: of each chain.
        warmup: transitions before them.
        looped: rows of which each is a target.
        joined: rows that are one target, several sets.
        sizes: rows of which a transition is timed.
        transitions: that are timed.
    """

    epochs: int = 100
    chains: int = 2
    draws: int = 400
    warmup: int = 400
    looped: int = 5
    joined: tuple[int, ...] = (30, 100, 300, 1000)
    sizes: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000)
    transitions: int = 10


FULL = Effort()
QUICK = Effort(3, 2, 60, 60, 1, (10,), (10, 100, 1_000), 3)


class Job(NamedTuple):
    """One measurement."""

    way: str
    sampler: str
    rows: int


class Outcome(NamedTuple):
    """What a measurement came to.

    Attributes:
        draws: ``(chain, draw, row, element)``.
        warmup: seconds before the first of them.
        seconds: of the draws.
        gradients: of the log-density in those seconds; of all rows at once is one.
        acceptance: a mean.
    """

    draws: np.ndarray
    warmup: float
    seconds: float
    gradients: int
    acceptance: float


class Target:
    """Log P(x, h) of rows as a function of h ``(…, rows, 16)``, up to a constant.

    Args:
        net: logits of x given h.
        x: zeros and ones, ``(rows, 64)``.

    Attributes:
        calls: how often it was asked for.
    """

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net, self.x, self.calls = net, x, 0

    def __call__(self, h: Tensor) -> Tensor:
        self.calls += 1
        logits = self.net(h)
        explained = (self.x * logits - functional.softplus(logits)).sum(-1)
        return explained - 0.5 * h.square().sum(-1)

    def of(self, rows: slice | Tensor) -> "Target":
        """The same of some rows."""
        return Target(self.net, self.x[rows])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures all ways, then how they scale; prints tables, writes the JSON and the picture."""
    arguments = parse(argv)
    effort = QUICK if arguments.quick else FULL
    with one_thread():
        rows, scaling = measure(arguments.rows, effort, arguments.device)
    result = report.Report(
        benchmark="samplers",
        quick=arguments.quick,
        command=arguments.command,
        seeds=[0],
        rows=rows,
        bars=judge(rows),
        more={
            "device": arguments.device,
            "threads_used": 1,
            "digits": arguments.rows,
            "effort": effort._asdict(),
            "scaling": scaling,
        },
    )
    result.show(COLUMNS)
    report.make_console().print(report.table("as rows grow", scaling, SCALING))
    result.write(arguments.json)
    if arguments.plot is not None:
        draw(rows, scaling, arguments.quick).savefig(arguments.plot, dpi=150)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = report.parser("samplers", __doc__)
    made.add_argument("--rows", type=int, metavar="N", help="digits at once (1000; quick: 30)")
    made.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    made.add_argument("--plot", type=Path, metavar="FILE", help="where a picture is drawn (.png)")
    arguments = report.parse(made, argv)
    arguments.rows = arguments.rows or (30 if arguments.quick else ROWS)
    if not QUICK.looped <= arguments.rows <= len(digits()):
        made.error(f"there are {len(digits()):,} digits, and not {arguments.rows:,}")
    return arguments


def measure(count: int, effort: Effort, device: str) -> tuple[list[report.Row], list[report.Row]]:
    """A row for each way and sampler, and for each number of rows."""
    torch.manual_seed(0)
    model = fitted(effort.epochs).to(device)
    target, start = prepared(model, digits()[:count].to(device), effort.chains)
    outcomes = {}
    for job in plan(count, effort):
        outcomes[job] = sample(job, target.of(slice(job.rows)), start[:, : job.rows], effort)
        seconds = outcomes[job].warmup + outcomes[job].seconds
        report.tell(f"{job.way}, {job.sampler}, {job.rows:,} rows: {seconds:.1f} s")
    rows = summarise(outcomes, effort)
    return rows, list(scaled(model, rows, effort))


def fitted(epochs: int) -> Model:
    """One Gaussian layer of 16 codes over the digits, with perceptrons of 128 units."""
    model = Model(Stack.build(Bernoulli(64), (CODE,), units=(128,)), GaussianPrior(CODE))
    trainer = Trainer(
        epochs=epochs, batch_size=100, lr=2e-3, patience=None, device="cpu", verbose=0
    )
    trainer.fit(model, TargetPropagation(1), Batch.of(split_digits()[0]))
    return model.requires_grad_(False)


def prepared(model: Model, x: Tensor, chains: int) -> tuple[Target, Tensor]:
    """The posteriors of rows, and starts drawn from the encoder, ``(chains, rows, 16)``."""
    (_, stack), *_ = model.named_stacks()
    return Target(stack[0].decoder.net, x), stack.encode(x, draws=chains).code


def plan(count: int, effort: Effort) -> list[Job]:
    """All measurements, the quick ones first."""
    jobs = [Job(NATIVE, name, count) for name in KERNELS]
    jobs += [Job(LOOPED, name, min(effort.looped, count)) for name in PYRO]
    sets = sorted({min(size, count) for size in effort.joined})
    return jobs + [Job(JOINED, name, size) for size in sets for name in PYRO]


def sample(job: Job, target: Target, start: Tensor, effort: Effort) -> Outcome:
    """Chains of one way."""
    if job.way == NATIVE:
        return native(job.sampler, target, start, effort)
    sets = [slice(n, n + 1) for n in range(job.rows)] if job.way == LOOPED else [slice(job.rows)]
    return beside(
        [
            after([pyro_chain(job.sampler, target.of(rows), one[rows], effort) for one in start])
            for rows in sets
        ]
    )


def native(sampler: str, target: Target, start: Tensor, effort: Effort) -> Outcome:
    """All chains of all rows together."""
    kernel, thin, began = KERNELS[sampler](target), THIN[sampler], clock(start)
    warm = run(kernel, start, draws=1, warmup=thin * effort.warmup).state
    ready, calls = clock(start), target.calls
    chain = run(kernel, warm, effort.draws, thin=thin)
    seconds = clock(start) - ready
    acceptance = float(chain.info["acceptance"].mean())
    draws = chain.draws.cpu().numpy()
    return Outcome(draws, ready - began, seconds, target.calls - calls, acceptance)


def pyro_chain(sampler: str, target: Target, start: Tensor, effort: Effort) -> Outcome:
    """One chain of Pyro's, of rows joined into one target."""
    from pyro import validation_enabled
    from pyro.infer import mcmc

    marks: list[tuple[float, int]] = []
    make = getattr(mcmc, sampler)
    kernel = make(potential_fn=lambda at: -target(at["h"]).sum(), **PYRO[sampler])
    runner = mcmc.MCMC(
        kernel,
        num_samples=effort.draws,
        warmup_steps=effort.warmup,
        initial_params={"h": start},
        disable_progbar=True,
        hook_fn=lambda *_: marks.append((clock(start), target.calls)),
    )
    began = clock(start)
    with validation_enabled(False):
        runner.run()
    (ready, calls), (done, all_calls) = marks[effort.warmup - 1], marks[-1]
    (acceptance,) = runner.diagnostics()["acceptance rate"].values()
    draws = runner.get_samples()["h"][None].cpu().numpy()
    return Outcome(draws, ready - began, done - ready, all_calls - calls, float(acceptance))


def clock(like: Tensor) -> float:
    if like.device.type == "cuda":
        torch.cuda.synchronize(like.device)
    return time.perf_counter()


def after(parts: Sequence[Outcome]) -> Outcome:
    """Chains that ran one after the other."""
    return _joined(parts, axis=0)


def beside(parts: Sequence[Outcome]) -> Outcome:
    """Rows that ran one after the other."""
    return _joined(parts, axis=2)


def _joined(parts: Sequence[Outcome], axis: int) -> Outcome:
    return Outcome(
        np.concatenate([part.draws for part in parts], axis),
        sum(part.warmup for part in parts),
        sum(part.seconds for part in parts),
        sum(part.gradients for part in parts),
        float(np.mean([part.acceptance for part in parts])),
    )


def summarise(outcomes: Mapping[Job, Outcome], effort: Effort) -> list[report.Row]:
    """A row for each measurement."""
    found = {job: convergence(outcome.draws) for job, outcome in outcomes.items()}
    yardstick = next(c for job, c in found.items() if job.way == NATIVE)
    return [describe(job, outcomes[job], found[job], yardstick, effort) for job in outcomes]


def describe(
    job: Job, outcome: Outcome, found: Convergence, yardstick: Convergence, effort: Effort
) -> report.Row:
    """A measurement's row."""
    ess = np.nan_to_num(found.ess_bulk)  # what never moves is worth nothing
    return {
        **job._asdict(),
        "seconds_warmup": outcome.warmup,
        "seconds": outcome.seconds,
        "gradients": outcome.gradients / effort.draws / runs(job, effort),
        "acceptance": outcome.acceptance,
        "rhat": float(np.nanmax(found.rhat)),
        "off": distance(found, yardstick),
        "ess_worst": float(ess.min()),
        "ess_tail": float(np.nan_to_num(found.ess_tail).min()),
        "ess_median": float(np.median(ess)),
        **rates(ess, outcome, min(effort.looped, job.rows)),
    }


def runs(job: Job, effort: Effort) -> int:
    """Runs one after the other."""
    return {NATIVE: 1, LOOPED: effort.chains * job.rows, JOINED: effort.chains}[job.way]


def rates(ess: np.ndarray, outcome: Outcome, shared: int) -> dict[str, float]:
    """Effective draws a second of all rows together.

    Args:
        ess: bulk ESS, ``(rows, elements)``.
        outcome: which took the time.
        shared: rows that all ways have sampled.

    Returns:
        As if each row were worth the worst coordinate of all that were measured, without and with
        the warm-up; by each row's own worst coordinate, likewise; and as if each row were worth the
        median coordinate of all, or the worst coordinate of the shared rows.
    """
    worst, own = len(ess) * float(ess.min()), float(ess.min(1).sum())
    median, common = float(np.median(ess)), float(ess[:shared].min())
    seconds, in_all = outcome.seconds, outcome.seconds + outcome.warmup
    return {
        "rate": worst / seconds,
        "rate_with_warmup": worst / in_all,
        "rate_own": own / seconds,
        "rate_own_with_warmup": own / in_all,
        "rate_median": len(ess) * median / seconds,
        "rate_shared": len(ess) * common / seconds,
    }


def distance(one: Convergence, other: Convergence) -> float:
    """How far the means of rows in common are apart, in their errors: 1 is what chance does."""
    rows = min(len(one.mean), len(other.mean))
    error = np.hypot(one.mcse[:rows], other.mcse[:rows])
    away = (one.mean[:rows] - other.mean[:rows]) / error
    return float(np.sqrt(np.nanmean(away**2)))


def scaled(model: Model, rows: Sequence[report.Row], effort: Effort) -> Iterator[report.Row]:
    """Effective draws a second of ever more rows at once.

    What a draw of a row is worth, by its own worst coordinate, is known from the rows measured, as
    the chains of different rows have nothing to do with each other; what it costs is measured anew.
    """
    device = model.like.device
    for known in (row for row in rows if row["way"] == NATIVE):
        worth = known["rate_own"] * known["seconds"] / known["rows"] / effort.draws
        for size in effort.sizes:
            x = digits().repeat(-(-size // len(digits())), 1)[:size].to(device)
            target, start = prepared(model, x, effort.chains)
            kernel = KERNELS[known["sampler"]](target)
            seconds = cost(kernel, target, start, effort.transitions) * known["gradients"]
            report.tell(f"{known['sampler']}, {size:,} rows: {seconds:.4f} s a draw")
            rate = worth * size / seconds
            yield {"sampler": known["sampler"], "rows": size, "seconds": seconds, "rate_own": rate}


def cost(kernel: AdaptiveKernel[Any], target: Target, start: Tensor, transitions: int) -> float:
    """Seconds for each gradient of some transitions."""
    state = run(kernel, start, draws=1).state
    calls, began = target.calls, clock(start)
    run(kernel, state, draws=1, thin=transitions)
    return (clock(start) - began) / (target.calls - calls)


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """The better kernel of ours over the best way of Pyro's."""
    names = {
        "rate": "the worst coordinate, draws alone",
        "rate_with_warmup": "the worst coordinate, with the warm-up",
        "rate_own": "the worst coordinate of each row, draws alone",
        "rate_own_with_warmup": "the worst coordinate of each row, with the warm-up",
    }
    return [
        report.at_least(f"effective draws a second over Pyro's best way, {name}", ratio, ASKED)
        for key, name in names.items()
        for ratio in [best(rows, key, ours=True) / best(rows, key, ours=False)]
    ]


def best(rows: Sequence[report.Row], key: str, ours: bool) -> float:
    return float(max(row[key] for row in rows if (row["way"] == NATIVE) == ours))


def draw(rows: Sequence[report.Row], scaling: Sequence[report.Row], quick: bool) -> Figure:
    """Effective draws a second over rows, both axes logarithmic."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for sampler in KERNELS:
        mine = [row for row in scaling if row["sampler"] == sampler]
        label, colour = f"genprop {sampler}", COLOURS[sampler]
        axes.plot(*points(mine), "o-", color=colour, label=label)
    for sampler, style in zip(PYRO, ("s--", "^:"), strict=True):
        joined = [r for r in rows if (r["way"], r["sampler"]) == (JOINED, sampler)]
        label = f"Pyro {sampler}, rows joined"
        axes.plot(*points(joined), style, color=COLOURS[JOINED], label=label)
        (alone,) = (r for r in rows if (r["way"], r["sampler"]) == (LOOPED, sampler))
        label = f"Pyro {sampler}, looped over any number"
        axes.axhline(alone["rate_own"], linestyle=style[1:], color=COLOURS[LOOPED], label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows at once")
    axes.set_ylabel("effective draws a second\n(each row's worst coordinate, all rows)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    if quick:
        figure.suptitle(report.NO_RESULT, fontsize=9)
    return figure


def points(rows: Sequence[report.Row]) -> tuple[list[int], list[float]]:
    return [row["rows"] for row in rows], [row["rate_own"] for row in rows]


if __name__ == "__main__":
    main()

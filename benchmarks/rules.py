"""How good are the rules of credit assignment? Digits, equal updates, held-out likelihood.

Every rule trains the same nets for as many updates; what is compared is -log P(x) of 397 held-out
digits in nats, estimated by importance sampling, as paired differences over seeds.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from benchmarks import report
from benchmarks.data import split_digits
from benchmarks.pool import run_all
from genprop.conditional import Bernoulli
from genprop.data import Batch
from genprop.model import Model
from genprop.prior import Prior
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.stack import Stack
from genprop.train import Trainer

TP1, TP5 = "TargetPropagation(1)", "TargetPropagation(5)"
LONG, DIFFERENCE = "TargetPropagation(1, long)", "TargetPropagation(1, difference)"
ELBO, IWAE, DREG = "Backprop(1, elbo)", "Backprop(5, iwae)", "Backprop(5, dreg)"
THROUGH = "Backprop(5, iwae), straight-through"
WAKE = "ReweightedWakeSleep(5)"

RULES: dict[str, Callable[[], Rule]] = {
    TP1: partial(TargetPropagation, 1),
    TP5: partial(TargetPropagation, 5),
    LONG: partial(TargetPropagation, 1, "long"),
    DIFFERENCE: partial(TargetPropagation, 1, "difference"),
    ELBO: partial(Backprop, 1, "elbo"),
    IWAE: partial(Backprop, 5, "iwae"),
    DREG: partial(Backprop, 5, "dreg"),
    THROUGH: partial(Backprop, 5, "iwae"),
    WAKE: partial(ReweightedWakeSleep, 5),
}


class Net(NamedTuple):
    """Layers of hidden units, and the rules that are tried on them."""

    name: str
    hidden: tuple[int, ...]
    latent: str
    rules: tuple[str, ...]


COMPARED = (TP1, ELBO, TP5, IWAE, DREG)
THREE = Net("64-32-16-8 Gaussian", (32, 16, 8), "gaussian", (*COMPARED, WAKE, LONG, DIFFERENCE))
BINARY = Net("64-32-16 Bernoulli", (32, 16), "bernoulli", (TP5, THROUGH, WAKE))
FIVE = Net("64-48-40-32-24-16 Gaussian", (48, 40, 32, 24, 16), "gaussian", COMPARED)
EIGHT = Net(
    "64-56-48-40-32-24-16-12-8 Gaussian", (56, 48, 40, 32, 24, 16, 12, 8), "gaussian", COMPARED
)
NETS = (THREE, BINARY, FIVE, EIGHT)


class Budget(NamedTuple):
    """How long is trained, and how well the likelihood is estimated."""

    epochs: int
    samples: int


FULL, QUICK = Budget(epochs=200, samples=500), Budget(epochs=10, samples=50)


class Job(NamedTuple):
    """One training run."""

    net: Net
    rule: str
    seed: int
    budget: Budget

    @property
    def name(self) -> str:
        return f"{self.net.name}, {self.rule}"


class Outcome(NamedTuple):
    """What one training run came to, in nats a row."""

    nll: float
    elbo: float
    seconds: float


class Asked(NamedTuple):
    """How much larger the likelihood's negative may be, or must be, by one rule than by another."""

    net: Net
    rule: str
    other: str
    bar: Callable[[str, float | None, float], report.Row]
    limit: float

    @property
    def name(self) -> str:
        return f"{self.net.name}: {self.rule} - {self.other}, nats"


ASKED = (
    Asked(THREE, TP1, ELBO, report.at_most, 0.1),
    Asked(THREE, TP5, IWAE, report.at_most, 0.0),
    Asked(THREE, TP5, DREG, report.at_most, 0.1),
    Asked(BINARY, THROUGH, TP5, report.at_least, 0.5),
    Asked(FIVE, TP1, ELBO, report.at_most, 0.05),
    Asked(FIVE, TP5, IWAE, report.at_most, 0.0),
    Asked(FIVE, TP5, DREG, report.at_most, 0.1),
    Asked(EIGHT, TP1, ELBO, report.at_most, 0.05),
    Asked(EIGHT, TP5, IWAE, report.at_most, 0.0),
    Asked(EIGHT, TP5, DREG, report.at_most, 0.1),
)
PROTOTYPE = (
    (THREE, TP1, 17.25),
    (THREE, TP5, 16.72),
    (BINARY, TP5, 17.53),
    (FIVE, TP1, 17.47),
    (FIVE, TP5, 16.82),
    (EIGHT, TP1, 17.58),
    (EIGHT, TP5, 16.89),
)
COLUMNS = {
    "layers": "layers",
    "rule": "rule",
    "nll": "NLL",
    "nll_error": "± s.e.",
    "nlls": "NLL by seed",
    "elbo": "-ELBO",
    "seconds": "seconds",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all jobs, prints the tables and writes the JSON."""
    arguments = parse(argv)
    jobs = plan(arguments)
    outcomes = dict(zip(jobs, run_all(run, jobs, said), strict=True))
    differences, bars = judge(outcomes, range(arguments.seeds))
    result = report.Report(
        benchmark="rules",
        quick=arguments.quick,
        command=arguments.command,
        seeds=range(arguments.seeds),
        rows=list(summarise(outcomes)),
        bars=bars,
        more={"differences": differences, "budget": jobs[0].budget._asdict(), "job_threads": 1},
    )
    result.show(COLUMNS)
    names = {
        "comparison": "paired differences",
        "mean": "mean",
        "error": "± s.e.",
        "all": "by seed",
    }
    report.make_console().print(report.table("differences of NLL, nats", differences, names))
    result.write(arguments.json)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = report.parser("rules", __doc__)
    made.add_argument("--seeds", type=int, metavar="N", help="seeds 0, …, N - 1 (5; quick: 2)")
    made.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="only what has this in its name (repeatable)",
    )
    arguments = report.parse(made, argv)
    arguments.seeds = arguments.seeds or (2 if arguments.quick else 5)
    if not plan(arguments):
        made.error(f"nothing is called {' or '.join(arguments.only)}")
    return arguments


def plan(arguments: argparse.Namespace) -> list[Job]:
    """All training runs, those of a configuration together."""
    budget = QUICK if arguments.quick else FULL
    jobs = [
        Job(net, rule, seed, budget)
        for net in NETS
        for rule in net.rules
        for seed in range(arguments.seeds)
    ]
    wanted = arguments.only or [""]
    return [job for job in jobs if any(text.lower() in job.name.lower() for text in wanted)]


def said(job: Job, outcome: Outcome) -> str:
    """What one run came to, in a line."""
    return f"{job.name}, seed {job.seed}: NLL {outcome.nll:.3f} ({outcome.seconds:.0f} s)"


def run(job: Job) -> Outcome:
    """Trains and tests one model."""
    train, test = split_digits()
    torch.manual_seed(job.seed)
    model = build(job.net)
    trainer = Trainer(
        epochs=job.budget.epochs, batch_size=100, lr=2e-3, patience=None, device="cpu", verbose=0
    )
    history = trainer.fit(model, RULES[job.rule](), Batch.of(train))
    nll, elbo = score(model, Batch.of(test), job.budget.samples)
    return Outcome(nll, elbo, sum(row["seconds"] for row in history))


def build(net: Net) -> Model:
    """A stack of tanh perceptrons of 128 units under a fixed, or a factorial, prior."""
    stack = Stack.build(Bernoulli(64), net.hidden, net.latent, units=(128,), activation="tanh")
    top = net.hidden[-1]
    discrete = net.latent == "bernoulli"
    prior: Prior = FactorialPrior(Bernoulli(top)) if discrete else GaussianPrior(top)
    return Model(stack, prior)


@torch.no_grad()
def score(model: Model, batch: Batch, samples: int, draws: int = 50) -> tuple[float, float]:
    """-log P(x) by importance sampling, and the negative ELBO: means over rows, nats."""
    model.eval()
    parts = []
    for start in range(0, samples, draws):
        paths = model.encode(batch, min(draws, samples - start))
        parts.append(model.log_weights(paths, batch).double())
    log_w = torch.cat(parts)
    nll = math.log(samples) - log_w.logsumexp(0).mean().item()
    return nll, -log_w.mean().item()


def summarise(outcomes: dict[Job, Outcome]) -> Iterable[report.Row]:
    """A row for each net and rule: means over seeds."""
    for net in NETS:
        for rule in net.rules:
            found = [o for job, o in outcomes.items() if (job.net, job.rule) == (net, rule)]
            if found:
                yield summarise_one(net, rule, found)


def summarise_one(net: Net, rule: str, found: Sequence[Outcome]) -> report.Row:
    nlls = [o.nll for o in found]
    return {
        "layers": net.name,
        "rule": rule,
        "nll": statistics.fmean(nlls),
        "nll_error": standard_error(nlls),
        "nlls": nlls,
        "elbo": statistics.fmean(o.elbo for o in found),
        "seconds": statistics.fmean(o.seconds for o in found),
    }


def judge(
    outcomes: dict[Job, Outcome], seeds: Iterable[int]
) -> tuple[list[report.Row], list[report.Row]]:
    """The paired differences, and all bars."""
    nlls = {(job.net.name, job.rule, job.seed): o.nll for job, o in outcomes.items()}
    seeds = list(seeds)
    differences, bars = [], []
    for asked in ASKED:
        pairs = [
            (nlls.get((asked.net.name, asked.rule, s)), nlls.get((asked.net.name, asked.other, s)))
            for s in seeds
        ]
        paired = [one - other for one, other in pairs if one is not None and other is not None]
        mean = statistics.fmean(paired) if paired else None
        bars.append(asked.bar(asked.name, mean, asked.limit))
        if paired:
            error = standard_error(paired)
            differences.append(
                {"comparison": asked.name, "mean": mean, "error": error, "all": paired}
            )
    return differences, bars + compare_with_prototype(outcomes)


def compare_with_prototype(outcomes: dict[Job, Outcome]) -> list[report.Row]:
    """Is the prototype met or beaten?"""
    bars = []
    for net, rule, figure in PROTOTYPE:
        found = [o.nll for job, o in outcomes.items() if (job.net, job.rule) == (net, rule)]
        mean = statistics.fmean(found) if found else None
        bars.append(report.at_most(f"{net.name}: {rule}, NLL of the prototype", mean, figure))
    return bars


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None of a single value."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    main()

"""What does each prior bring? Digits under one Gaussian layer of 16 codes, equal updates.

What is compared is -log P(x) of 397 held-out digits in nats, by importance sampling with each
prior's own log-density, as paired differences over seeds from the standard Gaussian; beside it the
time that training takes, and how far samples can be told from held-out digits.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import report
from benchmarks.data import split_digits
from benchmarks.pool import run_all
from benchmarks.quality import nearest_distance, two_sample_accuracy
from benchmarks.rules import standard_error
from genprop.conditional import Bernoulli, Gaussian, Logistic
from genprop.data import Batch
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.prior import DensityPrior, Prior
from genprop.priors.denoising import DenoisingPrior
from genprop.priors.factorial import FactorialPrior
from genprop.priors.flow import FlowPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.gsn import GSNPrior
from genprop.priors.mixture import MixturePrior
from genprop.priors.parzen import ParzenPrior
from genprop.priors.vamp import VampPrior
from genprop.rules.target import TargetPropagation
from genprop.samplers.ancestral import ancestral
from genprop.seeds import seeded
from genprop.stack import Stack, joint_code
from genprop.train import Trainer

CODE = 16
GAUSSIAN, DENOISING = "gaussian", "denoising"
PRIORS: dict[str, Callable[[Stack], Prior]] = {
    GAUSSIAN: lambda stack: GaussianPrior(CODE),
    "diagonal": lambda stack: GaussianPrior(CODE, "diagonal"),
    "full": lambda stack: GaussianPrior(CODE, "full"),
    "logistic": lambda stack: FactorialPrior(Logistic(CODE)),
    "mixture, diagonal": lambda stack: MixturePrior(CODE, 20),
    "mixture, full": lambda stack: MixturePrior(CODE, 10, "full"),
    "vamp": lambda stack: VampPrior([stack[-1].encoder], 50, binary=True),
    "parzen": lambda stack: ParzenPrior(CODE),
    DENOISING: lambda stack: DenoisingPrior(CODE),
    "flow, nice": lambda stack: FlowPrior(CODE, "nice"),
    "flow, realnvp": lambda stack: FlowPrior(CODE, "realnvp"),
    "flow, nsf": lambda stack: FlowPrior(CODE, "nsf"),
    "flow, maf": lambda stack: FlowPrior(CODE, "maf"),
    "model": lambda stack: Model(Stack.build(Gaussian(CODE), (8,)), GaussianPrior(8)),
    "gsn": lambda stack: GSNPrior(Gaussian(CODE)),
}
LEARNED = tuple(name for name in PRIORS if name not in (GAUSSIAN, "gsn"))
COLUMNS = {
    "prior": "prior",
    "nll": "NLL",
    "nll_error": "± s.e.",
    "difference": "from Gaussian",
    "difference_error": "± s.e.",
    "relative_time": "training, × Gaussian's",
    "seconds_likelihood": "likelihood, s",
    "nearest": "nearest digit",
    "accuracy": "told apart",
}
SHOWN = 16  # samples of each prior in the picture


class Budget(NamedTuple):
    """How long is trained, and how well the likelihood is estimated."""

    epochs: int
    samples: int


FULL, QUICK = Budget(epochs=200, samples=100), Budget(epochs=3, samples=5)


class Job(NamedTuple):
    """One training run."""

    prior: str
    seed: int
    budget: Budget


class Outcome(NamedTuple):
    """What one training run came to.

    Attributes:
        nll: -log P(x) in nats a row; None without a density.
        seconds: of training.
        seconds_likelihood: of importance sampling.
        nearest: pixels in which a sample differs from the nearest training digit, a mean.
        accuracy: share of samples and held-out digits that a classifier tells apart.
        gap: what the prior's bound is above its -log P(h) on held-out codes, nats.
        samples: a few means of drawn digits, 64 pixels each.
    """

    nll: float | None
    seconds: float
    seconds_likelihood: float
    nearest: float
    accuracy: float
    gap: float | None
    samples: Tensor


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all jobs, prints the tables, writes the JSON and the picture."""
    arguments = parse(argv)
    jobs = plan(arguments)
    outcomes = dict(zip(jobs, run_all(run, jobs, said), strict=True))
    result = report.Report(
        benchmark="priors",
        quick=arguments.quick,
        command=arguments.command,
        seeds=range(arguments.seeds),
        rows=list(summarise(outcomes)),
        bars=[*judge(outcomes), integral(arguments.quick)],
        more={
            "held_out": held_out_figures(),
            "budget": jobs[0].budget._asdict(),
            "job_threads": 1,
        },
    )
    result.show(COLUMNS)
    result.write(arguments.json)
    if arguments.plot is not None:
        draw(outcomes, arguments.plot)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = report.parser("priors", __doc__)
    made.add_argument("--seeds", type=int, metavar="N", help="seeds 0, …, N - 1 (5; quick: 1)")
    made.add_argument("--only", action="append", metavar="TEXT", help="only priors so called")
    made.add_argument("--plot", type=Path, metavar="FILE", help="a picture of samples")
    arguments = report.parse(made, argv)
    arguments.seeds = arguments.seeds or (1 if arguments.quick else 5)
    if not plan(arguments):
        made.error(f"nothing is called {' or '.join(arguments.only)}")
    return arguments


def plan(arguments: argparse.Namespace) -> list[Job]:
    """All training runs, seed by seed, so that all priors meet the machine in the same state."""
    budget = QUICK if arguments.quick else FULL
    wanted = arguments.only or [""]
    names = [name for name in PRIORS if any(text in name for text in wanted)]
    return [Job(name, seed, budget) for seed in range(arguments.seeds) for name in names]


def said(job: Job, outcome: Outcome) -> str:
    nll = "no density" if outcome.nll is None else f"NLL {outcome.nll:.3f}"
    return f"{job.prior}, seed {job.seed}: {nll} ({outcome.seconds:.0f} s)"


def run(job: Job) -> Outcome:
    """Trains and tests one model."""
    train, test = split_digits()
    torch.manual_seed(job.seed)
    stack = Stack.build(Bernoulli(64), (CODE,), "gaussian", units=(128,), activation="tanh")
    model = Model(stack, PRIORS[job.prior](stack))
    trainer = Trainer(
        epochs=job.budget.epochs, batch_size=100, lr=2e-3, patience=None, device="cpu", verbose=0
    )
    start = time.perf_counter()
    trainer.fit(model, TargetPropagation(1), Batch.of(train))
    trained = time.perf_counter()
    nll = score(model, Batch.of(test), job.budget.samples)
    done = time.perf_counter()
    with torch.no_grad():
        drawn = ancestral(model, len(test))["x"]
        means = ancestral(model, SHOWN, mean=True)["x"]
    return Outcome(
        nll=nll,
        seconds=trained - start,
        seconds_likelihood=done - trained,
        nearest=nearest_distance(drawn, train),
        accuracy=two_sample_accuracy(drawn, test),
        gap=gap(model, Batch.of(test)),
        samples=means,
    )


def score(model: Model, batch: Batch, samples: int) -> float | None:
    """-log P(x), a mean over rows; None of a prior without a density."""
    if not isinstance(model.prior, DensityPrior | Model):
        return None
    return -importance(model, batch, samples).mean


@torch.no_grad()
def gap(model: Model, batch: Batch, draws: int = 100) -> float | None:
    """How far the denoising prior's bound lies above its -log P(h), on codes of the rows."""
    if not isinstance(model.prior, DenoisingPrior):
        return None
    codes = joint_code(model.encode(batch))[0]
    bound = torch.stack([model.prior.loss(codes) for _ in range(draws)]).mean()
    return float(bound + model.prior.log_prob(codes).mean())


def summarise(outcomes: Mapping[Job, Outcome]) -> Iterable[report.Row]:
    """A row for each prior: means over seeds."""
    for name in dict.fromkeys(job.prior for job in outcomes):
        found = {job.seed: o for job, o in outcomes.items() if job.prior == name}
        nlls = [o.nll for o in found.values() if o.nll is not None]
        paired = differences(outcomes, name)
        times = [o.seconds / base.seconds for o, base in beside_gaussian(outcomes, name)]
        yield {
            "prior": name,
            "nll": statistics.fmean(nlls) if nlls else None,
            "nll_error": standard_error(nlls),
            "nlls": nlls,
            "difference": statistics.fmean(paired) if paired else None,
            "difference_error": standard_error(paired),
            "relative_time": statistics.median(times) if times else None,
            "seconds": statistics.median(o.seconds for o in found.values()),
            "seconds_likelihood": statistics.median(o.seconds_likelihood for o in found.values()),
            "nearest": statistics.fmean(o.nearest for o in found.values()),
            "accuracy": statistics.fmean(o.accuracy for o in found.values()),
            "gap": mean_gap(found.values()),
        }


def mean_gap(outcomes: Iterable[Outcome]) -> float | None:
    gaps = [o.gap for o in outcomes if o.gap is not None]
    return statistics.fmean(gaps) if gaps else None


def beside_gaussian(
    outcomes: Mapping[Job, Outcome], name: str
) -> Iterable[tuple[Outcome, Outcome]]:
    """The outcomes of a prior, each with the Gaussian's of the same seed."""
    for job, outcome in outcomes.items():
        base = outcomes.get(job._replace(prior=GAUSSIAN))
        if job.prior == name and base is not None:
            yield outcome, base


def differences(outcomes: Mapping[Job, Outcome], name: str) -> list[float]:
    """NLL of a prior less the Gaussian's, by seed."""
    pairs = beside_gaussian(outcomes, name)
    return [o.nll - b.nll for o, b in pairs if o.nll is not None and b.nll is not None]


def judge(outcomes: Mapping[Job, Outcome]) -> list[report.Row]:
    """Is every learned prior at least as good as the Gaussian, and the denoising one better?"""
    bars = []
    for name in LEARNED:
        paired = differences(outcomes, name)
        mean = statistics.fmean(paired) if paired else None
        limit = -0.25 if name == DENOISING else 0.0
        bars.append(report.at_most(f"{name} - gaussian, nats", mean, limit))
    gaps = mean_gap(o for job, o in outcomes.items() if job.prior == DENOISING)
    bars.append(report.at_most("denoising: bound above the flow's -log P(h), nats", gaps, 0.3))
    return bars


def integral(quick: bool) -> report.Row:
    """The total probability of a denoising prior of two elements, fitted to eight clusters."""
    with seeded(0):
        angles = torch.arange(8) * (2 * torch.pi / 8)
        centres = 1.5 * torch.stack([angles.cos(), angles.sin()], -1)
        rows = 400 if quick else 4000
        codes = centres[torch.randint(8, (rows,))] + 0.2 * torch.randn(rows, 2)
        prior = DenoisingPrior(2)
        prior.refit(codes)
        axis = torch.linspace(-6, 6, 121 if quick else 241)
        grid = torch.cartesian_prod(axis, axis)
        with torch.no_grad():
            total = prior.log_prob(grid).double().exp().sum() * float(axis[1] - axis[0]) ** 2
    return report.at_most(
        "denoising: |∫ P(h) dh - 1| in two dimensions", abs(total.item() - 1), 0.01
    )


def held_out_figures() -> dict[str, float]:
    """What the measures of sample quality say of real digits."""
    train, test = split_digits()
    half = len(test) // 2
    return {
        "nearest": nearest_distance(test, train),
        "accuracy": two_sample_accuracy(test[:half], test[half : 2 * half]),
    }


def draw(outcomes: Mapping[Job, Outcome], path: Path) -> None:
    """Samples under each prior, a row each: E[x | h_1] of the first seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [(job.prior, o.samples) for job, o in outcomes.items() if job.seed == 0]
    figure, rows = pyplot.subplots(len(shown), 1, figsize=(9, 0.62 * len(shown)), squeeze=False)
    for axes, (name, samples) in zip(rows[:, 0], shown, strict=True):
        strip = samples.reshape(-1, 8, 8).permute(1, 0, 2)
        gap_between = torch.zeros(8, len(samples), 1)
        axes.imshow(
            torch.cat([strip, gap_between], -1).reshape(8, -1), cmap="gray_r", vmin=0, vmax=1
        )
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_visible(False)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)


if __name__ == "__main__":
    main()

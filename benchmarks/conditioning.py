"""Do priors condition? On a law of six elements whose conditionals are known.

The law is a Gaussian with strong correlations. Each prior is fitted to draws of it, and then asked
for the unseen half of eight rows, another half in each. What stands here are the largest errors
over rows and elements; with n draws chance alone makes about 3 / √n.

mean, spread   in conditional standard deviations of the law
correlation    of the unseen elements
own            error of the mean against the conditional that the prior's own density implies, by
               importance sampling from the law's: what conditioning adds to the error of the fit
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks import report
from genprop.conditional import Gaussian
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.prior import DensityPrior, FollowingPrior, Prior
from genprop.priors.denoising import DenoisingPrior
from genprop.priors.flow import FlowPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.gsn import GSNPrior
from genprop.priors.mixture import MixturePrior
from genprop.priors.parzen import ParzenPrior
from genprop.seeds import seeded
from genprop.stack import Stack
from genprop.threads import one_thread

ELEMENTS = 6
PRIORS: dict[str, Callable[[], Prior]] = {
    "full": lambda: GaussianPrior(ELEMENTS, "full"),
    "mixture, full": lambda: MixturePrior(ELEMENTS, 3, "full"),
    "parzen": lambda: ParzenPrior(ELEMENTS, bank=8192),
    "denoising": lambda: DenoisingPrior(ELEMENTS, candidates=4),
    "flow, nsf": lambda: FlowPrior(ELEMENTS, "nsf"),
    "model": lambda: Model(Stack.build(Gaussian(ELEMENTS), (4,)), GaussianPrior(4)),
    "gsn": lambda: GSNPrior(Gaussian(ELEMENTS)),
}


COLUMNS = {
    "prior": "prior",
    "mean": "mean, off by σ",
    "own": "of its own, σ",
    "spread": "σ, off by",
    "correlation": "correlation, off by",
    "seconds": "seconds",
}


@one_thread()
def main(argv: Sequence[str] | None = None) -> None:
    """Fits each prior, conditions, prints the table, writes the JSON."""
    arguments = parse(argv)
    rows, draws = (500, 200) if arguments.quick else (20_000, 4_000)
    with seeded(0):
        truth = law()
        codes, h = truth.sample((rows,)), truth.sample((8,))
        seen = torch.stack([torch.randperm(ELEMENTS) < ELEMENTS // 2 for _ in h])
    found = []
    for name in arguments.only or PRIORS:
        with seeded(1):
            began = time.perf_counter()
            prior = fitted(PRIORS[name](), codes)
            figures = errors(prior, truth, h, seen, draws)
            found.append({"prior": name, **figures, "seconds": time.perf_counter() - began})
        report.tell(f"{name}: mean off by {figures['mean']:.3f} σ")
    chance = 3 / draws**0.5
    result = report.Report(
        benchmark="conditioning",
        quick=arguments.quick,
        command=arguments.command,
        seeds=[0],
        rows=found,
        bars=[bar for row in found for bar in judge(row, 2 * chance)],
        more={"codes": rows, "draws": draws, "chance": chance},
    )
    result.show(COLUMNS)
    result.write(arguments.json)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = report.parser("conditioning", __doc__)
    made.add_argument("--only", action="append", choices=list(PRIORS), help="only these priors")
    return report.parse(made, argv)


def judge(row: report.Row, most: float) -> list[report.Row]:
    """Twice what chance makes: the largest of 24 errors counts, and reference draws err too."""
    named = {"mean": "mean off the law's, σ", "own": "mean off that of its own density, σ"}
    return [report.at_most(f"{row['prior']}: {named[n]}", row[n], most) for n in named]


def law() -> JointNormal:
    """N(0, Σ) with unit variances and correlations of up to 0.9."""
    mixing = torch.randn(ELEMENTS, 3)
    covariance = mixing @ mixing.mT + 0.3 * torch.eye(ELEMENTS)
    scale = covariance.diagonal().rsqrt()
    return JointNormal(
        torch.zeros(ELEMENTS), torch.linalg.cholesky(scale[:, None] * covariance * scale)
    )


def fitted(prior: Prior, codes: Tensor) -> Prior:
    if isinstance(prior, FollowingPrior):
        prior.follow(codes)
    prior.refit(codes)
    return prior.eval()


def errors(prior: Prior, truth: JointNormal, h: Tensor, seen: Tensor, draws: int) -> report.Row:
    """The largest errors over rows and unseen elements."""
    found = prior.condition(h, seen).sample((draws,))
    exact = truth.given(h, seen).sample((50 * draws,))
    worst = {"mean": 0.0, "spread": 0.0, "correlation": 0.0}
    for row, unseen in enumerate(~seen):
        a, b = found[:, row, unseen], exact[:, row, unseen]
        sigma = b.std(0)
        each = {
            "mean": ((a.mean(0) - b.mean(0)) / sigma).abs().max(),
            "spread": (a.std(0) / sigma - 1).abs().max(),
            "correlation": (torch.corrcoef(a.mT) - torch.corrcoef(b.mT)).abs().max(),
        }
        worst = {name: max(worst[name], value.item()) for name, value in each.items()}
    return {**worst, "own": own_error(prior, truth, h, seen, found)}


@torch.no_grad()
def own_error(
    prior: Prior, truth: JointNormal, h: Tensor, seen: Tensor, found: Tensor
) -> float | None:
    """How far the draws' mean is off that under the prior's own density; None without one."""
    if not isinstance(prior, DensityPrior):
        return None
    x = truth.given(h, seen).sample((len(found),))
    weights = (prior.log_prob(x) - truth.log_prob(x)).softmax(0)[..., None]
    off = (found.mean(0) - (weights * x).sum(0)) / x.std(0)
    return float(off[~seen].abs().max())


if __name__ == "__main__":
    main()

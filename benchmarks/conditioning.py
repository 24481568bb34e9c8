"""Do priors condition? On a law of six elements whose conditionals are known."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import report
from genprop.conditional import Gaussian
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.prior import FollowingPrior, Prior
from genprop.priors.denoising import DenoisingPrior
from genprop.priors.flow import FlowPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.gsn import GSNPrior
from genprop.priors.mixture import MixturePrior
from genprop.priors.parzen import ParzenPrior
from genprop.seeds import seeded
from genprop.stack import Stack

ELEMENTS = 6
PRIORS: dict[str, Callable[[], Prior]] = {
    "full": lambda: GaussianPrior(ELEMENTS, "full"),
    "mixture, full": lambda: MixturePrior(ELEMENTS, 3, "full"),
    "parzen": lambda: ParzenPrior(ELEMENTS, bank=8192),
    "denoising": lambda: DenoisingPrior(ELEMENTS),
    "flow, nsf": lambda: FlowPrior(ELEMENTS, "nsf"),
    "model": lambda: Model(Stack.build(Gaussian(ELEMENTS), (4,)), GaussianPrior(4)),
    "gsn": lambda: GSNPrior(Gaussian(ELEMENTS)),
}


def conditioning(quick: bool) -> list[report.Row]:
    """For each prior the largest errors of what it draws for the unseen elements, given the seen.

    The law is a Gaussian with strong correlations; each prior is fitted to draws of it, and then
    asked for the unseen half of eight rows, another half in each. Means are off by so many
    conditional standard deviations; with n draws chance alone makes about 3 / √n.
    """
    rows, draws = (500, 200) if quick else (5_000, 4_000)
    with seeded(0):
        truth = law()
        codes, h = truth.sample((rows,)), truth.sample((8,))
        seen = torch.stack([torch.randperm(ELEMENTS) < ELEMENTS // 2 for _ in h])
        return [
            {"prior": name, **errors(fitted(make(), codes), truth, h, seen, draws)}
            for name, make in PRIORS.items()
        ]


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
    return {**worst, "chance": 3 / draws**0.5}

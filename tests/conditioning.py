"""A mixture of six elements whose conditionals are known, and how a prior's are held against them.

The conditionals are computed here from the textbook, row by row, not by the package.
"""

import math
from typing import NamedTuple

import torch
import zoo
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

ELEMENTS = 6
DRAWS = 20_000
# nothing, one element, the halves, every second element, all but one
PATTERNS = torch.tensor(
    [[c == "x" for c in p] for p in ("......", "x.....", "xxx...", "...xxx", "x.x.x.", "xxxxx.")]
)


class Known(NamedTuple):
    """Σ_k w_k N(μ_k, Σ_k)."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def sample(self, rows: int) -> Tensor:
        chosen = torch.multinomial(self.weights, rows, replacement=True)
        return MultivariateNormal(self.means[chosen], self.covariances[chosen]).sample()

    def smoothed(self, scale: Tensor) -> "Known":
        """The law after independent noise of this scale."""
        return self._replace(covariances=self.covariances + torch.diag(scale.square()))

    def given(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the unseen elements of one row given the seen ones."""
        parts = [self._part(k, x, seen) for k in range(len(self.weights))]
        log_w, means, covariances = (torch.stack(part) for part in zip(*parts, strict=True))
        w = log_w.softmax(0)
        mean = w @ means
        apart = means - mean
        spread = covariances + apart[:, :, None] * apart[:, None, :]
        return mean, (w[:, None, None] * spread).sum(0)

    def _part(self, k: int, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, covariance, log_w = self.means[k], self.covariances[k], self.weights[k].log()
        if not seen.any():
            return log_w, mean, covariance
        inner, across = covariance[seen][:, seen], covariance[~seen][:, seen]
        gain = across @ torch.linalg.inv(inner)
        fit = MultivariateNormal(mean[seen], inner).log_prob(x[seen])
        left = covariance[~seen][:, ~seen] - gain @ across.mT
        return log_w + fit, mean[~seen] + gain @ (x - mean)[seen], left


def known() -> Known:
    """Three clusters, not far apart, each with correlations of its own."""
    factors = 0.6 * zoo.randn(3, ELEMENTS, ELEMENTS) / math.sqrt(ELEMENTS)
    covariances = factors @ factors.mT + 0.2 * torch.eye(ELEMENTS, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return Known(weights, 1.5 * zoo.randn(3, ELEMENTS), covariances)


def assert_conditional(
    law: Distribution,
    truth: Known,
    x: Tensor,
    seen: Tensor,
    slack: float = 0.0,
    kernels: Tensor | None = None,
) -> None:
    """Draws of the unseen elements have the mean and the covariance that the truth says.

    Args:
        law: of rows given what is seen of x.
        truth: whose conditionals they should be.
        x: rows.
        seen: their masks.
        slack: what is allowed beside five standard errors of the draws, because of the fit.
        kernels: how many kernels there are behind the draws of each row; they err like as many
            draws of the truth.
    """
    draws = law.sample((DRAWS,))
    for row in range(len(x)):
        hidden = ~seen[row]
        mean, covariance = truth.given(x[row], seen[row])
        count = DRAWS if kernels is None else 1 / (1 / DRAWS + 1 / kernels[row].item())
        away = draws[:, row, hidden] - mean
        products = away[:, :, None] * away[:, None, :]
        assert torch.equal(draws[:, row, seen[row]], x[row, seen[row]].expand(DRAWS, -1))
        for values, expected in ((away, 0 * mean), (products, covariance)):
            error = 5 * values.std(0) / math.sqrt(count) + slack
            assert ((values.mean(0) - expected).abs() < error).all(), seen[row]

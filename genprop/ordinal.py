"""Categories in order, by thresholds that one output moves."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from genprop.conditional import Family, bounded_scale, unbounded_scale
from genprop.distributions import IndependentCategorical
from genprop.shapes import Elements


class Ordinal(Family):
    r"""Groups of one-hot elements in order, P(x_g ≤ k) = sigmoid(θ_gk - output_g), θ rising in k.

    The thresholds θ are learned, so that any shares of the categories can be met; one output a
    group moves them all, up or down the order.

    Args:
        sizes: how many categories each group has.

    Raises:
        ValueError: no group, or one without two categories.

    References:
        McCullagh, 1980, Regression models for ordinal data.

    >>> Ordinal((3, 4)).outputs
    2
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        if not sizes or min(sizes) < 2:
            raise ValueError(
                f"an ordinal family needs at least one group, each of at least two categories, "
                f"but got sizes {tuple(sizes)}"
            )
        self.sizes = tuple(int(n) for n in sizes)
        self.elements, self.outputs = sum(self.sizes), len(self.sizes)
        # at first all categories are alike: sigmoid(θ_k) = (k + 1) / n
        shares = [torch.arange(1, n) / n for n in self.sizes]
        logits = [share.logit() for share in shares]
        self.first = nn.Parameter(torch.stack([theta[0] for theta in logits]))
        gaps = torch.cat([theta.diff() for theta in logits])
        self.gaps = nn.Parameter(unbounded_scale(gaps)) if len(gaps) else None

    def forward(self, outputs: Elements) -> IndependentCategorical:
        parts = [] if self.gaps is None else bounded_scale(self.gaps).split(self._steps)
        logits = []
        for group, output in enumerate(outputs.unbind(-1)):
            gap = parts[group] if parts else output.new_zeros(0)
            theta = self.first[group] + torch.cat([gap.new_zeros(1), gap.cumsum(-1)])
            logits.append(_log_steps(theta - output[..., None], gap))
        return IndependentCategorical(torch.cat(logits, -1), self.sizes)

    @property
    def _steps(self) -> list[int]:
        return [n - 2 for n in self.sizes]


def _log_steps(theta: Tensor, gaps: Tensor) -> Tensor:
    """Log of what sigmoid rises by between -inf, θ_1, θ_2, … and inf; gaps are θ's differences.

    σ(b) - σ(a) = σ(b) σ(-a) (1 - exp(a - b)), which holds far out, where the difference is lost.
    """
    up, down = functional.logsigmoid(theta), functional.logsigmoid(-theta)
    between = up[..., 1:] + down[..., :-1] + torch.log(-torch.expm1(-gaps))
    return torch.cat([up[..., :1], between, down[..., -1:]], -1)

"""Families of counts."""

from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genprop.conditional import Family, bounded_scale
from genprop.counts import IndependentNegativeBinomial, IndependentPoisson
from genprop.shapes import Elements


class Counting(Family, ABC):
    """A family of whole numbers, whose rate is a typical one times exp(c·tanh(output / c)), c = 6.

    So rates stay between a 400th and 400 times the typical one, whatever training does.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]

    def _build(self, means: Sequence[float], scales: Sequence[float] | None) -> None:
        scales = [1.0] * len(means) if scales is None else scales
        if not means or min(*means, *scales) <= 0 or len(means) != len(scales):
            raise ValueError(
                f"a family of counts needs a positive mean for each element, and as many positive "
                f"scales, but got means {tuple(means)} and scales {tuple(scales)}"
            )
        self.means, self.scales = tuple(map(float, means)), tuple(map(float, scales))
        self.elements = self.outputs = len(self.means)
        typical, scale = torch.tensor(self.means), torch.tensor(self.scales)
        self.register_buffer("log_mean", typical.log())
        self.register_buffer("low", -typical / scale)
        self.register_buffer("step", 1 / scale)

    def _log_rate(self, outputs: Tensor) -> Tensor:
        return self.get_buffer("log_mean") + bounded_scale(outputs).log()

    def _grid(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("low"), self.get_buffer("step")


class Poisson(Counting):
    """n_j ~ Poisson(λ_j) for counts n_j = 0, 1, 2, …, in units x_j = (n_j - mean_j) / scale_j.

    Args:
        means: a typical count of each element, to which the net's outputs are relative.
        scales: what a count is divided by in x; 1 unless given.

    Raises:
        ValueError: no element, or a mean or scale that is not positive.

    >>> Poisson((2.0,))(torch.zeros(1)).log_prob(torch.tensor([-2.0])).item()
    -2.0
    """

    def __init__(self, means: Sequence[float], scales: Sequence[float] | None = None) -> None:
        super().__init__()
        self._build(means, scales)

    def forward(self, outputs: Elements) -> IndependentPoisson:
        return IndependentPoisson(self._log_rate(outputs), *self._grid())


class NegativeBinomial(Counting):
    """Counts that vary more than Poisson's, by λ_j + λ_j² / r_j; r_j is learned.

    Args:
        means: a typical count of each element, to which the net's outputs are relative.
        scales: what a count is divided by in x = (n - mean) / scale; 1 unless given.

    Raises:
        ValueError: no element, or a mean or scale that is not positive.

    >>> NegativeBinomial((2.0, 5.0)).outputs
    2
    """

    def __init__(self, means: Sequence[float], scales: Sequence[float] | None = None) -> None:
        super().__init__()
        self._build(means, scales)
        self.log_size = nn.Parameter(torch.zeros(self.elements))

    def forward(self, outputs: Elements) -> IndependentNegativeBinomial:
        log_size = bounded_scale(self.log_size).log()
        return IndependentNegativeBinomial(self._log_rate(outputs), log_size, *self._grid())

"""The logistic law, whose posterior mean under Gaussian noise takes a quadrature."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genprop.distributions import LocationScale, Scale
from genprop.shapes import Elements, PerRow


class IndependentLogistic(LocationScale):
    """x_j ~ Logistic(loc_j, scale_j), of density sigmoid'((x - loc) / scale) / scale.

    The standard deviation is π·scale / √3.

    >>> IndependentLogistic(torch.zeros(1), torch.ones(1)).log_prob(torch.zeros(1)).exp().item()
    0.25
    """

    standard_entropy = 2.0

    @property
    def stddev(self) -> Tensor:
        return self._scales * (math.pi / math.sqrt(3))

    def standard(self, z: Elements) -> Elements:
        return -z - 2 * functional.softplus(-z)

    def standard_total(self, z: Elements) -> PerRow:
        return self.standard(z).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        u = torch.rand((*shape, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        # rand may return exactly 0, whose logit is -inf
        tiny = torch.finfo(u.dtype).tiny
        return self.loc + self.scale * torch.logit(u.clamp_min(tiny))

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """By quadrature over whichever is narrower: the noise (Hermite) or the law (a grid)."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        t, w = (torch.as_tensor(a, dtype=y.dtype, device=y.device) for a in (nodes, weights))
        s = torch.as_tensor(scale, dtype=y.dtype, device=y.device).expand_as(y)
        near = y[..., None] + s[..., None] * t
        by_noise = _mean_under(near, self._log_density(near) + w.log())
        # nodes are dense where the law bends, about its mean, and reach beyond y
        reach = torch.asinh(((y - self.loc).abs() + 8 * s) / self._scales + 40)
        v = reach[..., None] * torch.linspace(-1, 1, 513, dtype=y.dtype, device=y.device)
        grid = self.loc[..., None] + self._scales[..., None] * torch.sinh(v)
        misfit = (y[..., None] - grid) / s[..., None]
        log_weights = self._log_density(grid) - 0.5 * misfit.square() + torch.cosh(v).log()
        by_law = _mean_under(grid, log_weights)
        return torch.where(s < self.scale, by_noise, by_law)

    def _log_density(self, x: Tensor) -> Tensor:
        """Of values (…, elements, points), up to a constant."""
        standard = (x - self.loc[..., None]) / self._scales[..., None]
        return -standard - 2 * functional.softplus(-standard)


def _mean_under(points: Tensor, log_weights: Tensor) -> Tensor:
    return (points * log_weights.softmax(-1)).sum(-1)

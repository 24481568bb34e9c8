"""Student's t law, a Gaussian whose precision is drawn anew for every value."""

import math

import torch
from torch import Tensor

from genprop.distributions import LocationScale, Scale
from genprop.shapes import Elements, PerRow

NODES = 401  # of the quadrature over the precision's logarithm
FARTHEST = 45.0  # of that logarithm from 0


class IndependentStudent(LocationScale):
    """x_j = loc_j + scale_j·t_j with t_j of Student's law with df_j degrees of freedom.

    The density is ∝ (1 + t² / df)^(-(df + 1) / 2): outliers cost the logarithm of their size
    only. It is N(loc, scale² / g) with g ~ Gamma(df / 2, df / 2).

    Args:
        loc: the means, which are the modes too.
        scale: positive, one for each element, the same for all rows or not.
        df: above 2, so that there is a variance; shaped as the scale.

    References:
        Bailey, 1994, Polar generation of random variates with the t-distribution.

    >>> law = IndependentStudent(torch.zeros(1), torch.ones(1), torch.tensor([4.0]))
    >>> law.log_prob(torch.zeros(1)).exp().item()
    0.375
    """

    def __init__(self, loc: Elements, scale: Elements, df: Elements) -> None:
        super().__init__(loc, scale)
        self.df = df

    @property
    def parameters(self) -> tuple[Elements, ...]:
        return self.loc, self.scale, self.df

    @property
    def stddev(self) -> Tensor:
        return self._scales * (self.df / (self.df - 2)).sqrt()

    def standard(self, z: Elements) -> Elements:
        return self._log_constant - 0.5 * (self.df + 1) * torch.log1p(z.square() / self.df)

    def standard_total(self, z: Elements) -> PerRow:
        return self.standard(z).sum(-1)

    def entropy(self) -> PerRow:
        half = 0.5 * self.df
        steps = (half + 0.5) * (torch.digamma(half + 0.5) - torch.digamma(half))
        each = steps - self._log_constant + self.scale.log()
        return each.expand_as(self.loc).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        u, v = (self._uniform(shape) for _ in range(2))
        radius = (self.df * torch.expm1(-2 / self.df * u.log())).sqrt()
        return self.loc + self.scale * radius * torch.cos(2 * math.pi * v)

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """By quadrature over the precision g, given which the law is a Gaussian."""
        log_g, log_weight = self._nodes()
        wide = self._scales.square()[..., None] * torch.exp(-log_g)
        noise = torch.as_tensor(scale, dtype=y.dtype, device=y.device).expand_as(y)
        total = wide + noise.square()[..., None]
        away = (y - self.loc)[..., None]
        weights = (log_weight - 0.5 * total.log() - 0.5 * away.square() / total).softmax(-1)
        mean: Tensor = self.loc + (weights * wide / total).sum(-1) * away[..., 0]
        return mean

    @property
    def _log_constant(self) -> Tensor:
        half = 0.5 * self.df
        return torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * (math.pi * self.df).log()

    def _uniform(self, shape: torch.Size) -> Tensor:
        u = torch.rand((*shape, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        # rand may return exactly 0, at which the radius would be infinite
        return u.clamp_min(torch.finfo(u.dtype).tiny)

    def _nodes(self) -> tuple[Tensor, Tensor]:
        """Values of log g, dense about 0 where the law is, and the logarithms of their weights."""
        df = self.df[..., None]
        width = (2 / df).sqrt()
        reach = torch.asinh(FARTHEST / width)
        v = torch.linspace(-1, 1, NODES, dtype=df.dtype, device=df.device)
        log_g = width * torch.sinh(reach * v)
        log_density = 0.5 * df * (log_g - torch.exp(log_g))
        return log_g, log_density + torch.cosh(reach * v).log()

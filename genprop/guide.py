"""A Gaussian that stands in where a prior's own conditionals are unknown."""

import torch
from torch import Tensor, nn

from genprop.distributions import Scale
from genprop.multivariate import JointNormal
from genprop.shapes import Elements


class Guide(nn.Module):
    """N(m, C), with the mean and (shrunk) covariance of codes: the source of proposals.

    Proposals need not be right, only near: importance weights correct them. It starts as N(0, I).

    Args:
        elements: the size of a code.

    >>> guide = Guide(2)
    >>> guide.follow(torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 5.0], [2.0, 5.0]]))
    >>> guide.law.mean, guide.law.variance
    (tensor([1., 3.]), tensor([1.0000, 4.0000]))
    """

    loc: Tensor
    scale_tril: Tensor

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.register_buffer("loc", torch.zeros(elements))
        self.register_buffer("scale_tril", torch.eye(elements))

    @property
    def law(self) -> JointNormal:
        """N(m, C) as a distribution."""
        return JointNormal(self.loc, self.scale_tril)

    @torch.no_grad()
    def follow(self, codes: Elements) -> None:
        """Takes the mean and covariance of the codes ``(rows, elements)``.

        Off its diagonal the covariance is made smaller by the share elements / (rows + elements),
        because that of few codes has directions without any spread.
        """
        loc = codes.mean(0)
        away = codes - loc
        covariance = away.mT @ away / len(codes)
        spread = covariance.diagonal()
        kept = len(codes) / (len(codes) + self.elements)
        covariance = kept * covariance + torch.diag((1 - kept) * spread + 1e-6 * (1 + spread))
        self.loc.copy_(loc)
        self.scale_tril.copy_(torch.linalg.cholesky(covariance))

    def posterior(self, y: Elements, scale: Scale, draws: int) -> Elements:
        """Draws of x given x + scale·ε = y for x ~ N(m, C), ``(draws, …, elements)``.

        A joint draw of x and noise, moved by the gain on its misfit to y (Matheron).
        """
        x = self.law.sample((draws, *y.shape[:-1]))
        misfit = y - x - scale * torch.randn_like(x)
        return x + self.law.denoise(self.loc + misfit, scale) - self.loc

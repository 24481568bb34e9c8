"""The Gaussian prior."""

import torch
from torch import Tensor, nn

from genprop.conditional import bounded_scale, unbounded_scale
from genprop.distributions import IndependentNormal
from genprop.multivariate import JointNormal
from genprop.prior import LawPrior
from genprop.shapes import Elements

COVARIANCES = ("standard", "diagonal", "full")


class GaussianPrior(LawPrior):
    """h ~ N(μ, Σ).

    With several modalities only ``"full"`` lets the codes of one tell about those of another, and
    only what is linear; a full ``MixturePrior`` tells more.

    Args:
        elements: the size of a code.
        covariance: ``"standard"`` (μ = 0, Σ = I, nothing learned), ``"diagonal"``, or ``"full"``
            (Σ = L Lᵀ with a bounded positive diagonal).

    Raises:
        ValueError: no element, or another covariance.

    >>> prior = GaussianPrior(2)
    >>> prior.reconstruct(torch.tensor([2.0, 4.0]), 1.0)
    tensor([1., 2.])
    """

    discrete = False

    def __init__(self, elements: int, covariance: str = "standard") -> None:
        super().__init__()
        if elements < 1:
            raise ValueError(f"a prior needs at least one element, but got {elements}")
        if covariance not in COVARIANCES:
            raise ValueError(
                f"covariance must be one of {', '.join(COVARIANCES)}, but is {covariance!r}"
            )
        self.elements, self.covariance = elements, covariance
        loc, log_scale = torch.zeros(elements), torch.zeros(elements)
        if covariance == "standard":
            self.register_buffer("loc", loc)
            self.register_buffer("unit", torch.ones(elements))
        else:
            self.loc, self.log_scale = nn.Parameter(loc), nn.Parameter(log_scale)
        square = torch.zeros(elements, elements)
        self.below = nn.Parameter(square) if covariance == "full" else None

    @property
    def law(self) -> IndependentNormal | JointNormal:
        """N(μ, Σ) as a distribution."""
        if self.covariance == "standard":
            return IndependentNormal(self.loc, self.get_buffer("unit"))
        scale = bounded_scale(self.log_scale)
        if self.below is None:
            return IndependentNormal(self.loc, scale)
        return JointNormal(self.loc, self.below.tril(-1) + torch.diag(scale))

    @torch.no_grad()
    def refit(self, codes: Elements) -> None:
        """Sets μ and Σ to the mean and covariance of the codes; the standard Gaussian stays."""
        if self.covariance == "standard":
            return
        self.loc.copy_(codes.mean(0))
        if self.below is None:
            self.log_scale.copy_(unbounded_scale(codes.std(0, correction=0)))
            return
        tril = torch.linalg.cholesky(_covariance(codes))
        self.log_scale.copy_(unbounded_scale(tril.diagonal()))
        self.below.copy_(tril.tril(-1))


def _covariance(codes: Tensor) -> Tensor:
    centred = codes - codes.mean(0)
    covariance = centred.mT @ centred / len(codes)
    # fewer codes than elements leave directions without variance
    return covariance + torch.diag(1e-6 + 1e-6 * covariance.diagonal())

"""The mixture prior."""

import warnings

import torch
from torch import Tensor, nn

from genprop.conditional import bounded_scale, unbounded_scale
from genprop.distributions import IndependentNormal
from genprop.mixture import MixtureNormal
from genprop.multivariate import JointNormal
from genprop.prior import LawPrior
from genprop.shapes import Elements

COVARIANCES = ("diagonal", "full")
STARTS = 3
STEPS = 100
FLOOR = 1e-4


class MixturePrior(LawPrior):
    r"""P(h) = Σ_k π_k N(h; μ_k, Σ_k), for codes that lie in clusters.

    The means start as draws of N(0, I), with Σ_k = I and equal weights. All is learned by gradient,
    or all at once by ``refit``.

    Args:
        elements: the size of a code.
        components: how many Gaussians.
        covariance: ``"diagonal"``, or ``"full"`` (Σ_k = L Lᵀ with a bounded positive diagonal).

    Raises:
        ValueError: no element, no component, or another covariance.

    References:
        Dempster, Laird, Rubin, 1977, Maximum likelihood from incomplete data via the EM algorithm.
        Arthur, Vassilvitskii, 2007, k-means++: the advantages of careful seeding.

    >>> prior = MixturePrior(2, components=3)
    >>> prior.log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    discrete = False

    def __init__(self, elements: int, components: int = 10, covariance: str = "diagonal") -> None:
        super().__init__()
        if min(elements, components) < 1:
            raise ValueError(
                f"a mixture needs at least one element and one component, but got "
                f"elements={elements} and components={components}"
            )
        if covariance not in COVARIANCES:
            raise ValueError(
                f"covariance must be one of {', '.join(COVARIANCES)}, but is {covariance!r}"
            )
        self.elements, self.components, self.covariance = elements, components, covariance
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, elements))
        self.log_scale = nn.Parameter(torch.zeros(components, elements))
        square = torch.zeros(components, elements, elements)
        self.below = nn.Parameter(square) if covariance == "full" else None

    @property
    def law(self) -> MixtureNormal:
        """The mixture as a distribution."""
        scale = bounded_scale(self.log_scale)
        log_weights = self.logits.log_softmax(-1)
        if self.below is None:
            return MixtureNormal(log_weights, IndependentNormal(self.loc, scale))
        tril = self.below.tril(-1) + torch.diag_embed(scale)
        return MixtureNormal(log_weights, JointNormal(self.loc, tril))

    @torch.no_grad()
    def refit(self, codes: Elements) -> None:
        """EM, the best of three starts from k-means; the same codes always give the same law.

        1e-4 of the codes' own variance is added to each component's, so that none can shrink to a
        single code.

        Raises:
            ValueError: fewer codes than components.
        """
        if len(codes) < self.components:
            raise ValueError(
                f"a mixture of {self.components} components is fitted to at least as many codes, "
                f"but got {len(codes)}; give more rows, or fewer components"
            )
        centre, width = codes.mean(0), codes.std(0, correction=0)
        width = torch.where(width > 0, width, 1)
        weights, loc, covariance = self._expectation_maximisation((codes - centre) / width)
        self.logits.copy_(weights.log())
        self.loc.copy_(centre + width * loc)
        if self.below is None:
            self.log_scale.copy_(unbounded_scale(width * covariance.sqrt()))
            return
        tril = width[:, None] * torch.linalg.cholesky(covariance)
        self.log_scale.copy_(unbounded_scale(tril.diagonal(dim1=-2, dim2=-1)))
        self.below.copy_(tril.tril(-1))

    def _expectation_maximisation(self, codes: Tensor) -> list[Tensor]:
        """Weights, means and (co)variances of the components of codes of unit variance."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        kind = "diag" if self.covariance == "diagonal" else "full"
        how = {"reg_covar": FLOOR, "max_iter": STEPS, "n_init": STARTS, "random_state": 0}
        search = GaussianMixture(self.components, covariance_type=kind, **how)
        with warnings.catch_warnings():
            # equal codes, or a maximum so flat that the last digits still move
            warnings.simplefilter("ignore", ConvergenceWarning)
            search.fit(codes.double().cpu().numpy())
        found = (search.weights_, search.means_, search.covariances_)
        return [torch.as_tensor(values).to(codes) for values in found]

"""Decoders' errors that go together: one covariance for all rows, estimated after training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genprop.conditional import Gaussian, unbounded_scale
from genprop.correlations import FEWEST, Rows, best_trust, correlations, trusted
from genprop.distributions import Product
from genprop.multivariate import JointNormal
from genprop.shapes import Elements, Outputs, Seen


class CorrelatedGaussian(Gaussian):
    r"""x ~ N(μ, Σ) with μ from the net and one Σ for all rows, of which no element is zero by rule.

    A code says what rows have in common; what it leaves of x need not be independent. With Σ, what
    is seen of a row tells of what is not seen beside what its code tells::

        E[x_m | h, x_s] = μ_m(h) + Σ_ms Σ_ss⁻¹ (x_s - μ_s(h))

    In training elements are independent, so that codes are asked to explain what they can; then
    ``learn`` finds the variances and correlations of what they left. Until then Σ is diagonal.

    Args:
        elements: dimensions.
        blocks: how many belong together, side by side, as the elements of one modality; all unless
            given. Each has a trust t_b in [0, 1], by which correlations across are multiplied,
            t_a t_b between blocks a and b: one that tells nothing of others must not make theirs
            be drawn towards none.

    Raises:
        ValueError: no element, or blocks of another number of them.

    >>> family = CorrelatedGaussian(2).eval()
    >>> errors = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 2)
    >>> family.learn(errors[None], torch.ones(1, 1000, 2, dtype=torch.bool))
    >>> law = family(torch.zeros(1, 2)).given(torch.ones(1, 2), torch.tensor([[True, False]]))
    >>> law.mean.detach().round(decimals=1)
    tensor([[1., 1.]])
    """

    root: Tensor

    def __init__(self, elements: int, blocks: Sequence[int] | None = None) -> None:
        super().__init__(elements)
        self.blocks = tuple(blocks or (elements,))
        if sum(self.blocks) != elements:
            raise ValueError(f"blocks hold all {elements} elements together, but are {self.blocks}")
        self.register_buffer("root", torch.eye(elements))

    def forward(self, outputs: Outputs) -> Product:
        if self.training:
            return super().forward(outputs)
        loc, scale = self._split(outputs)
        return JointNormal(loc, scale[:, None] * self.root)

    @torch.no_grad()
    def learn(self, errors: Elements, seen: Seen) -> None:
        """Variances and correlations of errors x - μ, from rows with holes.

        Args:
            errors: of the rows in several passes, ``(passes, rows, elements)``.
            seen: True where an element was observed.
        """
        mask = seen.to(errors.dtype)
        count = mask.sum((0, 1))
        variance = (errors * mask).square().sum((0, 1)) / count.clamp_min(1)
        known = (count > 1) & (variance > 0)
        scale = torch.where(known, variance.sqrt(), 1)
        assert self.log_scale is not None
        self.log_scale.copy_(torch.where(known, unbounded_scale(scale), self.log_scale))
        rows = Rows((errors / scale * mask).cpu().double(), seen.cpu()).telling()
        if rows.number < FEWEST:
            self.root.copy_(torch.eye(self.elements))
            return
        block = torch.arange(len(self.blocks)).repeat_interleave(torch.tensor(self.blocks))
        trust = best_trust(rows, block)
        self.root.copy_(torch.linalg.cholesky(trusted(correlations(rows, block), trust, block)))

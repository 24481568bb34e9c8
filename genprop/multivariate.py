"""The Gaussian with a full covariance, and its conditional for any pattern of seen elements."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.distributions import HALF_LOG_2PI, SAMPLE_SHAPE, Scale
from genprop.shapes import Elements, PerRow, Seen


class JointNormal(Distribution):
    """x ~ N(loc, L Lᵀ).

    Args:
        loc: the mean, ``(elements,)``.
        scale_tril: L, lower triangular with a positive diagonal, ``(elements, elements)``.

    >>> law = JointNormal(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.8, 0.6]]))
    >>> law.given(torch.tensor([[2.0, 0.0]]), torch.tensor([[True, False]])).mean
    tensor([[2.0000, 1.6000]])
    """

    arg_constraints = {}

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        self.loc, self.scale_tril = loc, scale_tril
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def covariance(self) -> Tensor:
        """The covariance L Lᵀ."""
        return self.scale_tril @ self.scale_tril.mT

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Draws ``sample_shape + (elements,)``."""
        with torch.no_grad():
            noise = torch.randn(
                (*sample_shape, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device
            )
            return self.loc + noise @ self.scale_tril.mT

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(x) in nats; with a mask the marginal log P(x_seen)."""
        away = value - self.loc
        if seen is None:
            return _log_density(away, self.scale_tril, away.shape[-1])
        tril = _by_pattern(seen, lambda patterns: torch.linalg.cholesky(self._seen_block(patterns)))
        return _log_density(torch.where(seen, away, 0), tril, seen.to(away).sum(-1))

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """The posterior mean E[x | x + scale·ε = y], ε ~ N(0, I)."""
        noise = torch.as_tensor(scale, dtype=y.dtype, device=y.device).expand_as(y).square()
        total = self.covariance + torch.diag_embed(noise)
        pull = torch.linalg.solve(total, (y - self.loc)[..., None])
        moved: Tensor = (self.covariance @ pull)[..., 0]
        return self.loc + moved

    def given(self, x: Elements, seen: Seen) -> "JointNormalGiven":
        """The law of the unseen elements of x given the seen ones."""
        return JointNormalGiven(self, x, seen)

    def _seen_block(self, seen: Seen) -> Tensor:
        """The covariance of the seen elements, with ones on the diagonal elsewhere."""
        both = seen[..., :, None] & seen[..., None, :]
        return torch.where(both, self.covariance, torch.diag_embed((~seen).to(self.loc.dtype)))

    def _gain(self, seen: Seen) -> Tensor:
        """What the misfit of the seen elements adds to the mean of each element."""
        across = torch.where(seen[..., None, :], self.covariance, 0)
        gain: Tensor = torch.linalg.solve(self._seen_block(seen), across.mT).mT
        return gain


class JointNormalGiven(Distribution):
    """P(unseen | seen) of a joint Gaussian; the seen elements are held at their values.

    Args:
        law: the joint Gaussian.
        x: the values, ``(…, elements)``.
        seen: True where a value is held, any pattern row by row.
    """

    arg_constraints = {}

    def __init__(self, law: JointNormal, x: Elements, seen: Seen) -> None:
        self.law, self.seen = law, seen
        self.x = x.expand(torch.broadcast_shapes(x.shape, seen.shape))
        self.gain = _by_pattern(seen, law._gain)
        super().__init__(self.x.shape[:-1], self.x.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The seen values, and E[unseen | seen] elsewhere."""
        return self._moved(self.law.loc.expand_as(self.x))

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole vectors: joint draws moved by the gain on their misfit to the seen (Matheron)."""
        with torch.no_grad():
            return self._moved(self.law.sample((*sample_shape, *self.batch_shape)))

    def log_prob(self, value: Elements) -> PerRow:
        """Log P(unseen | seen) in nats."""
        return self.law.log_prob(value) - self.law.log_prob(value, self.seen)

    def _moved(self, joint: Tensor) -> Tensor:
        misfit = torch.where(self.seen, self.x - joint, 0)
        moved = joint + torch.einsum("...ij,...j->...i", self.gain, misfit)
        return torch.where(self.seen, self.x, moved)


def _by_pattern(seen: Tensor, matrices: Callable[[Tensor], Tensor]) -> Tensor:
    """A matrix for each row's mask, computed once for every pattern that occurs."""
    patterns, which = torch.unique(seen.reshape(-1, seen.shape[-1]), dim=0, return_inverse=True)
    return matrices(patterns)[which].reshape(*seen.shape[:-1], *[seen.shape[-1]] * 2)


def _log_density(away: Tensor, tril: Tensor, elements: int | Tensor) -> Tensor:
    """Log N(away; 0, L Lᵀ), where leading dimensions that L lacks are columns of one solve."""
    extra = away.ndim + 1 - tril.ndim
    columns = away.reshape(-1, *away.shape[extra:]).movedim(0, -1)
    standard = torch.linalg.solve_triangular(tril, columns, upper=False)
    squares = standard.square().sum(-2).movedim(-1, 0)
    log_det: Tensor = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    misfit: Tensor = -0.5 * squares.reshape(away.shape[:-1])
    return misfit - log_det - elements * HALF_LOG_2PI

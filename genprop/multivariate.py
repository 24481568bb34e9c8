"""Gaussians with full covariances, and their conditionals for any pattern of seen elements."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution

from genprop.distributions import (
    HALF_LOG_2PI,
    SAMPLE_SHAPE,
    Continuous,
    IndependentNormal,
    Scale,
)
from genprop.shapes import Elements, PerRow, Seen

NUMBERS_AT_ONCE = 2**22


class JointNormal(Continuous):
    """x ~ N(loc, L Lᵀ), one law or a batch of them.

    Values and masks broadcast with the batch: rows ``(rows, 1, elements)`` meet each of K laws.

    Args:
        loc: the mean, ``(…, elements)``.
        scale_tril: L, lower triangular with a positive diagonal, ``(…, elements, elements)``.

    >>> law = JointNormal(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.8, 0.6]]))
    >>> law.given(torch.tensor([[2.0, 0.0]]), torch.tensor([[True, False]])).mean
    tensor([[2.0000, 1.6000]])
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        shape = torch.broadcast_shapes(loc.shape, scale_tril.shape[:-1])
        self.loc, self.scale_tril = loc.expand(shape), scale_tril
        self._setup(self.loc)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The tensors that determine the law, in the order of the constructor."""
        return self.loc, self.scale_tril

    def with_parameters(self, *parameters: Tensor) -> "JointNormal":
        """The law that has these parameters."""
        return JointNormal(*parameters)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each element."""
        return self.scale_tril.square().sum(-1).expand_as(self.loc)

    @property
    def covariance(self) -> Tensor:
        """The covariance L Lᵀ."""
        return self.scale_tril @ self.scale_tril.mT

    def elements(self, x: Elements) -> Elements:
        """Log P(x_j) of every element by itself, in nats."""
        return IndependentNormal(self.loc, self.variance.sqrt()).elements(x)

    def total(self, x: Elements) -> PerRow:
        """Log P(x) of all together, in nats."""
        return _log_density(self.scale_tril, x - self.loc) - x.shape[-1] * HALF_LOG_2PI

    def draw(self, shape: torch.Size) -> Elements:
        noise = torch.randn((*shape, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + times(self.scale_tril, noise)

    def entropy(self) -> PerRow:
        volume = _log_det(self.scale_tril)
        return (volume + self.loc.shape[-1] * (0.5 + HALF_LOG_2PI)).expand(self.batch_shape)

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(x) in nats; with a mask the marginal log P(x_seen)."""
        if seen is None:
            return self.total(value)
        away = torch.where(seen, value - self.loc, 0)
        blocks = self.by_pattern(seen, self._seen_block)
        roots = blocks._replace(every=torch.linalg.cholesky(blocks.every.detach()))
        volume: Tensor = _Volume.apply(blocks.every, roots.every)  # type: ignore[no-untyped-call]
        misfit = self._misfit(away, roots)
        return -0.5 * misfit - roots.by_row(volume) - seen.to(away).sum(-1) * HALF_LOG_2PI

    def smoothed(self, scale: Scale) -> "JointNormal":
        """The law of x + scale·ε, ε ~ N(0, I)."""
        noise = torch.as_tensor(scale, dtype=self.loc.dtype, device=self.loc.device).square()
        noise = noise.expand(torch.broadcast_shapes(noise.shape, self.event_shape))
        return JointNormal(
            self.loc, torch.linalg.cholesky(self.covariance + torch.diag_embed(noise))
        )

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """The posterior mean E[x | x + scale·ε = y], ε ~ N(0, I)."""
        tril = self.smoothed(scale).scale_tril
        pull = _solved(tril.mT, _solved(tril, y - self.loc), upper=True)
        return self.loc + times(self.covariance, pull)

    def given(self, x: Elements, seen: Seen) -> "JointNormalGiven":
        """The law of the unseen elements of x given the seen ones."""
        return JointNormalGiven(self, x, seen)

    def gain(self, seen: Seen) -> "ByPattern":
        """What the misfit of the seen elements adds to the mean of each."""
        return self.by_pattern(seen, self._gain)

    @property
    def roots(self) -> "ByPattern":
        """L of each law."""
        batch = self.scale_tril.shape[:-2]
        which = torch.zeros([1] * max(1, len(batch)), dtype=torch.long, device=self.loc.device)
        return ByPattern(self.scale_tril[None], which, batch)

    def by_pattern(self, seen: Seen, matrices: Callable[[Tensor], Tensor]) -> "ByPattern":
        """A matrix for each row's mask and each law, computed once for every pattern that occurs.

        Args:
            seen: masks, which broadcast with the batch of L.
            matrices: makes them of masks ``(patterns, 1, …, elements)``, one for each law.
        """
        batch, size = self.scale_tril.shape[:-2], self.event_shape
        patterns, which = torch.unique(seen.reshape(-1, *size), dim=0, return_inverse=True)
        every = matrices(patterns.reshape(-1, *[1] * len(batch), *size))
        return ByPattern(every, which.reshape(seen.shape[:-1]), batch)

    def _seen_block(self, seen: Tensor) -> Tensor:
        """The covariance of the seen elements, with ones on the diagonal elsewhere."""
        both = seen[..., :, None] & seen[..., None, :]
        return torch.where(both, self.covariance, torch.diag_embed((~seen).to(self.loc.dtype)))

    def _misfit(self, away: Elements, roots: "ByPattern") -> PerRow:
        """Awayᵀ Σ_seen⁻¹ away, of differences that are zero where nothing is seen."""
        with torch.no_grad():
            white = roots.apply(_solved, away)
            if not (away.requires_grad or self.scale_tril.requires_grad):
                return white.square().sum(-1)
            pull = roots.apply(lambda tril, x: _solved(tril.mT, x, upper=True), white)
        misfit: Tensor = _Misfit.apply(away, self.covariance, pull)  # type: ignore[no-untyped-call]
        return misfit

    def _gain(self, seen: Tensor) -> Tensor:
        across = torch.where(seen[..., None, :], self.covariance, 0)
        gain: Tensor = torch.linalg.solve(self._seen_block(seen), across.mT).mT
        return gain


class ByPattern(NamedTuple):
    """Matrices of masks, of which many rows may have the same.

    Attributes:
        every: those that occur, ``(patterns, *batch, elements, elements)``.
        which: of each row.
        batch: of laws, with which rows broadcast.
    """

    every: Tensor
    which: Tensor
    batch: torch.Size

    @property
    def each(self) -> Tensor:
        """Those of all rows, one beside the other."""
        return self.by_row(self.every)

    def chosen(self, law: Tensor) -> "ByPattern":
        """Those of one law for each place, of the last dimension of laws.

        Args:
            law: which one, ``(…, rows)``; where all laws share a matrix it is that.
        """
        which, (*rows, laws) = self.which[..., 0], self.batch or (1,)
        for number, place in zip(rows, places(rows, law.device), strict=True):
            which = which * number + place
        which = which * laws + law.clamp_max(laws - 1)
        return ByPattern(self.every.flatten(0, len(self.batch)), which, torch.Size())

    def apply(self, function: Callable[[Tensor, Tensor], Tensor], vectors: Tensor) -> Tensor:
        """A function of matrices and vectors ``(…, *rows, *batch, elements)``.

        Where a matrix for each row would be too much it goes pattern by pattern; what comes out is
        the same, up to rounding.

        Args:
            function: broadcasts a matrix over all vectors that share it.
            vectors: one for each row and law, in any number of draws.
        """
        if not self.batch and self.which.ndim > 1 and self.which.shape == vectors.shape[:-1]:
            flat = ByPattern(self.every, self.which.flatten(), self.batch)
            return flat.apply(function, vectors.flatten(0, -2)).reshape(vectors.shape)
        along = vectors.ndim - len(self.batch) - 2
        by_row = vectors.shape[max(along, 0) :][:1] + torch.Size([1] * len(self.batch))
        numbers = self.which.numel() * self.every.shape[1:].numel()
        if self.which.shape != by_row or numbers <= NUMBERS_AT_ONCE:
            return function(self.each, vectors)
        there, which, count = self.which.unique(return_inverse=True, return_counts=True)
        order = which.flatten().argsort(stable=True)
        parts = vectors.index_select(along, order).split(count.tolist(), along)
        made = [function(m, part) for m, part in zip(self.every[there], parts, strict=True)]
        return torch.cat(made, along).index_select(along, order.argsort())

    def by_row(self, every: Tensor) -> Tensor:
        """What there is of each mask and law, for all rows."""
        return every[(self.which, *places(self.batch, self.which.device))]


class JointNormalGiven(Distribution):
    """P(unseen | seen) of a joint Gaussian; the seen elements are held at their values.

    Args:
        law: the joint Gaussian, or a batch of them.
        x: the values, ``(…, elements)``.
        seen: True where a value is held, any pattern row by row.
    """

    arg_constraints = {}

    def __init__(self, law: JointNormal, x: Elements, seen: Seen) -> None:
        self.law, self.seen = law, seen
        self.x = x.expand(torch.broadcast_shapes(x.shape, seen.shape, law.loc.shape))
        self.gain = law.gain(seen)
        super().__init__(self.x.shape[:-1], self.x.shape[-1:], validate_args=False)

    @cached_property
    def mean(self) -> Tensor:
        """The seen values, and E[unseen | seen] elsewhere."""
        return moved(self.law.loc.expand_as(self.x), self.x, self.seen, self._carried)

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole vectors: joint draws moved by the gain on their misfit to the seen (Matheron)."""
        rows = self.batch_shape[: len(self.batch_shape) - len(self.law.batch_shape)]
        with torch.no_grad():
            joint = self.law.sample((*sample_shape, *rows))
            return moved(joint, self.x, self.seen, self._carried)

    def log_prob(self, value: Elements, asked: Seen | None = None) -> PerRow:
        """Log P(unseen | seen) in nats; with a mask that of the elements which are asked for."""
        whole = None if asked is None else self.seen | asked
        value = torch.where(self.seen, self.x, value)
        return self.law.log_prob(value, whole) - self.law.log_prob(self.x, self.seen)

    def _carried(self, misfit: Elements) -> Elements:
        return self.gain.apply(times, misfit)


def moved(
    joint: Elements, x: Elements, seen: Seen, gain: Callable[[Elements], Elements]
) -> Elements:
    """Joint draws as draws given what is seen of x: moved by the gain on their misfit to it."""
    return torch.where(seen, x, joint + gain(torch.where(seen, x - joint, 0)))


def places(shape: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
    """An index for each dimension of a shape; together they broadcast to all of its places.

    >>> [index.tolist() for index in places((2, 3), torch.device("cpu"))]
    [[[0], [1]], [0, 1, 2]]
    """
    after = range(len(shape) - 1, -1, -1)
    return tuple(
        torch.arange(n, device=device).reshape(-1, *[1] * k)
        for n, k in zip(shape, after, strict=True)
    )


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Each matrix times its vector."""
    product: Tensor = torch.einsum("...ij,...j->...i", matrices, vectors)
    return product


def _solved(matrix: Tensor, vectors: Tensor, upper: bool = False) -> Tensor:
    """Of triangular matrices; leading dimensions that they lack are columns of one solve."""
    vectors = vectors.expand(torch.broadcast_shapes(vectors.shape, matrix.shape[:-1]))
    extra = vectors.ndim + 1 - matrix.ndim
    columns = vectors.reshape(vectors.shape[:extra].numel(), *vectors.shape[extra:]).movedim(0, -1)
    solved: Tensor = torch.linalg.solve_triangular(matrix, columns, upper=upper)
    return solved.movedim(-1, 0).reshape(vectors.shape)


def _log_density(tril: Tensor, away: Tensor) -> Tensor:
    """Log N(away; 0, L Lᵀ) but for ½ log 2π an element."""
    misfit: Tensor = -0.5 * _solved(tril, away).square().sum(-1)
    return misfit - _log_det(tril)


def _log_det(tril: Tensor) -> Tensor:
    """Log of a triangular matrix's determinant."""
    found: Tensor = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return found


class _Volume(torch.autograd.Function):
    """½ log |Σ| of matrices and their roots.

    Its gradient is half the inverse, which takes half as long as the root's own gradient, made for
    whatever is asked of it. It cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, roots: Tensor) -> Tensor:
        ctx.save_for_backward(roots)
        return _log_det(roots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (roots,) = ctx.saved_tensors
        return torch.cholesky_inverse(roots).mul_(0.5 * grad[..., None, None]), None


class _Misfit(torch.autograd.Function):
    """awayᵀ Σ_seen⁻¹ away, of ``pull`` = Σ_seen⁻¹ away, zero where nothing is seen.

    Its gradient in Σ is -pull pullᵀ whatever is seen, so that no row needs a matrix of its own. It
    cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx: Any, away: Tensor, covariance: Tensor, pull: Tensor) -> Tensor:
        ctx.save_for_backward(covariance, pull)
        ctx.shape = away.shape
        return (away * pull).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        covariance, pull = ctx.saved_tensors
        weighed = pull * grad[..., None]
        rows = pull.shape[: pull.ndim + 1 - covariance.ndim]
        left, right = (x.reshape(rows.numel(), *x.shape[len(rows) :]) for x in (weighed, pull))
        squares = left.movedim(0, -1) @ right.movedim(0, -2)
        return (2 * weighed).sum_to_size(ctx.shape), -squares.sum_to_size(covariance.shape), None

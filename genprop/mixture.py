"""Mixtures of Gaussians, whose marginals, conditionals and posterior means are known."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.by_pattern import places, times
from genprop.distributions import SAMPLE_SHAPE, IndependentNormal, Scale
from genprop.multivariate import JointNormal, JointNormalGiven, moved
from genprop.shapes import Elements, PerRow, Seen

NUMBERS_AT_ONCE = 2**22
Components = IndependentNormal | JointNormal


class MixtureNormal(Distribution):
    r"""P(x) = Σ_k π_k N(x; μ_k, Σ_k).

    Where the weights sum to less than one, as in a part of a larger mixture, ``log_prob`` is the
    log-density of that part; draws, means and conditionals are those of the part as a law.

    Args:
        log_weights: log π_k in nats, ``(…, components)``; -inf leaves a component out.
        components: the Gaussians; their batch ends with the components, what stands before it (as
            before it in ``log_weights``) is a mixture for each row.

    >>> two = IndependentNormal(torch.tensor([[-1.0], [3.0]]), torch.ones(2, 1))
    >>> law = MixtureNormal(torch.tensor([0.5, 0.5]).log(), two)
    >>> law.mean, law.variance
    (tensor([1.]), tensor([5.]))
    >>> law.denoise(torch.tensor([1.0]), 1.0)
    tensor([1.])
    """

    arg_constraints = {}

    def __init__(self, log_weights: Tensor, components: Components) -> None:
        shape = torch.broadcast_shapes(log_weights.shape, components.batch_shape)
        self.log_weights, self.components = log_weights.expand(shape), components
        super().__init__(shape[:-1], components.event_shape, validate_args=False)

    @property
    def weights(self) -> Tensor:
        """The weights π_k, as shares of their sum."""
        return self.log_weights.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return _mixed(self.weights, self.components.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each element."""
        apart = (self.components.mean - self.mean[..., None, :]).square()
        return _mixed(self.weights, self.components.variance + apart)

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Draws ``sample_shape + batch_shape + event_shape``, each of one chosen component."""
        with torch.no_grad():
            return _drawn(self.components, _chosen(self.weights, sample_shape))

    def joint(self, x: Elements, seen: Seen | None = None) -> Tensor:
        """Log π_k + log N(x_seen; μ_k, Σ_k) in nats, ``(…, components)``."""
        mask = None if seen is None else seen[..., None, :]
        joint: Tensor = self.log_weights + self.components.log_prob(x[..., None, :], mask)
        return joint

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(x) in nats; with a mask the marginal log P(x_seen)."""
        if self.batch_shape:
            return self.joint(value, seen).logsumexp(-1)
        numbers = self.log_weights.numel() * value.shape[-1]
        return _in_parts(lambda x, m: self.joint(x, m).logsumexp(-1), value, seen, numbers)

    def smoothed(self, scale: Scale) -> "MixtureNormal":
        """The law of x + scale·ε, ε ~ N(0, I)."""
        return MixtureNormal(self.log_weights, self.components.smoothed(_beside(scale)))

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """The posterior mean E[x | x + scale·ε = y], ε ~ N(0, I)."""
        weights = self.smoothed(scale).joint(y).softmax(-1)
        return _mixed(weights, self.components.denoise(y[..., None, :], _beside(scale)))

    def given(self, x: Elements, seen: Seen) -> "MixtureNormalGiven":
        """The law of the unseen elements of x given the seen ones."""
        return MixtureNormalGiven(self, x, seen)


class MixtureNormalGiven(Distribution):
    """P(unseen | seen) of a mixture: every component given the seen, weighed by how it fits them.

    Args:
        law: the mixture.
        x: the values to hold, ``(…, elements)``.
        seen: True where a value is held, any pattern row by row.
    """

    arg_constraints = {}

    def __init__(self, law: MixtureNormal, x: Elements, seen: Seen) -> None:
        self.law, self.seen = law, seen
        shape = law.batch_shape + law.event_shape
        self.x = x.expand(torch.broadcast_shapes(x.shape, seen.shape, shape))
        self.log_weights = law.joint(self.x, seen).log_softmax(-1)
        self.parts = law.components.given(self.x[..., None, :], seen[..., None, :])
        super().__init__(self.x.shape[:-1], self.x.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The seen values, and E[unseen | seen] elsewhere."""
        mean = _mixed(self.log_weights.exp(), self.parts.mean)
        return torch.where(self.seen, self.x, mean)

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole vectors, each of one chosen component given the seen elements."""
        with torch.no_grad():
            chosen = _chosen(self.log_weights.exp(), sample_shape)
            joint = _drawn(self.law.components, chosen)
            if not isinstance(self.parts, JointNormalGiven):
                return torch.where(self.seen, self.x, joint)
            gain = self.parts.gain.chosen(chosen)
            return moved(joint, self.x, self.seen, partial(gain.apply, times))

    def log_prob(self, value: Elements) -> PerRow:
        """Log P(unseen | seen) in nats."""
        return (self.log_weights + self.parts.log_prob(value[..., None, :])).logsumexp(-1)


def _beside(scale: Scale) -> Scale:
    """A scale that meets every component."""
    return scale[..., None, :] if isinstance(scale, Tensor) and scale.ndim else scale


def _mixed(weights: Tensor, values: Tensor) -> Tensor:
    """Σ_k w_k v_k of ``(…, components, elements)``."""
    return torch.einsum("...k,...ke->...e", weights, values)


def _chosen(weights: Tensor, sample_shape: Sequence[int]) -> Tensor:
    """Components drawn with these probabilities, ``sample_shape + rows``."""
    shape, rows = torch.Size(sample_shape), weights.shape[:-1]
    if not rows:
        # numbers that may belong to rows (``RowNoise``), which multinomial's of one law cannot
        below = weights.double().cumsum(-1)
        u = torch.rand(shape, dtype=torch.double, device=weights.device) * below[-1]
        return torch.searchsorted(below, u).clamp(max=len(weights) - 1)
    # torch.multinomial refuses to draw nothing
    n = max(1, shape.numel())
    index = torch.multinomial(weights.reshape(-1, weights.shape[-1]), n, replacement=True)
    return index.mT[: shape.numel()].reshape(shape + rows)


def _drawn(components: Components, chosen: Tensor) -> Tensor:
    """A draw of the chosen component at every place."""
    loc = _picked(components.loc, chosen)
    if isinstance(components, JointNormal):
        noise = torch.randn(loc.shape, dtype=loc.dtype, device=loc.device)
        return loc + components.roots.chosen(chosen).apply(times, noise)
    return IndependentNormal(loc, _picked(components.scale, chosen)).sample()


def _picked(values: Tensor, chosen: Tensor) -> Tensor:
    """What stands for the chosen component of ``(…, components, elements)``, at every place."""
    before = values.ndim - 2
    if before < 0:
        return values
    rows = chosen.shape[chosen.ndim - before :]
    whole = values.expand(*rows, *values.shape[before:])
    # all components may share one value
    return whole[(*places(rows, chosen.device), chosen.clamp_max(values.shape[before] - 1))]


def _in_parts(
    function: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    seen: Tensor | None,
    numbers: int,
) -> Tensor:
    """A function of rows, by parts of their longest dimension, so that temporaries stay small."""
    parts = -(-x.shape[:-1].numel() * numbers // NUMBERS_AT_ONCE)
    if seen is not None:
        x = x.expand(torch.broadcast_shapes(x.shape, seen.shape))
    if parts < 2 or x.ndim < 2:
        return function(x, seen)
    dim = max(range(x.ndim - 1), key=lambda d: x.shape[d])
    xs = x.chunk(parts, dim)
    masks: Sequence[Tensor | None] = [seen] * len(xs)
    if seen is not None and seen.ndim >= x.ndim - dim and seen.shape[dim - x.ndim] > 1:
        masks = seen.chunk(parts, dim - x.ndim)
    return torch.cat([function(*pair) for pair in zip(xs, masks, strict=True)], dim)

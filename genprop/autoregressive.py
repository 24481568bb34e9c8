"""Zeros and ones each of which depends on those before it."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from genprop.distributions import SAMPLE_SHAPE, Discrete, Scale
from genprop.resampling import picked, resampled
from genprop.shapes import Elements, Outputs, PerRow, Seen

NUMBERS_AT_ONCE = 2**24
PIECE = 2**18  # numbers that a processor's cache holds
CERTAIN = 1e4  # log-odds that no logit outweighs


class AutoregressiveBernoulli(Discrete):
    r"""P(x) = ∏_j P(x_j | x_<j), hidden units reading one element after the other (NADE).

        a_j = sigmoid(c + Σ_{i<j} W_i x_i),    P(x_j = 1 | x_<j) = sigmoid(b_j + V_j · a_j)

    The log-probability of a whole vector takes one pass and a draw takes ``elements`` steps of
    ``units`` numbers; both are exact. What one pass holds at once is bounded: long vectors are
    taken in pieces, which the backward pass computes again.

    What sums over unseen elements (a marginal, a conditional, a posterior mean) runs over all
    their values where these are at most ``particles``, and is exact; else it rests on so many
    draws, weighed by what is known (sequential importance sampling). Such a marginal is in
    expectation a lower bound on the logarithm. Elements behind the last seen one cost nothing.

    ``mode`` takes the more probable value of each element given those already taken, which need
    not be the most probable vector; ``mean`` is the mean-field one, each element's probability
    given the means before it, exact only where W or V is zero, and ``variance`` is m(1 - m) of
    it. ``elements(x)`` is log P(x_j | x_<j).

    Args:
        c: what the hidden units start from, ``(…, units)``.
        b: the log-odds that they add to, ``(…, elements)``.
        W: what they read, ``(elements, units)``, the same for all rows.
        V: what they say, ``(elements, units)``, the same for all rows.
        particles: the most vectors that a sum over unseen elements may look at.

    Raises:
        ValueError: no particle.

    References:
        Larochelle, Murray, 2011, The neural autoregressive distribution estimator.
        Germain, Gregor, Murray, Larochelle, 2015, MADE: masked autoencoder for distribution
        estimation.

    >>> copy = torch.tensor([[2e3], [0.0]]), torch.tensor([[0.0], [60.0]])
    >>> law = AutoregressiveBernoulli(torch.tensor([-1e3]), torch.tensor([0.0, -30.0]), *copy)
    >>> law.log_prob(torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])).exp()
    tensor([5.0000e-01, 5.0000e-01, 4.6788e-14])
    """

    def __init__(self, c: Outputs, b: Elements, W: Tensor, V: Tensor, particles: int = 64) -> None:
        if particles < 1:
            raise ValueError(f"sums over unseen elements need a particle, but got {particles}")
        self.c, self.b, self.W, self.V, self.particles = c, b, W, V, particles
        self._setup(b)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.c, self.b, self.W, self.V

    def with_parameters(self, *parameters: Tensor) -> "AutoregressiveBernoulli":
        c, b, W, V = parameters
        return AutoregressiveBernoulli(c, b, W, V, self.particles)

    @property
    def mean(self) -> Tensor:
        return self.walk(lambda j, logit: logit.sigmoid())

    @property
    def mode(self) -> Tensor:
        return self.walk(lambda j, logit: (logit > 0).to(logit.dtype))

    @property
    def variance(self) -> Tensor:
        mean = self.mean
        return mean * (1 - mean)

    def logits(self, x: Elements) -> Elements:
        """The log-odds of x_j = 1 given x_<j, for every element."""
        batch = torch.broadcast_shapes(x.shape[:-1], self.b.shape[:-1], self.c.shape[:-1])
        length, width = x.shape[-1], max(1, math.prod(batch) * self.c.shape[-1])
        say, size = _said, max(1, PIECE // width)
        if width * length > NUMBERS_AT_ONCE:
            # of n elements √n pieces of √n: the least to keep and to compute again
            say, size = _said_again, max(size, math.isqrt(length))
        read, said = self.c, []
        for own, W, V in zip(
            x.split(size, -1), self.W.split(size), self.V.split(size), strict=True
        ):
            said.append(say(read, own, W, V))
            read = read + own @ W
        return self.b + torch.cat(said, -1)

    def elements(self, x: Elements) -> Elements:
        return _log_probs(self.logits(x), x)

    def total(self, x: Elements) -> PerRow:
        return self.elements(x).sum(-1)

    def draw(self, shape: torch.Size) -> Elements:
        batch = (*shape, *self.batch_shape)
        return self.walk(lambda j, logit: torch.bernoulli(logit.sigmoid().expand(batch)))

    def walk(self, choose: Callable[[int, Tensor], Tensor]) -> Elements:
        """Values chosen one after the other, x_j = choose(j, log-odds of x_j = 1 given x_<j)."""
        read, x = self.c, []
        for j, (W, V) in enumerate(zip(self.W, self.V, strict=True)):
            x.append(choose(j, self.b[..., j] + read.sigmoid() @ V))
            read = read + x[-1][..., None] * W
        return torch.stack(x, -1)

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(x) in nats; with a mask the marginal log P(x_seen), as said above."""
        if seen is None:
            return self.total(value)
        rows = _rows(self, value, seen)
        parts = [
            (index, log_w.logsumexp(0))
            for index, _, log_w in rows.completions(_up_to_last(rows.seen))
        ]
        return _in_order(parts, 0).reshape(rows.shape[:-1])

    def given(self, x: Elements, seen: Seen) -> "AutoregressiveGiven":
        """The law of the unseen elements of x given the seen ones."""
        return AutoregressiveGiven(self, x, seen)

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        """E[x | x + scale·ε = y]; particles are drawn with each element's own y in view."""
        rows = _rows(self, y, torch.zeros_like(y, dtype=torch.bool))
        # an element without noise has infinite log-odds, and none if it lies half-way
        odds = ((y - 0.5) / scale**2).nan_to_num(0.0).clamp(-CERTAIN, CERTAIN)
        odds = odds.expand(rows.shape).reshape_as(rows.x)
        return _mean(rows, odds)

    def entropy(self) -> PerRow:
        """-E log P(x) in nats, by a sum over all x.

        Raises:
            ValueError: these are more than ``particles``.
        """
        elements = self.b.shape[-1]
        if 2**elements > self.particles:
            raise ValueError(
                f"the entropy of {elements} elements that depend on each other is a sum over "
                f"2^{elements} vectors, more than particles={self.particles}; give more particles, "
                f"or estimate it by -law.log_prob(law.sample((1000,))).mean(0)"
            )
        every = _every(elements, self.b)
        log_p = self.total(every.reshape(-1, *[1] * len(self.batch_shape), elements))
        return -(log_p.exp() * log_p).sum(0)


class AutoregressiveGiven(Distribution):
    """P(unseen | seen) of an autoregressive law; the seen elements are held at their values.

    Of a row with more values of its unseen elements than the law has particles, a draw is one of
    the particles, picked by its weight: an approximation that gets better with their number.

    Args:
        law: the autoregressive law.
        x: the values, ``(…, elements)``; what it holds in unseen places is not used.
        seen: True where a value is held, any pattern row by row.

    References:
        Rubin, 1988, Using the SIR algorithm to simulate posterior distributions.
    """

    arg_constraints = {}

    def __init__(self, law: AutoregressiveBernoulli, x: Elements, seen: Seen) -> None:
        self.law, self.x, self.seen = law, x, seen
        self._rows = _rows(law, x, seen)
        super().__init__(self._rows.shape[:-1], self._rows.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The seen values, and E[unseen | seen] elsewhere."""
        return _mean(self._rows)

    @property
    def mode(self) -> Tensor:
        """The seen values, and of every other element its own more probable value."""
        return torch.where(self.seen, self.x, (self.mean > 0.5).to(self.x.dtype))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole vectors, the seen elements as they are."""
        counted = _up_to_last(self._rows.seen)
        number = math.prod(sample_shape)
        parts = [
            (
                index,
                self._continued(index, counted[index], picked(values, resampled(log_w, number))),
            )
            for index, values, log_w in self._rows.completions(counted)
        ]
        return _in_order(parts, 1).reshape(*sample_shape, *self._rows.shape)

    def log_prob(self, value: Elements) -> PerRow:
        """Log P(unseen | seen) in nats."""
        return self.law.log_prob(value) - self.law.log_prob(value, self.seen)

    def _continued(self, index: Tensor, known: Tensor, x: Tensor) -> Tensor:
        """Draws of what comes after the known elements, which are as far as all depends on."""
        return self._rows.take(index).draw(x, known, torch.zeros_like(x))


class _Rows(NamedTuple):
    """A law with as many rows as the values and masks; all of them ``(rows, …)``."""

    law: AutoregressiveBernoulli
    x: Tensor
    seen: Tensor
    shape: torch.Size

    def take(self, index: Tensor) -> "_Rows":
        law = self.law
        law = law.with_parameters(law.c[index], law.b[index], law.W, law.V)
        return self._replace(law=law, x=self.x[index], seen=self.seen[index])

    def completions(
        self, counted: Tensor, odds: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows' numbers, vectors with the unseen filled in, and the logs of their weights.

        The weights of a row, ``(vectors, rows)``, sum to Σ_x P(x) ∏_j exp(odds_j x_j) over the
        counted elements with the seen ones as they are, but for a factor that odds bring in.
        """
        odds = torch.zeros_like(self.x) if odds is None else odds
        unknown = counted & ~self.seen
        few = int(math.log2(self.law.particles))
        free = unknown.sum(-1).clamp_max(few + 1)
        for n in free.unique().tolist():
            vectors = 2**n if n <= few else self.law.particles
            at_once = max(1, NUMBERS_AT_ONCE // (vectors * self.x.shape[-1]))
            for index in (free == n).nonzero()[:, 0].split(at_once):
                rows, own = self.take(index), unknown[index]
                values = rows.listed(own, n) if n <= few else rows.drawn(own, odds[index])
                yield (
                    index,
                    values,
                    rows.weighed(values, counted[index], own, odds[index], n <= few),
                )

    def listed(self, unknown: Tensor, n: int) -> Tensor:
        """All values of the n unknown elements of each row."""
        every = _every(n, self.x)
        values = torch.where(self.seen, self.x, 0).expand(len(every), *self.x.shape)
        return values.masked_scatter(
            unknown.expand_as(values), every[:, None].expand(-1, len(self.x), -1)
        )

    @torch.no_grad()
    def drawn(self, unknown: Tensor, odds: Tensor) -> Tensor:
        """Draws of the unknown elements, each with its own odds in view."""
        values = torch.where(self.seen, self.x, 0).expand(self.law.particles, *self.x.shape)
        return self.draw(values, ~unknown, odds)

    def draw(self, x: Tensor, known: Tensor, odds: Tensor) -> Tensor:
        """Draws of what is not known, from P(x_j | x_<j) exp(odds_j x_j)."""

        def choose(j: int, logit: Tensor) -> Tensor:
            p = (logit + odds[..., j]).sigmoid().expand(x.shape[:-1])
            return torch.where(known[..., j], x[..., j], torch.bernoulli(p))

        return self.law.walk(choose)

    def weighed(
        self, values: Tensor, counted: Tensor, unknown: Tensor, odds: Tensor, every: bool
    ) -> Tensor:
        """The logs of the vectors' weights, differentiable as log P(x_seen) is.

        A draw is held constant, and so is its own probability: the gradient of the weights' sum
        is then that of Σ_x P(x), by Fisher's identity.
        """
        logits = self.law.logits(values)
        # the odds that a value forgoes
        against = torch.where((values > 0.5) == (odds > 0), 0, odds.abs())
        log_w = torch.where(counted, _log_probs(logits, values) - against, 0).sum(-1)
        if every:
            return log_w
        log_q = torch.where(unknown, _log_probs(logits.detach() + odds, values.detach()), 0).sum(-1)
        return log_w - log_q - math.log(len(values))


def _rows(law: AutoregressiveBernoulli, x: Tensor, seen: Tensor) -> _Rows:
    shape = torch.broadcast_shapes(x.shape, seen.shape, law.b.shape)
    c = law.c.expand(*shape[:-1], -1).reshape(-1, law.c.shape[-1])
    b, x, seen = (v.expand(shape).reshape(-1, shape[-1]) for v in (law.b, x, seen))
    return _Rows(law.with_parameters(c, b, law.W, law.V), x, seen, shape)


def _mean(rows: _Rows, odds: Tensor | None = None) -> Tensor:
    """The weighted mean of the completions of each row."""
    parts = [
        (index, (log_w.softmax(0)[..., None] * values).sum(0))
        for index, values, log_w in rows.completions(torch.ones_like(rows.seen), odds)
    ]
    return _in_order(parts, 0).reshape(rows.shape)


def _up_to_last(seen: Tensor) -> Tensor:
    """True up to the last seen element: what comes after it does not tell of the others."""
    return seen.flip(-1).cumsum(-1).flip(-1) > 0


def _in_order(parts: Sequence[tuple[Tensor, Tensor]], dim: int) -> Tensor:
    """Pieces of rows along a dimension, put in the order of the rows' numbers."""
    order = torch.cat([index for index, _ in parts]).argsort()
    return torch.cat([values for _, values in parts], dim).index_select(dim, order)


def _every(n: int, like: Tensor) -> Tensor:
    """All vectors of n zeros and ones, ``(2^n, n)``."""
    numbers = torch.arange(2**n, device=like.device)[:, None]
    return (numbers >> torch.arange(n, device=like.device) & 1).to(like.dtype)


def _log_probs(logits: Tensor, x: Tensor) -> Tensor:
    logits, x = torch.broadcast_tensors(logits, x)
    return -functional.binary_cross_entropy_with_logits(logits, x, reduction="none")


def _said(read: Tensor, x: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """V_j · sigmoid(read + Σ_{i<j} W_i x_i) for every element of a piece."""
    before = functional.pad((x[..., :-1, None] * W[:-1]).cumsum(-2), (0, 0, 1, 0))
    return ((read[..., None, :] + before).sigmoid() * V).sum(-1)


def _said_again(read: Tensor, x: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """The same, computed a second time in the backward pass rather than kept for it."""
    said: Tensor = checkpoint(_said, read, x, W, V, use_reentrant=False, preserve_rng_state=False)
    return said

"""The Parzen prior, kernels at the codes of training rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.conditional import LOG_SCALE_LIMIT
from genprop.distributions import HALF_LOG_2PI, SAMPLE_SHAPE, IndependentNormal, Scale
from genprop.mixture import MixtureNormal
from genprop.prior import FollowingPrior, LawPrior
from genprop.resampling import evenly
from genprop.shapes import Elements, PerRow, Seen

NUMBERS_AT_ONCE = 2**20
VISITED, PAIRS = (256, 500), 2**20
STEPS, TOLERANCE = 100, 5e-3


class ParzenPrior(LawPrior, FollowingPrior):
    r"""P(h) = (1/n) Σ_i N(h; m + a∘(h_i - m), diag(s²)), the h_i codes of training rows.

    Nothing is learned by gradient: training hands over the codes anew before every epoch. m is
    their mean; s and a, a between 0 and 1, are those under which each code is most probable given
    the others. With a = 1 kernels lie at the codes, and the density is broader than these are, by
    s². Drawing the kernels towards the mean undoes that, and a = 0 leaves a single Gaussian, so
    that dimensions in which the codes have no structure are not held to be rugged.

    A log-density sums over the kernels nearest to h only, if there are more, and so is never above
    the truth; ``truncation_bound`` says by how much it may be below. Draws, conditionals and
    reconstructions are those of all kernels.

    In training mode ``loss`` leaves out the one kernel nearest to each h, as a rule that of its own
    row, which would reward codes for lying where they lie. What is left is still an upper bound on
    -log P(h). Training mode begins with ``model.train()``, not with the making of the prior.

    Args:
        elements: the size of a code.
        bank: how many codes are kept; of more rows, so many evenly spread over them.
        nearest: how many kernels a log-density sums over; with as many as codes it is exact.
        shrink: whether a is found too; without it a = 1, the estimate of the textbooks.

    Raises:
        ValueError: one of these is not positive.

    References:
        Parzen, 1962, On estimation of a probability density function and mode. Duin, 1976, On the
        choice of smoothing parameters for Parzen estimators of probability density functions.
        Fukunaga, Hostetler, 1975, The estimation of the gradient of a density function. West, 1993,
        Approximating posterior distributions by mixtures (shrunk kernels).

    >>> prior = ParzenPrior(1, bank=2)
    >>> prior.refit(torch.tensor([[-1.0], [1.0]]))
    >>> prior.scale, prior.law.mean
    (tensor([1.]), tensor([0.]))
    """

    discrete = False
    centres: Tensor
    log_weights: Tensor
    scale: Tensor
    share: Tensor

    def __init__(
        self, elements: int, bank: int = 4096, nearest: int = 4096, shrink: bool = True
    ) -> None:
        super().__init__()
        if min(elements, bank, nearest) < 1:
            raise ValueError(
                f"a ParzenPrior needs positive sizes, but got elements={elements}, bank={bank}, "
                f"nearest={nearest}"
            )
        self.elements, self.bank = elements, bank
        self.nearest, self.shrink = nearest, shrink
        # one kernel, N(0, I), until there are codes
        log_weights = torch.full((bank,), -math.inf)
        log_weights[0] = 0
        self.register_buffer("centres", torch.zeros(bank, elements))
        self.register_buffer("log_weights", log_weights)
        self.register_buffer("scale", torch.ones(elements))
        self.register_buffer("share", torch.ones(elements))
        # what is read from a file is for use; training says itself when it begins
        self.eval()

    @property
    def law(self) -> MixtureNormal:
        """The mixture of all kernels as a distribution."""
        return MixtureNormal(self.log_weights, IndependentNormal(self.centres, self.scale))

    def log_prob(self, h: Elements, seen: Seen | None = None) -> PerRow:
        return self._over_rows(self._log_density, h, seen)

    def loss(self, h: Elements, seen: Seen | None = None) -> PerRow:
        if not self.training:
            return -self.log_prob(h, seen)
        return -self._over_rows(partial(self._log_density, but_one=True), h, seen)

    def truncation_bound(self, h: Elements, seen: Seen | None = None) -> PerRow:
        r"""The most by which log P(h_seen) may be above ``log_prob``, in nats.

        With distances d_1 ≤ d_2 ≤ … to the n kernels, in units of s, and k of them summed over::

            log(1 + (n - k)·exp(-d_k²/2) / Σ_{i≤k} exp(-d_i²/2))
        """
        others = (self._used - self.nearest).clamp_min(0)

        def bound(y: Tensor, m: Tensor | None) -> Tensor:
            joint = self._near(y, m).joint(y, m)
            return torch.log1p(others * (joint.amin(-1) - joint.logsumexp(-1)).exp())

        return self._over_rows(bound, h, seen)

    def reconstruct(self, h: Elements, scale: Scale) -> Elements:
        """E[h' | h' + scale·ε = h]: a step of the mean shift, over all kernels."""

        def shifted(y: Tensor, variance: Tensor) -> Tensor:
            kernel = self.mean_kernel(y, 1 / variance)
            return kernel + self.scale.square() / variance * (y - kernel)

        return by_rows(shifted, self.bank, h, self.scale.square() + scale**2)

    def condition(self, h: Elements, seen: Seen) -> "ParzenGiven":
        return ParzenGiven(self, h, seen)

    def follow(self, codes: Elements) -> None:
        self._take(codes, Kernels(self.scale, self.share) if self._used > 1 else None)

    def refit(self, codes: Elements) -> None:
        """Puts the kernels where the codes are and finds their scale.

        Raises:
            ValueError: there is no code.
        """
        self._take(codes, None)

    def precision(self, seen: Seen) -> Elements:
        """1 / s² of what is seen, zero elsewhere."""
        return torch.where(seen, self.scale.square().reciprocal(), 0)

    def log_shares(self, y: Elements, precision: Elements) -> Tensor:
        """Log-weights of all kernels given y with these precisions, up to a number a row."""
        with torch.autocast(self.scale.device.type, enabled=False):
            centre, centres = self._centre.to(y), self.centres.to(y)
            kernels = _log_kernels(y - centre, precision, centres - centre)
            return self.log_weights.to(y) + kernels

    def mean_kernel(self, y: Elements, precision: Elements) -> Elements:
        """The mean of the kernels' centres given y with these precisions."""
        with torch.autocast(self.scale.device.type, enabled=False):
            mean: Tensor = self.log_shares(y, precision).softmax(-1) @ self.centres
            return mean

    @property
    def _centre(self) -> Tensor:
        """The mean of all kernels' centres."""
        return self.log_weights.exp() @ self.centres

    @property
    def _used(self) -> Tensor:
        return self.log_weights.isfinite().sum()

    def _over_rows(
        self, function: Callable[[Tensor, Tensor | None], Tensor], h: Tensor, seen: Tensor | None
    ) -> Tensor:
        """One number a row, zero where nothing is seen of it."""
        few = self.nearest < self.bank
        numbers = max(self.bank, self.nearest * self.elements) if few else self.bank
        if seen is None:
            return by_rows(lambda y: function(y, None), numbers, h)

        def masked(y: Tensor, m: Tensor) -> Tensor:
            return torch.where(m.any(-1), function(torch.where(m, y, 0), m), 0)

        return by_rows(masked, numbers, h, seen)

    def _log_density(self, y: Tensor, seen: Tensor | None, but_one: bool = False) -> Tensor:
        """Over the nearest kernels; over all by matrix products, which is quicker than a choice."""
        if self.nearest < self._used:
            return self._near(y, seen, but_one).log_prob(y, seen)
        seen = torch.ones_like(y, dtype=torch.bool) if seen is None else seen
        # differences of large squares; Apple's devices know no double
        exact = y if y.device.type == "mps" else y.double()
        precision = self.precision(seen).to(exact)
        with torch.autocast(y.device.type, enabled=False):
            shares = self.log_shares(exact, precision)
            if but_one and self._used > 1:
                own = torch.zeros_like(shares).scatter(-1, shares.argmax(-1, keepdim=True), 1)
                shares = shares.masked_fill(own.bool(), -math.inf)
            away = precision * (exact - self._centre.to(exact)).square()
            scales = torch.where(seen, self.scale.log() + HALF_LOG_2PI, 0)
            return (shares.logsumexp(-1) - (0.5 * away + scales).sum(-1)).to(y)

    def _near(self, y: Tensor, seen: Tensor | None, but_one: bool = False) -> MixtureNormal:
        """For each row the part of the mixture that is nearest to it, but the very nearest."""
        index = self._nearest(y, seen, self.nearest + but_one)
        log_weights = self.log_weights[index]
        if but_one:
            own = torch.arange(index.shape[-1], device=y.device) == 0
            log_weights = log_weights.masked_fill(own & (self._used > 1), -math.inf)
        return MixtureNormal(log_weights, IndependentNormal(self.centres[index], self.scale))

    @torch.no_grad()
    def _nearest(self, y: Tensor, seen: Tensor | None, count: int) -> Tensor:
        """Which kernels are nearest to what is seen, the nearest first, ``(rows, count)``."""
        precision = self.scale.square().reciprocal() if seen is None else self.precision(seen)
        return self.log_shares(y, precision).topk(min(count, self.bank)).indices

    @torch.no_grad()
    def _take(self, codes: Tensor, start: "Kernels | None") -> None:
        if not len(codes):
            raise ValueError("a ParzenPrior puts its kernels at codes, but got none; give rows")
        kept = codes[evenly(len(codes), self.bank, codes.device)]
        kernels, mean = bandwidth(kept, start, self.shrink), kept.mean(0)
        self.centres.zero_()[: len(kept)] = mean + kernels.share * (kept - mean)
        self.log_weights.fill_(-math.inf)[: len(kept)] = -math.log(len(kept))
        self.scale.copy_(kernels.scale)
        self.share.copy_(kernels.share)


class ParzenGiven(Distribution):
    """P(unseen | seen) under a Parzen prior: all its kernels, weighed by how they fit the seen.

    Args:
        prior: the kernels.
        h: the values to hold, ``(…, elements)``.
        seen: True where a value is held, any pattern row by row.
    """

    arg_constraints = {}

    def __init__(self, prior: ParzenPrior, h: Elements, seen: Seen) -> None:
        self.prior = prior
        self.h, self.seen = torch.broadcast_tensors(h, seen)
        super().__init__(self.h.shape[:-1], self.h.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The seen values, and E[unseen | seen] elsewhere."""

        def mean(y: Tensor, m: Tensor) -> Tensor:
            kernel = self.prior.mean_kernel(torch.where(m, y, 0), self.prior.precision(m))
            return torch.where(m, y, kernel)

        return by_rows(mean, self.prior.bank, self.h, self.seen)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole vectors: a kernel chosen by its weight, and a draw of it."""
        shape = torch.Size(sample_shape)

        def drawn(y: Tensor, m: Tensor) -> Tensor:
            shares = self.prior.log_shares(torch.where(m, y, 0), self.prior.precision(m))
            law = MixtureNormal(shares, self.prior.law.components)
            return torch.where(m, y, law.sample((shape.numel(),))).movedim(0, 1)

        draws = by_rows(drawn, self.prior.bank, self.h, self.seen).movedim(-2, 0)
        return draws.reshape(*shape, *self.h.shape)

    def log_prob(self, value: Elements) -> PerRow:
        """Log P(unseen | seen) in nats, as far as the prior's log-densities are exact."""
        return self.prior.log_prob(value) - self.prior.log_prob(value, self.seen)


def by_rows(function: Callable[..., Tensor], numbers: int, *tensors: Tensor) -> Tensor:
    """What a function makes of rows of several tensors, part by part.

    Args:
        function: of tensors ``(rows, elements)``; gives rows too.
        numbers: how many it needs room for with each row.
        tensors: ``(…, elements)``, which broadcast.
    """
    whole = torch.broadcast_tensors(*tensors)
    rows, elements = whole[0].shape[:-1], whole[0].shape[-1]
    flat = [t.reshape(rows.numel(), elements) for t in whole]
    at_once = max(1, NUMBERS_AT_ONCE // numbers)
    parts = zip(*(t.split(at_once) for t in flat), strict=True)
    if torch.is_grad_enabled() and any(t.requires_grad for t in flat):
        made = torch.cat([function(*part) for part in parts])
    else:
        made = _gathered((function(*part) for part in parts), rows.numel())
    return made.reshape(rows + made.shape[1:])


def _gathered(parts: Iterator[Tensor], rows: int) -> Tensor:
    """The parts in one tensor, made first: small ones kept among large temporaries cost memory."""
    first = next(parts)
    made, done = first.new_empty(rows, *first.shape[1:]), len(first)
    made[:done] = first
    for part in parts:
        made[done : done + len(part)] = part
        done += len(part)
    return made


class Kernels(NamedTuple):
    """The kernels' scale s, and the share a of a code's way from the mean at which each lies."""

    scale: Tensor
    share: Tensor


@torch.no_grad()
def bandwidth(codes: Elements, start: Kernels | None = None, shrink: bool = False) -> Kernels:
    """The kernels under which each code is most probable given the others.

    They are found by EM, whose steps for the scale are stretched as long as they lead upward.

    Args:
        codes: ``(codes, elements)``.
        start: from which the search goes on; a rule of thumb (Scott, 1992) unless given.
        shrink: whether a share is found too; without it that is 1.

    References:
        Salakhutdinov, Roweis, 2003, Adaptive overrelaxed bound optimization methods.

    >>> bandwidth(torch.tensor([[0.0], [3.0]])).scale
    tensor([3.])
    """
    if len(codes) < 2:
        return Kernels(torch.ones_like(codes[0]), torch.ones_like(codes[0]))
    # differences of large squares; Apple's devices know no double
    exact = codes if codes.device.type == "mps" else codes.double()
    exact = exact - exact.mean(0)
    spread = exact.std(0, correction=0)
    # equal codes must not make it zero; no family's scale is less than exp(-6) either
    floor = (1e-3 * spread).clamp_min(math.exp(-LOG_SCALE_LIMIT))
    scott = spread * len(codes) ** (-1 / (codes.shape[-1] + 4))
    now = Kernels(scott, torch.ones_like(scott)) if start is None else start
    now = safe = Kernels(torch.maximum(now.scale.to(exact), floor), now.share.to(exact))
    best, reach = -math.inf, 1.0
    for _ in range(STEPS):
        step, value = improved(exact, now, shrink)
        if value < best:  # the last step was stretched too far
            now, best, reach = safe, -math.inf, 1.0
            continue
        safe, best = Kernels(torch.maximum(step.scale, floor), step.share), value.item()
        change = safe.scale / now.scale
        moved = torch.maximum(change.log().abs(), (safe.share - now.share).abs())
        if moved.max() < TOLERANCE:
            break
        now = Kernels(torch.maximum(now.scale * change**reach, floor), safe.share)
        reach *= 1.5
    return Kernels(safe.scale.to(codes), safe.share.to(codes))


def improved(codes: Elements, kernels: Kernels, shrink: bool = False) -> tuple[Kernels, Tensor]:
    r"""A step of EM, and the mean log P(h_i | the other codes) that it starts from.

    The step never lowers that mean. With r_ij ∝ N(h_i; a∘h_j, diag(s²)), j ≠ i, of codes about
    their mean::

        a_d ← Σ_ij r_ij h_id h_jd / Σ_ij r_ij h_jd²,    within 0 and 1
        s_d² ← (1/n) Σ_ij r_ij (h_id - a_d h_jd)²

    Of more than 500 codes only some i are visited, evenly spread: 500, or so many that there are
    2²⁰ pairs, but no fewer than 256.

    >>> improved(torch.tensor([[0.0], [3.0]]), Kernels(torch.ones(1), torch.ones(1)))[0].scale
    tensor([3.])
    """
    scale, share = kernels
    precision = scale.square().reciprocal()
    moments = torch.cat([codes, codes.square()], -1)
    fewest, most = VISITED
    visited = evenly(len(codes), min(most, max(fewest, PAIRS // len(codes))), codes.device)
    own, cross, other = torch.zeros_like(scale), torch.zeros_like(scale), torch.zeros_like(scale)
    total = codes.new_zeros(())
    for rows in visited.split(max(1, NUMBERS_AT_ONCE // len(codes))):
        y = codes[rows]
        joint = _log_kernels(y, precision, share * codes)
        joint[torch.arange(len(rows), device=codes.device), rows] = -math.inf
        log_sum = joint.logsumexp(-1, keepdim=True)
        first, second = ((joint - log_sum).exp() @ moments).chunk(2, -1)
        own, cross = own + y.square().sum(0), cross + (y * first).sum(0)
        other = other + second.sum(0)
        total += log_sum.sum() - 0.5 * (precision * y.square()).sum()
    if shrink:
        share = torch.where(other > 0, cross / other, 1).clamp(0, 1)
    squares = (own - 2 * share * cross + share.square() * other) / len(visited)
    volume = scale.log().sum() + HALF_LOG_2PI * len(scale) + math.log(len(codes) - 1)
    return Kernels(squares.clamp_min(0).sqrt(), share), total / len(visited) - volume


def _log_kernels(y: Tensor, precision: Tensor, kernels: Tensor) -> Tensor:
    """-½ Σ_d precision_d (y_d - kernel_d)², but for its part without the kernel, by products."""
    across = (precision * y) @ kernels.mT
    return across - 0.5 * (precision @ kernels.square().mT)

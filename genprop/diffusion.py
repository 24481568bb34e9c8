"""Gaussian diffusion: noise levels and their draws, the flow that undoes noise, and its reversal.

A level λ is a log signal-to-noise ratio. At level λ a value h is seen as z = α h + σ ε with
α² = sigmoid(λ), σ² = sigmoid(-λ) and ε ~ N(0, I).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

LOWEST, HIGHEST = -8.0, 10.0
CENTRE, SPREAD = 2.0, 2.0
BEND = 3.0
BINS = 64
KINDS = ("fixed", "learned")
MEMORY, FLOOR = 0.99, 0.2

Rate = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def mixing(level: Tensor) -> tuple[Tensor, Tensor]:
    """The weights α of the value and σ of the noise, α² + σ² = 1.

    >>> mixing(torch.tensor(0.0))
    (tensor(0.7071), tensor(0.7071))
    """
    return level.sigmoid().sqrt(), (-level).sigmoid().sqrt()


def angle(level: Tensor) -> Tensor:
    """φ with α = cos φ and σ = sin φ, from π/2 (noise alone) to 0 (no noise).

    >>> angle(torch.tensor(0.0)) / math.pi
    tensor(0.2500)
    """
    return torch.atan(torch.exp(-0.5 * level))


def levels_between(count: int) -> Tensor:
    """Levels from -8 to 10, close together about 0: equal shares of a logistic law of scale 3.

    >>> levels_between(3)
    tensor([-8.0000,  0.1832, 10.0000], dtype=torch.float64)
    """
    shares = torch.linspace(_share(LOWEST), _share(HIGHEST), count, dtype=torch.float64)
    return BEND * torch.logit(shares)


class Levels(nn.Module):
    r"""Draws levels λ of few that stand for all: ∫ f(λ) dλ = E[f(λ) / p(λ)].

    p is a histogram between -8 and 10. The quantiles that are drawn are stratified, one in each
    n-th part for n rows, in random order; of several levels for a row, each is of another part of
    the histogram too. So the weights are unbiased for each row, and vary little over all.

    Args:
        kind: ``"fixed"`` (the masses of a logistic law about 2 of scale 2) or ``"learned"`` (in
            proportion to the root mean square of the integrand, as ``follow`` was told of it, with
            a fifth left to the logistic law).

    Raises:
        ValueError: another kind.

    References:
        Kingma, Salimans, Poole, Ho, 2021, Variational diffusion models (arXiv 2107.00630), whose
        low-discrepancy sampler this is. Nichol, Dhariwal, 2021, Improved denoising diffusion
        probabilistic models (importance sampling of levels).

    >>> level, weight = Levels().draw(rows=5, each=3)
    >>> level.shape, weight.shape
    (torch.Size([3, 5]), torch.Size([3, 5]))
    """

    def __init__(self, kind: str = "fixed") -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"levels must be {' or '.join(KINDS)}, but is {kind!r}")
        self.kind = kind
        edges = torch.linspace(LOWEST, HIGHEST, BINS + 1)
        shares = torch.sigmoid((edges - CENTRE) / SPREAD).diff()
        self.register_buffer("logistic", shares / shares.sum())
        self.register_buffer("squares", torch.zeros(BINS))

    @property
    def mass(self) -> Tensor:
        """The probability of each bin, ``(64,)``."""
        logistic, size = self.get_buffer("logistic"), self.get_buffer("squares").sqrt()
        total = size.sum()
        learned = FLOOR * logistic + (1 - FLOOR) * size / total.clamp_min(1e-30)
        return torch.where(total > 0, learned, logistic)

    def draw(self, rows: int, each: int = 1) -> tuple[Tensor, Tensor]:
        """Levels and their weights 1 / p(λ), ``(each, rows)``."""
        mass = self.mass
        below = mass.cumsum(0) - mass
        share = self._shares(rows, each)
        bin_ = (torch.searchsorted(below, share, right=True) - 1).clamp(0, BINS - 1)
        within = ((share - below[bin_]) / mass[bin_]).clamp(0, 1)
        width = (HIGHEST - LOWEST) / BINS
        return LOWEST + width * (bin_ + within), width / mass[bin_]

    @torch.no_grad()
    def follow(self, level: Tensor, integrand: Tensor) -> None:
        """Takes note of the integrand's values at some levels; of use to ``"learned"`` only."""
        if self.kind == "fixed":
            return
        squares = self.get_buffer("squares")
        bin_ = ((level - LOWEST) * (BINS / (HIGHEST - LOWEST))).long().clamp(0, BINS - 1).flatten()
        sums = torch.zeros_like(squares).index_add(0, bin_, integrand.flatten().square())
        counts = torch.zeros_like(squares).index_add(0, bin_, torch.ones_like(level).flatten())
        seen = MEMORY * squares + (1 - MEMORY) * sums / counts.clamp_min(1)
        squares.copy_(torch.where(counts > 0, seen, squares))

    def _shares(self, rows: int, each: int) -> Tensor:
        like = self.get_buffer("logistic")
        order = torch.rand(each, rows, dtype=like.dtype, device=like.device).argsort(-1)
        shift = torch.rand(each, 1, dtype=like.dtype, device=like.device)
        part = torch.arange(each, device=like.device)[:, None]
        return (part + (order + shift) / rows) / each


def flow(rate: Rate, z: Tensor, steps: int, up: bool) -> tuple[Tensor, ...]:
    r"""Follows dz/dφ = u(z, λ) over all noise angles by the classical Runge-Kutta method.

    Steps are those of ``levels_between``.

    Args:
        rate: (z, λ) -> (u, and what else is to be integrated over φ along the path).
        z: where the path starts.
        steps: each asks for the rate four times.
        up: from the least noise to the most, or the other way.

    Returns:
        Where z ends, and the other integrals.

    >>> one, count = flow(lambda z, level: (z, torch.ones(())), torch.ones(()), steps=8, up=True)
    >>> span = angle(torch.tensor(-8.0)) - angle(torch.tensor(10.0))
    >>> (one.log() / span).round(decimals=2), (count / span).round(decimals=2)
    (tensor(1.), tensor(1.))
    """
    levels = levels_between(2 * steps + 1)
    levels = levels.flip(0) if up else levels
    alpha, sigma = mixing(levels)
    # dφ = -½ α σ dλ
    speed = ((0.5 if up else -0.5) * alpha * sigma * _width(levels) / steps).tolist()
    levels = levels.to(z)
    totals: tuple[Tensor, ...] = ()
    for at in range(0, 2 * steps, 2):
        moves = _runge_kutta(rate, z, levels[at : at + 3], speed[at : at + 3])
        z = z + moves[0]
        totals = tuple(map(torch.add, totals, moves[1:])) if totals else moves[1:]
    return z, *totals


def _runge_kutta(rate: Rate, z: Tensor, level: Tensor, speed: list[float]) -> tuple[Tensor, ...]:
    """What a step adds to z and to the other integrals."""
    start, middle, end = speed
    one = rate(z, level[0])
    two = rate(z + 0.5 * start * one[0], level[1])
    three = rate(z + 0.5 * middle * two[0], level[1])
    four = rate(z + middle * three[0], level[2])
    return tuple(
        (start * a + 2 * middle * (b + c) + end * d) / 6
        for a, b, c, d in zip(one, two, three, four, strict=True)
    )


def reverse(rate: Rate, z: Tensor, steps: int) -> Tensor:
    r"""Undoes the noise of z step by step at random, from the lowest level to no noise at all.

    A step from λ to λ' is z' = ρ z - (α'² - α²)/(σ α') u + √(1 - ρ²) ε with ρ = α/α', which is
    exact for N(0, I), where u = 0. The last, from the highest level, leaves u out.

    Args:
        rate: (z, λ) -> (u, …).
        z: noise.
        steps: the net is asked once in each.

    References:
        Ho, Jain, Abbeel, 2020, Denoising diffusion probabilistic models (arXiv 2006.11239).
    """
    levels = levels_between(steps + 1)
    alpha, sigma = mixing(levels)
    for at in range(steps):
        low, high = alpha[at], alpha[at + 1]
        pull = ((high**2 - low**2) / (sigma[at] * high)).item()
        moved = (low / high).item() * z - pull * rate(z, levels[at].to(z))[0]
        z = moved + (1 - (low / high) ** 2).sqrt().item() * torch.randn_like(z)
    return alpha[-1].item() * z + sigma[-1].item() * torch.randn_like(z)


def _share(level: float) -> float:
    """The distribution function of the logistic law of ``levels_between``."""
    return 1 / (1 + math.exp(-level / BEND))


def _width(level: Tensor) -> Tensor:
    """The slope of levels in the share, from -8 to 10, that lies below them."""
    below = torch.sigmoid(level / BEND)
    return BEND * (_share(HIGHEST) - _share(LOWEST)) / (below * (1 - below))

"""How far draws of Markov chains can be trusted, many series at once, by Vehtari et al. 2021."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
FEWEST = 4  # draws of a chain: two in each of its halves
BLOCK = 2**21  # numbers worked on at a time, which bounds the memory
TAILS = (0.05, 0.95)


@dataclass(frozen=True)
class Convergence:
    """Statistics of series of draws, all arrays of one shape.

    Of a series that never moves they are NaN (there is nothing to judge), of one that is not
    finite, or whose chains each stand still elsewhere, R-hat and MCSE are infinite and ESS 0.

    Attributes:
        mean: over all draws.
        sd: standard deviation over all draws.
        mcse: Monte Carlo standard error of the mean.
        rhat: rank-normalised split R-hat, the larger of location's and scale's; 1 is agreement.
        ess_bulk: effective draws of the rank-normalised series.
        ess_tail: the lesser of the effective draws for the 5 % and the 95 % quantile.
    """

    mean: Numbers
    sd: Numbers
    mcse: Numbers
    rhat: Numbers
    ess_bulk: Numbers
    ess_tail: Numbers


def convergence(draws: NDArray[np.floating]) -> Convergence:
    """The statistics of series ``(chain, draw, …)``, each an array of the shape behind the draws.

    Args:
        draws: at least four of each chain; one chain is compared with its own halves.

    Raises:
        ValueError: fewer draws, or no dimension of chains.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner, 2021, Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC.

    >>> draws = np.random.default_rng(0).normal(size=(4, 500, 3))
    >>> bool((convergence(draws).rhat < 1.01).all())
    True
    """
    _check(draws)
    chains, length, *shape = draws.shape
    series = draws.reshape(chains, length, -1)
    parts = [_convergence(block) for block in _blocks(series)]
    return Convergence(
        *(
            np.concatenate([getattr(part, field.name) for part in parts]).reshape(shape)
            for field in fields(Convergence)
        )
    )


def _blocks(series: NDArray[np.floating]) -> Iterator[Numbers]:
    """Some series at a time, ``(series, chain, draw)``."""
    width = max(1, BLOCK // (series.shape[0] * series.shape[1]))
    for start in range(0, series.shape[2], width):
        block = np.moveaxis(series[:, :, start : start + width], 2, 0)
        yield np.ascontiguousarray(block, dtype=np.float64)


def _convergence(x: Numbers) -> Convergence:
    finite = np.isfinite(np.abs(x).max((1, 2)))
    x = np.where(finite[:, None, None], x, 0)
    moves = np.ptp(x, axis=2).max(1) > 0
    apart = np.ptp(x[:, :, 0], axis=1) > 0
    broken = ~finite | (~moves & apart)
    still = ~moves & ~broken
    mean, sd = x.mean((1, 2)), x.std((1, 2), ddof=1)
    halves = _halves(x)
    scores = _normal_scores(halves)
    folded = _normal_scores(np.abs(halves - np.median(halves, (1, 2), keepdims=True)))
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = np.fmax(_rhat(scores), _rhat(folded))
        mcse = sd / np.sqrt(_ess(halves))
        bulk, tail = _ess(scores), _ess_tail(x)

    def judged(values: Numbers, at_worst: float) -> Numbers:
        return np.where(broken, at_worst, np.where(still, np.nan, values))

    return Convergence(
        mean=np.where(finite, mean, np.nan),
        sd=np.where(finite, sd, np.nan),
        mcse=judged(mcse, np.inf),
        rhat=judged(rhat, np.inf),
        ess_bulk=judged(bulk, 0.0),
        ess_tail=judged(tail, 0.0),
    )


def _halves(x: Numbers) -> Numbers:
    """Each chain's first and second half as chains of their own; a middle draw is left out."""
    half = x.shape[2] // 2
    return np.concatenate([x[:, :, :half], x[:, :, -half:]], 1)


def _normal_scores(x: Numbers) -> Numbers:
    """Normal quantiles of the ranks among all draws of a series, ties at their mean rank."""
    from scipy.special import ndtri

    flat = x.reshape(len(x), -1)
    place = np.arange(flat.shape[1])
    order = flat.argsort(1)
    rises = np.diff(np.take_along_axis(flat, order, 1), axis=1) > 0
    edge = np.ones((len(x), 1), bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, rises]), place, 0), 1)
    last = np.where(np.hstack([rises, edge]), place, place[-1])
    last = np.minimum.accumulate(last[:, ::-1], 1)[:, ::-1]
    # there are few ranks, whole and half ones, and many draws
    scores = ndtri((np.arange(2 * len(place)) / 2 + 0.625) / (len(place) + 0.25))
    ranked = np.empty_like(flat)
    np.put_along_axis(ranked, order, scores[first + last], 1)
    return ranked.reshape(x.shape)


def _rhat(x: Numbers) -> Numbers:
    """The square root of the variance of all draws over that within chains."""
    length = x.shape[2]
    between, within = x.mean(2).var(1, ddof=1), x.var(2, ddof=1).mean(1)
    ratio: Numbers = np.sqrt(between / within + (length - 1) / length)
    return ratio


def _ess_tail(x: Numbers) -> Numbers:
    low, high = np.quantile(x, TAILS, axis=(1, 2), keepdims=True)
    return np.fmin(_ess(_halves(1.0 * (x <= low))), _ess(_halves(1.0 * (x <= high))))


def _ess(x: Numbers) -> Numbers:
    """All draws over their autocorrelation time, by Geyer's initial monotone sequence."""
    count, length = x.shape[1] * x.shape[2], x.shape[2]
    rho = _autocorrelation(x)
    pairs = rho[:, : length - length % 2].reshape(len(x), -1, 2).sum(2)
    pairs = pairs[:, : max(1, (length - 1) // 2)]  # the last lags are of a draw or two
    negative = pairs < 0
    ends = negative.any(1)
    end = np.where(ends, negative.argmax(1), pairs.shape[1] - 1)
    summed = np.where(np.arange(pairs.shape[1]) < end[:, None], np.minimum.accumulate(pairs, 1), 0)
    rest = rho[np.arange(len(x)), 2 * end]
    time = -1 + 2 * summed.sum(1) + np.where(ends, np.maximum(rest, 0), rest)
    time = np.maximum(time, 1 / np.log10(count))  # what alternates is not trusted beyond this
    ess: Numbers = count / np.where(np.isnan(rho).any(1), 1, time)
    return ess


def _autocorrelation(x: Numbers) -> Numbers:
    """Of every series at every lag, by the variances within and between its chains."""
    from scipy.fft import irfft, next_fast_len, rfft

    length = x.shape[2]
    means = x.mean(2, keepdims=True)
    padded = next_fast_len(2 * length, real=True)
    power = np.square(np.abs(rfft(x - means, padded, axis=2))).mean(1)
    covariance = irfft(power, padded, axis=1)[:, :length] / length
    within = covariance[:, :1] * length / (length - 1)
    total = covariance[:, :1] + means.var(1, ddof=1)
    rho: Numbers = 1 - (within - covariance) / total
    rho[:, 0] = 1
    return rho


def _check(draws: NDArray[np.floating]) -> None:
    if draws.ndim < 2 or draws.shape[1] < FEWEST:
        raise ValueError(
            f"draws must be (chain, draw, …) with at least {FEWEST} draws of each chain, but have "
            f"shape {draws.shape}"
        )

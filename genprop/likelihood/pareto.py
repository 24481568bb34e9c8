"""Pareto smoothing of importance weights, and its k-hat, by ArviZ."""

import numpy as np
from numpy.typing import NDArray

from genprop.arviz_api import psislw

FEWEST = 25
NOTHING = 1000.0  # nats below the largest weight, where one that is zero is put


def pareto_khat(log_w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape k of the generalised Pareto law fitted to each row's largest weights.

    Args:
        log_w: log-weights ``(rows, samples)``.

    Returns:
        One k a row; NaN where there are fewer than 25 samples, -inf where all weights are equal.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, 2024, Pareto smoothed importance sampling
        (arXiv 1507.02646).

    >>> pareto_khat(np.zeros((2, 100)))
    array([-inf, -inf])
    """
    return pareto_smoothed(log_w)[1]


def pareto_smoothed(
    log_w: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The log-mean of each row's weights, the largest replaced by quantiles of their Pareto law.

    Args:
        log_w: log-weights ``(rows, samples)``.

    Returns:
        The log-means, which are the plain ones where no k can be fitted; and the k-hats, as
        ``pareto_khat`` has them.

    >>> pareto_smoothed(np.zeros((2, 100)))[0]
    array([0., 0.])
    """
    samples, plain = log_w.shape[1], _log_mean(log_w)
    if samples < FEWEST:
        return plain, np.full(len(log_w), np.nan)
    top = log_w.max(1, keepdims=True)
    log_w = np.maximum(log_w, np.where(np.isfinite(top), top, 0) - NOTHING)
    khat = np.full(len(log_w), -np.inf)
    uneven = np.ptp(log_w, axis=1) > 1e-9
    if uneven.any():
        smooth, khat[uneven] = psislw(log_w[uneven])
        # ArviZ normalises; the median weight, never in the tail, tells by how much
        median = np.argsort(log_w[uneven], axis=1)[:, [samples // 2]]
        plain[uneven] = _log_mean(smooth + np.take_along_axis(log_w[uneven] - smooth, median, 1))
    return plain, khat


def _log_mean(log_w: NDArray[np.float64]) -> NDArray[np.float64]:
    top = log_w.max(1)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        mean: NDArray[np.float64] = np.log(np.exp(log_w - top[:, None]).mean(1)) + top
    return mean

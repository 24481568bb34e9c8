"""Pareto k-hat of importance weights by ArviZ."""

import numpy as np
from numpy.typing import NDArray

from genprop.arviz_api import psislw

FEWEST = 25


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
    if log_w.shape[1] < FEWEST:
        return np.full(len(log_w), np.nan)
    khat = np.full(len(log_w), -np.inf)
    uneven = np.ptp(log_w, axis=1) > 1e-9
    if uneven.any():
        khat[uneven] = np.atleast_1d(psislw(log_w[uneven]))
    return khat

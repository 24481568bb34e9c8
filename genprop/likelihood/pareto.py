"""Pareto k-hat of importance weights by ArviZ; here its two lines of versions meet."""

import warnings

import numpy as np
from numpy.typing import NDArray

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
        khat[uneven] = np.atleast_1d(_psislw(log_w[uneven]))
    return khat


def _psislw(log_w: NDArray[np.float64]) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        # ArviZ announces its own refactoring at import, which is no news to our user
        warnings.simplefilter("ignore")
        import arviz

        if hasattr(arviz, "psislw"):
            return np.asarray(arviz.psislw(log_w.copy())[1])
        from arviz_stats.base import array_stats

        return np.asarray(array_stats.psislw(log_w.copy(), axis=-1)[1])

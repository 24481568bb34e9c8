"""Several imputations as one result: Rubin's rules."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Pooled:
    """Estimates from several completed data sets as one, with the error that holes add.

    Attributes:
        estimate: the mean over draws.
        std_error: √(W + (1 + 1/m) B), W being the mean of the variances and B the variance of the
            estimates over m draws.
        df: degrees of freedom of Student's law for (estimate - truth) / std_error.
        missing: the share of the information that is missing, (1 + 1/m) B / (W + (1 + 1/m) B).
    """

    estimate: Numbers
    std_error: Numbers
    df: Numbers
    missing: Numbers

    def interval(self, level: float = 0.95) -> tuple[Numbers, Numbers]:
        """The central interval that covers the truth with this probability.

        >>> low, high = pool([1.0, 1.0], [0.04, 0.04]).interval(0.95)
        >>> low.round(2).item(), high.round(2).item()
        (0.61, 1.39)
        """
        from scipy import stats

        half = stats.t.ppf(0.5 + 0.5 * level, self.df) * self.std_error
        return np.asarray(self.estimate - half), np.asarray(self.estimate + half)

    def to_pandas(self) -> Any:
        """One row an estimate: estimate, std_error, df, missing and the 95 % interval."""
        import pandas as pd

        low, high = self.interval()
        parts = {"estimate": self.estimate, "std_error": self.std_error, "df": self.df}
        parts |= {"missing": self.missing, "low": low, "high": high}
        return pd.DataFrame({name: np.atleast_1d(part) for name, part in parts.items()})


def pool(estimates: ArrayLike, variances: ArrayLike, df_complete: float = np.inf) -> Pooled:
    """Rubin's rules: what was estimated from each completed data set, as one estimate.

    Args:
        estimates: draws first, ``(draws, …)``: one estimate, or several, from each draw.
        variances: their squared standard errors, of the same shape.
        df_complete: degrees of freedom that the estimate would have without holes.

    Raises:
        ValueError: fewer than two draws, another shape, or a variance that is not positive.

    References:
        Rubin, 1987, Multiple imputation for nonresponse in surveys. Barnard, Rubin, 1999,
        Small-sample degrees of freedom with multiple imputation.

    >>> pooled = pool([1.0, 3.0], [0.5, 0.5])
    >>> pooled.estimate.item(), pooled.std_error.item() ** 2, pooled.missing.item()
    (2.0, 3.5, 0.8571428571428571)
    """
    found, spread = np.asarray(estimates, dtype=float), np.asarray(variances, dtype=float)
    if found.ndim == 0 or len(found) < 2 or found.shape != spread.shape:
        raise ValueError(
            f"pooling needs at least two draws, and a variance for each estimate, but got "
            f"estimates of shape {found.shape} and variances of shape {spread.shape}"
        )
    if not (spread > 0).all():
        raise ValueError(
            "variances are squared standard errors and so positive, but one is not; give those of "
            "each completed data set"
        )
    draws = len(found)
    within, between = spread.mean(0), (1 + 1 / draws) * found.var(0, ddof=1)
    total = within + between
    share = between / total
    degrees = _degrees(np.asarray(share), draws, df_complete)
    parts = (found.mean(0), np.sqrt(total), degrees, share)
    return Pooled(*(np.asarray(part) for part in parts))


def quantiles(draws: Any, levels: ArrayLike) -> Any:
    """Quantiles over draws of each cell.

    Args:
        draws: ``(draws, rows, …)``, or a DataFrame of numbers with the draw as the outer level of
            its index.
        levels: between 0 and 1.

    Returns:
        ``(levels, rows, …)``; of a DataFrame one whose index has the level in place of the draw.

    >>> quantiles(np.arange(5.0)[:, None, None], [0.5]).item()
    2.0
    """
    at = np.atleast_1d(np.asarray(levels, dtype=float))
    if not hasattr(draws, "columns"):
        return np.quantile(np.asarray(draws), at, axis=0)
    import pandas as pd

    count, inner = draws.index.get_level_values(0).nunique(), draws.index.droplevel(0)
    rows = len(draws) // count
    numbers = draws.to_numpy(dtype=float).reshape(count, rows, -1)
    frames = [
        pd.DataFrame(part, index=inner[:rows], columns=draws.columns)
        for part in np.quantile(numbers, at, axis=0)
    ]
    return pd.concat(frames, keys=at.tolist(), names=["quantile"])


def _degrees(share: Numbers, draws: int, complete: float) -> Numbers:
    with np.errstate(divide="ignore", over="ignore"):
        old = np.asarray((draws - 1) / share**2)
    if not np.isfinite(complete):
        return old
    observed = (complete + 1) / (complete + 3) * complete * (1 - share)
    return np.asarray(1 / (1 / old + 1 / observed))

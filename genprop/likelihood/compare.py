"""Two models on the same rows, and estimates for ArviZ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genprop.arviz_api import Labelled, inference_data
from genprop.likelihood.estimate import Estimate, Numbers

DRAWS = 100  # that stand for one estimate
SPREAD = 1e-9  # nats: ArviZ cannot fit a tail to draws that are all the same


@dataclass(frozen=True)
class Difference:
    """Log P(x) of one model less that of another, row by row.

    Rows that are hard for one are hard for the other, so that the paired difference is known far
    better than either mean.

    Attributes:
        rows: the differences, nats.
        monte_carlo: their standard errors from sampling alone, nats.
    """

    rows: Numbers
    monte_carlo: Numbers

    @property
    def mean(self) -> float:
        """The mean over rows, nats a row; above zero the first model is better."""
        return float(self.rows.mean())

    @property
    def std_error(self) -> float:
        """Standard error of the mean for all data, from the spread over rows; NaN of one row."""
        n = len(self.rows)
        return float(self.rows.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    @property
    def share(self) -> float:
        """The share of the rows that the first model explains better, ties counted half."""
        return float(((self.rows > 0) + 0.5 * (self.rows == 0)).mean())

    def __str__(self) -> str:
        """The mean with its error, in one line.

        >>> zeros = np.zeros(2)
        >>> print(Difference(np.array([1.0, 3.0]), zeros))
        2.00 ± 1.00 nats a row better (2 rows, better in 100% of them)
        """
        word = "better" if self.mean >= 0 else "worse"
        return (
            f"{abs(self.mean):.2f} ± {self.std_error:.2f} nats a row {word} ({len(self.rows)} rows,"
            f" better in {self.share:.0%} of them)"
        )


def compared(one: Estimate, other: Estimate) -> Difference:
    """The difference of two estimates on the same rows, paired.

    Raises:
        ValueError: they have different numbers of rows.
    """
    if one.rows != other.rows:
        raise ValueError(
            f"a paired difference needs the same rows, but one estimate has {one.rows} of them and "
            f"the other {other.rows}"
        )
    return Difference(one.log_prob - other.log_prob, np.hypot(one.std_error, other.std_error))


def log_likelihood_data(draws: Sequence[Estimate] | Estimate, name: str = "x") -> Any:
    """Estimates on the same rows as ArviZ's ``log_likelihood``, for ``az.loo`` and ``az.compare``.

    ArviZ's draws are those of what is uncertain. Give the estimates of models that stand for such
    draws: an ensemble, the runs of several seeds, weights saved along a chain. The law over the
    members is then what leave-one-out predicts with, and its ``elpd`` the score. One estimate alone
    is a model whose weights are taken as certain, fitted to other rows: its ``elpd_loo`` is
    Σ log P(x), ``p_loo`` 0, and ``az.compare`` gives the paired difference of two of them.

    Args:
        draws: one estimate, or one for each draw.
        name: of the variable.

    Returns:
        An ``InferenceData``, of ArviZ 1 a ``DataTree``, with the groups ``posterior`` (the number
        of each draw, as ArviZ wants one) and ``log_likelihood``.

    Raises:
        ValueError: no estimate, or different numbers of rows.
    """
    members = _alike(draws) if isinstance(draws, Estimate) else list(draws)
    rows = {member.rows for member in members}
    if len(rows) != 1:
        raise ValueError(f"all draws must be estimates of the same rows, but have {sorted(rows)}")
    values = np.stack([member.log_prob for member in members])[None]
    numbers = np.arange(len(members), dtype=np.float64)[None]
    groups = {
        "posterior": {"draw_number": Labelled(("chain", "draw"), numbers)},
        "log_likelihood": {name: Labelled(("chain", "draw", "row"), values)},
    }
    return inference_data(groups, {})


def _alike(estimate: Estimate) -> list[Estimate]:
    return [
        estimate.shifted(np.full(estimate.rows, by)) for by in SPREAD * np.linspace(-1, 1, DRAWS)
    ]

"""What every estimator of log P(x) returns."""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Numbers = NDArray[np.float64]
RELIABLE_KHAT = 0.7
COLUMNS = ("log_prob", "std_error", "ess", "khat")
OPTIONAL = ("smoothed", "dimensions")


@dataclass(frozen=True)
class Estimate:
    """Log P(x) of each row with its error, never a bare number.

    Attributes:
        log_prob: the estimate for each row, nats.
        std_error: its Monte Carlo standard error, nats.
        ess: effective sample size of each row's weights.
        khat: Pareto shape of each row's largest weights; above 0.7 neither the value nor its error
            can be trusted (Vehtari, Simpson, Gelman, Yao, Gabry, 2024, arXiv 1507.02646).
        samples: samples used for each row; 0 where none was needed.
        bound: on which side it errs in expectation: ``"lower"``, ``"upper"``, ``"point"``.
        method: the estimator's name.
        smoothed: the value with the largest weights replaced by what their Pareto law expects, for
            each row, nats; it has less variance and some bias. None where there are no weights.
        dimensions: variables seen in each row, or None where nobody counted them.

    >>> zeros = np.zeros(2)
    >>> print(Estimate(np.array([-1.0, -3.0]), zeros, zeros + 9, zeros, 9, "lower", "importance"))
    log P(x) = -2.00 ± 1.00 nats a row (2 rows, importance with 9 samples, lower bound)
    """

    log_prob: Numbers
    std_error: Numbers
    ess: Numbers
    khat: Numbers
    samples: int
    bound: str
    method: str
    smoothed: Numbers | None = None
    dimensions: Numbers | None = None

    @property
    def rows(self) -> int:
        """How many rows were estimated."""
        return len(self.log_prob)

    @property
    def mean(self) -> float:
        """The mean over rows, nats a row."""
        return float(self.log_prob.mean())

    @property
    def mean_std_error(self) -> float:
        """Standard error of the mean over rows as an estimate for all data; NaN of one row.

        It comes from the spread over rows, of which their Monte Carlo error is part.
        """
        if self.rows < 2:
            return math.nan
        return float(self.log_prob.std(ddof=1) / math.sqrt(self.rows))

    @property
    def unreliable(self) -> float:
        """The share of rows whose k-hat is above 0.7."""
        return float((self.khat > RELIABLE_KHAT).mean())

    @property
    def bits(self) -> Numbers:
        """Log P(x) of each row in bits, nats / ln 2."""
        return self.log_prob / math.log(2)

    @property
    def bits_per_dimension(self) -> float:
        """-Σ log2 P(x) over rows, by the number of their seen variables; NaN if not counted."""
        seen = 0.0 if self.dimensions is None else float(self.dimensions.sum())
        return float(-self.bits.sum() / seen) if seen else math.nan

    def shifted(self, by: Numbers) -> "Estimate":
        """The same with so many nats more for each row, as a change of units brings them."""
        smoothed = None if self.smoothed is None else self.smoothed + by
        return dataclasses.replace(self, log_prob=self.log_prob + by, smoothed=smoothed)

    def to_pandas(self) -> "pd.DataFrame":
        """One row a row: log_prob, std_error, ess, khat, and smoothed where there are weights."""
        import pandas as pd

        names = COLUMNS if self.smoothed is None else (*COLUMNS, "smoothed")
        return pd.DataFrame({name: getattr(self, name) for name in names})

    def __str__(self) -> str:
        """The mean with its error, in one line."""
        side = {"lower": ", lower bound", "upper": ", upper bound"}.get(self.bound, "")
        effort = f" with {self.samples} samples" if self.samples else ""
        text = (
            f"log P(x) = {self.mean:.2f} ± {self.mean_std_error:.2f} nats a row ({self.rows} rows, "
            f"{self.method}{effort}{side})"
        )
        if self.unreliable:
            text += f"; k-hat above {RELIABLE_KHAT} in {self.unreliable:.0%} of the rows"
        return text


def estimate_from_weights(
    log_w: Numbers, khat: Numbers, method: str, smoothed: Numbers | None = None
) -> Estimate:
    """The log-mean of weights ``(rows, samples)``, with the delta method's error.

    >>> two = estimate_from_weights(np.log([[1.0, 3.0]]), np.zeros(1), "importance")
    >>> np.exp(two.log_prob), two.std_error, two.ess
    (array([2.]), array([0.5]), array([1.6]))
    """
    samples = log_w.shape[1]
    top = log_w.max(1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)  # where all weights are zero
    w = np.exp(log_w - top)
    mean = w.mean(1)
    spread = w.std(1, ddof=1) if samples > 1 else np.full(len(w), math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate(
            log_prob=np.log(mean) + top[:, 0],
            std_error=spread / mean / math.sqrt(samples),
            ess=w.sum(1) ** 2 / (w**2).sum(1),
            khat=khat,
            samples=samples,
            bound="lower",
            method=method,
            smoothed=smoothed,
        )


def exact_estimate(log_prob: Numbers, method: str = "the prior's density") -> Estimate:
    """Log-densities that need no sampling.

    >>> print(exact_estimate(np.array([-1.0, -3.0])))
    log P(x) = -2.00 ± 1.00 nats a row (2 rows, the prior's density)
    """
    ones, zeros = np.ones(len(log_prob)), np.zeros(len(log_prob))
    return Estimate(log_prob, zeros, ones, zeros, 0, "point", method)


def joined(parts: list[Estimate]) -> Estimate:
    """The estimates of several parts of the rows as one, called as that of most samples is."""
    most = max(parts, key=lambda part: part.samples)
    kept = [n for n in OPTIONAL if all(getattr(part, n) is not None for part in parts)]
    columns: dict[str, Any] = dict.fromkeys(OPTIONAL) | {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in (*COLUMNS, *kept)
    }
    return dataclasses.replace(most, **columns)

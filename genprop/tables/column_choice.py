"""Which family a table's column has, by what it holds, and why."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = ("real", "student", "positive", "proportion", "hurdle", "count", "poisson")
KINDS = (*NUMBERS, "boolean", "category", "ordered", "constant")
ZEROS = 0.05  # share of zeros from which these are an event of their own
MARGIN = 0.05  # nats a value by which another density must beat the Gaussian
LOOKED_AT = 20_000  # values of a column
DEGREES = 4.0  # of freedom of the Student's law that is tried
ROUNDS = 30
FEW = 50

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """A column's family and the reason for it, in a few words.

    Attributes:
        kind: one of ``KINDS``.
        why: what in the column says so, or that the user did.
    """

    kind: str
    why: str


def choose(series: Any) -> Choice:
    """The family of a table's column.

    Categories, texts and truth values say it by their type. Numbers take the family that gives
    them the highest likelihood, each fitted to them alone: Gaussian, Student's, log-normal,
    logit-normal, Poisson, negative binomial, or zero with some probability and else log-normal.

    Args:
        series: a pandas Series that holds at least one value.

    Raises:
        ValueError: a type that has no family.

    >>> import pandas as pd
    >>> choose(pd.Series([0.5, 12.0, 3.0, 0.1, 150.0, 1.5, 0.02, 40.0])).kind
    'positive'
    >>> choose(pd.Series(["a", "b", None])).why
    '2 different texts'
    """
    import pandas as pd

    types, dtype = pd.api.types, series.dtype
    values = series.dropna()
    if isinstance(dtype, pd.CategoricalDtype):
        number = len(dtype.categories)
        if number < 2:
            return Choice("constant", "one category")
        kind = "ordered" if dtype.ordered else "category"
        return Choice(kind, f"{number} categories{', in order' if dtype.ordered else ''}")
    if values.nunique() == 1:
        return Choice("constant", f"always {values.iloc[0]!r:.40}")
    if types.is_bool_dtype(dtype) or _all_are(values, (bool, np.bool_)):
        return Choice("boolean", "true or false")
    if types.is_datetime64_any_dtype(dtype):
        return Choice("real", "times")
    numeric = types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype)
    if numeric or _all_are(values, (int, float, np.number)):
        return choose_for_numbers(values.to_numpy(dtype=np.float64))
    if types.is_object_dtype(dtype) or types.is_string_dtype(dtype):
        return _of_texts(series.name, values)
    raise ValueError(
        f"column {series.name!r} holds {dtype} values, for which there is no family; turn it into "
        f"numbers, texts, categories or times, or leave it out"
    )


def choose_for_numbers(values: Values) -> Choice:
    """The family of numbers, of which none is missing and some differ."""
    if np.isin(values, (0, 1)).all():
        return Choice("boolean", "0 or 1")
    scores = log_likelihoods(values)
    best = max(scores, key=lambda kind: scores[kind])
    # these need no margin: nothing below zero or between whole numbers is ever drawn
    margin = 0 if best in ("count", "poisson", "hurdle") else MARGIN
    if best == "real" or scores[best] < scores["real"] + margin:
        whole = " (whole)" if is_whole(values) else ""
        return Choice("real", f"numbers{whole}")
    gain = scores[best] - scores["real"]
    what = {
        "student": "heavy tails",
        "positive": "above 0 and skewed",
        "proportion": "between 0 and 1",
        "hurdle": "zeros, and else skewed",
        "count": "whole numbers from 0 on that cluster",
        "poisson": "whole numbers from 0 on",
    }[best]
    return Choice(best, f"{what}: {gain:.2f} nats a value better than a Gaussian")


def log_likelihoods(values: Values) -> dict[str, float]:
    """For each family that can hold the numbers their mean log-density, fitted to them alone.

    Densities are in the numbers' units, and of whole numbers comparable to probabilities. Each
    parameter beyond two costs ½ log n / n.
    """
    x = values[:: max(1, len(values) // LOOKED_AT)]
    price = 0.5 * math.log(len(x)) / len(x)
    found = {"real": _normal(x), "student": _student(x) - price}
    if (x > 0).all():
        logs = np.log(x)
        found["positive"] = _normal(logs) - float(logs.mean())
    if ((x > 0) & (x < 1)).all():
        found["proportion"] = _normal(logit(x)) - float(np.log(x * (1 - x)).mean())
    if is_whole(x) and (x >= 0).all():
        found |= {"poisson": _poisson(x) + price, "count": _clustered(x)}
    if (x >= 0).all() and ZEROS <= (x == 0).mean() < 1:
        found["hurdle"] = _hurdle(x) - price
    return found


def is_whole(values: Values) -> bool:
    """Whether all are whole numbers."""
    return bool((values == np.round(values)).all())


def logit(x: Values) -> Values:
    """log(x / (1 - x))."""
    found: Values = np.log(x) - np.log1p(-x)
    return found


def come_again(different: int, known: int) -> bool:
    """Whether values are few enough to be categories: at most 50, or half as many as are known.

    >>> come_again(50, 50), come_again(51, 60), come_again(51, 102)
    (True, False, True)
    """
    return different <= FEW or different <= known / 2


def _normal(x: Values) -> float:
    spread = max(float(x.std()), 1e-12 * max(1.0, abs(float(x.mean()))))
    return -math.log(spread) - 0.5 * math.log(2 * math.pi * math.e)


def _student(x: Values) -> float:
    """By expectation and maximisation over the precisions of the values."""
    from scipy import stats

    loc, scale = float(np.median(x)), max(float(x.std()), 1e-300)
    for _ in range(ROUNDS):
        weight = (DEGREES + 1) / (DEGREES + ((x - loc) / scale) ** 2)
        loc = float((weight * x).sum() / weight.sum())
        scale = max(float(np.sqrt((weight * (x - loc) ** 2).mean())), 1e-300)
    if scale < 1e-6 * float(x.std()):
        return -math.inf  # most values are one and the same: no density
    return float(stats.t(DEGREES, loc, scale).logpdf(x).mean())


def _poisson(x: Values) -> float:
    from scipy import stats

    return float(stats.poisson(x.mean()).logpmf(x).mean())


def _clustered(x: Values) -> float:
    """A negative binomial with the moments of the values."""
    from scipy import stats

    mean, variance = float(x.mean()), float(x.var())
    if variance <= 1.05 * mean:
        return -math.inf
    size = mean**2 / (variance - mean)
    return float(stats.nbinom(size, size / (size + mean)).logpmf(x).mean())


def _hurdle(x: Values) -> float:
    """Zeros, and a log-normal law of the rest, of whole numbers its probabilities.

    A zero is compared with what a density gives to an interval about it, as wide as the smallest
    number above zero.
    """
    from scipy import stats

    positive = x[x > 0]
    share = len(positive) / len(x)
    logs = np.log(positive)
    width = max(float(logs.std()), 1e-6)
    log_zero = (1 - share) * math.log(1 - share) + share * math.log(share)
    if is_whole(x):
        law = stats.norm(logs.mean(), width)
        mass = law.cdf(np.log(positive + 0.5)) - law.cdf(np.log(positive - 0.5))
        return log_zero + share * float(np.log(np.maximum(mass, 1e-300)).mean())
    density = _normal(logs) - float(logs.mean())
    return log_zero - (1 - share) * math.log(positive.min()) + share * density


def _of_texts(name: object, values: Any) -> Choice:
    number = values.nunique()
    if not come_again(number, len(values)):
        raise ValueError(
            f"column {name!r} holds {number:,} different texts in {len(values):,} rows, of which "
            f"nothing can be learned; leave it out, or give categories that come again"
        )
    return Choice("category", f"{number:,} different texts")


def _all_are(values: Any, types: tuple[type, ...]) -> bool:
    return values.dtype == object and all(isinstance(value, types) for value in values)

"""Likelihoods of rows as users hold them, and what is given of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genprop.data import Batch
from genprop.encodings import Encodings, encoded, log_jacobian
from genprop.likelihood.estimate import Estimate
from genprop.likelihood.methods import log_likelihood
from genprop.model import Model
from genprop.table import Raw
from genprop.tables.ampute import hide

Raws = Mapping[str, Raw]


def of_rows(
    model: Model,
    encodings: Encodings,
    raws: Raws,
    known: Raws | None = None,
    method: str = "auto",
    samples: int | None = None,
    **options: Any,
) -> Estimate:
    """Log P(x_seen), or log P(x_a | x_b), in the units of the data.

    It is 0 exactly, with no error, in a row where x_a is nothing.

    Args:
        model: what was fitted to the encoded rows.
        encodings: of each modality.
        raws: the rows.
        known: the rows with only x_b seen, if anything is given.
        method: as ``log_likelihood`` takes it, and so the others.
        samples: for each row.
        options: of the method.
    """

    def batch(rows: Raws) -> Batch:
        return encoded(encodings, rows, model.like)

    given = None if known is None else batch(known)
    found = log_likelihood(model, batch(raws), method, samples, given, **options)
    shift = log_jacobian(encodings, raws)
    return found.shifted(shift if known is None else shift - log_jacobian(encodings, known))


def given_rows(X: Any, given: Any) -> Any:
    """The rows with NaN wherever a value is not given.

    Args:
        X: array, tensor, DataFrame, or a dict of them by modality.
        given: names of the modalities given as a whole; True where a value is given, in the shape
            of X; or the rows themselves with NaN elsewhere. A dict of the last two by modality, of
            which one that is left out is not given.

    Raises:
        ValueError: names where there are no modalities, or a mask of another shape.

    >>> given_rows(np.array([[1.0, 2.0]]), np.array([[True, False]]))
    array([[ 1., nan]])
    """
    if not isinstance(X, Mapping):
        return _given(X, given, "x")
    if isinstance(given, Mapping):
        return {n: _given(x, given[n], n) if n in given else _blank(x) for n, x in X.items()}
    names = {given} if isinstance(given, str) else set(given)
    unknown = sorted(names - set(X))
    if unknown:
        raise ValueError(f"given names {unknown}, but the modalities are {list(X)}")
    return {n: x if n in names else _blank(x) for n, x in X.items()}


def _given(x: Any, given: Any, name: str) -> Any:
    names = [given] if isinstance(given, str) else given
    if isinstance(names, list | tuple | set) and set(map(type, names)) == {str}:
        raise ValueError(
            f"given names {given!r}, but the rows are of one modality; pass a boolean mask of "
            f"their shape, or the rows with NaN in what is not given"
        )
    mask = np.asarray(given)
    if mask.dtype != np.bool_:
        return given
    if mask.shape != np.shape(x):
        raise ValueError(
            f"what is given of modality {name!r} must have the shape of its rows, "
            f"{tuple(np.shape(x))}, but has {mask.shape}"
        )
    return hide(x, ~mask)


def _blank(x: Any) -> Any:
    return hide(x, np.ones(np.shape(x), dtype=bool))

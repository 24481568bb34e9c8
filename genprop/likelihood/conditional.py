"""Log P(x_a | x_b) for any split of what is seen."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.estimate import Estimate, Numbers, exact_estimate
from genprop.shapes import Seen

Given = Batch | Mapping[str, Tensor] | Sequence[str]
"""What is given: a batch that shows it, masks by modality, or the names of modalities."""


def conditional(batch: Batch, given: Given, estimate: Callable[[Batch], Estimate]) -> Estimate:
    """Log P(x_a | x_b) = log P(x_a, x_b) - log P(x_b), x_b being given and x_a what else is seen.

    Any estimator will do that takes rows with unseen cells. The two estimates are independent, and
    their errors are added as such. A difference of lower bounds is a bound on neither side, unless
    nothing is given. In a row where x_a is nothing it is 0 exactly, and nothing is estimated.

    Args:
        batch: the rows; of each only what is seen counts.
        given: what is given of each row: another batch of the same rows, of which what it shows
            counts; True where an element is given, by modality, the others not given; or the
            names of the modalities that are given as a whole.
        estimate: of the rows of a batch.

    Raises:
        ValueError: an unknown modality, another shape, or given values that are not those of the
            rows.

    >>> from genprop.likelihood.estimate import exact_estimate
    >>> def counted(batch):
    ...     seen = batch.seen["x"]
    ...     return exact_estimate(np.array([2.0 if seen is None else float(seen.sum())]))
    >>> conditional(Batch.of(torch.ones(1, 2)), {"x": torch.tensor([[True, False]])}, counted).mean
    1.0
    """
    return of_asked(batch, given, partial(_difference, estimate))


def of_asked(batch: Batch, given: Given, estimate: Callable[[Batch, Batch], Estimate]) -> Estimate:
    """Log P(x_a | x_b) of the rows in which x_a is something; in the others it is 0 exactly.

    Args:
        batch: the rows.
        given: as of ``conditional``.
        estimate: of rows, and the same rows showing x_b only.
    """
    shown = restricted(batch, given)
    known = shown.masks()
    asked = _any({name: seen & ~known[name] for name, seen in batch.masks().items()})
    if not bool(asked.any()):
        zeros = np.zeros(batch.rows)
        certain = exact_estimate(zeros, "certainty")
        return dataclasses.replace(certain, smoothed=zeros, dimensions=zeros)
    return _whole(estimate(batch.take(asked), shown.take(asked)), asked)


def _difference(estimate: Callable[[Batch], Estimate], batch: Batch, known: Batch) -> Estimate:
    joint, told = estimate(batch), _any(known.masks())
    if not bool(told.any()):
        return joint
    below = _whole(estimate(known.take(told)), told)
    exact = joint.bound == below.bound == "point"
    return dataclasses.replace(
        joint,
        log_prob=joint.log_prob - below.log_prob,
        std_error=np.hypot(joint.std_error, below.std_error),
        ess=np.minimum(joint.ess, below.ess),
        khat=np.fmax(joint.khat, below.khat),
        bound="point",
        method=joint.method if exact else f"{joint.method}, a difference of two",
        smoothed=_less(joint.smoothed, below.smoothed),
        dimensions=_less(joint.dimensions, below.dimensions),
    )


def restricted(batch: Batch, given: Given) -> Batch:
    """The rows of which only x_b is seen."""
    masks = given_masks(batch, given)
    seen = {name: _both(batch.seen[name], mask) for name, mask in masks.items()}
    return Batch({n: torch.where(m, batch.x[n], 0) for n, m in seen.items()}, dict(seen))


def given_masks(batch: Batch, given: Given) -> dict[str, Seen]:
    """For each modality a mask of what is given."""
    if isinstance(given, Batch):
        return {name: _shown(batch, given, name) for name in batch.x}
    unknown = sorted(set(given) - set(batch.x))
    if unknown or isinstance(given, str):
        raise ValueError(f"given names {unknown or given}, but the modalities are {list(batch.x)}")
    masks = {}
    for name, x in batch.x.items():
        mask = given.get(name, False) if isinstance(given, Mapping) else name in given
        masks[name] = torch.full_like(x, mask, dtype=torch.bool) if isinstance(mask, bool) else mask
        if masks[name].shape != x.shape or masks[name].dtype != torch.bool:
            raise ValueError(
                f"what is given of modality {name!r} must be boolean of shape {tuple(x.shape)}, "
                f"but is {masks[name].dtype} of shape {tuple(masks[name].shape)}"
            )
    return masks


def _shown(batch: Batch, given: Batch, name: str) -> Seen:
    x, known = batch.x[name], given.x.get(name)
    if known is None or known.shape != x.shape:
        shape = None if known is None else tuple(known.shape)
        raise ValueError(
            f"given rows must be of the same shape as the rows, but modality {name!r} has "
            f"{tuple(x.shape)} and {shape}"
        )
    mask = given.seen[name]
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    both = _both(batch.seen[name], mask)
    if not torch.equal(torch.where(both, known, 0), torch.where(both, x, 0)):
        raise ValueError(
            f"given values of modality {name!r} differ from those of the rows; give the same rows "
            f"with NaN in the cells whose probability is asked for"
        )
    return mask


def _both(seen: Seen | None, given: Seen) -> Seen:
    return given if seen is None else seen & given


def _any(masks: Mapping[str, Seen]) -> Tensor:
    """The rows in which any element of any modality is True."""
    return torch.stack([mask.any(-1) for mask in masks.values()]).any(0)


def _whole(part: Estimate, rows: Tensor) -> Estimate:
    """An estimate of all rows, of which the others have log P = 0, as by equal weights."""
    some = rows.cpu().numpy()
    if some.all():
        return part
    equal = float(part.samples or 1)
    blank = {"log_prob": 0.0, "std_error": 0.0, "ess": equal, "khat": -np.inf}
    blank |= {n: 0.0 for n in ("smoothed", "dimensions") if getattr(part, n) is not None}
    columns: dict[str, Any] = {n: np.full(len(some), v) for n, v in blank.items()}
    for name, column in columns.items():
        column[some] = getattr(part, name)
    return dataclasses.replace(part, **columns)


def _less(one: Numbers | None, other: Numbers | None) -> Numbers | None:
    return None if one is None or other is None else one - other

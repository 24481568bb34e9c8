"""Log P(x) by name: the choice between estimators, and what to do where one cannot be trusted."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from genprop.data import Batch
from genprop.likelihood.annealed import Annealing, annealed_importance
from genprop.likelihood.conditional import Given, conditional, of_asked, restricted
from genprop.likelihood.csl import csl
from genprop.likelihood.deterministic import deterministic
from genprop.likelihood.estimate import RELIABLE_KHAT, Estimate, Numbers
from genprop.likelihood.exact import applies, exact
from genprop.likelihood.importance import importance
from genprop.likelihood.predictive import predictive
from genprop.likelihood.window import window
from genprop.model import Model
from genprop.prior import DensityPrior
from genprop.tables.columns import variable_sizes

Estimator = Callable[..., Estimate]
PREDICTIVE = "predictive"  # of rows given a part of them, never of rows by themselves
SAMPLED: dict[str, Estimator] = {
    "importance": importance,
    "annealed": annealed_importance,
    "csl": csl,
    "biased-csl": partial(csl, biased=True),
    "parzen": window,
    PREDICTIVE: predictive,
}
COUNTED: dict[str, Estimator] = {"exact": exact, "deterministic": deterministic}
METHODS = ("auto", *COUNTED, *SAMPLED)
MANY = 0.05  # a share of rows that chance alone hardly brings
ADVICE = {
    "importance": "take more samples, widen=0.1, refine=20, method='annealed', or with given= "
    "method='predictive'",
    "annealed": "take more samples, a share nearer to 1, or more steps",
    "csl": "take many more samples, or a prior with a density and method='importance'",
}


def log_likelihood(
    model: Model,
    batch: Batch,
    method: str = "auto",
    samples: int | None = None,
    given: Given | None = None,
    **options: Any,
) -> Estimate:
    """Log P(x_seen) of each row, or log P(x_a | x_b), by the estimator of this name, nats.

    Args:
        model: the model.
        batch: the rows; of each only what is seen counts.
        method: ``"exact"``, ``"importance"``, ``"annealed"``, ``"csl"``, ``"biased-csl"``,
            ``"deterministic"``, ``"parzen"`` or ``"predictive"`` (which needs ``given``);
            ``"auto"`` is exact where that applies, else importance sampling, and CSL under a prior
            without a density.
        samples: for each row; each method has a default.
        given: x_b, as ``conditional`` takes it; then x_a is the rest of what is seen.
        options: of the estimator, as ``widen`` of ``importance``.

    Raises:
        ValueError: an unknown method or option, or data that does not fit the model.
        TypeError: a prior without a density where the method needs one.

    >>> import torch
    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.factorial import FactorialPrior
    >>> from genprop.stack import Stack
    >>> layers = Stack.build(Bernoulli(6), hidden=(4, 2), latent="bernoulli")
    >>> model = Model(layers, FactorialPrior(Bernoulli(2)))
    >>> log_likelihood(model, Batch.of(torch.ones(5, 6))).method
    'enumeration'
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, but is {method!r}")
    if method == PREDICTIVE and given is None:
        raise ValueError(
            "method 'predictive' is of rows given a part of them; say which by given=, or take "
            "method='importance'"
        )
    model.check(batch)
    chosen = _automatic(model, batch, given) if method == "auto" else method
    way = {**COUNTED, **SAMPLED}[chosen]
    if samples is not None and chosen in SAMPLED:
        options["samples"] = samples
    _check_options(chosen, way, options)

    def estimate(rows: Batch) -> Estimate:
        return dataclasses.replace(way(model, rows, **options), dimensions=dimensions(model, rows))

    def drawn(rows: Batch, known: Batch) -> Estimate:
        seen = dimensions(model, rows) - dimensions(model, known)
        return dataclasses.replace(way(model, rows, known, **options), dimensions=seen)

    if given is None:
        found = estimate(batch)
    elif chosen == PREDICTIVE:
        found = of_asked(batch, given, drawn)
    else:
        found = conditional(batch, given, estimate)
    warn_unreliable(found, chosen)
    return found


def dimensions(model: Model, batch: Batch) -> Numbers:
    """Variables that are seen in each row; a one-hot group is one."""
    total = np.zeros(batch.rows)
    for name, stack in model.named_stacks():
        seen = batch.seen[name]
        bare = (1,) * batch.x[name].shape[1]
        sizes = variable_sizes(stack[0].decoder.family) if len(stack.layers) else bare
        first = np.cumsum((0, *sizes[:-1]))
        whole = np.full(batch.rows, float(len(sizes)))
        total += whole if seen is None else seen.cpu().numpy()[:, first].sum(1)
    return total


def _automatic(model: Model, batch: Batch, given: Given | None) -> str:
    rows = [batch] if given is None else [batch, restricted(batch, given)]
    if all(applies(model, part) for part in rows):
        return "exact"
    return "importance" if isinstance(model.summit, DensityPrior) else "csl"


def _check_options(chosen: str, way: Estimator, options: Mapping[str, Any]) -> None:
    if chosen == "parzen" and "validation" not in options:
        raise ValueError(
            "method 'parzen' needs validation=, a batch of rows on which the bandwidth is chosen"
        )
    known = set(inspect.signature(way).parameters) - {"model", "batch", "known", "options"}
    if chosen == "annealed":
        known |= {each.name for each in dataclasses.fields(Annealing)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"method {chosen!r} has no option {', '.join(unknown)}; it has "
            f"{', '.join(sorted(known)) or 'none'}"
        )


def warn_unreliable(found: Estimate, method: str) -> None:
    """Warns, with advice, where k-hat is too high in more rows than chance brings."""
    if found.unreliable > MANY and method in ADVICE:
        warnings.warn(
            f"k-hat is above {RELIABLE_KHAT} in {found.unreliable:.0%} of the rows: neither their "
            f"values nor their errors can be trusted; {ADVICE[method]}",
            UserWarning,
            stacklevel=3,
        )

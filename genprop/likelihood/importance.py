"""Importance sampling of log P(x) with the encoder as proposal."""

import numpy as np
import torch
from numpy.typing import NDArray

from genprop.data import Batch
from genprop.likelihood.estimate import (
    Estimate,
    estimate_from_weights,
    exact_estimate,
    joined,
)
from genprop.likelihood.pareto import pareto_khat
from genprop.model import LogPrior, Model
from genprop.prior import DensityPrior, Prior

NUMBERS_AT_ONCE = 2**24


def importance(model: Model, batch: Batch, samples: int = 1000) -> Estimate:
    r"""Log P(x_seen) ≈ log (1/K) Σ_k P(x_seen, h_k) / Q(h_k | x_seen), h_k ~ Q.

    In expectation it lies below the truth, and rises to it with K. Rows and samples are streamed:
    memory does not grow with either, but for K numbers a row of the part at hand.

    Args:
        model: its prior must have a density.
        batch: the rows; of each only what is seen counts.
        samples: K.

    Raises:
        ValueError: no sample, or data that does not fit the model.
        TypeError: a prior without a density.

    References:
        Burda, Grosse, Salakhutdinov, 2016, Importance weighted autoencoders (arXiv 1509.00519).
    """
    if samples < 1:
        raise ValueError(f"importance sampling needs at least one sample, but got {samples}")
    model.check(batch)
    log_prior = _log_prior(model.prior)
    if not model.has_layers:
        samples = 1  # every path is the data itself
    rows = max(1, min(batch.rows, 2**22 // samples))
    parts = [
        _part(model, batch.take(slice(start, start + rows)), samples, log_prior)
        for start in range(0, batch.rows, rows)
    ]
    return joined(parts)


def rows_at_once(model: Model, draws: int) -> int:
    """How many rows' paths of so many draws fit into a bounded memory."""
    widest = max(max(s.elements or 1, s.code_elements) for _, s in model.named_stacks())
    return max(1, NUMBERS_AT_ONCE // (4 * widest * draws))


def _part(model: Model, batch: Batch, samples: int, log_prior: LogPrior) -> Estimate:
    at_once = max(1, min(samples, rows_at_once(model, batch.rows)))
    counts = [min(at_once, samples - done) for done in range(0, samples, at_once)]
    log_w = np.concatenate([_log_weights(model, batch, n, log_prior) for n in counts], axis=1)
    if not model.has_layers:
        return exact_estimate(log_w[:, 0])
    return estimate_from_weights(log_w, pareto_khat(log_w), "importance")


@torch.no_grad()
def _log_weights(
    model: Model, batch: Batch, draws: int, log_prior: LogPrior
) -> NDArray[np.float64]:
    paths = model.encode(batch, draws)
    log_w = model.log_weights(paths, batch, log_prior)
    weights: NDArray[np.float64] = log_w.T.cpu().double().numpy()
    return weights


def _log_prior(prior: Prior) -> LogPrior:
    """Log P(code_seen), of a model the log of an unbiased estimate of it: weights stay unbiased."""
    if isinstance(prior, DensityPrior):
        return prior.log_prob
    if isinstance(prior, Model):
        above = _log_prior(prior.prior)
        return lambda code, seen: prior.log_estimate(code, above, seen)
    raise TypeError(
        f"importance sampling needs a prior with a density, but {type(prior).__name__} has none; "
        f"use another prior, as prior='denoising'"
    )

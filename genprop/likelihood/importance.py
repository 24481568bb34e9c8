"""Importance sampling of log P(x) with the encoder as proposal, or one better than it."""

import numpy as np
import torch
from numpy.typing import NDArray

from genprop.data import Batch
from genprop.likelihood.estimate import Estimate, estimate_from_weights
from genprop.likelihood.exact import prior_density
from genprop.likelihood.pareto import pareto_smoothed
from genprop.likelihood.parts import in_parts, rows_at_once
from genprop.likelihood.proposals import FromEncoder, FromModel, Mixed, Proposal, Refined
from genprop.model import LogPrior, Model
from genprop.posterior import Posterior
from genprop.prior import DensityPrior, Prior

WEIGHTS_AT_ONCE = 2**22
PATHS_REFINED = 64  # of a row, that a refinement looks at together


def importance(
    model: Model, batch: Batch, samples: int = 1000, widen: float = 0.0, refine: int = 0
) -> Estimate:
    r"""Log P(x_seen) ≈ log (1/K) Σ_k P(x_seen, h_k) / Q(h_k | x_seen), h_k ~ Q.

    In expectation it lies below the truth, and rises to it with K. Rows and samples are streamed:
    memory does not grow with either, but for K numbers a row of the part at hand.

    An encoder narrower than the posterior gives weights of heavy tails, which k-hat tells. Two ways
    out: ``widen`` draws from (1 - widen) Q(h | x_seen) + widen P(h), whose weights are at most
    P(x_seen | h) / widen; ``refine`` moves and stretches Q for each row first, by gradient steps
    on draws of their own, so that the estimate stays as it is.

    Args:
        model: its prior must have a density.
        batch: the rows; of each only what is seen counts.
        samples: K.
        widen: the share of the draws that come from the prior.
        refine: gradient steps; all hidden levels must be real-valued.

    Raises:
        ValueError: no sample, a share not between 0 and 1, negative steps, discrete levels that
            cannot be refined, or data that does not fit the model.
        TypeError: a prior without a density.

    References:
        Burda, Grosse, Salakhutdinov, 2016, Importance weighted autoencoders (arXiv 1509.00519).
        Hesterberg, 1995, Weighted average importance sampling and defensive mixture distributions.
    """
    if samples < 1:
        raise ValueError(f"importance sampling needs at least one sample, but got {samples}")
    if not 0 <= widen < 1 or refine < 0:
        raise ValueError(
            f"widen is a share from 0 to below 1 and refine a number of steps, but got "
            f"widen={widen}, refine={refine}"
        )
    model.check(batch)
    log_prior = _log_prior(model.prior)
    if not model.has_layers:
        return prior_density(model, batch.to(model.like.device, model.like.dtype))
    rows = min(batch.rows, WEIGHTS_AT_ONCE // samples)
    if not widen and not refine:
        return in_parts(batch, rows, lambda part: _plain(model, part, samples, log_prior))
    rows = min(rows, rows_at_once(model, PATHS_REFINED))
    return in_parts(batch, rows, lambda part: _chosen(model, part, samples, widen, refine))


@torch.no_grad()
def _plain(model: Model, batch: Batch, samples: int, log_prior: LogPrior) -> Estimate:
    parts = [
        model.log_weights(model.encode(batch, draws), batch, log_prior)
        for draws in _counts(model, batch, samples)
    ]
    return _weighed(torch.cat(parts), "importance")


@torch.no_grad()
def _chosen(model: Model, batch: Batch, samples: int, widen: float, refine: int) -> Estimate:
    """By a proposal over whole positions."""
    posterior = Posterior(model, batch, smooth=refine > 0)
    law: Proposal = Refined(posterior, refine) if refine else FromEncoder(posterior)
    if widen:
        law = Mixed(law, FromModel(posterior), widen)
    parts = []
    for draws in _counts(model, batch, samples):
        h = law.sample((draws,))
        parts.append(posterior.log_prob(h) - law.log_prob(h))
    name = "importance" + ", refined" * bool(refine) + ", widened" * bool(widen)
    return _weighed(torch.cat(parts), name)


def _counts(model: Model, batch: Batch, samples: int) -> list[int]:
    """The samples in parts whose paths fit into memory."""
    at_once = max(1, min(samples, rows_at_once(model, batch.rows)))
    return [min(at_once, samples - done) for done in range(0, samples, at_once)]


def _weighed(log_weights: torch.Tensor, method: str) -> Estimate:
    log_w: NDArray[np.float64] = log_weights.T.cpu().double().numpy()
    smoothed, khat = pareto_smoothed(log_w)
    return estimate_from_weights(log_w, khat, method, smoothed)


def _log_prior(prior: Prior) -> LogPrior:
    """Log P(code_seen), of a model the log of an unbiased estimate of it: weights stay unbiased."""
    if isinstance(prior, DensityPrior):
        return prior.log_prob
    if isinstance(prior, Model):
        above = _log_prior(prior.prior)
        return lambda code, seen: prior.log_estimate(code, above, seen)
    raise TypeError(
        f"importance sampling needs a prior with a density, but {type(prior).__name__} has none; "
        f"use another prior, as prior='denoising', or method='csl', which needs no density"
    )

"""The Parzen window, for comparison with papers of 2013 to 2015 only."""

import dataclasses
import math
import warnings

import numpy as np
import torch
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.estimate import Estimate, estimate_from_weights, exact_estimate
from genprop.likelihood.parts import NUMBERS_AT_ONCE, in_parts
from genprop.model import Model
from genprop.samplers.ancestral import ancestral
from genprop.shapes import Elements, PerRow

CAVEAT = (
    "a Parzen window says little of log P(x): of pictures, training rows themselves or the centres "
    "of their clusters score as high as good models or higher. Use it only beside figures of "
    "papers that used it, and mind their unit: nats / ln 2 = bits"
)
BANDWIDTHS = tuple(float(b) for b in np.logspace(-1, 0, 10))


def window(
    model: Model,
    batch: Batch,
    validation: Batch,
    samples: int = 10_000,
    bandwidths: tuple[float, ...] = BANDWIDTHS,
    mean: bool = True,
) -> Estimate:
    r"""Log (1/K) Σ_k N(x_seen; μ_k, σ² I), μ_k of draws from the model, in nats.

    It is *no* estimate of log P(x) that can be relied on: in many dimensions the window, not the
    model, decides what it is. 10,000 training digits of MNIST as centres score about 244 nats, and
    centres of clusters more than the best models did (Theis et al.). It is here because papers of
    2013 to 2015 report it, most in nats, some in bits (nats / ln 2).

    Args:
        model: what is drawn from.
        batch: rows, real values; of each only what is seen counts.
        validation: other rows, on which σ is chosen.
        samples: K.
        bandwidths: of which σ is one.
        mean: whether centres are E[x | h_1], as in those papers, rather than draws.

    Returns:
        Estimates that are no bound; the bandwidth is in ``method``. Their errors are those of the
        sum over centres.

    Raises:
        ValueError: no sample, a bandwidth that is not positive, or data that does not fit.

    References:
        Breuleux, Bengio, Vincent, 2011, Quickly generating representative samples from an
        RBM-derived process. Theis, van den Oord, Bethge, 2016, A note on the evaluation of
        generative models (arXiv 1511.01844).
    """
    if samples < 1 or not bandwidths or min(bandwidths) <= 0:
        raise ValueError(
            f"a window needs at least one sample and positive bandwidths, but got "
            f"samples={samples}, bandwidths={bandwidths}"
        )
    for rows in (batch, validation):
        model.check(rows)
    warnings.warn(CAVEAT, UserWarning, stacklevel=2)
    like = model.like
    centres = torch.cat(list(ancestral(model, samples, mean=mean).values()), -1)
    batch, validation = (rows.to(like.device, like.dtype) for rows in (batch, validation))
    width = chosen_bandwidth(centres, validation, bandwidths)
    return window_estimate(centres, batch, width)


def chosen_bandwidth(
    centres: Elements, validation: Batch, bandwidths: tuple[float, ...] = BANDWIDTHS
) -> float:
    """The bandwidth with the highest mean on validation rows."""
    scores = [window_estimate(centres, validation, width).mean for width in bandwidths]
    return bandwidths[int(np.argmax(scores))]


@torch.no_grad()
def window_estimate(centres: Elements, batch: Batch, bandwidth: float) -> Estimate:
    """The log-mean of Gaussians of one bandwidth at centres ``(samples, elements)``.

    >>> found = window_estimate(torch.zeros(3, 1), Batch.of(torch.zeros(1, 1)), 1.0)
    >>> print(f"{found.mean:.4f}")
    -0.9189
    """
    rows = max(1, NUMBERS_AT_ONCE // max(centres.shape))
    method = f"Parzen window of bandwidth {bandwidth:.3g}"

    def estimate(part: Batch) -> Estimate:
        log_p = _log_kernels(centres, part, bandwidth).double().cpu().numpy()
        if len(centres) == 1:
            return exact_estimate(log_p[:, 0], method)
        found = estimate_from_weights(log_p, np.full(len(log_p), math.nan), method)
        return _point(found)

    return in_parts(batch, rows, estimate)


def _log_kernels(centres: Tensor, batch: Batch, width: float) -> PerRow:
    """Log N(x_seen; μ_k, σ² I), ``(rows, centres)``."""
    x = torch.cat(list(batch.x.values()), -1)
    seen = torch.cat(list(batch.masks().values()), -1).to(x)
    x = x * seen
    away = x.square().sum(-1, keepdim=True) - 2 * x @ centres.mT + seen @ centres.square().mT
    constant = seen.sum(-1, keepdim=True) * (math.log(width) + 0.5 * math.log(2 * math.pi))
    return -away.clamp_min(0) / (2 * width**2) - constant


def _point(found: Estimate) -> Estimate:
    return dataclasses.replace(found, bound="point")

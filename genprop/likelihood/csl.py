"""The conservative sampling-based log-likelihood, for priors without a density."""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.estimate import Estimate, estimate_from_weights
from genprop.likelihood.pareto import pareto_smoothed
from genprop.likelihood.parts import NUMBERS_AT_ONCE, in_parts
from genprop.model import Model
from genprop.samplers.walk import EncodeDecode

ROWS_AT_ONCE = 1000
BIASED = "biased CSL (for comparing models only)"


def csl(model: Model, batch: Batch, samples: int = 10_000, biased: bool = False) -> Estimate:
    r"""Log P(x_seen) ≈ log (1/K) Σ_k P(x_seen | h_k), h_k of draws that the model makes.

    Each draw is a whole descent from the prior, and serves all rows. Only P(x | h_1) is evaluated,
    so that the prior needs no density. In expectation it is below log P(x_seen), far below it
    where K draws hardly ever come near to what explains x (10⁴ to 10⁶ of them for pictures of
    digits), and it rises to it with K.

    Args:
        model: every modality needs a layer.
        batch: the rows; of each only what is seen counts.
        samples: K.
        biased: takes h_k from chains of encoding and decoding that start at the row itself. That
            is *no* bound, and as a rule far above log P(x): fit only to compare models.

    Raises:
        ValueError: no sample, a modality without a layer, or data that does not fit the model.

    References:
        Bengio, Yao, Cho, 2014, Bounding the test log-likelihood of generative models (arXiv
        1311.6184).
    """
    if samples < 1:
        raise ValueError(f"CSL needs at least one sample, but got {samples}")
    model.check(batch)
    bare = [name for name, stack in model.named_stacks() if not len(stack.layers)]
    if bare:
        raise ValueError(
            f"CSL weighs the data by decoders, but modalities {', '.join(bare)} have no layer"
        )
    batch = batch.to(model.like.device, model.like.dtype)
    draw = _biased if biased else _shared
    rows = max(1, min(ROWS_AT_ONCE, 2**22 // samples))
    return in_parts(batch, rows, lambda part: draw(model, part, samples))


@torch.no_grad()
def _shared(model: Model, batch: Batch, samples: int) -> Estimate:
    widest = max(model.widths.values())
    at_once = max(1, NUMBERS_AT_ONCE // (4 * widest * batch.rows))
    parts = []
    for done in range(0, samples, at_once):
        paths = model.decode(model.prior.sample((min(at_once, samples - done), 1)))
        parts.append(_explained(model, {n: path.h[1] for n, path in paths.items()}, batch))
    return _weighed(torch.cat(parts), "CSL")


@torch.no_grad()
def _biased(model: Model, batch: Batch, samples: int) -> Estimate:
    # the chain starts at the row, and then holds nothing of it
    free, start = EncodeDecode(model), EncodeDecode(model, batch).start(1)
    state, parts = free.init(start), []
    for _ in range(samples):
        levels = free.split(state.position)
        first = {name: levels[f"{name}.1"] for name in model.stacks}
        parts.append(_explained(model, first, batch))
        state, _ = free.step(state)
    return _no_bound(_weighed(torch.cat(parts), BIASED))


def _explained(model: Model, first: dict[str, Tensor], batch: Batch) -> Tensor:
    """Log P(x_seen | h_1), ``(draws, rows)``."""
    terms = [
        stack[0].decoder(first[name]).log_prob(batch.x[name], batch.seen[name])
        for name, stack in model.named_stacks()
    ]
    return torch.stack(terms).sum(0)


def _weighed(log_p: Tensor, method: str) -> Estimate:
    log_w = np.ascontiguousarray(log_p.T.cpu().double().numpy())
    smoothed, khat = pareto_smoothed(log_w)
    return estimate_from_weights(log_w, khat, method, smoothed)


def _no_bound(found: Estimate) -> Estimate:
    # draws of one chain are not independent: no error can be told from their spread
    error = np.full(found.rows, math.nan)
    return dataclasses.replace(found, bound="point", std_error=error, smoothed=None)

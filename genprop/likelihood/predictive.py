"""Log P(x_a | x_b) by paths that know x_b alone: the density of what would be drawn."""

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.estimate import Estimate, Numbers, joined
from genprop.likelihood.pareto import pareto_smoothed
from genprop.likelihood.parts import rows_at_once
from genprop.model import Model
from genprop.tables.missingness import Selected
from genprop.unseen import unseen


def predictive(model: Model, batch: Batch, known: Batch, samples: int = 1000) -> Estimate:
    r"""Log P(x_a | x_b) ≈ log Σ_k w_k P(x_a | h_k, x_b) / Σ_k w_k, h_k ~ Q(h | x_b).

    The paths do not know x_a, and have weights w_k = P(x_b, h_k) / Q(h_k | x_b). Whatever these
    are, the mixture is a law of x_a whose density integrates to one: it is that of the rows which
    ``impute`` draws, and however far the encoder is off no law but the model's own scores higher on
    the model's own data. A difference of two estimates has no such side; but where x_a tells much
    more of h than x_b does, few paths come near, and the difference is nearer to the truth.

    Args:
        model: the model.
        batch: the rows; x_a is what they show beside x_b.
        known: the same rows, showing x_b only.
        samples: paths K of each row.

    Raises:
        ValueError: no sample, or a model of why cells are missing.
        TypeError: a modality of which paths send no law down.

    References:
        Owen, 2013, Monte Carlo theory, methods and examples, chapter 9.2 (weighted means and their
        standard error). Gneiting, Raftery, 2007, Strictly proper scoring rules (the logarithmic
        score).

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Bernoulli(4), hidden=(2,)), GaussianPrior(2))
    >>> whole, half = torch.ones(3, 4), torch.tensor([[True, True, False, False]]).expand(3, 4)
    >>> predictive(model, Batch.of(whole), Batch.of(whole, half), 50).log_prob.shape
    (3,)
    """
    if samples < 1:
        raise ValueError(f"a mixture needs at least one path, but got samples={samples}")
    if any(isinstance(module, Selected) for module in model.modules()):
        raise ValueError(
            "method 'predictive' takes cells to be hidden at random, but the model has learned why "
            "they are missing; take method='importance'"
        )
    like = model.like
    batch, known = batch.to(like.device, like.dtype), known.to(like.device, like.dtype)
    parts = torch.arange(batch.rows).split(rows_at_once(model, samples))
    return joined([_mixed(model, batch.take(p), known.take(p), samples) for p in parts])


@torch.no_grad()
def _mixed(model: Model, batch: Batch, known: Batch, samples: int) -> Estimate:
    """Of rows that fit into memory; k-hat is that of the weights, or of their shares of P(x_a)."""
    told = known.masks()
    found = unseen(model, known, samples)
    log_p = found.log_prob(batch.x, {n: seen & ~told[n] for n, seen in batch.masks().items()})
    log_w, log_wp = (_by_row(v) for v in (found.log_w, found.log_w + log_p))
    w, share = softmax(log_w, 1), softmax(log_wp, 1)
    smoothed, khat = pareto_smoothed(log_wp)
    below, own = pareto_smoothed(log_w)
    return Estimate(
        log_prob=logsumexp(log_wp, 1) - logsumexp(log_w, 1),
        std_error=np.sqrt(((share - w) ** 2).sum(1)),
        ess=1 / (share**2).sum(1),
        khat=np.fmax(khat, own),
        samples=log_w.shape[1],
        bound="lower",
        method="predictive",
        smoothed=smoothed - below,
    )


def _by_row(values: Tensor) -> Numbers:
    rows: Numbers = values.T.cpu().double().numpy()
    return rows

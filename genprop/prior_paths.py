"""Completions by paths from P in place of Q: where a row shows little, the prior is near enough."""

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.model import Model
from genprop.resampling import picked, resampled


def has_prior_paths(model: Model) -> bool:
    """Whether every modality is drawn from a code, so that P(x | h) weighs what is seen of it."""
    if isinstance(model.prior, Model) and model.bare:
        return has_prior_paths(model.prior)
    return all(len(stack.layers) for _, stack in model.named_stacks())


@torch.no_grad()
def complete_by_prior(
    model: Model, batch: Batch, draws: int, samples: int
) -> tuple[dict[str, Tensor], Tensor]:
    r"""Draws of what a batch does not show: paths of P, drawn again by P(x_seen | h), decoded.

    Whatever the prior and however far the encoders are off, these are draws of P(x_unseen | x_seen)
    for K → ∞; but of K paths only about K · P(x_seen) / max P(x_seen | h) count, so that it is for
    rows that show little: a label, or a few cells.

    Args:
        model: of which every modality has a layer, or a model above them all.
        batch: rows, any of their cells unseen.
        draws: how many completions of each row.
        samples: paths K from which each is drawn.

    Returns:
        For each modality whole rows ``(draws, rows, elements)``, the seen cells as they were; and
        the log-weights log P(x_seen | h), ``(samples, rows)``, whose mean weight is P(x_seen).

    References:
        Fung, Chang, 1990, Weighing and integrating evidence for stochastic simulation in Bayesian
        networks (likelihood weighting).

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Bernoulli(4), hidden=(2,)), GaussianPrior(2))
    >>> half = torch.tensor([[True, True, False, False]]).expand(3, 4)
    >>> x, log_w = complete_by_prior(model, Batch.of(torch.ones(3, 4), half), 5, 20)
    >>> x["x"].shape, x["x"][..., :2].unique(), log_w.shape
    (torch.Size([5, 3, 4]), tensor([1.]), torch.Size([20, 3]))
    """
    lifted = model.lifted(batch)
    if lifted is not None:
        inner, log_w = complete_by_prior(*lifted, draws, samples)
        return model.batch(torch.cat([*inner.values()], -1)).x, log_w
    paths = model.decode(model.prior.sample((samples, batch.rows)))
    told = [paths[n].laws[0].log_prob(batch.x[n], seen) for n, seen in batch.seen.items()]
    log_w = torch.stack(told).sum(0)
    chosen = resampled(log_w, draws)
    x = {}
    for name, stack in model.named_stacks():
        whole, seen = batch.x[name], batch.seen[name]
        law = stack[0].decoder(picked(paths[name].h[1], chosen))
        drawn = whole if seen is None else law.given(whole, seen).sample()
        x[name] = drawn.expand(draws, *whole.shape)
    return x, log_w

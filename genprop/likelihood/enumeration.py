"""P(x) of small discrete models, as a sum over all their hidden values."""

import math
from itertools import pairwise, product

import torch
from torch import Tensor

from genprop.conditional import Autoregressive, Bernoulli, Categorical, Family
from genprop.data import Batch
from genprop.model import Model
from genprop.prior import DensityPrior
from genprop.shapes import PerRow
from genprop.stack import Stack

MOST_STATES = 2**16  # of a joint code
MOST_PAIRS = 2**24  # of states of two neighbouring levels
NUMBERS_AT_ONCE = 2**24


def countable(model: Model) -> bool:
    """Whether all hidden values of a model can be gone through, and its prior has a density.

    >>> from genprop.priors.factorial import FactorialPrior
    >>> stack = Stack.build(Bernoulli(6), hidden=(4, 2), latent="bernoulli")
    >>> countable(Model(stack, FactorialPrior(Bernoulli(2))))
    True
    """
    counts = [_counts(stack) for _, stack in model.named_stacks()]
    if any(not levels for levels in counts):
        return False
    pairs = max(low * high for levels in counts for low, high in pairwise([1, *levels]))
    codes = math.prod(levels[-1] for levels in counts)
    if pairs > MOST_PAIRS or max(codes, *(n for levels in counts for n in levels)) > MOST_STATES:
        return False
    above = model.prior
    return countable(above) if isinstance(above, Model) else isinstance(above, DensityPrior)


@torch.no_grad()
def enumerated(model: Model, batch: Batch) -> PerRow:
    r"""Log P(x_seen) = log Σ_h P(x_seen, h), each level summed out given the one above.

    Args:
        model: one that is ``countable``.
        batch: the rows.
    """
    parts = [_climbed(stack, batch, name) for name, stack in model.named_stacks()]
    explained = parts[0]
    for part in parts[1:]:
        explained = (explained[:, :, None] + part[:, None, :]).flatten(1)
    return (explained + _log_prior(model)).logsumexp(-1)


def states(family: Family) -> Tensor:
    """All values of a discrete family, ``(states, elements)``.

    >>> states(Categorical((2, 1))).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    if isinstance(family, Categorical):
        groups = [torch.eye(n) for n in family.sizes]
        return torch.stack([torch.cat(parts) for parts in product(*groups)])
    bits = torch.arange(family.elements).flip(0)
    return (torch.arange(2**family.elements)[:, None] >> bits & 1).float()


def numbers_a_row(model: Model) -> int:
    """Numbers that the sum needs for each row of a model that is countable."""
    named = model.named_stacks()
    levels = [n * s[i].below for _, s in named for i, n in enumerate(_counts(s))]
    return max(*levels, math.prod(_counts(stack)[-1] for _, stack in named))


def _count(family: Family) -> int | None:
    if isinstance(family, Categorical):
        return math.prod(family.sizes)
    return 2**family.elements if isinstance(family, Bernoulli | Autoregressive) else None


def _counts(stack: Stack) -> list[int]:
    """States of each level; none where some level has no end of them."""
    found = [_count(stack[level].encoder.family) for level in range(len(stack.layers))]
    return [] if None in found else [n for n in found if n is not None]


def _states_of(stack: Stack, level: int, like: Tensor) -> Tensor:
    return states(stack[level].encoder.family).to(like)


def _log_prior(model: Model) -> Tensor:
    """Log P(code) of every joint code, in the order of ``enumerated``."""
    like = model.like
    every = [_states_of(stack, len(stack.layers) - 1, like) for _, stack in model.named_stacks()]
    index = torch.cartesian_prod(*(torch.arange(len(part)) for part in every))
    index = index[:, None] if index.ndim == 1 else index
    codes = torch.cat([part[index[:, n]] for n, part in enumerate(every)], -1)
    if isinstance(model.prior, Model):
        return enumerated(model.prior, model.prior.batch(codes))
    assert isinstance(model.prior, DensityPrior)
    log_prob: Tensor = model.prior.log_prob(codes).double()
    return log_prob


def _climbed(stack: Stack, batch: Batch, name: str) -> Tensor:
    """Log P(x_seen | code) of every code, ``(rows, codes)``."""
    x, seen = batch.x[name], batch.seen[name]
    law = stack[0].decoder(_states_of(stack, 0, x)[:, None])
    log_p: Tensor = law.log_prob(x, seen).double().mT
    for level in range(1, len(stack.layers)):
        law = stack[level].decoder(_states_of(stack, level, x)[:, None])
        step = law.log_prob(_states_of(stack, level - 1, x)).double()  # (above, below)
        size = max(1, NUMBERS_AT_ONCE // step.numel())
        log_p = torch.cat([(part[:, None] + step).logsumexp(-1) for part in log_p.split(size)])
    return log_p

"""What a modality's labels are, given the others: P(y | x_seen) for every value of y."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.importance import importance
from genprop.model import Model


class Labels(NamedTuple):
    """P(y | x_seen) of one label's values.

    Attributes:
        proba: ``(rows, classes)``, each row's sum is 1.
        std_error: its Monte Carlo standard error.
    """

    proba: NDArray[np.float64]
    std_error: NDArray[np.float64]


def label_proba(
    model: Model, batch: Batch, name: str, values: Tensor, samples: int = 200
) -> Labels:
    r"""P(y | x_seen) = P(y, x_seen) / Σ_y' P(y', x_seen) for every value y of a modality.

    Each P(y, x_seen) is estimated by importance sampling, the encoder being told y; the error
    follows from theirs by the delta method.

    Args:
        model: with the modality among others.
        batch: the rows; what they say of the modality is not looked at.
        name: of the modality.
        values: each of its values, ``(classes, elements)``.
        samples: importance samples for each row and value.

    Raises:
        ValueError: there is no such modality.
        TypeError: the prior has no density.

    >>> import torch
    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> stacks = {"x": Stack.build(Bernoulli(4), (2,)), "y": Stack.build(Bernoulli(1), (1,))}
    >>> batch = Batch.of({"x": torch.ones(5, 4), "y": torch.ones(5, 1)})
    >>> values = torch.tensor([[0.0], [1.0]])
    >>> label_proba(Model(stacks, GaussianPrior(3)), batch, "y", values).proba.shape
    (5, 2)
    """
    if name not in batch.x:
        raise ValueError(f"there is no modality {name!r}; the data has {list(batch.x)}")
    estimates = [importance(model, _told(batch, name, value), samples) for value in values]
    log_joint = np.stack([estimate.log_prob for estimate in estimates], 1)
    error = np.stack([estimate.std_error for estimate in estimates], 1)
    proba = np.exp(log_joint - np.logaddexp.reduce(log_joint, 1, keepdims=True))
    # d p_i = p_i (e_i - Σ_j p_j e_j) for independent errors e of the logarithms
    own = (1 - proba) ** 2 * error**2
    others = ((proba * error) ** 2).sum(1, keepdims=True) - (proba * error) ** 2
    return Labels(proba, proba * np.sqrt(own + others))


def _told(batch: Batch, name: str, value: Tensor) -> Batch:
    x = value.to(batch.x[name]).expand_as(batch.x[name])
    return Batch({**batch.x, name: x}, {**batch.seen, name: None})

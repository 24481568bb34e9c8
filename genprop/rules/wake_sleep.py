"""Reweighted wake-sleep."""

from collections.abc import Iterator

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.distributions import Product
from genprop.model import Model
from genprop.rules.rule import (
    Cost,
    Passage,
    Rule,
    Term,
    check_samples,
    climb,
    codes,
    log_weights,
    mean_over_rows,
    negative_bound,
    trainable,
)
from genprop.stack import Path


class ReweightedWakeSleep(Rule):
    r"""Decoders learn from paths of Q, encoders from weighted paths of Q and from dreams of P.

    With w_k ∝ P(path_k) / Q(path_k) over K paths from Q, all of them held constant::

        layer l:  - Σ_k w_k log P(h_{l-1} | h_l)
                  - ½ [ Σ_k w_k log Q(h_l | h_{l-1})  +  log Q(h_l | h_{l-1}) on a path from P ]
        prior:    - Σ_k w_k log P(h_L)

    Args:
        samples: paths K drawn for each row, at least 2.
        sleep: whether encoders also learn from dreams; without, the wake part has weight 1.

    Raises:
        ValueError: no sample.

    References:
        Bornschein, Bengio, 2015, Reweighted wake-sleep (arXiv 1406.2751). Hinton, Dayan, Frey,
        Neal, 1995, The wake-sleep algorithm for unsupervised neural networks.

    >>> ReweightedWakeSleep(samples=5).sleep
    True
    """

    def __init__(self, samples: int = 5, sleep: bool = True) -> None:
        self.samples, self.sleep = check_samples(samples), sleep

    def check(self, model: Model) -> None:
        if self.samples < 2 and not self.sleep:
            raise ValueError("the wake phase needs at least two samples; use samples=5")

    def __call__(self, model: Model, batch: Batch) -> Iterator[Term]:
        shape = torch.Size((self.samples,))
        path = list(climb(model, batch, shape, draw=_constant_draw))
        tops = {p.modality: p.h for p in path}
        code = codes(model, batch, tops, shape)
        prior = model.prior.loss(code, model.code_seen(batch))
        costs = [_cost(passage) for passage in path]
        log_w = log_weights(costs, prior)
        weights = log_w.softmax(0)
        dreams = model.decode(model.prior.sample((1, batch.rows))) if self.sleep else {}
        for cost in costs:
            yield self._layer(cost, weights, dreams)
        account = {"prior": prior.detach().mean(), "bound": negative_bound(log_w)}
        learns = trainable(model.prior)
        parts = {"prior.loss": mean_over_rows(prior, weights)} if learns else {}
        yield Term("prior", parts, account)

    def _layer(self, cost: Cost, weights: Tensor, dreams: dict[str, Path]) -> Term:
        passage, reconstruction, log_q = cost
        share = 0.5 if self.sleep else 1.0
        parts = {
            f"{passage.name}.reconstruction": mean_over_rows(reconstruction, weights),
            f"{passage.name}.wake": -share * mean_over_rows(log_q, weights),
        }
        if self.sleep:
            parts[f"{passage.name}.sleep"] = -share * _dreamt(passage, dreams).mean()
        account = {
            f"{passage.name}.reconstruction": reconstruction.detach().mean(),
            f"{passage.name}.entropy": log_q.detach().mean(),
        }
        return Term(passage.name, parts, account)


def _cost(passage: Passage) -> Cost:
    log_q = passage.only_present(passage.q.log_prob(passage.h))
    return Cost(passage, passage.reconstruction, log_q)


def _constant_draw(q: Product, shape: torch.Size) -> Tensor:
    return q.sample(shape)


def _dreamt(passage: Passage, dreams: dict[str, Path]) -> Tensor:
    """Log Q(h_l | h_{l-1}) on a dream, of which as much is seen as of the row it stands beside."""
    modality, _, level = passage.name.rpartition(".")
    below, h = dreams[modality].h[int(level) - 1 : int(level) + 1]
    if passage.seen is not None:
        below = torch.where(passage.seen, below, 0)
    log_q: Tensor = passage.layer.encoder(below, passage.seen).log_prob(h)
    return passage.only_present(log_q)

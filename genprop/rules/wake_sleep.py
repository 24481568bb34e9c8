"""Reweighted wake-sleep."""

from collections.abc import Iterator

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.model import NESTED, Model
from genprop.passage import Foot, Passage, climb_stack
from genprop.rules.rule import (
    Cost,
    Rule,
    Term,
    check_samples,
    climb,
    log_weights,
    mean_over_rows,
    negative_bound,
    summit,
    trainable,
)
from genprop.stack import Path, joint_x


class ReweightedWakeSleep(Rule):
    r"""Decoders learn from paths of Q, encoders from weighted paths of Q and from dreams of P.

    Formula: with w_k ∝ P(path_k) / Q(path_k) over K paths from Q, all of them held constant,
    descend::

        layer l:  - Σ_k w_k log P(h_{l-1} | h_l)
                  - ½ [ Σ_k w_k log Q(h_l | h_{l-1})  +  log Q(h_l | h_{l-1}) on a path from P ]
        prior:    - Σ_k w_k log P(h_L)

    Local: a layer's term reaches its own encoder and decoder, the prior's term the prior.
    Transported: no weight and no derivative; one number w_k a path. Cost: K forward passes of
    encoders and decoders and their derivatives, about 3 K passes, and 3 for the dreams. Memory: all
    layers' graphs, none of which reaches another.

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
        path = list(climb(model, batch, shape, _constant_climb))
        top = summit(model, batch, {p.modality: p.h for p in path}, shape)
        prior = top.loss()
        costs = [_cost(passage) for passage in path]
        log_w = log_weights(costs, prior)
        weights = log_w.softmax(0)
        dreams = _dreams(model, torch.Size((1, batch.rows))) if self.sleep else {}
        for cost in costs:
            yield self._layer(cost, weights, dreams)
        account = {"prior": prior.detach().mean(), "bound": negative_bound(log_w)}
        learns = trainable(top.prior)
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
    return Cost(passage, passage.reconstruction, passage.log_q())


def _constant_climb(foot: Foot, shape: torch.Size) -> Iterator[Passage]:
    return climb_stack(foot, shape, lambda q, shape: q.sample(shape))


def _dreams(model: Model, shape: torch.Size) -> dict[str, Path]:
    """Paths from P by modality, of a prior that is a model too."""
    if not isinstance(model.prior, Model):
        return model.decode(model.prior.sample(shape))
    above = _dreams(model.prior, shape)
    code = joint_x({name: above[name] for name in model.prior.stacks})
    return {**model.decode(code), **{f"{NESTED}.{name}": path for name, path in above.items()}}


def _dreamt(passage: Passage, dreams: dict[str, Path]) -> Tensor:
    """Log Q(h_l | h_{l-1}) on a dream, of which as much is seen as of the row it stands beside."""
    below, h = dreams[passage.modality].h[passage.level - 1 : passage.level + 1]
    if passage.seen is not None:
        below = torch.where(passage.seen, below, 0)
    log_q: Tensor = passage.layer.encoder(below, passage.seen).log_prob(h, passage.known)
    return passage.only_present(log_q)

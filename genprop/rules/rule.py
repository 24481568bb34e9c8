"""What a credit-assignment rule is, and the climb through a stack that rules share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genprop.conditional import Conditional
from genprop.data import Batch
from genprop.model import NESTED, Model
from genprop.passage import Climb, Passage, climb_stack
from genprop.prior import Prior
from genprop.rules.weighing import Weights, weighed, weights_above, weights_of
from genprop.shapes import PerRow
from genprop.stack import is_discrete


class Term(NamedTuple):
    """A piece of a rule; the gradient of the sum of its parts is a local update.

    Attributes:
        name: where it acts: ``modality.layer``, ``prior``, or the whole model.
        parts: named scalars with their graphs, in nats a row.
        account: what is to be recorded of KL(Q‖P): reconstruction, entropy and target of a layer,
            and the prior's loss, plain means over draws and rows; of several samples also the
            ``bound``, the negative of their importance-weighted one. Without graphs.
    """

    name: str
    parts: dict[str, Tensor]
    account: dict[str, Tensor]

    @property
    def value(self) -> Tensor:
        """The sum of the parts."""
        return torch.as_tensor(sum(self.parts.values()))


class Rule(ABC):
    """Credit assignment: what each part of a model is told to change, given a batch.

    Attributes:
        samples: paths drawn for each row.
    """

    samples: int

    @abstractmethod
    def __call__(self, model: Model, batch: Batch) -> Iterator[Term]:
        """Yields terms one by one; each may be sent backward before the next is asked for."""

    @abstractmethod
    def check(self, model: Model) -> None:
        """Raises ValueError, before training, where the rule cannot train the model."""


def climb(
    model: Model,
    batch: Batch,
    shape: torch.Size,
    up: Climb = climb_stack,
    local: bool = True,
    weights: Weights | None = None,
) -> Iterator[Passage]:
    """Draws a path from Q in every stack, layer by layer, modality by modality.

    A prior that is a model itself is climbed like any other layers.

    Args:
        model: whose stacks are climbed.
        batch: the rows.
        shape: ``(K,)`` for K paths a row, or ``()`` for one without a dimension of its own.
        up: how one stack is climbed.
        local: whether what goes into a model's prior is held constant.
        weights: of what the stacks stand on; the model's own unless given.
    """
    tops: dict[str, Tensor] = {}
    weights = weights_of(model) if weights is None else weights
    for foot in model.feet(batch):
        for passage in up(foot, shape):
            tops[foot.name] = passage.h
            yield weighed(passage, weights)
    if isinstance(model.prior, Model):
        code = codes(model, batch, tops, shape)
        known = model.code_seen(batch), model.code_told(batch)
        inner = model.prior.batch(code.detach() if local else code, *known)
        above = weights_above(model, weights)
        for passage in climb(model.prior, inner, torch.Size(), up, local, above):
            yield passage._replace(name=f"{NESTED}.{passage.name}")


def codes(model: Model, batch: Batch, tops: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """The joint code ``shape + (rows, elements)``; a stack without layers gives x itself."""
    parts = [
        tops[name] if name in tops else batch.x[name].expand(*shape, *batch.x[name].shape)
        for name in model.stacks
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class Summit(NamedTuple):
    """The prior above all layers, its code, and what of this is seen."""

    prior: Prior
    code: Tensor
    seen: Tensor | None

    def loss(self) -> PerRow:
        """The prior's loss of the code."""
        return self.prior.loss(self.code, self.seen)


def summit(model: Model, batch: Batch, tops: Mapping[str, Tensor], shape: torch.Size) -> Summit:
    """Where a climb ends; ``tops`` holds h_L of each stack by its modality."""
    code, seen = codes(model, batch, tops, shape), model.code_seen(batch)
    if not isinstance(model.prior, Model):
        return Summit(model.prior, code, seen)
    above = {n.removeprefix(f"{NESTED}."): h for n, h in tops.items() if n.startswith(NESTED)}
    return summit(model.prior, model.prior.batch(code, seen), above, torch.Size())


def mean_over_rows(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean over rows of the (weighted) mean over draws of ``(draws, rows)``."""
    return values.mean() if weights is None else (weights * values).sum(0).mean()


class Cost(NamedTuple):
    """A passage, its -log P(sg h_{l-1} | h_l), and log Q(h_l | sg h_{l-1}) or the mean of it."""

    passage: Passage
    reconstruction: Tensor
    log_q: Tensor


def log_weights(costs: Sequence[Cost], prior_loss: Tensor) -> Tensor:
    """Log P(path_k) - log Q(path_k), ``(draws, rows)``, in nats; a constant."""
    log_w = -prior_loss.detach()
    for cost in costs:
        log_w = log_w - cost.reconstruction.detach() - cost.log_q.detach()
    return log_w


def negative_bound(log_w: Tensor) -> Tensor:
    """-log (1/K) Σ_k w_k, its mean over rows, of ``(draws, rows)``."""
    return -(log_w.logsumexp(0) - math.log(len(log_w))).mean()


def trainable(module: nn.Module) -> bool:
    """Whether anything in the module learns."""
    return any(p.requires_grad for p in module.parameters())


def encoders(model: Model) -> Iterator[tuple[str, Conditional]]:
    """Every encoder with its name ``modality.layer``."""
    for name, stack in model.all_stacks():
        for level in range(len(stack.layers)):
            yield f"{name}.{level + 1}", stack[level].encoder


def discrete_layers(model: Model) -> list[str]:
    """The names of the layers whose codes are zeros and ones."""
    return [name for name, encoder in encoders(model) if is_discrete(encoder.family)]


def check_samples(samples: int) -> int:
    """The number of samples, if it is at least one."""
    if samples < 1:
        raise ValueError(f"a rule needs at least one sample a row, but got samples={samples}")
    return samples

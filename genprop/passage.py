"""One layer on a path, and the climb through a stack."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.distributions import Discrete, Product
from genprop.shapes import PerRow, Seen
from genprop.stack import Layer, Stack


class Passage(NamedTuple):
    """One layer on a path: h_{l-1}, Q(h_l | h_{l-1}), h_l ~ Q, and P(h_{l-1} | h_l).

    Attributes:
        name: ``modality.layer``, layers counted from 1; of a model that is a prior, its own
            passages' names follow ``prior.``.
        layer: the layer itself.
        below: h_{l-1}, constant where the climb is local.
        seen: what of h_{l-1} is seen, or None.
        present: the rows that take part, or None.
        q: the encoder's law.
        h: the draw, with the encoder's graph where the layer is continuous.
        p: the decoder's law given h.
        weight: factors of the elements' shares in log P(h_{l-1} | h_l), or None.
    """

    name: str
    layer: Layer
    below: Tensor
    seen: Tensor | None
    present: Tensor | None
    q: Product
    h: Tensor
    p: Product
    weight: Tensor | None = None

    @property
    def modality(self) -> str:
        """The stack it is in."""
        return self.name.rpartition(".")[0]

    @property
    def level(self) -> int:
        """The layer's number, from 1."""
        return int(self.name.rpartition(".")[2])

    @property
    def reconstruction(self) -> PerRow:
        """-log P(sg h_{l-1} | h_l), ``(draws, rows)``."""
        return self.explained(self.below.detach())

    def explained(self, below: Tensor) -> PerRow:
        """-log P(below | h_l), its elements weighed, ``(draws, rows)``."""
        weight = self.weight
        if weight is None:
            return self.only_present(-self.p.log_prob(below, self.seen))
        if bool((weight == weight[0]).all()):
            return self.only_present(-weight[0] * self.p.log_prob(below, self.seen))
        log_p = weight * self.p.elements(below)
        log_p = log_p if self.seen is None else torch.where(self.seen, log_p, 0)
        return self.only_present(-log_p.sum(-1))

    @property
    def known(self) -> Seen | None:
        """What is seen of h_l; None says all."""
        return self.seen if self.layer.elementwise else None

    def log_q(self, q: Product | None = None) -> PerRow:
        """Log Q(h_l | h_{l-1}), or of h_l under a law in its place, ``(draws, rows)``."""
        return self.only_present((q or self.q).log_prob(self.h, self.known))

    def only_present(self, values: Tensor) -> PerRow:
        """Zero in rows that show nothing of the modality."""
        return values if self.present is None else torch.where(self.present, values, 0)


class Foot(NamedTuple):
    """Where the climb through a stack begins.

    Attributes:
        name: the modality.
        stack: what is climbed.
        x: ``(…, rows, elements)``.
        seen: what of it is seen, or None.
        present: the rows that show anything of it, or None.
        told: what of it the encoder is told, or None.
    """

    name: str
    stack: Stack
    x: Tensor
    seen: Tensor | None
    present: Tensor | None
    told: Tensor | None


Draw = Callable[[Product, torch.Size], Tensor]
Climb = Callable[[Foot, torch.Size], Iterator[Passage]]


def reparameterised(q: Product, shape: torch.Size) -> Tensor:
    """A draw that carries the gradient where the family has one."""
    return q.draw(shape) if q.has_rsample else q.sample(shape)


def straight_through(q: Product, shape: torch.Size) -> Tensor:
    """A draw that carries the gradient, of discrete values the mean's."""
    return q.straight_through(shape) if isinstance(q, Discrete) else reparameterised(q, shape)


def input_of(
    layer: Layer, below: Tensor, seen: Tensor | None, told: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What a layer's encoder is given of h_{l-1}, and the mask of it."""
    if told is seen or layer.elementwise:
        return below, seen
    return (below if told is None else torch.where(told, below, 0)), told


def climb_stack(
    foot: Foot, shape: torch.Size, draw: Draw = reparameterised, local: bool = True
) -> Iterator[Passage]:
    """Draws a path from Q through one stack, layer by layer.

    Args:
        foot: where it begins.
        shape: ``(K,)`` for K paths a row, or ``()`` for one without a dimension of its own.
        draw: how h_l is drawn from Q.
        local: whether each layer's input is held constant.
    """
    name, stack, below, seen, present, told = foot
    for level in range(len(stack.layers)):
        layer = stack[level]
        q = layer.encoder(*input_of(layer, below, seen, told))
        h = draw(q, shape)
        yield Passage(f"{name}.{level + 1}", layer, below, seen, present, q, h, layer.decoder(h))
        below, shape = (h.detach() if local else h), torch.Size()
        seen, told = (seen, told) if layer.elementwise else (None, None)

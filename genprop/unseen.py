"""What weighted paths of what is seen say of the unseen: laws of it, before anything is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.data import Batch
from genprop.distributions import SAMPLE_SHAPE
from genprop.model import Model
from genprop.multivariate import JointNormal, JointNormalGiven
from genprop.shapes import Rows, Seen
from genprop.stack import Path, Stack, joint_code
from genprop.tables.columns import SideBySide


class Block(Distribution):
    """The elements of one modality under a joint law of several.

    Args:
        law: of whole vectors.
        sizes: of the modalities, side by side.
        number: which of them.
    """

    arg_constraints = {}

    def __init__(self, law: JointNormalGiven, sizes: list[int], number: int) -> None:
        self.law, self.sizes, self.number = law, sizes, number
        super().__init__(law.batch_shape, torch.Size([sizes[number]]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Their mean."""
        return self._of(self.law.mean)

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Tensor:
        """Draws of them."""
        return self._of(self.law.sample(sample_shape))

    def _of(self, whole: Tensor) -> Tensor:
        parts: tuple[Tensor, ...] = whole.split(self.sizes, -1)
        return parts[self.number]


Law = Distribution | Tensor
"""A law of a modality's elements, or draws of them where no layer sends any law down."""

Value = Callable[[Law], Tensor]
"""A value of a law or of draws, whose leading dimensions it keeps."""

Told = Callable[[Value], Tensor]
"""The value of a law that is kept elsewhere, the paths' dimensions before the batch's own."""


class Sides(NamedTuple):
    """What is said of a modality.

    Attributes:
        own: given the lowest code of the row's path; None of a modality without layers.
        below: given a code that came down from above; None where all rows show the modality.
        present: the rows of which something of the modality is seen; None says all.
        lead: how many dimensions of paths there are.
    """

    own: Told | None
    below: Told | None
    present: Rows | None
    lead: int


@dataclass(frozen=True)
class Unseen:
    """Paths of what is seen, their weights, and what they say of every modality.

    Attributes:
        log_w: log P(x_seen, h) / Q(h | x_seen), ``(paths, rows)``, nats.
        sides: by modality.
    """

    log_w: Tensor
    sides: Mapping[str, Sides]

    def apply(self, name: str, value: Value) -> Tensor:
        """A value of each path's law of a modality, ``(paths, rows, …)``."""
        own, below, present, lead = self.sides[name]
        parts = [told(value) for told in (own, below) if told is not None]
        found = parts[0]
        if len(parts) == 2 and present is not None:
            shape = (*present.shape, *[1] * (found.ndim - lead - present.ndim))
            found = torch.where(present.reshape(shape), parts[0], parts[1])
        flat = found.flatten(0, lead - 1)
        return flat.expand(len(self.log_w), *flat.shape[1:])

    def draw(self, name: str) -> Tensor:
        """A draw of each path's law of a modality, ``(paths, rows, elements)``."""
        return self.apply(name, _drawn)


@torch.no_grad()
def unseen(model: Model, batch: Batch, samples: int) -> Unseen:
    """Paths up from what is seen, weighed, and one way down again from the top of each.

    A prior that is a model goes on with the codes of each path, so that a path reaches to the very
    top, and every path comes down from its own top.

    Args:
        model: the model.
        batch: rows, any of their cells unseen.
        samples: paths for each row.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> model = Model(Stack.build(Bernoulli(4), hidden=(2,)), GaussianPrior(2))
    >>> nothing = torch.zeros(3, 4, dtype=torch.bool)
    >>> unseen(model, Batch.of(torch.ones(3, 4), nothing), 5).draw("x").shape
    torch.Size([5, 3, 4])
    """
    deep = any(len(stack.layers) for _, stack in model.named_stacks())
    if not isinstance(model.prior, Model):
        paths = model.encode(batch, samples)
        below = model.absent(batch, paths, mean=True)
        sides = {
            name: Sides(
                *_direct(stack, paths[name], below.get(name), batch.seen[name]),
                batch.present(name),
                1,
            )
            for name, stack in model.named_stacks()
        }
        return Unseen(model.log_weights(paths, batch), sides)
    # without a layer all paths are the data itself
    paths = model.encode(batch, samples if deep else 1)
    code, seen = joint_code(paths), model.code_seen(batch)
    seen = torch.ones_like(code, dtype=torch.bool) if seen is None else seen.expand(code.shape)
    above = unseen(model.prior, model.prior.batch(code, seen), 1 if deep else samples)
    drawn = torch.cat([above.draw(name) for name in above.sides], -1)
    below = model.decode(torch.where(seen, code, drawn), mean=True)
    laws = _split(model, above)
    sides = {}
    for name, stack in model.named_stacks():
        own, other = _direct(stack, paths[name], below[name], batch.seen[name])
        # paths within a path of the layers here
        own = own and partial(_within, own)
        other = other if len(stack.layers) else laws.get(name, other)
        sides[name] = Sides(own, other, batch.present(name), 2)
    weights = model.log_weights(paths, batch, lambda *_: code.new_zeros(code.shape[:-1]))
    return Unseen((above.log_w + weights).flatten(0, 1), sides)


def _direct(
    stack: Stack, path: Path, below: Path | None, seen: Seen | None
) -> tuple[Told | None, Told | None]:
    """What a row's own path says of the data, and what one from above says."""
    if stack.elementwise:
        return None, partial(_of, (path if below is None else below).x)
    law: Law = stack[0].decoder(path.h[1])
    if seen is not None and isinstance(law, JointNormal):
        law = law.given(path.x, seen)
    own = partial(_of, law)
    return own, None if below is None else partial(_of, below.laws[0])


def _split(model: Model, above: Unseen) -> dict[str, Told]:
    """What the prior says of each modality's code, where it has a law for each of them."""
    only, sizes = next(iter(above.sides)), list(model.sizes.values())

    def part(number: int, value: Value) -> Tensor:
        def of_part(law: Law) -> Tensor:
            if len(sizes) == 1:
                return value(law)
            if isinstance(law, SideBySide) and law.sizes == sizes:
                return value(law.parts[number])
            if isinstance(law, JointNormalGiven):
                return value(Block(law, sizes, number))
            return value(_drawn(law).split(sizes, -1)[number])

        return above.apply(only, of_part)

    if len(above.sides) > 1:
        return {}
    return {name: partial(part, number) for number, name in enumerate(model.sizes)}


def _of(law: Law, value: Value) -> Tensor:
    return value(law)


def _within(told: Told, value: Value) -> Tensor:
    return told(value)[None]


def _drawn(law: Law) -> Tensor:
    return law if isinstance(law, Tensor) else law.sample()

"""The hidden levels of a model above rows of data: their names, and what is known below them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.model import NESTED, Model
from genprop.shapes import Elements, Rows, Seen
from genprop.stack import Stack, is_discrete

Levels = dict[str, Tensor]
"""Values by name: of hidden levels ``modality.level``, or of what a floor stands on."""

Masks = dict[str, Tensor | None]


@dataclass(frozen=True, eq=False)
class Ladder:
    """A stack above its rows.

    Attributes:
        name: of the modality.
        stack: its layers.
        levels: their names, from h_1 upward.
        valued: what of x has a value: it is seen, or a hidden value of the model below. None
            says all.
        known: the same, without what no encoder can propose: hidden values of modalities of which
            a row shows nothing.
    """

    name: str
    stack: Stack
    levels: tuple[str, ...]
    valued: Seen | None
    known: Seen | None

    @cached_property
    def absent(self) -> Rows | None:
        """The rows in which its encoders know nothing; None says in no row."""
        if self.known is None or not self.levels:
            return None
        nothing = ~self.known.any(-1)
        return nothing if bool(nothing.any()) else None


@dataclass(frozen=True, eq=False)
class Floor:
    """The ladders of a model, or of a model that is the prior of the one below.

    Attributes:
        model: whose stacks they are.
        ladders: one for each stack, in order.
        ground: whether they stand on the data.
    """

    model: Model
    ladders: tuple[Ladder, ...]
    ground: bool

    def code(self, x: Levels, levels: Levels) -> Elements:
        """The joint code: the top level of each stack, or its x."""
        return joined(
            {f.name: levels[f.levels[-1]] if f.levels else x[f.name] for f in self.ladders}
        )

    def parts(self, code: Tensor) -> list[Tensor]:
        """A joint code, or a mask of it, as one for each ladder."""
        return list(code.split(list(self.model.sizes.values()), -1))

    @cached_property
    def valued(self) -> Seen | None:
        """What of the joint code has a value: all but unseen cells of x that are a code."""
        return self.mask(lambda ladder: None if ladder.levels else ladder.valued)

    @cached_property
    def known(self) -> Seen | None:
        """What of the joint code the encoders propose."""

        def known(ladder: Ladder) -> Tensor | None:
            absent = ladder.absent
            if absent is None:
                return None if ladder.levels else ladder.known
            return ~absent[:, None].expand(-1, ladder.stack.code_elements)

        return self.mask(known)

    def mask(self, of: Callable[[Ladder], Tensor | None]) -> Seen | None:
        """One mask for each ladder as one of the joint code; None says all."""
        found = [of(ladder) for ladder in self.ladders]
        rows = next((len(mask) for mask in found if mask is not None), None)
        if rows is None:
            return None
        like = self.model.like
        full = [like.new_ones(rows, n, dtype=torch.bool) for n in self.model.sizes.values()]
        return torch.cat([f if m is None else m for f, m in zip(full, found, strict=True)], -1)


def floors_of(model: Model, batch: Batch) -> tuple[Floor, ...]:
    """The model's floor above the batch, and above it those of the models that are priors.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> [ladder.levels for ladder in floors_of(model, Batch.of(torch.ones(5, 6)))[0].ladders]
    [('x.1', 'x.2')]
    """
    prefix, floors = "", [_floor(model, "", batch.seen, batch.seen)]
    while isinstance(model.prior, Model):
        below, model, prefix = floors[-1], model.prior, f"{prefix}{NESTED}."
        floors.append(
            _floor(model, prefix, _masks(model, below.valued), _masks(model, below.known))
        )
    return tuple(floors)


def sizes_of(floors: tuple[Floor, ...]) -> dict[str, int]:
    """Elements of each level, by name."""
    return {
        name: ladder.stack[number].above
        for floor in floors
        for ladder in floor.ladders
        for number, name in enumerate(ladder.levels)
    }


def discrete_levels(floors: tuple[Floor, ...]) -> list[str]:
    """The names of the levels that hold zeros and ones."""
    return [
        name
        for floor in floors
        for ladder in floor.ladders
        for number, name in enumerate(ladder.levels)
        if is_discrete(ladder.stack[number].encoder.family)
    ]


def joined(x: Levels) -> Elements:
    """Vectors side by side, in the order of their names."""
    values = list(x.values())
    return values[0] if len(values) == 1 else torch.cat(values, -1)


def _floor(model: Model, prefix: str, valued: Masks, known: Masks) -> Floor:
    ladders = []
    for name, stack in model.named_stacks():
        levels = tuple(f"{prefix}{name}.{n}" for n in range(1, len(stack.layers) + 1))
        ladders.append(Ladder(name, stack, levels, valued[name], known[name]))
    return Floor(model, tuple(ladders), ground=not prefix)


def _masks(model: Model, mask: Tensor | None) -> Masks:
    """A mask of vectors as one for each stack, None where all of it is True."""
    if mask is None:
        return dict.fromkeys(model.widths)
    parts = zip(model.widths, mask.split(list(model.widths.values()), -1), strict=True)
    return {name: None if bool(part.all()) else part for name, part in parts}

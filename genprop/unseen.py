"""What weighted paths of what is seen say of the unseen: laws of it, before anything is drawn."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.autoregressive import AutoregressiveBernoulli
from genprop.data import Batch
from genprop.distributions import SAMPLE_SHAPE, Product
from genprop.model import Model
from genprop.multivariate import JointNormal, JointNormalGiven
from genprop.shapes import Elements, PerRow, Rows, Seen
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


class Above(NamedTuple):
    """What a model says of codes side by side, of which modalities without a layer are some.

    Attributes:
        told: a value of each path's law of them all.
        sizes: of each modality's code.
        bare: the modalities that are codes themselves.
    """

    told: Told
    sizes: Mapping[str, int]
    bare: Set[str]

    def log_prob(
        self, wanted: Set[str], x: Mapping[str, Elements], asked: Mapping[str, Seen]
    ) -> PerRow:
        """Log P of what is asked for of some bare modalities, whose errors may go together."""
        some = x[next(iter(wanted))]
        values, masks = [], []
        for name, size in self.sizes.items():
            blank = some.new_zeros(len(some), size)
            values.append(x[name] if name in wanted else blank)
            masks.append(asked[name] if name in wanted else blank.bool())
        names = " and ".join(sorted(wanted))
        value = partial(density, names, torch.cat(values, -1), torch.cat(masks, -1))
        return self.told(value).flatten(0, 1)


@dataclass(frozen=True)
class Unseen:
    """Paths of what is seen, their weights, and what they say of every modality.

    Attributes:
        log_w: log P(x_seen, h) / Q(h | x_seen), ``(paths, rows)``, nats.
        sides: by modality.
        above: what a model that is the prior says of modalities without a layer, all together.
    """

    log_w: Tensor
    sides: Mapping[str, Sides]
    above: Above | None = None

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

    def log_prob(self, x: Mapping[str, Elements], asked: Mapping[str, Seen]) -> PerRow:
        """Log P(x_asked | path, x_seen) of each path, ``(paths, rows)``, nats.

        Args:
            x: by modality ``(rows, elements)``.
            asked: True where an element's density is asked for, none of them seen.

        Raises:
            TypeError: a modality of which paths send no law down.
        """
        wanted = {name for name, mask in asked.items() if bool(mask.any())}
        bare = wanted & self.above.bare if self.above else set()
        parts = [self.apply(n, partial(density, n, x[n], asked[n])) for n in sorted(wanted - bare)]
        if self.above and bare:
            parts.append(self.above.log_prob(bare, x, asked))
        return torch.stack(parts).sum(0)


def density(name: str, x: Elements, asked: Seen | None, law: Law) -> PerRow:
    """Log P(x_asked) by a law of what is unseen of a modality, nats; without a mask of all of it.

    Raises:
        TypeError: draws in place of a law, or one without conditionals in closed form.

    >>> from genprop.distributions import IndependentBernoulli
    >>> law = IndependentBernoulli(torch.zeros(5, 3, 2))
    >>> asked = torch.tensor([[True, False]]).expand(3, -1)
    >>> density("x", torch.ones(3, 2), asked, law).exp()[0]
    tensor([0.5000, 0.5000, 0.5000])
    """
    if not isinstance(law, Product | JointNormalGiven):
        raise TypeError(
            f"the prior sends down values of {name!r} and no law of them; give it a layer of "
            f"its own, as hidden={{{name!r}: (8,)}}"
        )
    if isinstance(law, AutoregressiveBernoulli):
        raise TypeError(
            f"elements of {name!r} depend on one another one after the other: given some of them "
            f"the density of the others has no closed form; take method='importance'"
        )
    return law.log_prob(x.expand(law.mean.shape), asked)


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
    deep = not model.bare
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
    log_w = (above.log_w + weights).flatten(0, 1)
    only, bare = next(iter(above.sides)), {n for n, s in model.named_stacks() if not len(s.layers)}
    if len(above.sides) > 1:
        return Unseen(log_w, sides)
    return Unseen(log_w, sides, Above(partial(above.apply, only), model.sizes, bare))


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

"""The posterior of a model's hidden values, as a log-density of vectors."""

import math
from collections.abc import Callable
from functools import cached_property
from operator import attrgetter, methodcaller

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.autoregressive import AutoregressiveBernoulli
from genprop.conditional import Autoregressive
from genprop.data import Batch
from genprop.levels import (
    Floor,
    Ladder,
    Levels,
    Masks,
    discrete_levels,
    floors_of,
    joined,
    sizes_of,
)
from genprop.mixture import MixtureNormal
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.prior import DensityPrior, LawPrior
from genprop.shapes import Elements, PerRow, Seen
from genprop.stack import Path

DRAWS = 1000  # of a prior, whose moments stand in for its conditionals

Value = Callable[[Distribution], Tensor]
"""What is taken of a law."""
DRAW, MEAN, MODE = methodcaller("sample"), attrgetter("mean"), attrgetter("mode")


class Posterior:
    r"""P(h | x_seen) of a model, as log P(x_seen, h) of vectors h that hold all hidden values.

    ::

        log P(x_seen, h) = log P(code) + Σ_l log P(h_{l-1} | h_l)

    summed over modalities, with only what is seen of x in it. The levels of all modalities stand
    side by side, h_1 first, then those of a prior that is a model, ``prior.x.1`` and so on. Every
    element takes part in every row: where a row shows nothing of a modality, its levels follow the
    model given those of the others. Unseen cells have no place in a vector: they are summed over,
    and drawn by ``complete``. Of a modality without layers, whose code is x itself, the prior sums
    over them.

    Args:
        model: the model.
        batch: rows, any of their cells unseen; it is taken to the model's device and precision.
        smooth: whether all levels must be real-valued, so that the log-density has a gradient.

    Attributes:
        sizes: elements of each level by name, in the order of a vector.
        floors: the levels of the model, and of models that are priors.

    Raises:
        ValueError: data that does not fit the model, no hidden level, a discrete one where smooth
            ones are wanted, or a sum over unseen values that can only be estimated.
        TypeError: a prior without a density.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> posterior = Posterior(model, Batch.of(torch.ones(5, 6)))
    >>> posterior.sizes, posterior.log_prob(posterior.start(3)).shape
    ({'x.1': 4, 'x.2': 2}, torch.Size([3, 5]))
    """

    def __init__(self, model: Model, batch: Batch, smooth: bool = True) -> None:
        model.check(batch)
        self.model, self.smooth = model, smooth
        self.batch = batch.to(model.like.device, model.like.dtype)
        self.floors = floors_of(model, self.batch)
        self.sizes = sizes_of(self.floors)
        self.elements = sum(self.sizes.values())
        self.stand_in = StandIn(_summit(self))
        _check(self)

    def split(self, position: Elements) -> Levels:
        """The levels of vectors ``(…, rows, elements)``, by name."""
        if position.shape[-1] != self.elements:
            raise ValueError(
                f"a row has {self.elements} hidden values, but positions have "
                f"{position.shape[-1]}; take them from start() or join()"
            )
        return dict(zip(self.sizes, position.split(list(self.sizes.values()), -1), strict=True))

    def join(self, levels: Levels) -> Elements:
        """The vectors of levels by name, the reverse of ``split``."""
        return joined({name: levels[name] for name in self.sizes})

    def log_prob(self, position: Elements) -> PerRow:
        """Log P(x_seen, h) in nats; where ``smooth``, differentiable."""
        levels = self.split(position)
        total, data = position.new_zeros(position.shape[:-1]), self.data(levels)
        for floor, x in zip(self.floors, data, strict=True):
            for ladder in floor.ladders:
                path = Path((x[ladder.name], *(levels[name] for name in ladder.levels)), ())
                total = total + ladder.stack.log_p(path, ladder.valued)
        return total + self.log_code(len(self.floors) - 1, levels, data)

    def log_code(self, at: int, levels: Levels, data: list[Levels]) -> PerRow:
        """The log-density of a floor's joint code given all levels above it, in nats."""
        code = self.floors[at].code(data[at], levels)
        if at + 1 == len(self.floors):
            return self.stand_in.prior.log_prob(code, self.floors[at].valued)
        above = self.floors[at + 1]
        total = code.new_zeros(code.shape[:-1])
        for ladder in above.ladders:
            path = Path((data[at + 1][ladder.name], *(levels[n] for n in ladder.levels[:1])), ())
            total = total + ladder.stack.log_p(path, ladder.valued)
        raw = not all(ladder.levels for ladder in above.ladders)
        return total + self.log_code(at + 1, levels, data) if raw else total

    def data(self, levels: Levels) -> list[Levels]:
        """What each floor stands on: the data, then joint codes; zero where there is no value."""
        lead = next(iter(levels.values())).shape[:-1]
        found = [{name: x.expand(*lead, -1) for name, x in self.batch.x.items()}]
        for floor, above in zip(self.floors, self.floors[1:], strict=False):
            found.append(above.model.batch(floor.code(found[-1], levels), floor.valued).x)
        return found

    @torch.no_grad()
    def start(self, draws: int = 1) -> Elements:
        """Draws of Q, ``(draws, rows, elements)``, where chains may begin.

        Encoders propose what they can. Where a row shows nothing of a modality, its code comes
        from the prior given the other codes, and its levels come down from there.
        """
        levels: Levels = {}
        shape = (draws, self.batch.rows)
        x = {name: x.expand(*shape, -1) for name, x in self.batch.x.items()}
        _Proposal(self, levels, drawing=True).climb(0, x)
        return self.join(levels)

    def log_q(self, position: Elements) -> PerRow:
        """The log-density of ``start`` in nats, its constant included."""
        levels = self.split(position)
        return _Proposal(self, levels, drawing=False).climb(0, self.data(levels)[0])[1]

    @torch.no_grad()
    def decode(self, position: Elements, mean: bool = False) -> Levels:
        """New x ~ P(x | h_1) for each modality, whatever was seen of it; or E[x | h_1].

        A modality without layers is its own code: only its unseen cells are drawn.
        """
        levels, x = self.split(position), self.complete(position, mean)
        for ladder in self.floors[0].ladders:
            if ladder.levels:
                law = ladder.stack[0].decoder(levels[ladder.levels[0]])
                x[ladder.name] = law.mean if mean else law.sample()
        return x

    @torch.no_grad()
    def complete(self, position: Elements, mean: bool = False) -> Levels:
        """The data with unseen cells drawn from P(x_unseen | x_seen, h); or their means."""
        return self._completed(position, MEAN if mean else DRAW)

    @torch.no_grad()
    def complete_by_mode(self, position: Elements) -> Levels:
        """The data with every unseen cell at the mode of P(x_unseen | x_seen, h).

        Raises:
            ValueError: a mixture alone sends down unseen cells; no formula tells its mode.
        """
        summit = self.stand_in.prior
        mixed = isinstance(summit, LawPrior) and isinstance(summit.law, MixtureNormal)
        if mixed and self.floors[-1].valued is not None:
            raise ValueError(
                "a modality without layers has unseen cells, whose mode under a mixture no formula "
                "tells; use their mean, or give the modality a layer"
            )
        return self._completed(position, MODE)

    def _completed(self, position: Elements, value: Value) -> Levels:
        levels = self.split(position)
        masks = {ladder.name: ladder.valued for ladder in self.floors[0].ladders}
        return self._redrawn(0, levels, self.data(levels), masks, value)

    def redraw(
        self, at: int, levels: Levels, data: list[Levels], kept: Seen, value: Value = DRAW
    ) -> Elements:
        """The joint code of a floor given all levels above it, anew where it is not kept.

        Args:
            at: the floor's number.
            levels: all levels.
            data: what each floor stands on.
            kept: True where an element of the code stays, ``(rows, elements)``.
            value: what is taken of its law.
        """
        code = self.floors[at].code(data[at], levels)
        if at + 1 == len(self.floors):
            return value(self.stand_in.given(code, kept))
        above = self.floors[at + 1].model
        return joined(self._redrawn(at + 1, levels, data, above.batch(code, kept).seen, value))

    def _redrawn(
        self, at: int, levels: Levels, data: list[Levels], kept: Masks, value: Value
    ) -> Levels:
        """What a floor stands on, drawn from the levels above it where it is not kept."""
        floor, found = self.floors[at], dict(data[at])
        for ladder in floor.ladders:
            mask, x = kept[ladder.name], data[at][ladder.name]
            if mask is not None and ladder.levels:
                law = ladder.stack[0].decoder(levels[ladder.levels[0]])
                found[ladder.name] = value(law.given(x, mask))
        mask = floor.mask(lambda ladder: None if ladder.levels else kept[ladder.name])
        if mask is None:
            return found
        code = self.redraw(at, levels, data, mask, value)
        for ladder, part in zip(floor.ladders, floor.parts(code), strict=True):
            found[ladder.name] = found[ladder.name] if ladder.levels else part
        return found


class StandIn:
    """A law of codes whose conditionals can be drawn and weighed.

    Of a prior with exact conditionals it is that prior. Of another it is the Gaussian with the
    mean and covariance of the prior's draws, which proposes well where the prior is near to one.

    Args:
        prior: the prior.

    Attributes:
        exact: whether it is the prior.
    """

    def __init__(self, prior: DensityPrior) -> None:
        self.prior, self.exact = prior, isinstance(prior, LawPrior)

    @cached_property
    def law(self) -> JointNormal:
        """The Gaussian, a little wider because it rests on draws."""
        with torch.no_grad():
            draws = self.prior.sample((DRAWS,))
            away = draws - draws.mean(0)
            covariance = away.mT @ away / DRAWS
            wider = torch.diag(1e-6 + 0.05 * covariance.diagonal())
            return JointNormal(draws.mean(0), torch.linalg.cholesky(covariance + wider))

    def given(self, code: Elements, seen: Seen) -> Distribution:
        """The law of whole codes, the seen elements as they are."""
        return self.prior.condition(code, seen) if self.exact else self.law.given(code, seen)

    def log_prob(self, code: Elements, seen: Seen | None = None) -> PerRow:
        """The log-density of the seen elements in nats."""
        return self.prior.log_prob(code, seen) if self.exact else self.law.log_prob(code, seen)


class _Proposal:
    """A climb through all floors that draws their levels, or weighs those that are there."""

    def __init__(self, posterior: Posterior, levels: Levels, drawing: bool) -> None:
        self.posterior, self.levels, self.drawing = posterior, levels, drawing

    def climb(self, at: int, x: Levels) -> tuple[Levels, Tensor]:
        """Proposes the levels of a floor, of those above, and what is not known of its x.

        Returns:
            The whole x, and the log-density of all that was proposed.
        """
        floor = self.posterior.floors[at]
        log_q = [self._rise(ladder, x[ladder.name]) for ladder in floor.ladders]
        code, log_above = self._above(at, floor.code(x, self.levels))
        found: Levels = {}
        for ladder, part in zip(floor.ladders, floor.parts(code), strict=True):
            found[ladder.name] = part
            if ladder.levels:
                log_q.append(self._descend(ladder, part))
                found[ladder.name], log_more = self._fill(floor, ladder, x[ladder.name])
                log_q.append(log_more)
        return found, torch.stack([log_above, *log_q]).sum(0)

    def _rise(self, ladder: Ladder, x: Tensor) -> Tensor:
        """From Q, in the rows in which it knows anything of x."""
        known, total = ladder.known, x.new_zeros(x.shape[:-1])
        below = x if known is None else torch.where(known, x, 0)
        for number, name in enumerate(ladder.levels):
            q = ladder.stack[number].encoder(below, None if number else known)
            if self.drawing:
                self.levels[name] = q.sample()
            below = self.levels[name]
            total = total + q.log_prob(below)
        return total if ladder.absent is None else torch.where(ladder.absent, 0, total)

    def _above(self, at: int, code: Tensor) -> tuple[Tensor, Tensor]:
        """The whole joint code, proposed with all that is above it."""
        floors, stand_in = self.posterior.floors, self.posterior.stand_in
        if at + 1 < len(floors):
            found, log_q = self.climb(at + 1, floors[at + 1].model.batch(code).x)
            return joined(found), log_q
        known, valued = floors[at].known, floors[at].valued
        if known is None or (valued is not None and torch.equal(known, valued)):
            return code, code.new_zeros(code.shape[:-1])
        if self.drawing:
            code = stand_in.given(code, known).sample()
        return code, stand_in.log_prob(code, valued) - stand_in.log_prob(code, known)

    def _descend(self, ladder: Ladder, code: Tensor) -> Tensor:
        """From the decoders, in the rows in which Q knows nothing."""
        absent, total = ladder.absent, code.new_zeros(code.shape[:-1])
        if absent is None:
            return total
        self._set(ladder.levels[-1], code, absent)
        for number in range(len(ladder.levels) - 1, 0, -1):
            low, high = ladder.levels[number - 1], ladder.levels[number]
            p = ladder.stack[number].decoder(self.levels[high])
            if self.drawing:
                self._set(low, p.sample(), absent)
            total = total + p.log_prob(self.levels[low])
        return torch.where(absent, total, 0)

    def _set(self, name: str, value: Tensor, rows: Tensor) -> None:
        self.levels[name] = torch.where(rows[:, None], value, self.levels[name])

    def _fill(self, floor: Floor, ladder: Ladder, x: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden values of the floor below that no encoder could propose."""
        known, valued = ladder.known, ladder.valued
        if known is None or floor.ground:
            return x, x.new_zeros(x.shape[:-1])
        law = ladder.stack[0].decoder(self.levels[ladder.levels[0]])
        if self.drawing:
            x = law.given(x, known).sample()
        return x, law.log_prob(x, valued) - law.log_prob(x, known)


def _summit(posterior: Posterior) -> DensityPrior:
    if not posterior.sizes:
        raise ValueError("no stack has a layer, so that nothing is hidden; use prior.condition()")
    summit = posterior.model.summit
    if not isinstance(summit, DensityPrior):
        raise TypeError(
            f"a posterior needs a prior with a density, but {type(summit).__name__} has none; use "
            f"another prior, as prior='denoising', or the chains of genprop.samplers.walk"
        )
    return summit


def _check(posterior: Posterior) -> None:
    discrete = discrete_levels(posterior.floors)
    if posterior.smooth and discrete:
        raise ValueError(
            f"levels {', '.join(discrete)} are discrete, and a log-density of them has no "
            f"gradient; use Posterior(model, batch, smooth=False) with genprop.samplers.gibbs.Gibbs"
        )
    top, prior = posterior.floors[-1], posterior.stand_in.prior
    if top.valued is not None and not posterior.stand_in.exact:
        raise ValueError(
            f"a modality without layers has unseen cells, over which {type(prior).__name__} can "
            f"sum by an estimate only; give the modality a layer, or use prior='full'"
        )
    for floor in posterior.floors:
        for ladder in (each for each in floor.ladders if each.levels):
            family = ladder.stack[0].decoder.family
            if isinstance(family, Autoregressive):
                _check_sums(family.particles, ladder.known, f"modality {ladder.name!r}")
    if isinstance(prior, LawPrior) and isinstance(prior.law, AutoregressiveBernoulli):
        _check_sums(prior.law.particles, top.known, "the code")


def _check_sums(particles: int, seen: Seen | None, where: str) -> None:
    """Raises where a sum over what an autoregressive law does not see is no exact one."""
    if seen is None:
        return
    before_last = seen.flip(-1).cumsum(-1).flip(-1) > 0
    most = int((before_last & ~seen).sum(-1).max())
    if most > int(math.log2(particles)):
        raise ValueError(
            f"of {where}, {most} elements are unseen before a seen one, and an autoregressive law "
            f"of {particles} particles can sum over them by an estimate only; give it at least "
            f"{2**most} particles"
        )

"""Gibbs sampling of a model's hidden values, each move corrected by Metropolis."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.autoregressive import AutoregressiveBernoulli
from genprop.conditional import Autoregressive
from genprop.kernel import Kernel, check_start
from genprop.levels import Floor, Ladder, Levels
from genprop.posterior import Posterior
from genprop.prior import LawPrior
from genprop.shapes import Elements
from genprop.stack import Stack


class GibbsState(NamedTuple):
    """Whole paths of all modalities.

    Attributes:
        position: all levels side by side, ``(chains, rows, elements)``.
    """

    position: Tensor


class GibbsInfo(NamedTuple):
    """What a sweep tells, ``(chains, rows)`` each.

    Attributes:
        acceptance: probability of accepting a move, the mean over those of the sweep.
        accepted: whether the sweep changed anything.
        below: the mean over moves that the encoders proposed.
        above: the mean over moves that the decoders or the prior proposed.
    """

    acceptance: Tensor
    accepted: Tensor
    below: Tensor
    above: Tensor


class Gibbs(Kernel[GibbsState]):
    r"""Sweeps over the levels of P(h | x_seen), blocks of them proposed by the model's own parts.

    For each modality in turn, each level l from the lowest one::

        from below   h_l ~ Q(h_l | h_{l-1})
        from above   h_l ~ P(h_l | h_{l+1}); of the code P(code | codes of other modalities)

    and then the whole path at once, up from x by Q and down from the prior by P. A proposal h' in
    place of h is accepted with probability min(1, P(x_seen, h') g(h) / (P(x_seen, h) g(h'))), g
    being what proposed it; all that does not change cancels. Where an encoder or the prior is the
    exact conditional, it always is: Metropolis corrects only what is approximate. So is what comes
    from above where a row shows nothing of a modality.

    A layer is one block, of zeros and ones too: no gradient is needed. Unseen cells are summed
    over; ``Posterior.complete`` draws them from the decoder given where the chain is, which makes
    the pair a draw of P(h, x_unseen | x_seen).

    Args:
        posterior: of a model and rows; ``Posterior(model, batch, smooth=False)`` where levels are
            discrete.

    References:
        Metropolis, Rosenbluth, Rosenbluth, Teller, Teller, 1953. Hastings, 1970, Monte Carlo
        sampling methods using Markov chains and their applications. Tierney, 1994, Markov chains
        for exploring posterior distributions (independence proposals, and blocks in turn).

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.data import Batch
    >>> from genprop.kernel import run
    >>> from genprop.model import Model
    >>> from genprop.priors.factorial import FactorialPrior
    >>> from genprop.stack import Stack
    >>> stack = Stack.build(Bernoulli(6), hidden=(4, 2), latent="bernoulli")
    >>> model = Model(stack, FactorialPrior(Bernoulli(2)))
    >>> posterior = Posterior(model, Batch.of(torch.ones(5, 6)), smooth=False)
    >>> run(Gibbs(posterior), posterior.start(3), draws=2).draws.shape
    torch.Size([3, 2, 5, 6])
    """

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior
        self._moves = list(_moves(posterior))

    def init(self, position: Elements) -> GibbsState:
        check_start(self.posterior.log_prob(position), advice="start them at posterior.start()")
        return GibbsState(position)

    def step(self, state: GibbsState) -> tuple[GibbsState, GibbsInfo]:
        levels = self.posterior.split(state.position)
        chances: dict[bool, list[Tensor]] = {True: [], False: []}
        for move in self._moves:
            levels, chance = self._tried(move, levels)
            chances[move.upward].append(chance)
        position = self.posterior.join(levels)
        below, above = (torch.stack(chances[upward]).mean(0) for upward in (True, False))
        mean = torch.stack([*chances[True], *chances[False]]).mean(0)
        moved = (position != state.position).any(-1)
        return GibbsState(position), GibbsInfo(mean, moved, below, above)

    def _tried(self, move: "Move", levels: Levels) -> tuple[Levels, Tensor]:
        """The levels after a move, and the probability with which it was to be accepted."""
        new = self._rise(move, levels) if move.upward else self._descend(move, levels)
        both = {n: torch.stack([h, new.get(n, h)]) for n, h in levels.items()}
        before, after = self._log_weight(move, both)
        log_chance = (after - before).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        accepted = torch.rand_like(log_chance).log() < log_chance
        pick = accepted[..., None]
        levels = {n: torch.where(pick, new[n], h) if n in new else h for n, h in levels.items()}
        return levels, log_chance.exp().clamp(max=1)

    def _rise(self, move: "Move", levels: Levels) -> Levels:
        """A proposal from the encoders."""
        new: Levels = {}
        below, seen = self._below(move, levels)
        for number in move.block:
            new[move.ladder.levels[number]] = below = (
                move.stack[number].encoder(below, seen).sample()
            )
            seen = None
        return new

    def _descend(self, move: "Move", levels: Levels) -> Levels:
        """A proposal from the decoders, and from the prior if the code is in the block."""
        new: Levels = {}
        for number in reversed(move.block):
            name = move.ladder.levels[number]
            if number == move.top:
                new[name] = self._code(move, levels)
            else:
                high = move.ladder.levels[number + 1]
                new[name] = move.stack[number + 1].decoder(new.get(high, levels[high])).sample()
        return new

    def _code(self, move: "Move", levels: Levels) -> Tensor:
        """The code of a modality given those of the others and all that is above them."""
        data = self.posterior.data(levels)
        whole = self.posterior.redraw(move.at, levels, data, move.kept)
        floor = self.posterior.floors[move.at]
        return floor.parts(whole)[floor.ladders.index(move.ladder)]

    def _log_weight(self, move: "Move", levels: Levels) -> Tensor:
        """Log P(x_seen, h) - log g(h) in nats, up to what the move leaves as it is."""
        below, seen = self._below(move, levels)
        if not move.upward:
            low = move.ladder.levels[move.block[0]]
            total: Tensor = move.stack[move.block[0]].decoder(levels[low]).log_prob(below, seen)
            return total + self._misfit(levels) if move.block[-1] == move.top else total
        total = self._from_above(move, levels)
        for number in move.block:
            layer, h = move.stack[number], levels[move.ladder.levels[number]]
            total = total + layer.decoder(h).log_prob(below, seen)
            total = total - layer.encoder(below, seen).log_prob(h)
            below, seen = h, None
        return total

    def _below(self, move: "Move", levels: Levels) -> tuple[Tensor, Tensor | None]:
        """What the block stands on, and what of it is seen."""
        if move.block[0]:
            return levels[move.ladder.levels[move.block[0] - 1]], None
        return self.posterior.data(levels)[move.at][move.ladder.name], move.ladder.valued

    def _from_above(self, move: "Move", levels: Levels) -> Tensor:
        """Log P(h_l | h_{l+1}) of the highest level of the block."""
        number = move.block[-1]
        if number == move.top:
            return self.posterior.log_code(move.at, levels, self.posterior.data(levels))
        low, high = move.ladder.levels[number : number + 2]
        log_prob: Tensor = move.stack[number + 1].decoder(levels[high]).log_prob(levels[low])
        return log_prob

    def _misfit(self, levels: Levels) -> Tensor:
        """What the prior's log-density is more than that of its stand-in, which proposed."""
        posterior, top = self.posterior, self.posterior.floors[-1]
        code = top.code(posterior.data(levels)[-1], levels)
        if posterior.stand_in.exact:
            return code.new_zeros(code.shape[:-1])
        return posterior.stand_in.prior.log_prob(code) - posterior.stand_in.log_prob(code)


class Move(NamedTuple):
    """A block of levels of one modality, and who proposes new values for it.

    Attributes:
        at: the floor's number.
        ladder: of the modality.
        block: the levels' numbers, from 0.
        upward: whether the encoders propose.
        kept: what of the joint code stays while this modality's is drawn.
    """

    at: int
    ladder: Ladder
    block: range
    upward: bool
    kept: Tensor

    @property
    def stack(self) -> Stack:
        """The layers."""
        return self.ladder.stack

    @property
    def top(self) -> int:
        """The number of the highest level."""
        return len(self.ladder.levels) - 1


def _moves(posterior: Posterior) -> Iterator[Move]:
    """A sweep: every level alone, and the whole path, from below and from above."""
    for at, floor in enumerate(posterior.floors):
        for ladder in floor.ladders:
            every = range(len(ladder.levels))
            blocks = [range(number, number + 1) for number in every]
            for block in blocks if len(blocks) < 2 else [*blocks, every]:
                for upward in (True, False):
                    if upward or block[-1] < every[-1] or _can_condition(posterior, at):
                        yield Move(at, ladder, block, upward, _kept(posterior, floor, ladder))


def _kept(posterior: Posterior, floor: Floor, ladder: Ladder) -> Tensor:
    nothing = floor.model.like.new_zeros(posterior.batch.rows, 1, dtype=torch.bool)

    def kept(other: Ladder) -> Tensor | None:
        if other is ladder:
            return nothing.expand(-1, ladder.stack.code_elements)
        return None if other.levels else other.valued

    mask = floor.mask(kept)
    assert mask is not None
    return mask


def _can_condition(posterior: Posterior, at: int) -> bool:
    """Whether one modality's code can be drawn exactly given those of the others."""
    if len(posterior.floors[at].ladders) == 1:
        return True
    prior = posterior.stand_in.prior
    above = [
        ladder.stack[0].decoder.family
        for floor in posterior.floors[at + 1 :]
        for ladder in floor.ladders
        if ladder.levels
    ]
    chained = isinstance(prior, LawPrior) and isinstance(prior.law, AutoregressiveBernoulli)
    return not chained and not any(isinstance(family, Autoregressive) for family in above)

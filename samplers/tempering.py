"""Parallel tempering."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genprop.adaptation import Acceptance, moved
from genprop.bridge import Bridge, KernelMaker, KnownLaw, draws_like
from genprop.kernel import AdaptiveKernel, Info, LogDensity
from genprop.shapes import Elements


class TemperedState(NamedTuple):
    """The chains at all temperatures.

    Attributes:
        inner: the inner kernel's state, whose positions are ``(temperatures, chains, *rows,
            elements)``, the target last.
        acceptance: of the inner kernel's last transition, ``(temperatures, chains, *rows)``.
        swaps: the mean acceptance so far of swaps between each temperature and the next, from the
            base's on, ``(temperatures, chains, *rows)``.
        rounds: how many transitions there were.
    """

    inner: Any
    acceptance: Tensor
    swaps: Tensor
    rounds: int

    @property
    def position(self) -> Tensor:
        """The chains of the target."""
        position: Tensor = self.inner.position[-1]
        return position


class TemperedInfo(NamedTuple):
    """What a transition tells, ``(chains, *rows)`` each.

    Attributes:
        acceptance: of the inner kernel at the target.
        accepted: whether the target's chain moved, by the inner kernel or by a swap.
        swap_acceptance: mean over the swaps that were tried.
    """

    acceptance: Tensor
    accepted: Tensor
    swap_acceptance: Tensor


class Tempering(AdaptiveKernel[TemperedState]):
    r"""Chains at many temperatures that trade places: f_β ∝ P_0^{1-β} f^β for a ladder of β.

    After its transitions the chain at β_k trades places with the one at β_{k+1} with probability
    min(1, exp((β_{k+1} - β_k)(g(x_k) - g(x_{k+1})))), g = log f - log P_0. Even and odd pairs take
    turns, which carries chains up and down the ladder faster than pairs drawn at random. At β = 0
    there is no chain but draws of the base, which is how other modes are found. The chains drawn
    are those at β = 1.

    Where the mean acceptance of swaps between some two temperatures (``TemperedState.swaps``) is
    near zero, the ladder needs one more between them.

    Args:
        make: a log-density to the inner kernel, such as ``HMC``; it moves all temperatures at once
            and is tuned for each of them.
        base: P_0, that covers the target; a distribution, one for all rows or one for each.
        log_prob: log f, up to a constant for each row.
        ladder: β from 0 to 1, or the number of them in ``geometric``.
        transitions: of the inner kernel, between swaps.

    Raises:
        ValueError: a ladder that does not rise from 0 to 1, or no transition.

    References:
        Geyer, 1991, Markov chain Monte Carlo maximum likelihood. Syed, Bouchard-Côté,
        Deligiannidis, Doucet, 2022, Non-reversible parallel tempering (even and odd pairs in turn).

    >>> from genprop.samplers.langevin import MALA
    >>> base = torch.distributions.MultivariateNormal(torch.zeros(2), 9 * torch.eye(2))
    >>> kernel = Tempering(MALA, base, lambda x: -0.5 * x.square().sum(-1), ladder=4)
    >>> kernel.init(torch.zeros(5, 2)).inner.position.shape
    torch.Size([3, 5, 2])
    """

    def __init__(
        self,
        make: KernelMaker,
        base: KnownLaw,
        log_prob: LogDensity,
        ladder: int | Sequence[float] = 8,
        transitions: int = 1,
    ) -> None:
        self.make, self.base, self.log_prob = make, base, log_prob
        self.ladder = geometric(ladder) if isinstance(ladder, int) else tuple(ladder)
        self.transitions = transitions
        _check(self.ladder, transitions)
        self._bridge = Bridge(base, log_prob)
        self._kernel = make(self._log_density)

    def init(self, position: Elements) -> TemperedState:
        return self.start(position.expand(len(self.ladder) - 1, *position.shape))

    def start(self, positions: Elements) -> TemperedState:
        """The state of chains that start at ``(temperatures, chains, *rows, elements)``."""
        inner = self._kernel.init(positions.contiguous())
        zero = torch.zeros_like(positions[..., 0])
        return TemperedState(inner, zero, zero, 0)

    @torch.no_grad()
    def step(self, state: TemperedState) -> tuple[TemperedState, TemperedInfo]:
        inner = state.inner
        for _ in range(self.transitions):
            inner, info = self._kernel.step(inner)
        position, swap, tried = self._traded(inner.position, state.rounds)
        inner = moved(self._kernel, inner, position)
        mean = state.swaps + (swap - state.swaps) / (state.rounds // self._turns + 1)
        swaps = torch.where(tried, mean, state.swaps)
        after = TemperedState(inner, info.acceptance, swaps, state.rounds + 1)
        accepted = (after.position != state.position).any(-1)
        told = torch.where(tried, swap, 0).sum(0) / tried.sum(0)
        return after, TemperedInfo(info.acceptance[-1], accepted, told)

    def adapt(self, state: TemperedState, info: Info, share: float) -> TemperedState:
        if not isinstance(self._kernel, AdaptiveKernel):
            return state
        told = Acceptance(state.acceptance, state.acceptance > 0)
        return state._replace(inner=self._kernel.adapt(state.inner, told, share))

    def _traded(self, position: Tensor, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
        """The positions after the swaps; the acceptance of each swap, and whether it was tried."""
        everyone = torch.cat([draws_like(self.base, position[0])[None], position])
        gain, beta = self._bridge.gain(everyone), self._betas(everyone)
        odds = beta.diff(dim=0) * (gain[:-1] - gain[1:])
        acceptance = odds.clamp(max=0).exp().nan_to_num(0.0)
        pair = torch.arange(len(position), device=position.device).reshape(beta[1:].shape)
        tried = (pair - rounds) % self._turns == 0
        swap = tried & (torch.rand_like(acceptance) < acceptance)
        away = torch.zeros_like(swap[:1])
        # one place up for the lower of a pair, one down for the upper
        place = torch.arange(len(everyone), device=position.device).reshape(beta.shape)
        place = place + torch.cat([swap, away]).long() - torch.cat([away, swap]).long()
        return everyone.gather(0, place[..., None].expand_as(everyone))[1:], acceptance, tried

    def _log_density(self, x: Tensor) -> Tensor:
        """Log f_β of positions at all temperatures but the base's."""
        return self._bridge.between(self._betas(x, start=1), x)

    def _betas(self, x: Tensor, start: int = 0) -> Tensor:
        """The ladder, to meet log-densities ``(temperatures, chains, *rows)``."""
        return x.new_tensor(self.ladder[start:]).reshape(-1, *(1,) * (x.ndim - 2))

    @property
    def _turns(self) -> int:
        return min(2, len(self.ladder) - 1)


def geometric(temperatures: int, ratio: float = 0.5) -> tuple[float, ...]:
    """β = 0, then powers of a ratio up to 1.

    Args:
        temperatures: how many, the base's and the target's among them.
        ratio: of one to the next.

    Raises:
        ValueError: fewer than two temperatures, or a ratio not between 0 and 1.

    >>> geometric(4)
    (0.0, 0.25, 0.5, 1.0)
    """
    if temperatures < 2 or not 0 < ratio < 1:
        raise ValueError(
            f"a ladder needs at least two temperatures and a ratio between 0 and 1, but got "
            f"temperatures={temperatures}, ratio={ratio}"
        )
    return (0.0, *(ratio**k for k in range(temperatures - 2, -1, -1)))


def _check(ladder: Sequence[float], transitions: int) -> None:
    rising = all(low < high for low, high in pairwise(ladder))
    if len(ladder) < 2 or ladder[0] != 0 or ladder[-1] != 1 or not rising:
        raise ValueError(f"a ladder rises from 0 to 1, but is {tuple(ladder)}")
    if transitions < 1:
        raise ValueError(f"transitions must be at least 1, but is {transitions}")

"""Markov-chain kernels: what they are, and the one loop that runs them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from genprop.shapes import Elements

LogDensity = Callable[[Tensor], Tensor]
"""Positions ``(…, elements)`` to log-densities ``(…)`` in nats, up to a constant for each row."""


@runtime_checkable
class State(Protocol):
    """What a kernel carries from one transition to the next: a named tuple with the position."""

    @property
    def position(self) -> Tensor:
        """Where the chains are, ``(chains, *rows, elements)``."""


@runtime_checkable
class Info(Protocol):
    """What a transition tells of itself: a named tuple of tensors ``(chains, *rows)``."""

    @property
    def acceptance(self) -> Tensor:
        """The probability with which the proposal was to be accepted."""

    @property
    def accepted(self) -> Tensor:
        """Whether it was."""

    def _asdict(self) -> dict[str, Any]:
        """Its parts by name."""


S = TypeVar("S", bound=State)


class Kernel(ABC, Generic[S]):
    """A transition that leaves a law unchanged, for all chains and rows at once.

    A kernel sees a log-density or a transition, never a model. It is a function: nothing in it
    changes from step to step, and all that does is in the state.
    """

    @abstractmethod
    def init(self, position: Elements) -> S:
        """The state of chains that start at ``(chains, *rows, elements)``."""

    @abstractmethod
    def step(self, state: S) -> tuple[S, Info]:
        """One transition of every chain of every row."""


class AdaptiveKernel(Kernel[S], ABC):
    """A kernel that can be tuned in a warm-up; what it has learned is part of the state."""

    @abstractmethod
    def adapt(self, state: S, info: Info, share: float) -> S:
        """The state with its settings moved on after a transition of the warm-up.

        Args:
            state: after the transition.
            info: of the transition.
            share: how much of the warm-up is done with it, above 0; at 1 the settings are final.
        """


@dataclass(frozen=True)
class Chain(Generic[S]):
    """Draws of a run in ArviZ's order, and where it can go on.

    Attributes:
        draws: ``(chain, draw, *rows, elements)``.
        info: what the transition to each draw told, by name, ``(chain, draw, *rows)``.
        state: of the last draw; ``run(kernel, chain.state, …)`` continues.
    """

    draws: Tensor
    info: dict[str, Tensor]
    state: S


@torch.no_grad()
def run(
    kernel: Kernel[S], start: S | Tensor, draws: int, warmup: int = 0, thin: int = 1
) -> Chain[S]:
    """Runs all chains of all rows together.

    Args:
        kernel: the transition.
        start: positions ``(chains, *rows, elements)``, or the state of another run, which is
            continued as if it had not ended.
        draws: how many are kept of each chain.
        warmup: transitions before the first draw; a kernel that can adapt does so in them.
        thin: transitions for each draw that is kept.

    Raises:
        ValueError: no draw, a negative warm-up, or positions without a dimension of chains.

    >>> from genprop.samplers.hamiltonian import HMC
    >>> kernel = HMC(lambda x: -0.5 * x.square().sum(-1))
    >>> run(kernel, torch.zeros(4, 2), draws=3, warmup=5).draws.shape
    torch.Size([4, 3, 2])
    """
    _check(start, draws, warmup, thin)
    state = kernel.init(start) if isinstance(start, Tensor) else start
    for done in range(1, warmup + 1):
        state, info = kernel.step(state)
        if isinstance(kernel, AdaptiveKernel):
            state = kernel.adapt(state, info, done / warmup)
    kept: list[Tensor] = []
    told: list[dict[str, Tensor]] = []
    for _ in range(draws):
        for _ in range(thin):
            state, info = kernel.step(state)
        kept.append(state.position)
        told.append(info._asdict())
    return Chain(torch.stack(kept, 1), _stacked(told), state)


def _stacked(told: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in told], 1) for name in told[0]}


def _check(start: object, draws: int, warmup: int, thin: int) -> None:
    if draws < 1 or warmup < 0 or thin < 1:
        raise ValueError(
            f"a run needs at least one draw, no negative warm-up and thin of at least 1, but got "
            f"draws={draws}, warmup={warmup}, thin={thin}"
        )
    check_positions(start)


def check_positions(start: object) -> None:
    """Refuses positions without a dimension of chains.

    Raises:
        ValueError: a tensor of fewer than two dimensions.
    """
    if isinstance(start, Tensor) and start.ndim < 2:
        raise ValueError(
            f"positions must be (chains, …, elements), but have shape {tuple(start.shape)}; for "
            f"one chain put a dimension of size 1 in front"
        )


def check_start(
    log_prob: Tensor, who: str = "chains", advice: str = "start them where the target has mass"
) -> None:
    """Refuses to start where the target has no density.

    Args:
        log_prob: of the positions, in nats.
        who: what starts there.
        advice: what to do.

    Raises:
        ValueError: a log-density is not finite.
    """
    bad = int((~torch.isfinite(log_prob)).sum())
    if bad:
        raise ValueError(
            f"the log-density is not finite at the start of {bad} of {log_prob.numel()} {who}; "
            f"{advice}"
        )


N = TypeVar("N", bound=tuple[Any, ...])


def chosen(where: Tensor, one: N, other: N) -> N:
    """One named tuple's tensors where it is true, the other's elsewhere, row by row.

    Args:
        where: for each row, ``(…)``.
        one: tensors ``(…)`` or ``(…, elements)``.
        other: the same.
    """

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(where if a.ndim == where.ndim else where[..., None], a, b)

    return type(one)(*map(pick, one, other))

"""The No-U-Turn sampler and Hamiltonian Monte Carlo of Pyro."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.kernel import Chain, LogDensity, check_positions, check_start

SITE = "x"  # what Pyro calls the position


class NUTSState(NamedTuple):
    """Where the chains are, and what the warm-up found for each of them.

    Attributes:
        position: ``(chains, *rows, elements)``.
        step_size: ``(chains,)``.
        covariance: the inverse mass, ``(chains, size)`` or, where dense, ``(chains, size, size)``,
            of the elements of all rows one after another.
    """

    position: Tensor
    step_size: Tensor
    covariance: Tensor


def nuts(
    log_prob: LogDensity,
    start: Tensor | NUTSState,
    draws: int,
    warmup: int = 0,
    step_size: float = 0.1,
    target: float = 0.8,
    dense: bool = False,
    trajectory: float | None = None,
    deepest: int = 10,
) -> Chain[NUTSState]:
    """Chains of Pyro's No-U-Turn sampler, in the form of ``genprop.kernel.run``.

    Chains run one after another, and rows are joined into one target with one step size and one
    decision: it is for one or few rows, to compare with, or where trajectories must find their own
    length. ``HMC`` moves thousands of rows, each with its own.

    Args:
        log_prob: log-densities of positions ``(*rows, elements)``, differentiable.
        start: positions ``(chains, *rows, elements)``, or the state of another run of the same
            kind, which without a warm-up is continued as if it had not ended.
        draws: how many are kept of each chain.
        warmup: transitions before, in which Pyro adapts step sizes and, if there are at least 20,
            masses.
        step_size: at first; without a warm-up, of all trajectories.
        target: the acceptance that the warm-up aims at.
        dense: whether masses are full matrices.
        trajectory: the length of all trajectories; it is Hamiltonian Monte Carlo then.
        deepest: most doublings of a trajectory that finds its own length.

    Returns:
        Draws, and for each of them the acceptance, whether the chain moved, whether the trajectory
        diverged, its step size, and how many gradients it took; the same for all rows.

    Raises:
        ValueError: no draw, a negative warm-up, a step size that is not positive, a target not
            between 0 and 1, positions without a dimension of chains, or a start where there
            is no density.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler. Betancourt, 2017, A conceptual introduction
        to Hamiltonian Monte Carlo. Bingham and others, 2019, Pyro.

    >>> chain = nuts(lambda x: -0.5 * x.square().sum(-1), torch.zeros(2, 3), draws=4)
    >>> chain.draws.shape, chain.info["acceptance"].shape
    (torch.Size([2, 4, 3]), torch.Size([2, 4]))
    """
    _check(start, draws, warmup, step_size, target)
    position = start if isinstance(start, Tensor) else start.position
    with torch.no_grad():
        check_start(log_prob(position))
    kind = {"max_tree_depth": deepest} if trajectory is None else {"trajectory_length": trajectory}
    settings = {"step_size": step_size, "target_accept_prob": target, "full_mass": dense, **kind}
    known = start if isinstance(start, NUTSState) and not warmup else None
    runs = []
    with torch.enable_grad(), _no_validation():
        for chain, place in enumerate(position.detach()):
            one = _Run(_Potential(log_prob, place.shape), place, settings, warmup)
            if known is not None:
                one.learn(known.step_size[chain], known.covariance[chain])
            runs.append((one.follow(draws), *one.learned()))
    return _joined(runs, position.shape[1:-1])


@contextmanager
def _no_validation() -> Iterator[None]:
    """Lets Pyro meet NaN in its search for steps; it puts back its own setting, not torch's."""
    validates = Distribution._validate_args
    try:
        from pyro import validation_enabled

        with validation_enabled(False):
            yield
    finally:
        Distribution.set_default_validate_args(validates)


class _Potential:
    """-log P, of the elements of all rows one after another, and a count of how often."""

    def __init__(self, log_prob: LogDensity, shape: torch.Size) -> None:
        self.log_prob, self.shape, self.calls = log_prob, shape, 0

    def __call__(self, parameters: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        log_prob = self.log_prob(parameters[SITE].reshape(self.shape))
        return -torch.where(torch.isfinite(log_prob), log_prob, -math.inf).sum()


class _Run:
    """One chain of Pyro's, moved by hand: its own loop would seed the generators."""

    def __init__(
        self, potential: _Potential, place: Tensor, settings: dict[str, Any], warmup: int
    ) -> None:
        from pyro.infer import mcmc

        adapts = {"adapt_step_size": warmup > 0, "adapt_mass_matrix": warmup > 0}
        make: Any = mcmc.HMC if "trajectory_length" in settings else mcmc.NUTS
        self.potential, self.warmup = potential, warmup
        self.kernel = make(potential_fn=potential, **settings, **adapts)
        self.here = {SITE: place.reshape(-1)}
        self.kernel.initial_params = self.here
        self.kernel.setup(warmup)

    def learn(self, step_size: Tensor, covariance: Tensor) -> None:
        self.kernel._adapter.step_size = float(step_size)
        self.kernel.mass_matrix_adapter.inverse_mass_matrix = {(SITE,): covariance}

    def learned(self) -> tuple[Tensor, Tensor]:
        (covariance,) = self.kernel.inverse_mass_matrix.values()
        return torch.tensor(self.kernel.step_size, dtype=torch.float64), covariance

    def follow(self, draws: int) -> list[dict[str, Tensor]]:
        """All that is kept of each transition after the warm-up."""
        for _ in range(self.warmup):
            self.here = self.kernel.sample(self.here)
        told = [self._told(n) for n in range(1, draws + 1)]
        for n in self.kernel.diagnostics()["divergences"]:
            told[n]["diverging"].fill_(True)
        return told

    def _told(self, n: int) -> dict[str, Tensor]:
        before, calls, mean = self.here[SITE], self.potential.calls, self.kernel._mean_accept_prob
        self.here = self.kernel.sample(self.here)
        # Pyro keeps the mean acceptance of the draws so far
        acceptance = mean + n * (self.kernel._mean_accept_prob - mean)
        there = self.here[SITE]
        return {
            "position": there.reshape(self.potential.shape),
            "acceptance": there.new_tensor(acceptance).clamp(0, 1),
            "accepted": (there != before).any(),
            "diverging": torch.zeros_like(there[0], dtype=torch.bool),
            "step_size": there.new_tensor(self.kernel.step_size),
            "gradients": there.new_tensor(self.potential.calls - calls),
        }


def _joined(
    runs: list[tuple[list[dict[str, Tensor]], Tensor, Tensor]], rows: torch.Size
) -> Chain[NUTSState]:
    names = runs[0][0][0]
    parts = {
        name: torch.stack([torch.stack([one[name] for one in told]) for told, *_ in runs])
        for name in names
    }
    draws = parts.pop("position")
    shape = (*draws.shape[:2], *(1,) * len(rows))
    info = {
        name: part.reshape(shape).expand(*draws.shape[:2], *rows) for name, part in parts.items()
    }
    step_size = torch.stack([step_size for _, step_size, _ in runs])
    covariance = torch.stack([covariance for *_, covariance in runs])
    return Chain(draws, info, NUTSState(draws[:, -1], step_size, covariance))


def _check(
    start: Tensor | NUTSState, draws: int, warmup: int, step_size: float, target: float
) -> None:
    if draws < 1 or warmup < 0 or not 0 < step_size < math.inf or not 0 < target < 1:
        raise ValueError(
            f"nuts needs at least one draw, no negative warm-up, a positive step size and a target "
            f"between 0 and 1, but got draws={draws}, warmup={warmup}, step_size={step_size}, "
            f"target={target}"
        )
    check_positions(start)

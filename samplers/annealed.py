"""Annealed importance sampling and sequential Monte Carlo, forth and back."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genprop.adaptation import WINDOWS, Acceptance, Tuned, moved, scale_of, steadied
from genprop.bridge import Bridge, KernelMaker, KnownLaw
from genprop.kernel import AdaptiveKernel, Kernel, LogDensity
from genprop.shapes import Elements, PerRow

HALVINGS = 50
TRANSITIONS_AT_BASE = 30
STEADY_ROUNDS = 400  # the logarithm of the step then moves by about the misfit of acceptance
RESAMPLE_IN_PILOT = 0.5


@dataclass(frozen=True)
class Plan:
    """The temperatures of a run, and the settings of the kernel at each.

    Attributes:
        beta: from 0 to 1, ``(steps + 1,)``, or ``(steps + 1, *rows)`` where rows have their own.
        step_size: of the kernel from the second temperature on, ``(steps, *rows)``; None leaves
            the kernel's own.
        scale: of each element likewise, ``(steps, *rows, elements)``.
    """

    beta: Tensor
    step_size: Tensor | None = None
    scale: Tensor | None = None

    def settle(self, state: Any, step: int) -> Any:
        """A state of the kernel with the settings of a step."""
        if self.step_size is None or self.scale is None or not isinstance(state, Tuned):
            return state
        step_size = self.step_size[step].expand_as(state.step_size)
        return state._replace(step_size=step_size, scale=self.scale[step].expand_as(state.scale))

    def rise(self, step: int, like: PerRow) -> PerRow:
        """How much β grows in a step, to meet ``(particles, *rows)``."""
        return (self.beta[step + 1] - self.beta[step]).to(like)


@dataclass(frozen=True)
class Annealed:
    """Weighted particles, and what they say of the normaliser.

    Attributes:
        particles: ``(particles, *rows, elements)``; at the target's end forth, at the base's back.
        log_weights: ``(particles, *rows)``.
        log_normaliser: an estimate for each row of log ∫ f; on average at most that forth, and at
            least that back, nats.
        acceptance: mean over particles of each step, in the order of β, ``(steps, *rows)``.
    """

    particles: Tensor
    log_weights: Tensor
    log_normaliser: Tensor
    acceptance: Tensor

    @property
    def effective(self) -> PerRow:
        """How many equally weighted particles are worth as much, (Σ w)² / Σ w²."""
        return _effective(self.log_weights)


@torch.no_grad()
def annealed(
    base: KnownLaw,
    log_prob: LogDensity,
    make: KernelMaker,
    plan: Plan,
    particles: int = 64,
    transitions: int = 1,
    resample: float = 0.0,
    exact: Elements | None = None,
) -> Annealed:
    r"""Particles from a base to a target along f_β ∝ P_0^{1-β} f^β, and the normaliser of f.

    Forth, x_0 ~ P_0, and x_k is moved by a kernel that leaves f_{β_k} unchanged. The weights
    ∏_k f_{β_k}(x_{k-1}) / f_{β_{k-1}}(x_{k-1}) have the normaliser ∫ f as their mean, without
    bias, so that the logarithm of the mean of some is a stochastic *lower* bound of log ∫ f. With
    resampling it is sequential Monte Carlo, which has the same property.

    Back, from exact draws of the target, the kernels are taken in the other order, and the mean of
    the inverse weights is 1/∫ f: the logarithm is a stochastic *upper* bound. For this the kernels
    must be reversible, as all of one accept decision are.

    All of that holds for a plan that was fixed before: by ``linear``, ``sigmoid``, or a ``pilot``.

    Args:
        base: P_0, normalised; for rows of different targets a distribution with the rows as its
            batch shape.
        log_prob: log f, of positions ``(particles, *rows, elements)``.
        make: a log-density to a kernel, such as ``HMC``.
        plan: temperatures, and settings of the kernel.
        particles: how many for each row.
        transitions: at each temperature.
        resample: the share of the particles below which the effective number of them in a row lets
            that row be resampled (systematically); 0 is annealed importance sampling.
        exact: draws of the target ``(particles, *rows, elements)``, to go back from.

    Raises:
        ValueError: no particle or transition, a share not between 0 and 1, or draws to go back
            from together with resampling.

    References:
        Neal, 2001, Annealed importance sampling. Del Moral, Doucet, Jasra, 2006, Sequential Monte
        Carlo samplers. Grosse, Ghahramani, Adams, 2015, Sandwiching the marginal likelihood using
        bidirectional Monte Carlo.

    >>> from genprop.samplers.langevin import MALA
    >>> base = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    >>> found = annealed(base, lambda x: base.log_prob(x) + 3, MALA, linear(4))
    >>> found.log_normaliser
    tensor(3.)
    """
    _check(particles, transitions, resample, exact)
    run = _Run(Bridge(base, log_prob), make, transitions)
    return run.back(plan, exact) if exact is not None else run.forth(plan, particles, resample)


@torch.no_grad()
def pilot(
    base: KnownLaw,
    log_prob: LogDensity,
    make: KernelMaker,
    particles: int = 32,
    share: float = 0.95,
    transitions: int = 1,
    most: int = 1000,
) -> Plan:
    """Finds temperatures for each row, and settings of the kernel, by a run of its own.

    The next β is where the conditional effective sample size of the particles falls to a share of
    their number: the further base and target are from each other, the more there will be. Scales
    are those of the particles, and step sizes follow their mean acceptance, at every temperature.

    Particles of another run that follows the plan do not depend on it, so that their weights stay
    without bias.

    Args:
        base: P_0, as in ``annealed``.
        log_prob: log f.
        make: a log-density to a kernel.
        particles: how many for each row.
        share: of the conditional effective sample size; each step adds about 1 - share to the
            variance of log-weights, and more where the kernel does not mix.
        transitions: at each temperature.
        most: steps to the target in all.

    Raises:
        ValueError: fewer than two particles, or a share not between 0 and 1.
        RuntimeError: the target is too far for so many steps.

    References:
        Zhou, Johansen, Aston, 2016, Toward automatic model comparison (the conditional effective
        sample size).
    """
    _check(particles, transitions, share, None)
    if particles < 2 or share in (0, 1):
        raise ValueError(
            f"a pilot needs at least two particles and a share above 0 and below 1, but got "
            f"particles={particles}, share={share}"
        )
    return _Run(Bridge(base, log_prob), make, transitions).pilot(particles, share, most)


def linear(steps: int) -> Plan:
    """β in equal steps.

    >>> linear(4).beta.tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if steps < 1:
        raise ValueError(f"a plan needs at least one step, but got {steps}")
    return Plan(torch.linspace(0, 1, steps + 1, dtype=torch.float64))


def sigmoid(steps: int, steepness: float = 4.0) -> Plan:
    """β in steps that are shorter near both ends: a sigmoid from -steepness to steepness, rescaled.

    References:
        Wu, Burda, Salakhutdinov, Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.

    >>> sigmoid(2).beta.tolist()
    [0.0, 0.5, 1.0]
    """
    if not steepness > 0:
        raise ValueError(f"steepness must be positive, but is {steepness}")
    curve = (steepness * (2 * linear(steps).beta - 1)).sigmoid()
    return Plan((curve - curve[0]) / (curve[-1] - curve[0]))


@dataclass(frozen=True)
class _Run:
    bridge: Bridge
    make: KernelMaker
    transitions: int

    def forth(self, plan: Plan, particles: int, resample: float) -> Annealed:
        x = self.start(particles)
        log_w, acceptance = torch.zeros_like(x[..., 0]), []
        for step in range(len(plan.beta) - 1):
            log_w = log_w + _weighed(plan.rise(step, log_w), self.bridge.gain(x))
            x, log_w = _resampled(x, log_w, resample)
            x, accepted = self.moved(x, plan, step)
            acceptance.append(accepted)
        return Annealed(x, log_w, _log_mean(log_w), torch.stack(acceptance))

    def back(self, plan: Plan, x: Tensor) -> Annealed:
        log_w, acceptance = torch.zeros_like(x[..., 0]), []
        for step in reversed(range(len(plan.beta) - 1)):
            x, accepted = self.moved(x, plan, step)
            log_w = log_w + _weighed(plan.rise(step, log_w), self.bridge.gain(x))
            acceptance.append(accepted)
        return Annealed(x, log_w, -_log_mean(-log_w), torch.stack(acceptance[::-1]))

    def pilot(self, particles: int, share: float, most: int) -> Plan:
        x = self.start(particles)
        log_w, beta = torch.zeros_like(x[..., 0]), [torch.zeros_like(x[0, ..., 0]).double()]
        tuning = _Tuning.begun(self.make(self.bridge.at(0.0)), x)
        while bool((beta[-1] < 1).any()):
            if len(beta) > most:
                raise RuntimeError(
                    f"after {most} steps β is {float(beta[-1].min()):.3g} in some row: take a base "
                    f"nearer to the target, a smaller share than {share}, or more steps"
                )
            gain = self.bridge.gain(tuning.x)
            beta.append(_next_beta(beta[-1], gain.double(), log_w.double(), share))
            log_w = log_w + _weighed((beta[-1] - beta[-2]).to(gain), gain)
            x, log_w = _resampled(tuning.x, log_w, RESAMPLE_IN_PILOT)
            kernel = self.make(self.bridge.at(beta[-1].to(gain)))
            tuning.go_on(kernel, x, log_w, self.transitions)
        return tuning.plan(torch.stack(beta))

    def start(self, particles: int) -> Tensor:
        x = self.bridge.base.sample(torch.Size((particles,)))
        found, expected = self.bridge.log_prob(x).shape, x.shape[:-1]
        if found != expected:
            raise ValueError(
                f"the target's log-densities of base draws {tuple(x.shape)} must be "
                f"{tuple(expected)}, but are {tuple(found)}; a target of many rows needs a base "
                f"with a law for each of them"
            )
        return x

    def moved(self, x: Tensor, plan: Plan, step: int) -> tuple[Tensor, Tensor]:
        """The particles after the transitions of a step, and how many were accepted."""
        kernel = self.make(self.bridge.at(plan.beta[step + 1].to(x)))
        state, accepted = plan.settle(kernel.init(x), step), []
        for _ in range(self.transitions):
            state, info = kernel.step(state)
            accepted.append(info.acceptance.mean(0))
        return state.position, torch.stack(accepted).mean(0)


class _Tuning:
    """A kernel's settings along the way of a pilot, the same for all particles of a row."""

    def __init__(self, state: Any) -> None:
        self.state, self.rounds = state, 0
        self.settings: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def begun(cls, kernel: Kernel[Any], x: Tensor) -> "_Tuning":
        state = kernel.init(x)
        tuning = cls(steadied(state, STEADY_ROUNDS) if isinstance(state, Tuned) else state)
        tuning.scale(torch.zeros_like(x[..., 0]))
        tuning.move(kernel, TRANSITIONS_AT_BASE)
        return tuning

    @property
    def x(self) -> Tensor:
        position: Tensor = self.state.position
        return position

    def go_on(self, kernel: Kernel[Any], x: Tensor, log_w: Tensor, transitions: int) -> None:
        self.state = moved(kernel, self.state, x)
        self.scale(log_w)
        self.move(kernel, transitions)
        if isinstance(self.state, Tuned):
            self.settings.append((self.state.step_size[0], self.state.scale[0]))

    def scale(self, log_w: Tensor) -> None:
        """Takes the scales of the particles."""
        if isinstance(self.state, Tuned):
            share = _shares(log_w)[..., None]
            mean = (share * self.x).sum(0)
            variance = (share * (self.x - mean).square()).sum(0).expand_as(self.x)
            scale = scale_of(variance, len(self.x), self.state.scale)
            self.state = self.state._replace(scale=scale)

    def move(self, kernel: Kernel[Any], transitions: int) -> None:
        for _ in range(transitions):
            self.state, info = kernel.step(self.state)
            self.rounds += 1
            if isinstance(kernel, AdaptiveKernel):
                mean = info.acceptance.mean(0).expand_as(info.acceptance)
                # before the first window of a warm-up only step sizes are tuned
                share = WINDOWS[0] * self.rounds / (self.rounds + 1)
                told = Acceptance(mean, info.accepted)
                self.state = kernel.adapt(self.state, told, share)

    def plan(self, beta: Tensor) -> Plan:
        if not self.settings:
            return Plan(beta)
        step_sizes, scales = zip(*self.settings, strict=True)
        return Plan(beta, torch.stack(step_sizes), torch.stack(scales))


def _next_beta(beta: Tensor, gain: Tensor, log_w: Tensor, share: float) -> Tensor:
    """Where the conditional effective sample size falls to a share of the particles."""
    log_w = torch.where(torch.isfinite(gain), log_w, -math.inf)  # others are lost at any β
    log_w, gain = log_w - log_w.logsumexp(0), gain.nan_to_num(0.0, 0.0, 0.0)
    low, high = torch.zeros_like(beta), 1 - beta
    # of no particle there is nothing to keep, and the comparison is False
    arrived = ~(_log_size(log_w, high * gain) < math.log(share))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        good = _log_size(log_w, middle * gain) >= math.log(share)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(arrived, 1.0, beta + low)


def _log_size(log_w: Tensor, step: Tensor) -> Tensor:
    """The conditional effective sample size of a step's weights, log of its share."""
    return 2 * (log_w + step).logsumexp(0) - (log_w + 2 * step).logsumexp(0)


def _weighed(rise: Tensor, gain: Tensor) -> Tensor:
    """The logarithm of a step's weights; rows that stay at their β keep theirs."""
    return torch.where(rise > 0, rise * gain, 0)


def _resampled(x: Tensor, log_w: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Systematic resampling of the rows whose effective sample size is below a share."""
    low = _effective(log_w) < share * len(x)
    if not bool(low.any()):
        return x, log_w
    ends = _shares(log_w).cumsum(0).movedim(0, -1).contiguous()
    grid = torch.arange(len(x), dtype=x.dtype, device=x.device)
    points = (grid + torch.rand_like(ends[..., :1])) / len(x)
    index = torch.searchsorted(ends, points).clamp(max=len(x) - 1).movedim(-1, 0)
    drawn = x.gather(0, index[..., None].expand_as(x))
    log_w = torch.where(low, _log_mean(log_w), log_w)
    return torch.where(low[..., None], drawn, x), log_w


def _shares(log_w: Tensor) -> Tensor:
    """The weights of the particles of each row, of sum 1; equal where none has any."""
    return log_w.softmax(0).nan_to_num(1 / len(log_w))


def _effective(log_w: Tensor) -> Tensor:
    return 1 / _shares(log_w).square().sum(0)


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def _check(particles: int, transitions: int, share: float, exact: Tensor | None) -> None:
    if particles < 1 or transitions < 1 or not 0 <= share <= 1:
        raise ValueError(
            f"annealing needs at least one particle and one transition, and a share between 0 and "
            f"1, but got particles={particles}, transitions={transitions} and {share}"
        )
    if exact is not None and share > 0:
        raise ValueError(
            "a run back from exact draws cannot resample: leave resample at 0, or exact out"
        )

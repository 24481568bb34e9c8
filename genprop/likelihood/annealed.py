"""Annealed importance sampling of log P(x): a lower bound, and with draws of P an upper one."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genprop.bridge import KernelMaker
from genprop.data import Batch
from genprop.kernel import Kernel, LogDensity
from genprop.levels import discrete_levels, floors_of
from genprop.likelihood.estimate import Estimate, Numbers, estimate_from_weights, joined
from genprop.likelihood.pareto import pareto_smoothed
from genprop.likelihood.parts import in_parts, rows_at_once
from genprop.likelihood.proposals import FromEncoder, FromModel, Proposal
from genprop.likelihood.simulate import simulated
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.samplers.annealed import Plan, annealed, pilot, sigmoid
from genprop.samplers.flips import hidden_kernel
from genprop.shapes import Elements

STARTS: dict[str, Callable[[Posterior], Proposal]] = {"encoder": FromEncoder, "prior": FromModel}
MOST_STEPS = 5000
PILOTS = 16
COARSE = 0.5


@dataclass(frozen=True)
class Bracket:
    """Log P(x) of simulated rows from both sides.

    In expectation the truth of each row is between them, so that the mean gap bounds the mean error
    of either; and the rows being draws of P, of the method on data that the model explains well.

    Attributes:
        lower: by chains from the start to the posterior.
        upper: by the reverse chains from exact draws of the posterior.
    """

    lower: Estimate
    upper: Estimate

    @property
    def gaps(self) -> Numbers:
        """Upper less lower, for each row, nats."""
        return self.upper.log_prob - self.lower.log_prob

    @property
    def gap(self) -> float:
        """The mean over rows, nats."""
        return float(self.gaps.mean())

    @property
    def gap_std_error(self) -> float:
        """Its standard error, from the spread over rows; NaN of one row."""
        rows = len(self.gaps)
        return float(self.gaps.std(ddof=1) / math.sqrt(rows)) if rows > 1 else math.nan

    def __str__(self) -> str:
        """Both ends and the gap, in one line."""
        return (
            f"log P(x) between {self.lower.mean:.2f} and {self.upper.mean:.2f} nats a row, a gap "
            f"of {self.gap:.3f} ± {self.gap_std_error:.3f} ({self.lower.rows} simulated rows, "
            f"annealed with {self.lower.samples} samples)"
        )


@dataclass(frozen=True)
class Annealing:
    """How chains go from the start to the posterior.

    Args:
        samples: chains for each row.
        steps: temperatures of a sigmoidal schedule; None finds them for each row by a run before,
            more where the start is further from the posterior.
        start: ``"encoder"``, Q(h | x_seen), or ``"prior"``, P(h).
        transitions: at each temperature.
        share: of the conditional effective sample size that each step keeps, where ``steps`` is
            None; nearer to 1 is slower and tighter.
        kernel: a log-density to a reversible kernel, as ``HMC`` or ``MALA``; None takes HMC for
            real levels and Metropolis for discrete ones.

    Raises:
        ValueError: no sample, no step, or an unknown start.
    """

    samples: int = 16
    steps: int | None = None
    start: str = "encoder"
    transitions: int = 1
    share: float = 0.95
    kernel: KernelMaker | None = None

    def __post_init__(self) -> None:
        if self.samples < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError(
                f"annealing needs at least one sample and one step, but got "
                f"samples={self.samples}, steps={self.steps}"
            )
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}, but is {self.start!r}")

    def posterior(self, model: Model, batch: Batch) -> Posterior:
        """What is annealed to."""
        discrete = discrete_levels(floors_of(model, batch))
        return Posterior(model, batch, smooth=not discrete)

    def plan(self, posterior: Posterior) -> Plan:
        """Temperatures and settings of the kernel, found by particles of their own."""
        law, make = STARTS[self.start](posterior), self._maker(posterior)
        # of a schedule that is given only the kernel's settings are wanted
        share = self.share if self.steps is None else COARSE
        found = pilot(law, posterior.log_prob, make, PILOTS, share, self.transitions, MOST_STEPS)
        return found if self.steps is None else _with_settings(sigmoid(self.steps), found)

    def run(self, posterior: Posterior, plan: Plan, exact: Elements | None = None) -> Tensor:
        """Log-weights ``(samples, rows)``, of chains forth, or back from exact draws."""
        law, make = STARTS[self.start](posterior), self._maker(posterior)
        draws = None if exact is None else exact.expand(self.samples, *exact.shape)
        return annealed(
            law, posterior.log_prob, make, plan, self.samples, self.transitions, exact=draws
        ).log_weights

    def _maker(self, posterior: Posterior) -> KernelMaker:
        def make(log_prob: LogDensity) -> Kernel[Any]:
            return hidden_kernel(log_prob, posterior)

        return self.kernel or make


def annealed_importance(model: Model, batch: Batch, samples: int = 16, **options: Any) -> Estimate:
    r"""Log P(x_seen) by annealed importance sampling, from the encoder or the prior.

    Chains go from h ~ Q by f_β ∝ Q(h | x)^{1-β} P(x_seen, h)^β to the posterior, each temperature's
    kernel leaving f_β unchanged. Their weights have the mean P(x_seen), so that the logarithm of
    the mean of ``samples`` of them is below log P(x_seen) in expectation, and exceeds it by b with
    a probability of at most e^{-b}.

    Args:
        model: its prior must have a density.
        batch: the rows; of each only what is seen counts.
        samples: chains for each row.
        options: of ``Annealing``: steps, start, transitions, share, kernel.

    Raises:
        ValueError: as of ``Annealing``, or data that does not fit the model.
        TypeError: a prior without a density.

    References:
        Neal, 2001, Annealed importance sampling. Wu, Burda, Salakhutdinov, Grosse, 2017, On the
        quantitative analysis of decoder-based generative models.
    """
    way = Annealing(samples, **options)

    def estimate(part: Batch) -> Estimate:
        posterior = way.posterior(model, part)
        return _lower(way.run(posterior, way.plan(posterior)))

    model.check(batch)
    return in_parts(batch, rows_at_once(model, max(samples, PILOTS)), estimate)


def bidirectional(
    model: Model,
    rows: int = 100,
    samples: int = 16,
    masks: dict[str, Tensor | None] | None = None,
    **options: Any,
) -> Bracket:
    r"""Log P(x) of rows that the model draws, from below and from above.

    Of x, h ~ P the h is an exact draw of P(h | x). From there the chains of ``annealed_importance``
    are taken back, the kernels in the other order, and the mean of the inverse weights is
    1 / P(x): its negative logarithm is above log P(x) in expectation.

    Args:
        model: its prior must have a density.
        rows: how many are drawn.
        samples: chains for each row, either way; those back begin at the same h.
        masks: what is seen of the rows, for some modalities; all by default.
        options: of ``Annealing``.

    Raises:
        ValueError: no row, or as of ``Annealing``.
        TypeError: a prior without a density.

    References:
        Grosse, Ghahramani, Adams, 2015, Sandwiching the marginal likelihood using bidirectional
        Monte Carlo. Wu, Burda, Salakhutdinov, Grosse, 2017.
    """
    if rows < 1:
        raise ValueError(f"bidirectional needs at least one row, but got {rows}")
    way = Annealing(samples, **options)
    size, ends = rows_at_once(model, max(samples, PILOTS)), []
    for start in range(0, rows, size):
        h, x = simulated(model, (min(size, rows - start),))
        seen = {n: m if m is None else m[start : start + size] for n, m in (masks or {}).items()}
        posterior = way.posterior(model, Batch.of(x, seen))
        plan = way.plan(posterior)
        ends.append((_lower(way.run(posterior, plan)), _upper(way.run(posterior, plan, h))))
    lower, upper = zip(*ends, strict=True)
    return Bracket(joined(list(lower)), joined(list(upper)))


def _lower(log_weights: Tensor) -> Estimate:
    log_w = _numbers(log_weights)
    smoothed, khat = pareto_smoothed(log_w)
    return estimate_from_weights(log_w, khat, "annealed importance", smoothed)


def _upper(log_weights: Tensor) -> Estimate:
    """From weights of chains back, the mean of whose inverses is 1 / P(x)."""
    found = _lower(-log_weights)
    assert found.smoothed is not None
    return dataclasses.replace(
        found,
        log_prob=-found.log_prob,
        smoothed=-found.smoothed,
        bound="upper",
        method="reverse annealed importance",
    )


def _numbers(log_weights: Tensor) -> Numbers:
    numbers: Numbers = log_weights.T.cpu().double().numpy()
    return np.ascontiguousarray(numbers)


def _with_settings(plan: Plan, found: Plan) -> Plan:
    """A schedule of all rows, with the settings that a pilot found near each temperature."""
    if found.step_size is None or found.scale is None:
        return plan
    known = found.beta[1:].T.contiguous()
    wanted = plan.beta[1:].to(known).expand(len(known), -1).contiguous()
    at = torch.searchsorted(known, wanted).clamp(max=known.shape[1] - 1).T
    every = torch.arange(at.shape[1], device=at.device)
    return Plan(plan.beta, found.step_size[at, every], found.scale[at, every])

"""Completing rows, each by randomness of its own: by paths, by chains, by donors, or by means."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genprop.conditional import Autoregressive
from genprop.convergence import FEWEST, convergence
from genprop.data import Batch
from genprop.kernel import Kernel, run
from genprop.likelihood.parts import rows_at_once
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.prior import DensityPrior
from genprop.prior_paths import complete_by_prior, has_prior_paths
from genprop.resampling import picked, resampled
from genprop.samplers.ascent import most_probable
from genprop.samplers.flips import variables_of
from genprop.samplers.gibbs import Gibbs
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.in_turn import InTurn
from genprop.seeds import seeded
from genprop.tables.donors import lent
from genprop.tables.filled import CHAINS, LENDING, SINGLE, WAYS, Filled, effective, together
from genprop.tables.missingness import DRAWS
from genprop.tables.not_at_random import COMPLETIONS, explains_holes, weigh_whole_rows
from genprop.tables.row_noise import RowNoise, distinct, keys_of_rows
from genprop.unseen import Law, unseen

METHODS = ("auto", *WAYS)
# worked on at a time: always as many of the same effort, so that a row's sums have the same order
ROWS, PATHS = 64, 2**14
FEWEST_CHAINS = 4
FEWEST_SWEEPS = 2 * FEWEST - 1  # of which the second half tells an R-hat
ENOUGH = 10  # effective paths, of which a draw is one
MISSED = 2  # times as much of P(x_seen) as encoders' paths find, the prior's are taken
MORE = 10  # times as many paths where they are too few

Features = Callable[[str, Law], Tensor]
"""Of a modality's law expected values that may be averaged over paths, or such of draws."""

Averages = Callable[[str, Tensor], Tensor]
"""A modality's elements of averaged features."""


@dataclass(frozen=True)
class How:
    """How rows are completed.

    Attributes:
        method: one of ``METHODS``.
        draws: completions of each row.
        samples: paths K from which each draw is resampled, over which a mean is taken, or of which
            the best is improved.
        sweeps: transitions of each chain.
        khat: whether the Pareto shape of the weights is estimated, which takes its time.
        donors: rows that lend, of the methods "residuals" and "neighbours".
        neighbours: of how many donors a draw is lent by one.

    Raises:
        ValueError: an unknown method, no draw, sample, sweep or neighbour, several draws of what
            has one, or donors where they are not asked for, or none where they are.
    """

    method: str = "auto"
    draws: int = 1
    samples: int = 200
    sweeps: int = 200
    khat: bool = True
    donors: Any = None
    neighbours: int = 20

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"method must be 'auto' or one of {', '.join(METHODS[1:])}, but is {self.method!r}"
            )
        if min(self.draws, self.samples, self.sweeps, self.neighbours) < 1:
            raise ValueError(
                f"imputation needs at least one draw and one sample, but got draws={self.draws}, "
                f"samples={self.samples}, sweeps={self.sweeps} and neighbours={self.neighbours}"
            )
        if self.method in LENDING and self.donors is None:
            raise ValueError(
                f"method={self.method!r} needs donors, rows that lend, such as those of fit"
            )
        if self.method not in LENDING and self.donors is not None:
            raise ValueError(
                f"method={self.method!r} takes no donors; use one of {', '.join(LENDING)}"
            )
        if self.method in SINGLE and self.draws > 1:
            raise ValueError(
                f"method={self.method!r} completes a row in one way, but draws={self.draws}; leave "
                f"draws out, or use method='auto' for draws"
            )

    def refined(self, transitions: int) -> "How":
        """The same with every row drawn by chains of so many transitions; 0 leaves it as it is.

        Raises:
            ValueError: a negative number, or a method that makes no chains.
        """
        if not transitions:
            return self
        if transitions < 0 or self.method not in ("auto", *CHAINS):
            raise ValueError(
                f"refine is a number of transitions, of method 'auto', 'gibbs' or 'hmc', but got "
                f"refine={transitions} and method={self.method!r}"
            )
        method = "hmc" if self.method == "auto" else self.method
        return replace(self, method=method, sweeps=transitions)

    @property
    def least_ess(self) -> float:
        """The effective paths a row needs; below, ``auto`` turns to chains."""
        return float(min(max(ENOUGH, 2 * self.draws), self.samples / 4))


def fill(
    model: Model,
    batch: Batch,
    how: How,
    seed: int,
    features: Features | None = None,
    averages: Averages | None = None,
) -> Filled:
    r"""Draws of P(x_unseen | x_seen) for each row, or its mean.

    ``"sir"`` draws K paths from Q(h | x_seen), one of them again with probability
    ∝ P(x_seen, h) / Q(h | x_seen) for each draw, and lets it send down what is not seen.
    ``"prior"`` draws the paths from P, and again with probability ∝ P(x_seen | h).
    ``"gibbs"`` starts a chain at each path of ``"sir"`` and moves it by Gibbs sweeps with
    Metropolis' correction. ``"hmc"`` lets a trajectory of Hamiltonian Monte Carlo follow each sweep
    where any level is real-valued; half of the transitions tune it.
    ``"auto"`` takes, of several modalities, the prior's paths in the rows
    of which more of them count, or whose mean weight, an estimate of P(x_seen), is twice that of
    encoders' paths: these may miss most of what a label allows, the prior does not. It takes ten
    times as many in the rows whose weights tell that too few of them count, and chains where these
    are too few, too.
    ``"mean"`` averages E[x | h_1] over the K paths by their weights. ``"map"`` takes the mode of
    P(x_unseen | x_seen, ĥ), with ĥ = argmax_h log P(x_seen, h) by ascent from the best of the K
    paths, discrete levels as they are there. ``"residuals"`` and
    ``"neighbours"`` let donors lend (``genprop.tables.donors``).

    A row gets the same draws in any batch: its random numbers are a hash of the seed and of what it
    holds. Rows that hold the same get draws of their own, the first of them always the same.
    Few rows are worked on at a time, so that memory does not grow with them but for the result.

    Args:
        model: the model.
        batch: rows, any of their cells unseen.
        how: the method and its effort.
        seed: of all rows.
        features: what is averaged in place of law.mean.
        averages: how elements come of it.

    Raises:
        ValueError: data that does not fit the model, chains or a most probable path where there
            are none, or donors that do not show what rows lack.

    References:
        Rubin, 1988, Using the SIR algorithm to simulate posterior distributions. Rezende, Mohamed,
        Wierstra, 2014, and Mattei, Frellsen, 2018, for chains and weights of missing data.
    """
    model.check(batch)
    _check(model, how)
    bend, unbend = features or _means, averages or _as_they_are
    masks = batch.masks()
    holes = ~torch.stack([mask.all(-1) for mask in masks.values()]).all(0)
    keys = keys_of_rows(batch, seed).to(model.like.device)
    if how.method in LENDING:
        residuals = how.method == "residuals"
        drawn = lent(model, batch, how.donors, how.draws, how.neighbours, residuals, keys)
        return Filled.by(how.method, drawn)

    def made(how: How, rows: Tensor | slice) -> Filled:
        parts = _parts(model, batch.take(rows), how, keys[rows])
        works = ((_work(model, p, how, own, bend, unbend), count) for p, count, own in parts)
        return together([filled.chosen(slice(count)) for filled, count in works])

    filled = made(how, slice(None))
    for effort in _further(model, how):
        poor = (holes & (filled.ess < _needed(filled, how, effort))).nonzero().squeeze(-1)
        if len(poor):
            filled = filled.replaced(poor, made(effort, poor))
    return filled


def _check(model: Model, how: How) -> None:
    if how.method in ("prior", "map", *CHAINS, *LENDING) and explains_holes(model):
        raise ValueError(
            f"method={how.method!r} does not know why cells are missing, which this model "
            f"explains; use method='sir'"
        )
    if how.method == "prior" and not has_prior_paths(model):
        raise ValueError(
            "method='prior' weighs paths of the prior by P(x_seen | h), but a modality has no "
            "layer here; use method='auto'"
        )
    if how.method == "map" and not model.has_layers:
        raise ValueError(
            "method='map' looks for the most probable hidden values, but this model has no layer; "
            "use method='mean'"
        )


def _needed(filled: Filled, how: How, effort: How) -> Tensor:
    """The effective paths below which a row is to have that further effort.

    Chains begin at encoders' paths: where those of the prior serve better, and some of them count,
    these stay.
    """
    needed = torch.full_like(filled.ess, how.least_ess)
    if effort.method == "gibbs":
        needed[filled.way == WAYS.index("prior")] = min(how.least_ess, ENOUGH)
    return needed


def _further(model: Model, how: How) -> Iterator[How]:
    """What ``auto`` does next where too few paths count: it takes more of them, then chains."""
    if how.method == "auto":
        yield replace(how, samples=MORE * how.samples)
        if _has_chains(model) and not explains_holes(model):
            yield replace(how, method="gibbs")


def _parts(
    model: Model, batch: Batch, how: How, keys: Tensor
) -> Iterator[tuple[Batch, int, Tensor]]:
    """Always as many rows, the last of which shows nothing; how many are wanted; the rows' keys.

    What is drawn, and in what order, must not depend on the rows that come together. So each part
    has masks, and a row of the kind for which more has to be drawn.
    """
    chains = max(how.draws, FEWEST_CHAINS)
    effort = max(how.samples, chains)
    kept = effort * DRAWS if explains_holes(model) else effort
    most = min(ROWS, PATHS // effort, rows_at_once(model, kept))
    size = distinct(max(2, most), _other_sizes(model, how) | {chains})
    for start in range(0, batch.rows, size - 1):
        index = torch.arange(start, start + size).clamp(max=batch.rows - 1).to(keys.device)
        wanted = min(size - 1, batch.rows - start)
        yield _ending_empty(batch.take(index)), wanted, keys[index]


def _ending_empty(batch: Batch) -> Batch:
    masks = {name: mask.clone() for name, mask in batch.masks().items()}
    for mask in masks.values():
        mask[-1] = False
    x = {name: torch.where(mask, batch.x[name], 0) for name, mask in masks.items()}
    return Batch(x, dict(masks))


def _other_sizes(model: Model, how: How) -> set[int]:
    """What a dimension beside the rows may measure."""
    sizes = {1, 2, 3, COMPLETIONS, how.draws, how.samples, model.prior.elements}
    hidden = 0
    for _, stack in model.all_stacks():
        above = [stack[level].above for level in range(len(stack.layers))]
        hidden += sum(above)
        sizes |= {stack.elements or 1, stack.code_elements, *above}
    return sizes | {hidden}


@torch.no_grad()
def _work(
    model: Model, batch: Batch, how: How, keys: Tensor, features: Features, averages: Averages
) -> Filled:
    with RowNoise(keys):
        if explains_holes(model):
            return _weighed(model, batch, how, features, averages)
        if how.method == "mean":
            return _mean(model, batch, how, features, averages)
        if how.method in CHAINS:
            return _chains(model, batch, how)
        if how.method == "map":
            posterior = Posterior(model, batch, smooth=False)
            peak = most_probable(posterior, how.samples)
            return Filled.by("map", posterior.complete_by_mode(peak.position))
        return _resampled(model, batch, how)


def _resampled(model: Model, batch: Batch, how: How) -> Filled:
    """Draws by paths of encoders or of the prior; of ``"auto"``, by those that serve better."""
    effort = how.draws, how.samples
    if how.method == "prior":
        x, log_w = complete_by_prior(model, batch, *effort)
        return Filled.by("prior", x).weighed(log_w, how.khat)
    x, log_w = model.complete(batch, *effort)
    filled = Filled.by("sir", x)
    if how.method == "sir" or len(model.stacks) < 2 or not has_prior_paths(model):
        return filled.weighed(log_w, how.khat)
    x, log_v = complete_by_prior(model, batch, *effort)
    missed = log_v.logsumexp(0) - log_w.logsumexp(0) > math.log(MISSED)
    better = missed | (effective(log_v) > effective(log_w))
    rows = better.nonzero().squeeze(-1)
    filled = filled.replaced(rows, Filled.by("prior", x).chosen(rows))
    return filled.weighed(torch.where(better, log_v, log_w), how.khat)


def _weighed(
    model: Model, batch: Batch, how: How, features: Features, averages: Averages
) -> Filled:
    """Draws or means of whole rows, whose weights know why cells are missing."""
    found = weigh_whole_rows(model, batch, how.samples)
    if how.method != "mean":
        return Filled.by("sir", found.draws(how.draws)).weighed(found.log_path, how.khat)
    weights, x = found.log_w.softmax(0)[..., None], {}
    for name, drawn in found.x.items():
        seen, mean = batch.seen[name], averages(name, (weights * features(name, drawn)).sum(0))
        x[name] = (batch.x[name] if seen is None else torch.where(seen, batch.x[name], mean))[None]
    return Filled.by("mean", x).weighed(found.log_path, how.khat)


def _has_chains(model: Model) -> bool:
    """Whether there are, whatever a row shows: sums over the unseen must be exact."""
    chained = any(isinstance(part, Autoregressive) for part in model.modules())
    return model.has_layers and isinstance(model.summit, DensityPrior) and not chained


def _chains(model: Model, batch: Batch, how: How) -> Filled:
    """A chain for each draw, from resampled paths."""
    posterior = Posterior(model, batch, smooth=False)
    start = posterior.start(how.samples)
    log_w = posterior.log_prob(start) - posterior.log_q(start)
    chains = max(how.draws, FEWEST_CHAINS)
    position = picked(start, resampled(log_w, chains))
    kernel = _kernel(posterior, how)
    warmup = how.sweeps // 2
    with seeded(0):  # how long trajectories are must not depend on the rows that come together
        chain = run(kernel, position, draws=how.sweeps - warmup, warmup=warmup)
    way = "hmc" if isinstance(kernel, InTurn) else "gibbs"
    told = Filled.by(way, posterior.complete(chain.draws[: how.draws, -1]))
    told = told.weighed(log_w, how.khat)
    rhat = torch.full_like(told.ess, torch.nan)
    if how.sweeps >= FEWEST_SWEEPS:
        found = convergence(chain.draws.cpu().numpy()).rhat
        worst = np.where(np.isnan(found), -np.inf, found).max(-1)
        rhat = torch.as_tensor(np.where(np.isinf(worst) & (worst < 0), np.nan, worst)).to(rhat)
    acceptance = chain.info["acceptance"].mean((0, 1)).to(told.ess)
    return replace(told, acceptance=acceptance, rhat=rhat)


def _kernel(posterior: Posterior, how: How) -> Kernel[Any]:
    """Sweeps, which go from mode to mode, and trajectories, which explore one."""
    sweeps, (_, real) = Gibbs(posterior), variables_of(posterior)
    if how.method == "gibbs" or not bool(real.any()):
        return sweeps
    return InTurn(sweeps, HMC(posterior.log_prob, free=real))


def _mean(model: Model, batch: Batch, how: How, features: Features, averages: Averages) -> Filled:
    """E[x | x_seen] over paths by their weights."""
    found, x = unseen(model, batch, how.samples), {}
    weights = found.log_w.softmax(0)[..., None]
    for name, whole in batch.x.items():
        seen, value = batch.seen[name], whole
        if seen is not None:
            told = found.apply(name, partial(features, name))
            value = torch.where(seen, whole, averages(name, (weights * told).sum(0)))
        x[name] = value[None]
    return Filled.by("mean", x).weighed(found.log_w, how.khat)


def _means(name: str, law: Law) -> Tensor:
    return law if isinstance(law, Tensor) else law.mean


def _as_they_are(name: str, features: Tensor) -> Tensor:
    return features

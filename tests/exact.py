"""What is known exactly of small models, and how chains are held against it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import zoo
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop.data import Batch
from genprop.kernel import Kernel, run
from genprop.model import Model
from genprop.posterior import Posterior

NOISES = 64  # more than any model here has sources of noise

Affine = tuple[Tensor, Tensor]
"""The mean of a variable, and what it takes from each of the independent noises N(0, 1)."""


def joint_law(model: Model) -> tuple[MultivariateNormal, dict[str, slice]]:
    """P(h, x) of a linear-Gaussian model, and where each hidden level and modality is in it."""
    found = _variables(model, "", iter(range(NOISES)))
    order = [*nothing_seen(model, 1).sizes, *model.stacks]
    mean = torch.cat([found[n][0] for n in order])
    loads = torch.cat([found[n][1] for n in order])
    places, at = {}, 0
    for n in order:
        places[n] = slice(at, at := at + len(found[n][0]))
    return MultivariateNormal(mean, loads @ loads.mT), places


def nothing_seen(model: Model, rows: int) -> Posterior:
    """The posterior of rows that show nothing: the model's own law."""
    x = {n: torch.full((rows, w), math.nan).double() for n, w in model.widths.items()}
    return Posterior(model, Batch.of(x), smooth=False)


def _variables(model: Model, prefix: str, noises: Iterator[int]) -> dict[str, Affine]:
    """All levels and modalities of a model by name, those of a prior under its prefix."""
    found: dict[str, Affine] = {}
    if isinstance(model.prior, Model):
        found = _variables(model.prior, f"{prefix}prior.", noises)
        inner = [found[f"{prefix}prior.{n}"] for n in model.prior.stacks]
        code = torch.cat([m for m, _ in inner]), torch.cat([w for _, w in inner])
    else:
        law = model.prior.law
        covariance = law.covariance if hasattr(law, "covariance") else torch.diag(law.variance)
        code = _with_noise(law.mean, torch.linalg.cholesky(covariance), noises)
    parts = zip(*(c.split(list(model.sizes.values())) for c in code), strict=True)
    for (name, stack), h in zip(model.named_stacks(), parts, strict=True):
        for level in reversed(range(len(stack.layers))):
            found[f"{prefix}{name}.{level + 1}"] = h
            A, b, scale = zoo.affine(stack[level].decoder)
            mean, own = _with_noise(A @ h[0] + b, torch.diag(scale), noises)
            h = mean, A @ h[1] + own
        found[f"{prefix}{name}"] = h
    return found


def _with_noise(mean: Tensor, load: Tensor, noises: Iterator[int]) -> Affine:
    wide = mean.new_zeros(len(mean), NOISES)
    wide[:, [next(noises) for _ in range(len(mean))]] = load
    return mean, wide


def given(law: MultivariateNormal, value: Tensor, seen: Tensor) -> MultivariateNormal:
    """P(unseen | seen) of one vector under a Gaussian law."""
    a, b = ~seen, seen
    gain = torch.linalg.solve(law.covariance_matrix[b][:, b], law.covariance_matrix[b][:, a]).mT
    mean = law.mean[a] + gain @ (value[b] - law.mean[b])
    rest = law.covariance_matrix[a][:, a] - gain @ law.covariance_matrix[b][:, a]
    return MultivariateNormal(mean, 0.5 * (rest + rest.mT))


def draws(model: Model, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden values ``(1, rows, elements)`` and data ``(rows, elements)`` of P(h, x)."""
    posterior = nothing_seen(model, rows)
    if not posterior.stand_in.exact:
        paths = model.decode(model.prior.sample((1, rows)))
        hidden = torch.cat([h for path in paths.values() for h in path.h[1:]], -1)
        return hidden, {name: path.x[0] for name, path in paths.items()}
    position = posterior.start(1)
    return position, {name: x[0] for name, x in posterior.complete(position).items()}


def tested(position: Tensor, x: dict[str, Tensor]) -> Tensor:
    """All values of h and x, and all their products, ``(rows, functions)``."""
    values = torch.cat([position.flatten(0, -2), *x.values()], -1)
    i, j = torch.triu_indices(values.shape[-1], values.shape[-1])
    return torch.cat([values, values[:, i] * values[:, j]], -1)


def assert_joint_law_stays(
    model: Model,
    kernel: Callable[[Posterior], Kernel[Any]],
    rows: int = 6000,
    rounds: int = 3,
    steps: int = 1,
    masks: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    smooth: bool = False,
) -> None:
    """Getting it right (Geweke, 2004): x | h by the model and h | x by the kernel, in turn.

    They begin at draws of P(h, x), every row a chain of its own, so that no thinning is needed and
    errors are those of independent draws. If the kernel leaves P(h | x_seen) as it is, the values
    at the end have the moments of fresh draws, within five standard errors of each difference.
    """
    position, x = draws(model, rows)
    seen = masks(x) if masks else None
    for _ in range(rounds):
        posterior = Posterior(model, Batch.of(x, seen), smooth=smooth)
        position = run(kernel(posterior), position, draws=1, thin=steps).draws[:, 0]
        x = {name: value[0] for name, value in posterior.decode(position).items()}
    assert_same_means(tested(position, x), tested(*draws(model, 4 * rows)))


def assert_same_means(a: Tensor, b: Tensor, sigmas: float = 5) -> None:
    """Of two sets of independent draws ``(draws, functions)``."""
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    z = (a.mean(0) - b.mean(0)).abs() / error.clamp_min(1e-12)
    assert (z < sigmas).all(), f"{z.max():.1f} standard errors"


def holes(x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks in which a third of the cells is unseen, and of some rows a whole modality."""
    seen = {name: torch.rand(v.shape) < 0.7 for name, v in x.items()}
    for name in seen if len(seen) > 1 else ():
        seen[name] &= torch.rand(len(seen[name]), 1) < 0.7
    if "label" in seen:  # a categorical variable is seen or not
        seen["label"] = seen["label"][:, :1].expand(-1, seen["label"].shape[-1])
    return seen


def assert_ranks_are_uniform(truth: Tensor, chains: Tensor, level: float = 1e-4) -> None:
    """Simulation-based calibration (Talts et al., 2018): chi-square of the truth's ranks.

    Args:
        truth: draws of P(h) that made the data, ``(rows, functions)``.
        chains: independent draws of P(h | x), ``(chains, rows, functions)``.
        level: at which a uniform law is rejected, divided among the functions.
    """
    ranks = (chains < truth).sum(0)
    for function in range(truth.shape[-1]):
        counts = torch.bincount(ranks[:, function], minlength=len(chains) + 1)
        p = stats.chisquare(counts.numpy()).pvalue
        assert p > level / truth.shape[-1], f"function {function}: p = {p:.1e}, {counts.tolist()}"

"""A lower bound of log P(x) by one discrete code and its neighbours."""

import dataclasses
from collections.abc import Iterator

import torch

from genprop.data import Batch
from genprop.levels import Levels, discrete_levels, joined
from genprop.likelihood.estimate import Estimate, exact_estimate
from genprop.likelihood.parts import NUMBERS_AT_ONCE, in_parts
from genprop.model import NESTED, Model
from genprop.posterior import Posterior
from genprop.samplers.flips import variables_of
from genprop.shapes import Elements
from genprop.stack import joint_code


def deterministic(model: Model, batch: Batch, neighbours: bool = True) -> Estimate:
    r"""Log P(x_seen) ≥ log Σ_{h ∈ N} P(x_seen, h), N being f(x) and what is one change from it.

    f(x) is the mode of each encoder given the mode below it. Since probabilities of discrete values
    are at most one, any part of the sum over h is a bound, with no sampling and no encoder's law in
    it; f(x) alone gives log P(x | f(x)) + log P(f(x)). It is tight where the decoder leaves x
    little doubt about h.

    Args:
        model: all hidden levels discrete, under a prior with a density.
        batch: the rows; of each only what is seen counts.
        neighbours: whether N holds every h that differs from f(x) in one variable, and not f(x)
            alone.

    Raises:
        ValueError: a real-valued level, of which a single value has no probability; or data that
            does not fit the model.
        TypeError: a prior without a density.

    References:
        Bengio, 2014, How auto-encoders could provide credit assignment in deep networks via target
        propagation (arXiv 1407.7906). Ozair, Bengio, 2014, Deep directed generative autoencoders
        (arXiv 1410.0630).
    """
    posterior = Posterior(model, batch, smooth=False)
    real = sorted(set(posterior.sizes) - set(discrete_levels(posterior.floors)))
    if real:
        raise ValueError(
            f"levels {', '.join(real)} are real-valued: one value of them has no probability, and "
            f"bounds nothing; use importance sampling"
        )
    rows = NUMBERS_AT_ONCE // (8 * posterior.elements * max(model.widths.values()))
    return in_parts(posterior.batch, rows, lambda part: _bound(model, part, neighbours))


@torch.no_grad()
def _bound(model: Model, batch: Batch, neighbours: bool) -> Estimate:
    posterior = Posterior(model, batch, smooth=False)
    h = joined(_modes(model, batch, ""))
    values = [posterior.log_prob(h)]
    if neighbours:
        values += [posterior.log_prob(other) for other in _others(h, variables_of(posterior)[0])]
    log_p = torch.stack(values).logsumexp(0).double().cpu().numpy()
    method = "deterministic code" + " and its neighbours" * neighbours
    return dataclasses.replace(exact_estimate(log_p, method), bound="lower")


def _others(h: Elements, sizes: list[int]) -> Iterator[Elements]:
    """All values that differ in one variable."""
    start = 0
    for size in sizes:
        part = h[..., start : start + size]
        for turn in range(1, max(2, size)):
            other = h.clone()
            other[..., start : start + size] = part.roll(turn, -1) if size > 1 else 1 - part
            yield other
        start += size


def _modes(model: Model, batch: Batch, prefix: str) -> Levels:
    paths = model.encode(batch, point=True)
    found = {f"{prefix}{n}.{k}": h[0] for n, p in paths.items() for k, h in enumerate(p.h) if k}
    if isinstance(model.prior, Model):
        above = model.prior.batch(joint_code(paths)[0])
        found |= _modes(model.prior, above, f"{prefix}{NESTED}.")
    return found

"""Drawing what is not seen given what is seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.importance import rows_at_once
from genprop.likelihood.pareto import pareto_khat
from genprop.model import Model, joint_code
from genprop.stack import Path


@dataclass(frozen=True)
class Imputation:
    """Completed rows, and how far the weights behind them can be trusted.

    Attributes:
        x: for each modality whole rows ``(draws, rows, elements)``, the seen cells as they were.
        ess: effective sample size of each row's weights.
        khat: Pareto shape of each row's largest weights; above 0.7 the draws are not to be trusted.
    """

    x: dict[str, Tensor]
    ess: Tensor
    khat: Tensor


@torch.no_grad()
def resample(
    model: Model, batch: Batch, draws: int = 1, samples: int = 200, mean: bool = False
) -> Imputation:
    r"""Sampling-importance-resampling of P(x_unseen | x_seen).

    Paths h_k ~ Q(h | x_seen) are drawn again with probability ∝ P(x_seen, h_k) / Q(h_k | x_seen),
    and each sends down one draw of what is not seen. A modality of which a row shows nothing gets
    its code from the prior, given the others' codes. Rows with different patterns go together.

    Args:
        model: the model.
        batch: rows, any of their cells unseen.
        draws: how many completions of each row.
        samples: paths K from which each is drawn.
        mean: E[x | h_1] in the unseen cells in place of a draw.

    Raises:
        ValueError: fewer than one draw or sample, or data that does not fit the model.

    References:
        Rubin, 1988, Using the SIR algorithm to simulate posterior distributions.
    """
    if draws < 1 or samples < 1:
        raise ValueError(
            f"imputation needs at least one draw and one sample, but got draws={draws} and "
            f"samples={samples}"
        )
    model.check(batch)
    rows = rows_at_once(model, max(samples, draws))
    parts = [
        _part(model, batch.take(slice(start, start + rows)), draws, samples, mean)
        for start in range(0, batch.rows, rows)
    ]
    return Imputation(
        {name: torch.cat([p.x[name] for p in parts], 1) for name in batch.x},
        torch.cat([p.ess for p in parts]),
        torch.cat([p.khat for p in parts]),
    )


def _part(model: Model, batch: Batch, draws: int, samples: int, mean: bool) -> Imputation:
    paths = model.encode(batch, samples)
    log_w = model.log_weights(paths, batch)
    weights = log_w.softmax(0)
    chosen = torch.multinomial(weights.T, draws, replacement=True).T
    kept = {name: _picked(path, chosen) for name, path in paths.items()}
    below = _absent_filled(model, batch, kept, mean)
    x = {name: _completed(model, batch, name, path, below, mean) for name, path in kept.items()}
    khat = pareto_khat(log_w.T.cpu().double().numpy())
    return Imputation(x, 1 / weights.square().sum(0), torch.as_tensor(khat))


def _picked(path: Path, chosen: Tensor) -> Path:
    """The chosen draw of each row at every level: (draws, rows, elements)."""
    rows = torch.arange(chosen.shape[1], device=chosen.device)
    return Path(tuple(h[chosen, rows] for h in path.h), path.laws)


def _absent_filled(
    model: Model, batch: Batch, kept: dict[str, Path], mean: bool
) -> dict[str, Path] | None:
    """Paths down from the prior's code given the codes that are seen; None if all are."""
    seen = model.code_seen(batch)
    if seen is None:
        return None
    code = joint_code(kept)
    return model.decode(model.prior.condition(code, seen).sample(), mean)


def _completed(
    model: Model,
    batch: Batch,
    name: str,
    path: Path,
    below: dict[str, Path] | None,
    mean: bool,
) -> Tensor:
    seen = batch.seen[name]
    if seen is None or below is None:
        return path.x
    stack = dict(model.named_stacks())[name]
    drawn = below[name].x
    if len(stack.layers):
        law = stack[0].decoder(path.h[1])
        own = law.mean if mean else law.sample()
        drawn = torch.where(seen.any(-1, keepdim=True), own, drawn)
    return torch.where(seen, batch.x[name], drawn)

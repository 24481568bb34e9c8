"""Drawing what is not seen given what is seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.pareto import pareto_khat
from genprop.likelihood.parts import rows_at_once
from genprop.model import Model


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
    x, log_w = model.complete(batch, draws, samples, mean)
    khat = pareto_khat(log_w.T.cpu().double().numpy())
    return Imputation(x, 1 / log_w.softmax(0).square().sum(0), torch.as_tensor(khat))

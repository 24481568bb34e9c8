"""The codes of many rows, for priors that follow them."""

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.model import Model
from genprop.prior import FollowingPrior
from genprop.stack import joint_code


def tell_prior(model: Model, data: Batch) -> None:
    """Gives the codes of all rows to a prior that follows them."""
    if isinstance(model.summit, FollowingPrior):
        model.summit.follow(whole_codes(model, data))


@torch.no_grad()
def whole_codes(model: Model, data: Batch, rows_at_once: int = 4096) -> Tensor:
    """A draw of Q(h_L | x_seen) for every row that shows something of each modality.

    Raises:
        ValueError: there is no such row.
    """
    parts: list[Tensor] = []
    for start in range(0, data.rows, rows_at_once):
        part = data.take(slice(start, start + rows_at_once))
        seen = model.code_seen(part)
        parts.append(_summit_code(model, part if seen is None else part.take(seen.all(-1))))
    codes = torch.cat(parts)
    if not len(codes):
        raise ValueError(
            f"{type(model.summit).__name__} learns from rows that show all modalities, but there "
            f"is none; use prior='full', whose marginals are known"
        )
    return codes


def _summit_code(model: Model, batch: Batch) -> Tensor:
    code = joint_code(model.encode(batch))[0]
    if isinstance(model.prior, Model):
        return _summit_code(model.prior, model.prior.batch(code))
    return code

"""The codes of many rows, for priors that follow them."""

import torch
from torch import Tensor

from genprop.correlations import FEWEST, Rows, cleaned
from genprop.data import Batch
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.prior import FollowingPrior
from genprop.stack import joint_code


def tell_prior(model: Model, data: Batch) -> None:
    """Gives the codes of all rows to a prior that follows them."""
    if isinstance(model.summit, FollowingPrior):
        model.summit.follow(whole_codes(model, data))


@torch.no_grad()
def whole_codes(model: Model, data: Batch, rows_at_once: int = 4096) -> Tensor:
    """A draw of Q(h_L | x_seen) for every row that shows anything.

    Codes of modalities that a row does not show are drawn from a Gaussian given the others'. Of
    discrete codes there is none, so that such rows are left out.

    Raises:
        ValueError: no row is left.
    """
    parts = [
        _summit_codes(model, data.take(slice(start, start + rows_at_once)))
        for start in range(0, data.rows, rows_at_once)
    ]
    codes, seen = (torch.cat(each) for each in zip(*parts, strict=True))
    shown = seen.all(-1) if model.summit.discrete else seen.any(-1)
    codes, seen = codes[shown], seen[shown]
    if not len(codes):
        what = "all modalities" if model.summit.discrete else "something"
        raise ValueError(
            f"{type(model.summit).__name__} learns from rows that show {what}, but there is none; "
            f"use a prior whose marginals are known, as 'full' or 'factorial'"
        )
    return codes if bool(seen.all()) else _filled(codes, seen)


def _summit_codes(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """The codes of the highest level, and which of their elements rows tell of."""
    code, seen = joint_code(model.encode(batch))[0], model.code_seen(batch)
    if isinstance(model.prior, Model):
        return _summit_codes(model.prior, model.prior.batch(code, seen))
    return code, torch.ones_like(code, dtype=torch.bool) if seen is None else seen


def _filled(codes: Tensor, seen: Tensor) -> Tensor:
    """The codes, and draws given the rest of their row where they are not seen.

    They are draws of the Gaussian that has the mean, the variances and the correlations of what is
    seen, which expectation maximisation finds.
    """
    count = seen.sum(0).clamp_min(1)
    loc = torch.where(seen, codes, 0).sum(0) / count
    scale = (torch.where(seen, codes - loc, 0).square().sum(0) / count).sqrt()
    scale = torch.where(scale > 0, scale, 1)
    z = torch.where(seen, (codes - loc) / scale, 0)
    found = torch.eye(z.shape[-1])
    if len(codes) >= FEWEST:
        found = cleaned(Rows(z[None].double().cpu(), seen[None].cpu()))
    law = JointNormal(loc, scale[:, None] * torch.linalg.cholesky(found).to(z))
    return law.given(codes, seen).sample()

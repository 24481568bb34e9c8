"""The codes of many rows, for priors that follow them."""

import torch
from torch import Tensor

from genprop.correlations import FEWEST, Rows, cleaned
from genprop.data import Batch
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.prior import FollowingPrior
from genprop.resampling import evenly
from genprop.stack import joint_code

LENDERS, PAIRS = 4096, 2**22


def tell_prior(model: Model, data: Batch) -> None:
    """Gives the codes of all rows to a prior that follows them."""
    if isinstance(model.summit, FollowingPrior):
        model.summit.follow(whole_codes(model, data))


@torch.no_grad()
def whole_codes(model: Model, data: Batch, rows_at_once: int = 4096) -> Tensor:
    """A draw of Q(h_L | x_seen) for every row that shows anything.

    Codes of modalities that a row does not show are drawn given the others': real-valued ones from
    a Gaussian, discrete ones from rows whose codes are alike.

    Raises:
        ValueError: no row shows anything.

    References:
        Andridge, Little, 2010, A review of hot deck imputation for survey non-response.
    """
    parts = [
        _summit_codes(model, data.take(slice(start, start + rows_at_once)))
        for start in range(0, data.rows, rows_at_once)
    ]
    codes, seen = (torch.cat(each) for each in zip(*parts, strict=True))
    shown = seen.any(-1)
    codes, seen = codes[shown], seen[shown]
    if not len(codes):
        raise ValueError(
            f"{type(model.summit).__name__} learns from rows that show something, but there is "
            f"none; give rows with values that are not missing"
        )
    if bool(seen.all()):
        return codes
    return _lent(codes, seen) if model.summit.discrete else _drawn(codes, seen)


def _summit_codes(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """The codes of the highest level, and which of their elements rows tell of."""
    code, seen = joint_code(model.encode(batch))[0], model.code_seen(batch)
    if isinstance(model.prior, Model):
        return _summit_codes(model.prior, model.prior.batch(code, seen))
    return code, torch.ones_like(code, dtype=torch.bool) if seen is None else seen


def _drawn(codes: Tensor, seen: Tensor) -> Tensor:
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


def _lent(codes: Tensor, seen: Tensor) -> Tensor:
    """The codes, and elsewhere those of the row that agrees with most of what both rows show.

    Rows that lend all that is missing come first, and chance decides among equals. What they lack
    themselves is lent by others to the row as it is by then; what no row shows is zero. Of many
    rows 4,096 lend.
    """
    some = evenly(len(codes), LENDERS, codes.device)
    theirs, shown, filled = codes[some], seen[some], codes.clone()
    for rows in (~seen.all(-1)).nonzero()[:, 0].split(max(1, PAIRS // len(some))):
        own, known = torch.where(seen[rows], codes[rows], 0), seen[rows]
        while not bool(known.all()):
            lender = _lenders(own, known, theirs, shown)
            gained = shown[lender] & ~known
            if not bool(gained.any()):
                break  # nobody shows the rest
            own, known = torch.where(gained, theirs[lender], own), known | gained
        filled[rows] = own
    return filled


def _lenders(own: Tensor, known: Tensor, theirs: Tensor, shown: Tensor) -> Tensor:
    """For each row the number of the one that lends, if any shows what it lacks."""
    has, lacks, gives = (mask.to(own) for mask in (known, ~known, shown))
    lends, both = lacks @ gives.mT, has @ gives.mT
    differ = (has * own) @ (gives * (1 - theirs)).mT + (has * (1 - own)) @ (gives * theirs).mT
    # chance is less than any difference of two shares
    alike = 1 - differ / both.clamp_min(1) + torch.rand_like(both) / own.shape[-1] ** 2
    # those that have nothing in common with the row come last
    rank = lends + own.shape[-1] * ((lends > 0) & (both > 0))
    return alike.masked_fill(rank < rank.amax(-1, keepdim=True), -1).argmax(-1)

"""Completing rows by rows that were seen: those that are near lend what is missing."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.conditional import Family, LocationScale
from genprop.data import Batch
from genprop.model import Model
from genprop.patterns import patterns_of
from genprop.prior import Prior
from genprop.samplers.neighbour import nearest
from genprop.shapes import Elements, Seen
from genprop.stack import joint_code
from genprop.tables.columns import Columns
from genprop.tables.row_noise import RowNoise, distinct, keys_of_rows

AVERAGED = 20  # draws of a code that is unseen, where no mean of it is known
ROWS = 4096  # encoded at once
DIGITS = 5  # of an element's spread, by which points are told apart


class Expected(NamedTuple):
    """What a model makes of rows by modes alone.

    Attributes:
        code: the uppermost joint code, ``(rows, code)``.
        x: for each modality what is seen, and elsewhere E[x | code, x_seen], ``(rows, elements)``.
        real: for each modality which elements are real-valued, ``(elements,)``.
    """

    code: Elements
    x: dict[str, Elements]
    real: dict[str, Tensor]


@torch.no_grad()
def lent(
    model: Model,
    batch: Batch,
    donors: Batch,
    draws: int,
    neighbours: int,
    residuals: bool,
    keys: Tensor,
) -> dict[str, Tensor]:
    r"""Draws of what rows do not show, each lent by one of the nearest donors.

    Of a row with x_seen every donor j is encoded as if it showed no more than the row. Of the K
    nearest one lends, by chance, each once before any lends again: the values x_j themselves, or
    for real values its error::

        x = E[x | x_seen] + x_j - E[x_j | x_j,seen]

    expectations being those by the modes of encoders and decoders. Values are lent by donors with
    near codes, which are alike in all that is known of them; errors by those of which nearly the
    same is expected in what the row lacks, by the mean square over each modality, real values in
    units of their spread (predictive mean matching): what is 0 or 1, say, is missed by other
    amounts near 0 than near ½. Their errors are as wide, skewed and dependent as they were in rows
    like this one, whatever the decoder's family says.

    A modality is lent by donors that show all of it that the row lacks, and anything of what the
    row shows; all modalities by the same donor where every donor shows all of them. To a row that
    shows nothing any donor lends.

    Args:
        model: the model.
        batch: rows, any of their cells unseen; each pattern of holes takes a pass of all donors.
        donors: rows that lend.
        draws: completions of each row.
        neighbours: K, or as many donors as there are.
        residuals: whether real values are lent by their errors.
        keys: a whole number for each row, on which its choices depend.

    Raises:
        ValueError: what a row lacks is shown by no donor.

    References:
        Bengio, 2014, arXiv 1407.7906 (nearest-neighbour strategies). Little, 1988, Missing-data
        adjustments in large surveys (predictive mean matching). Schenker, Taylor, 1996, Partially
        parametric techniques for multiple imputation (local residual draws).
    """
    model.check(donors)
    masks, shown = batch.masks(), donors.masks()
    groups = [(pattern, rows, _able(shown, pattern)) for pattern, rows in _patterns(masks)]
    spread = {n: _spread(donors.x[n], mask) for n, mask in shown.items()} if residuals else {}
    with RowNoise(keys):
        # a number a row at a time, because a dimension as long as the rows would not be told apart
        chance = torch.stack([torch.rand(len(keys)) for _ in range(2 * draws + neighbours)], -1)
    chance = chance.to(keys.device)
    x = {name: value.expand(draws, *value.shape).clone() for name, value in batch.x.items()}
    for pattern, rows, lenders in groups:
        if not lenders:
            continue
        own = _expected(model, batch.take(rows))
        theirs = _expected(model, _told(donors, pattern))
        points, asked = theirs.code, own.code
        if residuals:
            points, asked = (_asked(made, pattern, spread) for made in (theirs, own))
        for name, able in lenders.items():
            near = _lenders(points[able], asked, neighbours, chance[rows], draws)
            lender = able[near]
            value = donors.x[name][lender]
            if residuals:
                shifted = own.x[name] + (value - theirs.x[name][lender])
                value = torch.where(own.real[name], shifted, value)
            x[name][:, rows] = torch.where(pattern[name], batch.x[name][rows], value)
    return x


def _patterns(masks: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Every pattern of holes that occurs, and the numbers of its rows."""
    sizes = [mask.shape[1] for mask in masks.values()]
    for pattern, rows in patterns_of(torch.cat([*masks.values()], -1)):
        yield dict(zip(masks, pattern.split(sizes), strict=True)), rows


def _able(shown: dict[str, Tensor], pattern: dict[str, Tensor]) -> dict[str, Tensor]:
    """By modality that rows of a pattern lack in part, the donors that can lend it.

    They show all that is lacking of it, and anything of what the rows show.
    """
    told = torch.stack([(shown[n] & seen).any(-1) for n, seen in pattern.items()]).any(0)
    if not any(bool(seen.any()) for seen in pattern.values()):
        told = torch.ones_like(told)
    able = {}
    for name, seen in pattern.items():
        if bool(seen.all()):
            continue
        able[name] = (shown[name][:, ~seen].all(-1) & told).nonzero()[:, 0]
        if not len(able[name]):
            raise ValueError(
                f"no donor shows all that a row lacks of modality {name!r}, and anything of what "
                f"it shows; give donors that do, or use method='sir'"
            )
    return able


def _spread(x: Tensor, shown: Tensor) -> Tensor:
    """The standard deviation of what is shown of each element; 1 where it does not vary."""
    count = shown.sum(0).clamp_min(1)
    away = torch.where(shown, x - torch.where(shown, x, 0).sum(0) / count, 0)
    spread = (away.square().sum(0) / count).sqrt()
    return torch.where(spread > 0, spread, 1)


def _asked(made: Expected, pattern: dict[str, Tensor], spread: dict[str, Tensor]) -> Tensor:
    """What is expected of all that a pattern lacks, ``(rows, elements)``, by which rows match."""
    parts = []
    for name, seen in pattern.items():
        units = torch.where(made.real[name], spread[name], 1) * (~seen).sum().clamp_min(1).sqrt()
        parts.append((made.x[name] / units)[:, ~seen])
    return torch.cat(parts, -1)


def _lenders(points: Tensor, own: Tensor, neighbours: int, chance: Tensor, draws: int) -> Tensor:
    """The donor of each draw, ``(draws, rows)``.

    Args:
        points: of the donors.
        own: of the rows.
        neighbours: of how many donors a draw is lent by one.
        chance: numbers between 0 and 1, ``(rows, 2 draws + neighbours)``.
        draws: how many.
    """
    spread = (points - points.mean(0)).abs().mean(0)
    spread = torch.where(spread > 0, spread, 1)
    there, point, count = torch.unique(
        (points / spread).round(decimals=DIGITS), dim=0, return_inverse=True, return_counts=True
    )
    near = nearest(there * spread, own, min(neighbours, len(there)))[1]
    turns = _turns(min(neighbours, len(points)), chance[:, draws:], draws)
    chosen = near.gather(1, torch.searchsorted(count[near].cumsum(-1), turns, right=True))
    # donors at the same point are equally near: any of them, however many there are
    start, members = count.cumsum(0) - count, point.argsort(stable=True)
    lenders: Tensor = members[start[chosen] + (chance[:, :draws] * count[chosen]).long()]
    return lenders.T


def _turns(count: int, chance: Tensor, draws: int) -> Tensor:
    """A number below the count for each draw, by chance and all before any again."""
    laps = -(-draws // count)
    order: Tensor = chance[:, : laps * count].unflatten(-1, (laps, count)).argsort(-1)
    return order.flatten(1)[:, :draws].contiguous()


def _told(donors: Batch, pattern: dict[str, Tensor]) -> Batch:
    """Donors as if no more of them were seen than of rows of that pattern."""
    masks = {name: mask & pattern[name] for name, mask in donors.masks().items()}
    return Batch({n: torch.where(m, donors.x[n], 0) for n, m in masks.items()}, dict(masks))


def _expected(model: Model, batch: Batch) -> Expected:
    """``expected`` of many rows, some at a time."""
    parts = [
        expected(model, batch.take(slice(start, start + ROWS)))
        for start in range(0, batch.rows, ROWS)
    ]
    x = {name: torch.cat([part.x[name] for part in parts]) for name in batch.x}
    return Expected(torch.cat([part.code for part in parts]), x, parts[0].real)


@torch.no_grad()
def expected(model: Model, batch: Batch, below: Batch | None = None) -> Expected:
    """The code of rows by the mode of every encoder, and what its decoders expect of the unseen.

    What is unseen of a code has its mean given the rest of the code.

    Args:
        model: the model.
        batch: rows, any of their cells unseen.
        below: of a joint model, the data whose codes the rows are; chance depends on what they
            hold, because the last digits of a code depend on what is encoded with it.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Bernoulli(4), hidden=(2,)), GaussianPrior(2))
    >>> made = expected(model, Batch.of(torch.ones(3, 4)))
    >>> made.code.shape, made.x["x"].sum().item(), made.real["x"].any().item()
    (torch.Size([3, 2]), 12.0, False)
    """
    told = below or batch
    paths = model.encode(batch, point=True)
    code, seen, prior = joint_code(paths)[0], model.code_seen(batch), model.prior
    top, raw = code, torch.full_like(code[0], not prior.discrete, dtype=torch.bool)
    if isinstance(prior, Model):
        above = expected(prior, prior.batch(code, seen), told)
        top, code = above.code, torch.cat([*above.x.values()], -1)
        raw = torch.cat([*above.real.values()], -1)
    elif seen is not None and bool((partly := ~seen.all(-1)).any()):
        code = top = code.clone()
        code[partly] = _completed(prior, code[partly], seen[partly], told.take(partly))
    made = {} if seen is None else model.decode(code, point=True)
    x, real = {}, {}
    parts = raw.split([*model.sizes.values()], -1)
    for (name, stack), part in zip(model.named_stacks(), parts, strict=True):
        mask = batch.seen[name]
        real[name] = part
        if len(stack.layers):
            real[name] = real_elements(stack[0].decoder.family).to(code.device)
        x[name] = batch.x[name]
        if mask is not None:
            mean = made[name].x
            if not stack.elementwise:
                own = stack[0].decoder(paths[name].h[1][0]).given(batch.x[name], mask).mean
                mean = torch.where(mask.any(-1, keepdim=True), own, mean)
            x[name] = torch.where(mask, batch.x[name], mean)
    return Expected(top, x, real)


def _completed(prior: Prior, code: Elements, seen: Seen, rows: Batch) -> Elements:
    """Codes with the mean of what is unseen of them, the same for a row in any batch."""
    law = prior.condition(code, seen)
    if type(law).mean is not Distribution.mean:
        return torch.where(seen, code, law.mean)
    with RowNoise(keys_of_rows(rows, 0).to(code.device)):
        drawn = law.sample((distinct(AVERAGED, {*code.shape}),))
    return torch.where(seen, code, drawn.mean(0))


def real_elements(family: Family) -> Tensor:
    """Which elements of a family are real values, rather than zeros, ones, counts or parts of them.

    >>> from genprop.conditional import Bernoulli, Gaussian
    >>> real_elements(Columns([Gaussian(2), Bernoulli(1)]))
    tensor([ True,  True, False])
    """
    if isinstance(family, Columns):
        return torch.cat([real_elements(block) for block in family.blocks])
    return torch.full((family.elements,), isinstance(family, LocationScale))

"""Rows completed by several models together, as those of an ensemble."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.encodings import AnyEncoding
from genprop.model import Model
from genprop.tables.encoding import averaged, features_of
from genprop.tables.filled import Filled
from genprop.tables.imputation import How, fill


def fill_together(
    models: Sequence[Model],
    encodings: Mapping[str, AnyEncoding],
    batch: Batch,
    how: How,
    seed: int,
) -> Filled:
    """Draws of several models by turns, or the mean of their means; a row's own in any batch.

    Draw d is of model d mod M, so that draws differ by what each model made of the data, too. Means
    are taken of numbers in the data's own units, and of the probabilities of categories. Of a row's
    diagnostics the worst is told.

    Args:
        models: M models of the same modalities.
        encodings: of these.
        batch: rows, any of their cells unseen.
        how: the method and its effort for each model, ``draws`` those of all together.
        seed: of all rows.
    """
    if how.method != "mean":
        shares = [len(range(n, how.draws, len(models))) for n in range(len(models))]
        pairs = [(m, replace(how, draws=d)) for m, d in zip(models, shares, strict=True) if d]
        return _by_turns([fill(m, batch, each, seed + n) for n, (m, each) in enumerate(pairs)])
    parts = [
        fill(m, batch, how, seed + n, lambda name, law: features_of(encodings[name], law))
        for n, m in enumerate(models)
    ]
    x = {n: _mean(n, encodings[n], batch, [p.x[n] for p in parts]) for n in batch.x}
    return _worst(parts, x)


def _mean(name: str, encoding: AnyEncoding, batch: Batch, parts: Sequence[Tensor]) -> Tensor:
    """The mean of features, in the model's units; what is seen stays as it is."""
    mean = torch.stack(list(parts)).mean(0)
    seen = batch.seen[name]
    if seen is None:
        return batch.x[name][None]
    return torch.where(seen, batch.x[name], averaged(encoding, mean))


def _by_turns(parts: Sequence[Filled]) -> Filled:
    """The first draw of each, then the second of each, and so on."""
    x = {}
    for name in parts[0].x:
        turns = [(d, part.x[name][d]) for part in parts for d in range(len(part.x[name]))]
        x[name] = torch.stack([draw for _, draw in sorted(turns, key=lambda turn: turn[0])])
    return _worst(parts, x)


def _worst(parts: Sequence[Filled], x: dict[str, Tensor]) -> Filled:
    """These rows with the worst diagnostics; NaN where none of the parts tells any."""

    def least(name: str, sign: float) -> Tensor:
        told = sign * torch.stack([getattr(part, name) for part in parts])
        found = sign * torch.where(told.isnan(), torch.inf, told).amin(0)
        return torch.where(told.isnan().all(0), torch.nan, found)

    # the last of all: chains where a part has them
    way = torch.stack([part.way for part in parts]).amax(0)
    return Filled(
        x,
        least("ess", 1.0),
        least("khat", -1.0),
        least("acceptance", 1.0),
        least("rhat", -1.0),
        way,
    )

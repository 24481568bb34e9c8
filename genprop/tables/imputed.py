"""What an imputation gives back: completed rows as they came, and how far to trust each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genprop.data import Batch
from genprop.encodings import AnyEncoding, decoded, encoded
from genprop.model import Model
from genprop.table import Raw, completed
from genprop.tables.encoding import averaged, features_of
from genprop.tables.imputation import Filled, How, fill

if TYPE_CHECKING:
    import pandas as pd

UNRELIABLE = 0.7  # k-hat
APART = 1.1  # R-hat


@dataclass(frozen=True)
class Imputed:
    """Completed rows and their diagnostics.

    Attributes:
        draws: draws first: ``(draws, rows, *event)``, of a DataFrame one with the draw as the outer
            level of its index, of several modalities a dict.
        rows: a DataFrame with a line for each row: ``missing`` cells, ``method``, the weights'
            ``ess`` and Pareto ``khat``, and of chains ``acceptance`` and ``rhat``.
    """

    draws: Any
    rows: "pd.DataFrame"

    def report(self) -> "pd.DataFrame":
        """The rows by method: how many, and the medians and the worst of their diagnostics."""
        import pandas as pd

        by = self.rows.groupby("method", sort=False)
        worst = {"ess": "min", "khat": "max", "acceptance": "min", "rhat": "max"}
        columns = {"rows": by.size(), "missing": by["missing"].sum()}
        for name, side in worst.items():
            columns |= {f"{name}_median": by[name].median(), f"{name}_worst": by[name].agg(side)}
        return pd.DataFrame(columns)

    @property
    def verdict(self) -> str:
        """In a sentence, how many rows' draws should not be trusted, and what to do."""
        poor = (self.rows["khat"] > UNRELIABLE) & (self.rows["method"] == "sir")
        poor |= self.rows["rhat"] > APART
        if not poor.any():
            return f"The draws of all {len(self.rows):,} rows can be trusted."
        return (
            f"Do not trust the draws of {poor.sum():,} of {len(self.rows):,} rows; take more "
            f"samples or sweeps, or method='gibbs'."
        )

    def __str__(self) -> str:
        """The verdict."""
        return self.verdict


def impute_rows(
    model: Model,
    encodings: Mapping[str, AnyEncoding],
    raws: Mapping[str, Raw],
    how: How,
    seed: int,
) -> tuple[dict[str, Any], "pd.DataFrame"]:
    """Raw rows completed, for each modality, and a line of diagnostics for each.

    Only rows in which something is missing are worked on.

    Args:
        model: the model.
        encodings: of its modalities.
        raws: the rows.
        how: the method and its effort.
        seed: of all rows.
    """
    batch = encoded(encodings, raws).to(model.like.device, model.like.dtype)
    holes = torch.as_tensor(_holes(raws) > 0).to(model.like.device)
    filled = _filled(model, encodings, batch.take(holes), how, seed) if bool(holes.any()) else None
    draws = {}
    for name, raw in raws.items():
        x = batch.x[name].expand(how.draws, *batch.x[name].shape).clone()
        if filled is not None:
            x[:, holes] = filled.x[name]
        exact = how.method == "mean"
        draws[name] = completed(decoded(encodings[name], x, exact), raw)
    return draws, _lines(raws, filled, how, holes.cpu().numpy())


def _filled(
    model: Model, encodings: Mapping[str, AnyEncoding], batch: Batch, how: How, seed: int
) -> Filled:
    return fill(
        model,
        batch,
        how,
        seed,
        lambda name, law: features_of(encodings[name], law),
        lambda name, features: averaged(encodings[name], features),
    )


def _holes(raws: Mapping[str, Raw]) -> NDArray[np.int64]:
    parts = [(~raw.seen).reshape(raw.rows, -1).sum(1) for raw in raws.values()]
    total: NDArray[np.int64] = np.sum(parts, axis=0)
    return total


def _lines(
    raws: Mapping[str, Raw], filled: Filled | None, how: How, holes: NDArray[np.bool_]
) -> "pd.DataFrame":
    import pandas as pd

    first = next(iter(raws.values()))
    table = pd.DataFrame(
        {"missing": _holes(raws), "method": "none"},
        index=None if first.columns is None else first.given.index,
    )
    for name in ("ess", "khat", "acceptance", "rhat"):
        told: Tensor | None = None if filled is None else getattr(filled, name)
        column = np.full(len(table), np.nan)
        if told is not None:
            column[holes] = told.cpu().numpy()
        table[name] = column
    if filled is not None:
        plain = "mean" if how.method == "mean" else "sir"
        table.loc[holes, "method"] = np.where(filled.chained.cpu().numpy(), "gibbs", plain)
    return table

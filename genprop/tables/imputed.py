"""What an imputation gives back: completed rows as they came, and how far to trust each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genprop.encodings import AnyEncoding, decoded, encoded
from genprop.likelihood.pareto import FEWEST as FEWEST_PATHS
from genprop.model import Model
from genprop.seeds import seeded
from genprop.table import Raw, checked, completed, holds_modalities
from genprop.tables.filled import CHAINS, LENDING, WAYS, Filled
from genprop.tables.imputation import FEWEST_SWEEPS, How
from genprop.tables.members import fill_together

if TYPE_CHECKING:
    import pandas as pd

UNRELIABLE = 0.7  # k-hat
APART = 1.1  # R-hat
WANTED = {
    "gibbs": f"an R-hat needs chains that move, of at least {FEWEST_SWEEPS} transitions "
    f"(refine={FEWEST_SWEEPS})",
    "sir": f"a k-hat needs at least {FEWEST_PATHS} samples, and khat=True",
    "map": "the most probable completion says nothing of its spread; method='auto' has draws",
}  # by method
TOLD_AS = {"mean": "sir", "prior": "sir", "hmc": "gibbs"}


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
        """How many rows' draws should not be trusted, of how many nothing is known; what to do."""
        lent = int(self.rows["method"].isin(LENDING).sum())
        if lent:
            return (
                f"Donors lent to {lent:,} of {len(self.rows):,} rows; no weight tells how well, so "
                f"hide cells that you know, and compare."
            )
        chained = self.rows["method"].isin(CHAINS)
        told = self.rows["rhat"].where(chained, self.rows["khat"])
        poor = told > np.where(chained, APART, UNRELIABLE)
        unknown = told.isna() & (self.rows["missing"] > 0)
        further = {
            "samples, or chains (refine=200)": poor & ~chained,
            "transitions": poor & chained,
        }
        parts = [
            f"Do not trust the draws of {self._some(rows)}; take more {what}."
            for what, rows in further.items()
            if rows.any()
        ]
        if unknown.any():
            methods = self.rows["method"][unknown].replace(TOLD_AS)
            wants = (why for method, why in WANTED.items() if (methods == method).any())
            parts.append(
                f"Whether to trust the draws of {self._some(unknown)} is not known: "
                f"{'; '.join(wants)}."
            )
        return " ".join(parts) or f"The draws of all {len(self.rows):,} rows can be trusted."

    def _some(self, rows: "pd.Series[bool]") -> str:
        return f"{rows.sum():,} of {len(rows):,} rows"

    def __str__(self) -> str:
        """The verdict."""
        return self.verdict


def impute_by(
    models: Sequence[Model], estimator: Any, X: Any, how: How, random_state: Any
) -> Imputed:
    """Rows as a user holds them, completed.

    Args:
        models: of the same modalities, whose draws or means are put together.
        estimator: which knows how data becomes numbers.
        X: the rows.
        how: the method and its effort.
        random_state: of all draws.
    """
    raws = checked(estimator, X, reset=False)
    if how.donors is not None:
        lending = checked(estimator, how.donors, reset=False)
        how = replace(how, donors=encoded(estimator.encodings_, lending, models[0].like))
    with seeded(random_state):
        seed = int(torch.randint(2**62, ()))
        filled, rows = impute_rows(models, estimator.encodings_, raws, how, seed)
    return Imputed(filled if holds_modalities(X) else filled["x"], rows)


def impute_rows(
    models: Sequence[Model],
    encodings: Mapping[str, AnyEncoding],
    raws: Mapping[str, Raw],
    how: How,
    seed: int,
) -> tuple[dict[str, Any], "pd.DataFrame"]:
    """Raw rows completed, for each modality, and a line of diagnostics for each.

    Only rows in which something is missing are worked on.

    Args:
        models: one, or several of which the draws or means are put together.
        encodings: of their modalities.
        raws: the rows.
        how: the method and its effort.
        seed: of all rows.
    """
    like = models[0].like
    batch = encoded(encodings, raws, like)
    holes = torch.as_tensor(_holes(raws) > 0).to(like.device)
    filled = None
    if bool(holes.any()):
        filled = fill_together(models, encodings, batch.take(holes), how, seed)
    draws = {}
    for name, raw in raws.items():
        x = batch.x[name].expand(how.draws, *batch.x[name].shape).clone()
        if filled is not None:
            x[:, holes] = filled.x[name]
        exact = how.method == "mean"
        draws[name] = completed(decoded(encodings[name], x, exact), raw)
    return draws, _lines(raws, filled, holes.cpu().numpy())


def _holes(raws: Mapping[str, Raw]) -> NDArray[np.int64]:
    parts = [(~raw.seen).reshape(raw.rows, -1).sum(1) for raw in raws.values()]
    total: NDArray[np.int64] = np.sum(parts, axis=0)
    return total


def _lines(
    raws: Mapping[str, Raw], filled: Filled | None, holes: NDArray[np.bool_]
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
        table.loc[holes, "method"] = np.asarray(WAYS)[filled.way.cpu().numpy()]
    return table

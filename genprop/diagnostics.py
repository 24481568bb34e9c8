"""Whether draws of Markov chains can be trusted, and the same draws for ArviZ."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genprop.arviz_api import Labelled, inference_data
from genprop.convergence import Convergence, convergence
from genprop.data import Batch
from genprop.kernel import Chain
from genprop.posterior import Posterior

if TYPE_CHECKING:
    import pandas as pd

Numbers = NDArray[np.float64]
Labels = Sequence[Any]
MOST_RHAT = 1.01
LEAST_ESS = 100  # of each chain
APART = 1.05  # chains whose R-hat is above it may want more than a longer run
STATISTICS = ("mean", "sd", "mcse", "rhat", "ess_bulk", "ess_tail")
POSITION = "position"
# what ArviZ calls what kernels tell
NAMES = {"acceptance": "acceptance_rate", "log_prob": "lp"}


@dataclass(frozen=True)
class Diagnosis:
    """What the draws of chains say of themselves, for each element of each variable in each row.

    Chains are trusted by the limits of Vehtari et al.: R-hat at most 1.01, and for the bulk and
    the tails 100 effective draws of each chain. Further, no transition may have diverged, and in
    every row something must move. An element that stands still beside others, as one that is
    held, has no statistics and is not judged.

    Attributes:
        variables: for each its statistics, ``(*rows, elements)``.
        acceptance: mean probability of acceptance, ``(*rows)``.
        divergences: how many transitions diverged, ``(*rows)``.
        chains: how many chains.
        draws: of each chain.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner, 2021, Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC.
    """

    variables: dict[str, Convergence]
    acceptance: Numbers
    divergences: NDArray[np.int64]
    chains: int
    draws: int

    @property
    def least_ess(self) -> int:
        """The effective draws that are asked for."""
        return LEAST_ESS * self.chains

    @property
    def trusted(self) -> bool:
        """Whether the chains of all rows can be trusted."""
        return bool(self._rows["trusted"].all())

    @property
    def verdict(self) -> str:
        """The same in words: how well chains agree, or why not to trust them, and what to do."""
        if self.trusted:
            return self._approval()
        distrusted = int((~self._rows["trusted"]).sum())
        some = distrusted < len(self._rows)
        whose = f"the chains of {distrusted:,} of {len(self._rows):,} rows"
        reasons = ", and ".join(self._reasons())
        return f"Do not trust {whose if some else 'these chains'}: {reasons}; {self._advice()}."

    def __str__(self) -> str:
        """The verdict."""
        return self.verdict

    def to_pandas(self) -> "pd.DataFrame":
        """One row a variable: the worst and the median of its statistics.

        MCSE is in standard deviations; ``coordinates`` counts the elements of all rows, ``still``
        those that stand still.
        """
        import pandas as pd

        table = self._table.assign(mcse=self._table["mcse"] / self._table["sd"])
        by = table.groupby("variable", sort=False)
        columns = {"coordinates": by.size(), "still": by["rhat"].agg(lambda r: int(r.isna().sum()))}
        for name, worst in (("rhat", "max"), ("ess_bulk", "min"), ("ess_tail", "min")):
            columns |= {f"{name}_worst": by[name].agg(worst), f"{name}_median": by[name].median()}
        columns |= {"mcse_worst": by["mcse"].max(), "mcse_median": by["mcse"].median()}
        return pd.DataFrame(columns)

    def by_row(self) -> "pd.DataFrame":
        """One row a row of the data: the worst in it, acceptance, divergences, and trust."""
        return self._rows.copy()

    def coordinates(self) -> "pd.DataFrame":
        """One row an element of a variable in a row of the data, the least trusted first."""
        order = self._strain().sort_values(ascending=False, kind="stable", na_position="last").index
        return self._table.loc[order].reset_index(drop=True)

    @cached_property
    def _table(self) -> "pd.DataFrame":
        import pandas as pd

        parts = [_coordinates(name, c) for name, c in self.variables.items()]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def _rows(self) -> "pd.DataFrame":
        worst = {"rhat": "max", "ess_bulk": "min", "ess_tail": "min"}
        table = self._table.groupby("row").agg(worst)
        table["acceptance"] = self.acceptance.ravel()
        table["divergences"] = self.divergences.ravel()
        enough = table[["ess_bulk", "ess_tail"]].min(axis=1) >= self.least_ess
        # where nothing moved R-hat is NaN, which is not below anything
        agree = table["rhat"] <= MOST_RHAT
        return table.assign(trusted=enough & agree & (table["divergences"] == 0))

    def _strain(self) -> "pd.Series[float]":
        """How many times a coordinate goes beyond the limits; about that much longer a run is due.

        The excess of R-hat falls with the inverse of the draws, and their effective number grows.
        """
        t = self._table
        parts = {"rhat": (t["rhat"] - 1) / (MOST_RHAT - 1)}
        parts |= {name: self.least_ess / t[name] for name in ("ess_bulk", "ess_tail")}
        return t.assign(**parts)[list(parts)].max(axis=1)

    def _label(self, scores: "pd.Series[Any]") -> str:
        """The coordinate with the highest score."""
        at = self._table.iloc[int(np.nanargmax(scores.to_numpy()))]
        where = f" in row {at['row']}" if self.acceptance.ndim else ""
        return f"{at['variable']}[{at['element']}]{where}"

    @property
    def _transitions(self) -> int:
        return self.chains * self.draws * self.acceptance.size

    def _approval(self) -> str:
        t, total = self._table, self.chains * self.draws
        who = "chains agree" if self.chains > 1 else "halves of the one chain agree"
        return (
            f"The {who} (R-hat at most {t['rhat'].max():.3f}), and of {total:,} draws at least "
            f"{t['ess_bulk'].min():,.0f} are effective, in the tails {t['ess_tail'].min():,.0f}; "
            f"means are known within {(t['mcse'] / t['sd']).max():.2f} standard deviations."
        )

    def _reasons(self) -> Iterator[str]:
        t, rows = self._table, self._rows
        infinite, still = t["mean"].isna(), np.isinf(t["rhat"]) & t["mean"].notna()
        if infinite.any():
            yield f"{self._label(infinite)} is not finite"
        if still.any():
            yield f"each chain stands still elsewhere for {self._label(still)}"
        unmoved = rows["rhat"].isna()
        if unmoved.any():
            yield "nothing moves" + (f" in row {unmoved.argmax()}" if self.acceptance.ndim else "")
        if self.divergences.any():
            yield f"{self.divergences.sum():,} of {self._transitions:,} transitions diverged"
        rhat = t["rhat"].where(~(infinite | still))
        if (rhat > MOST_RHAT).any():
            share = _share(rhat > MOST_RHAT)
            yield f"R-hat is {rhat.max():.3f} for {self._label(rhat)} (above {MOST_RHAT} {share})"
        ess = t[["ess_bulk", "ess_tail"]].min(axis=1).where(~(infinite | still))
        if (ess < self.least_ess).any():
            share = _share(ess < self.least_ess)
            yield (
                f"only {ess.min():,.0f} of {self.chains * self.draws:,} draws are effective for "
                f"{self._label(-ess)} (below {self.least_ess:,} {share})"
            )

    def _advice(self) -> str:
        rhat = self._rows["rhat"]
        if self.divergences.any() or not np.isfinite(rhat).all():
            return "take smaller steps, as by a higher target of acceptance, or start elsewhere"
        longer = f"run about {max(2, math.ceil(self._strain().max())):,} times as long"
        held = ", or temper the chains if modes hold them apart" if rhat.max() > APART else ""
        return longer + held


def diagnose(chain: Chain[Any], posterior: Posterior | None = None) -> Diagnosis:
    """The statistics of a chain's draws; warns where the chain should not be trusted.

    Args:
        chain: at least four draws; four chains or more for a judgement that is worth the name.
        posterior: what the chain was drawn from, for the names of its levels.

    Raises:
        ValueError: too few draws, or positions that are not the posterior's.

    >>> from genprop.kernel import run
    >>> from genprop.samplers.hamiltonian import HMC
    >>> from genprop.seeds import seeded
    >>> kernel = HMC(lambda x: -0.5 * x.square().sum(-1))
    >>> with seeded(0):
    ...     diagnosis = diagnose(run(kernel, torch.zeros(4, 2), draws=400, warmup=100))
    >>> diagnosis.trusted, diagnosis.variables["position"].rhat.shape
    (True, (2,))
    """
    acceptance = _numpy(chain.info["acceptance"])
    diverging = chain.info.get("diverging")
    divergences = np.zeros_like(acceptance) if diverging is None else _numpy(diverging)
    found = Diagnosis(
        variables={n: convergence(_numpy(x)) for n, x in _variables(chain, posterior).items()},
        acceptance=np.asarray(acceptance.mean((0, 1), dtype=np.float64)),
        divergences=np.asarray(divergences.sum((0, 1), dtype=np.int64)),
        chains=chain.draws.shape[0],
        draws=chain.draws.shape[1],
    )
    if not found.trusted:
        warnings.warn(found.verdict, UserWarning, stacklevel=2)
    return found


def to_arviz(
    chain: Chain[Any],
    posterior: Posterior | None = None,
    rows: Labels | None = None,
    elements: Mapping[str, Labels] | None = None,
    predictive: bool = True,
) -> Any:
    """The draws in ArviZ's container: an ``InferenceData``, of ArviZ 1 an ``xarray.DataTree``.

    ``posterior`` holds each level by its name, ``(chain, draw, row, …)``, or of a chain without a
    posterior all as ``position``; ``sample_stats`` what the kernel told of every draw: ArviZ's
    ``acceptance_rate``, ``diverging``, ``energy``, ``step_size`` and others. With a posterior there
    are also ``observed_data``, NaN where unseen; ``posterior_predictive``, x ~ P(x | h_1) for every
    draw; and ``log_likelihood``, log P(x_seen | h_1) of each modality that has layers. Data are in
    the model's own units.

    Args:
        chain: the draws.
        posterior: what they were drawn from.
        rows: labels of the rows, 0, 1, … by default.
        elements: labels of the elements of a modality or level, by its name. The dimension is
            called as the variable, with ``.element`` behind.
        predictive: whether to draw x, which for wide data takes most of the memory.

    >>> from genprop.kernel import run
    >>> from genprop.samplers.hamiltonian import HMC
    >>> chain = run(HMC(lambda x: -0.5 * x.square().sum(-1)), torch.zeros(4, 2, 3), draws=5)
    >>> to_arviz(chain).posterior["position"].dims
    ('chain', 'draw', 'row', 'position.element')
    """
    between = _row_dims(chain)
    groups = {
        "posterior": {
            name: Labelled(("chain", "draw", *between, _element(name)), _numpy(part))
            for name, part in _variables(chain, posterior).items()
        },
        "sample_stats": {
            NAMES.get(name, name): Labelled(("chain", "draw", *between), _numpy(part))
            for name, part in chain.info.items()
            if part.shape == chain.draws.shape[:-1]
        },
    }
    if posterior is not None:
        groups |= _data_groups(chain, posterior, predictive)
    coords = {_element(name): labels for name, labels in (elements or {}).items()}
    if rows is not None:
        coords |= {dim: rows for dim in between}
    return inference_data(groups, coords)


def _data_groups(
    chain: Chain[Any], posterior: Posterior, predictive: bool
) -> dict[str, dict[str, Labelled]]:
    """What the data are, how well the draws explain them, and what else they might have been."""
    batch, each_draw = posterior.batch, ("chain", "draw", "row")
    observed = {
        name: Labelled(("row", _element(name)), np.where(_known(batch, name), _numpy(x), np.nan))
        for name, x in batch.x.items()
    }
    explained = _each_chain(chain, lambda draws: _log_likelihood(draws, posterior))
    groups = {
        "observed_data": observed,
        "log_likelihood": {name: Labelled(each_draw, part) for name, part in explained.items()},
    }
    if predictive:
        groups["posterior_predictive"] = {
            name: Labelled((*each_draw, _element(name)), part)
            for name, part in _each_chain(chain, posterior.decode).items()
        }
    return {name: variables for name, variables in groups.items() if variables}


def _each_chain(
    chain: Chain[Any], make: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, NDArray[Any]]:
    """What is made of the draws, one chain after the other for the memory that nets take."""
    made = [make(draws) for draws in chain.draws]
    return {name: np.stack([_numpy(part[name]) for part in made]) for name in made[0]}


@torch.no_grad()
def _log_likelihood(draws: Tensor, posterior: Posterior) -> dict[str, Tensor]:
    levels, batch = posterior.split(draws), posterior.batch
    return {
        name: stack[0].decoder(levels[f"{name}.1"]).log_prob(batch.x[name], batch.seen[name])
        for name, stack in posterior.model.named_stacks()
        if len(stack.layers)
    }


def _known(batch: Batch, name: str) -> NDArray[np.bool_]:
    seen = batch.seen[name]
    return np.ones(batch.x[name].shape, bool) if seen is None else _numpy(seen)


def _variables(chain: Chain[Any], posterior: Posterior | None) -> dict[str, Tensor]:
    return {POSITION: chain.draws} if posterior is None else posterior.split(chain.draws)


def _share(beyond: "pd.Series[bool]") -> str:
    return f"in {int(beyond.sum()):,} of {len(beyond):,} coordinates"


def _coordinates(name: str, c: Convergence) -> "pd.DataFrame":
    """The statistics of a variable, a line for each element of each row."""
    import pandas as pd

    row, element = np.divmod(np.arange(c.rhat.size), c.rhat.shape[-1])
    columns = {"variable": name, "row": row, "element": element}
    return pd.DataFrame(columns | {part: getattr(c, part).ravel() for part in STATISTICS})


def _row_dims(chain: Chain[Any]) -> tuple[str, ...]:
    rows = chain.draws.ndim - 3
    return ("row",) if rows == 1 else tuple(f"row_{n}" for n in range(rows))


def _element(name: str) -> str:
    return f"{name}.element"


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array

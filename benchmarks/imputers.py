"""The imputers that are compared: scikit-learn's, a MIWAE written out, and others if installed."""

import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401, makes the next one known
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from torch import nn

from genprop.tables.imputer import GenPropImputer

GENPROP, MIWAE, POOLED = "genprop", "MIWAE, same size", "MICE, mean of draws"
MICEFOREST, HYPERIMPUTE = "miceforest", "HyperImpute"

Array = NDArray[np.float64]


class Filled(NamedTuple):
    """A point for every cell, and draws where an imputer gives any."""

    point: Array
    draws: Array | None = None


class Effort(NamedTuple):
    """How much is computed.

    Attributes:
        epochs: of the models that are trained, or None for as many as the imputer chooses.
        draws: for intervals and scores.
        trees: of a forest.
        rounds: over the columns.
    """

    epochs: int | None = None
    draws: int = 50
    trees: int = 100
    rounds: int = 10


FULL, QUICK = Effort(), Effort(epochs=3, draws=5, trees=5, rounds=2)


def fill_mean(X: Array, seed: int, effort: Effort) -> Filled:
    return Filled(SimpleImputer().fit_transform(X))


def fill_neighbours(X: Array, seed: int, effort: Effort) -> Filled:
    return Filled(KNNImputer(n_neighbors=5).fit_transform(X))


def fill_mice(X: Array, seed: int, effort: Effort) -> Filled:
    """Chained Bayesian ridge regressions, each cell by the mean of its own."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    return Filled(IterativeImputer(max_iter=effort.rounds, random_state=seed).fit_transform(X))


def fill_pooled(X: Array, seed: int, effort: Effort) -> Filled:
    """Draws by such chains, each run anew, and their mean as point."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    draws = [
        IterativeImputer(
            max_iter=effort.rounds, sample_posterior=True, random_state=1000 * seed + draw
        ).fit_transform(X)
        for draw in range(min(effort.draws, 20))
    ]
    return Filled(np.mean(draws, 0), np.stack(draws))


def fill_forest(X: Array, seed: int, effort: Effort) -> Filled:
    warnings.simplefilter("ignore", ConvergenceWarning)
    trees = ExtraTreesRegressor(n_estimators=effort.trees, random_state=seed)
    made = IterativeImputer(trees, max_iter=effort.rounds, random_state=seed)
    return Filled(made.fit_transform(X))


def fill_genprop(X: Array, seed: int, effort: Effort, missing: str = "mar") -> Filled:
    """By our own, told or not why cells are missing."""
    imputer = GenPropImputer(missing=missing, **quicker(effort), random_state=seed).fit(X)
    draws = imputer.impute(X, draws=effort.draws) if effort.draws > 1 else None
    return Filled(imputer.transform(X), draws)


def quicker(effort: Effort) -> dict[str, Any]:
    """Arguments of our imputer where it is only to be seen to run; else all are its own."""
    return {} if effort.epochs is None else {"settings": {"epochs": effort.epochs}, "members": 1}


def fill_miwae(X: Array, seed: int, effort: Effort, latents: int = 10, units: int = 128) -> Filled:
    """The importance-weighted bound of seen cells, back-propagated, by its shortest loop."""
    torch.manual_seed(seed)
    seen = torch.tensor(~np.isnan(X)).float()
    loc, scale = np.nanmean(X, 0), np.nanstd(X, 0)
    x = torch.tensor(np.nan_to_num((X - loc) / scale)).float()
    width = x.shape[1]
    up = nn.Sequential(nn.Linear(width, units), nn.Tanh(), nn.Linear(units, 2 * latents))
    down = nn.Sequential(nn.Linear(latents, units), nn.Tanh(), nn.Linear(units, 2 * width))
    adam = torch.optim.Adam([*up.parameters(), *down.parameters()], lr=1e-3)

    def weighed(rows: torch.Tensor, samples: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
        mean, raw = up(x[rows]).chunk(2, -1)
        q = torch.distributions.Normal(mean, nn.functional.softplus(raw) + 1e-3)
        h = q.rsample((samples,))
        loc_x, raw_x = down(h).chunk(2, -1)
        p = torch.distributions.Normal(loc_x, nn.functional.softplus(raw_x) + 1e-3)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(h).sum(-1)
        log_p = (p.log_prob(x[rows]) * seen[rows]).sum(-1)
        return log_p + prior - q.log_prob(h).sum(-1), loc_x, p

    for _ in range(effort.epochs or 800):
        for rows in torch.randperm(len(x)).split(64):
            adam.zero_grad()
            log_w, _, _ = weighed(rows, 20)
            (math.log(20) - log_w.logsumexp(0)).mean().backward()
            adam.step()
    with torch.no_grad():
        log_w, mean, law = weighed(torch.arange(len(x)), 500)
        point = (log_w.softmax(0)[..., None] * mean).sum(0).numpy() * scale + loc
        chosen = torch.multinomial(log_w.softmax(0).T, effort.draws, replacement=True).T
        drawn = law.sample()[chosen, torch.arange(len(x))].numpy() * scale + loc
    hidden = np.isnan(X)
    return Filled(np.where(hidden, point, X), np.where(hidden, drawn, X))


def fill_miceforest(X: Array, seed: int, effort: Effort) -> Filled:
    import miceforest
    import pandas as pd

    count = min(effort.draws, 20)
    table = pd.DataFrame(X, columns=[f"x{n}" for n in range(X.shape[1])])
    kernel = miceforest.ImputationKernel(table, num_datasets=count, random_state=seed)
    kernel.mice(5)
    draws = np.stack([kernel.complete_data(n).to_numpy() for n in range(count)])
    return Filled(draws.mean(0), draws)


def fill_hyperimpute(X: Array, seed: int, effort: Effort) -> Filled:
    import pandas as pd
    from hyperimpute.plugins.imputers import Imputers

    made = Imputers().get("hyperimpute", random_state=seed)
    return Filled(np.asarray(made.fit_transform(pd.DataFrame(X))))


IMPUTERS: dict[str, Callable[[Array, int, Effort], Filled]] = {
    "mean": fill_mean,
    "kNN": fill_neighbours,
    "MICE": fill_mice,
    POOLED: fill_pooled,
    "missForest": fill_forest,
    MIWAE: fill_miwae,
    MICEFOREST: fill_miceforest,
    HYPERIMPUTE: fill_hyperimpute,
    GENPROP: fill_genprop,
}
PACKAGES = {MICEFOREST: "miceforest", HYPERIMPUTE: "hyperimpute"}


def absent() -> list[str]:
    """The imputers whose package is not installed."""
    return [name for name, package in PACKAGES.items() if find_spec(package) is None]

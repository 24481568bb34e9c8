"""Cells cut off by their own values: the protocol of the not-MIWAE paper, and its table."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

from benchmarks.imputers import Array

UCI = "uci_regression.npz"
TABLES = ("concrete", "wine (red)", "breast cancer")
SELF, KNOWN, NET = "genprop, mnar", "genprop, mnar-above", "genprop, mnar-net"
CENSORED = "genprop, censored-above"
# RMSE of Ipsen, Mattei, Frellsen, 2021, table 1, means of five runs
PUBLISHED = {
    "mean": (1.85, 1.83, 1.82),
    "MICE": (1.70, 1.68, 1.17),
    "missForest": (1.76, 1.64, 1.57),
    "low-rank joint model": (1.57, 1.42, 1.22),
    "PPCA": (1.61, 1.61, 0.90),
    "MIWAE": (1.66, 1.62, 1.20),
    "not-MIWAE PPCA, agnostic": (1.47, 1.32, 0.78),
    "not-MIWAE PPCA, self-masking": (1.31, 1.13, 0.72),
    "not-MIWAE PPCA, self-masking known": (1.31, 1.13, 0.72),
    "not-MIWAE, agnostic": (2.63, 1.30, 1.10),
    "not-MIWAE, self-masking": (1.26, 1.08, 0.74),
    "not-MIWAE, self-masking known": (1.12, 1.07, 0.76),
}


def published() -> list[dict[str, float | str]]:
    """The paper's rows, as the JSON holds them."""
    return [{"imputer": f"{name} [paper]", **dict(zip(TABLES, row, strict=True))}
            for name, row in PUBLISHED.items()]  # fmt: skip


def read(folder: Path | None, name: str) -> Array:
    """A table without its target, in standard deviations."""
    if name == "breast cancer":
        X = load_breast_cancer().data
    else:
        assert folder is not None
        with np.load(folder / UCI) as arrays:
            X = arrays[name.split(" ")[0]][:, :-1].astype(np.float64)
    return np.asarray((X - X.mean(0)) / X.std(0))


def cut(X: Array) -> np.ndarray:
    """What lies above its column's mean, in the first half of the columns."""
    hidden: np.ndarray = np.greater(X, X.mean(0))
    hidden[:, X.shape[1] // 2 :] = False
    return hidden

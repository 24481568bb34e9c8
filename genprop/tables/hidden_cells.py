"""How well a model draws cells of a user's own table that are hidden from it."""

from typing import Any

from genprop.tables.ampute import hide, holes, unmasked
from genprop.tables.calibration import Calibration, calibration


def evaluate_hidden(
    model: Any,
    X: Any,
    rate: float = 0.3,
    mechanism: str = "mcar",
    draws: int = 50,
    random_state: Any = None,
    **how: Any,
) -> Calibration:
    """Hides cells, draws them, and compares the draws with what they held.

    Args:
        model: a fitted GenProp or GenPropImputer. Rows that it was fitted on flatter it.
        X: an array ``(rows, columns)`` or a DataFrame.
        rate: the share of cells to hide.
        mechanism: which ones, as for ``genprop.tables.ampute.holes``.
        draws: of each hidden cell.
        random_state: seed of holes and draws.
        how: as ``impute`` takes it, such as ``method="sir"``.
    """
    mask = holes(X, rate, mechanism, random_state)
    drawn = model.impute(hide(X, mask), draws=draws, random_state=random_state, **how)
    return calibration(unmasked(X), drawn, mask)

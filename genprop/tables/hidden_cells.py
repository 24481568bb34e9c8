"""How well a model draws cells of a user's own table that are hidden from it."""

from typing import Any

from genprop.table import holds_modalities
from genprop.tables.ampute import hide, holes, unmasked
from genprop.tables.calibration import Calibration, calibration
from genprop.tables.hidden_modalities import ModalCalibration, evaluate_modalities


def evaluate_hidden(
    model: Any,
    X: Any,
    rate: float = 0.3,
    mechanism: str = "mcar",
    draws: int = 50,
    random_state: Any = None,
    **how: Any,
) -> Calibration | ModalCalibration:
    """Hides cells, draws them, and compares the draws with what they held.

    Of several modalities each is also hidden whole in turn (``evaluate_modalities``).

    Args:
        model: a fitted GenProp or GenPropImputer. Rows that it was fitted on flatter it.
        X: an array ``(rows, columns)``, a DataFrame, or a dict of them by modality.
        rate: the share of cells to hide.
        mechanism: which ones, as for ``genprop.tables.ampute.holes``.
        draws: of each hidden cell.
        random_state: seed of holes and draws.
        how: as ``impute`` takes it, such as ``method="sir"``.
    """
    if holds_modalities(X):
        return evaluate_modalities(model, X, rate, mechanism, draws, random_state, **how)
    mask = holes(X, rate, mechanism, random_state)
    drawn = model.impute(hide(X, mask), draws=draws, random_state=random_state, **how)
    return calibration(unmasked(X), drawn, mask)

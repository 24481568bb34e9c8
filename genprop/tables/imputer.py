"""An imputer for scikit-learn's pipelines, its model's size fitted to the table."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from genprop.encoding import missing_cells
from genprop.estimator import GenProp
from genprop.tables.imputed import Imputed

UPDATES = 8000  # of the optimizer, about
SMALL = 10_000  # rows, up to which mini-batches are small


class GenPropImputer(TransformerMixin, BaseEstimator):
    """Fills the holes of tables by a model of their rows, fitted once, for rows old and new.

    The model is one of a small table by default: one layer of about ten latents, nets with an
    affine path and dropout that read what is missing, trained on rows of which more is hidden.

    Args:
        method: what a hole becomes: ``"mean"`` (of categories the most probable), or one draw, by
            ``"sir"``, ``"gibbs"`` or ``"auto"``.
        visible: as of ``GenProp``: families of columns are chosen by what they hold, or by you.
        samples: importance samples of a mean; paths of which a draw is one.
        add_indicator: whether columns follow that say where cells were missing, one for each column
            that had holes in fit.
        settings: arguments of ``GenProp`` in place of those chosen for the table.
        random_state: seed of fit and of every draw after it.
        verbose: 0 is silent; 1 shows progress on a terminal.

    Attributes:
        model_: the ``GenProp`` that was fitted.
        settings_: its arguments, chosen and given.
        indicated_: numbers of the columns with an indicator.

    References:
        Mattei, Frellsen, 2019, MIWAE: deep generative modelling and imputation of incomplete data
        sets (importance-weighted bounds and means of seen cells).

    >>> X = np.array([[0.0, 1.0], [1.0, np.nan], [0.5, 1.5], [1.0, 2.0]])
    >>> imputer = GenPropImputer(settings={"epochs": 2}, add_indicator=True, random_state=0)
    >>> imputer.fit_transform(X).shape, list(imputer.get_feature_names_out())
    ((4, 3), ['x0', 'x1', 'missingindicator_x1'])
    """

    def __init__(
        self,
        method: str = "mean",
        *,
        visible: Any = "auto",
        samples: int = 500,
        add_indicator: bool = False,
        settings: dict[str, Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.method = method
        self.visible = visible
        self.samples = samples
        self.add_indicator = add_indicator
        self.settings = settings
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    def fit(self, X: Any, y: object = None) -> "GenPropImputer":
        """Trains a model of the rows; y is not used.

        Args:
            X: an array ``(rows, columns)`` or a DataFrame; NaN, None or NA is missing.
            y: not used.
        """
        X = self._check(X, reset=True)
        own = {"visible": self.visible, "random_state": self.random_state, "verbose": self.verbose}
        self.settings_ = {**table_settings(*np.shape(X)), **own, **(self.settings or {})}
        self.model_ = GenProp(**self.settings_).fit(X)
        self.indicated_ = np.flatnonzero(_missing(X).any(0))
        return self

    def transform(self, X: Any) -> Any:
        """The rows without holes, in the container and the types in which they came."""
        check_is_fitted(self)
        X = self._check(X, reset=False)
        filled = self.model_.impute(X, method=self.method, samples=self.samples)
        whole = filled.droplevel(0) if hasattr(filled, "columns") else filled[0]
        return self._with_indicator(whole, X) if self.add_indicator else whole

    def impute(self, X: Any, draws: int = 20, **how: Any) -> Any:
        """Several completions of the rows, as ``GenProp.impute`` has them."""
        check_is_fitted(self)
        return self.model_.impute(X, draws=draws, **how)

    def imputation(self, X: Any, draws: int = 20, **how: Any) -> Imputed:
        """The same with diagnostics of each row, as ``GenProp.imputation``."""
        check_is_fitted(self)
        return self.model_.imputation(X, draws=draws, **how)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The columns' names, and those of their indicators."""
        check_is_fitted(self)
        known = getattr(self, "feature_names_in_", None)
        names = [f"x{n}" for n in range(self.n_features_in_)] if known is None else list(known)
        if input_features is not None:
            if known is not None and list(input_features) != names:
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(input_features) != self.n_features_in_:
                raise ValueError(
                    f"input_features should have length equal to number of features "
                    f"({self.n_features_in_}), got {len(input_features)}"
                )
            names = list(input_features)
        more = [f"missingindicator_{names[n]}" for n in self.indicated_ if self.add_indicator]
        return np.asarray([*names, *more], dtype=object)

    def _check(self, X: Any, reset: bool) -> Any:
        """The rows, checked as scikit-learn does; tables of many types are so by the model."""
        if hasattr(X, "columns"):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        return validate_data(
            self,
            X,
            reset=reset,
            dtype=None if np.asarray(X).dtype == object else "numeric",
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )

    def _with_indicator(self, whole: Any, X: Any) -> Any:
        flags = _missing(X)[:, self.indicated_]
        if not hasattr(whole, "columns"):
            return np.hstack([whole, flags.astype(whole.dtype)])
        import pandas as pd

        names = self.get_feature_names_out()[self.n_features_in_ :]
        return pd.concat([whole, pd.DataFrame(flags, index=whole.index, columns=names)], axis=1)


def table_settings(rows: int, columns: int) -> dict[str, Any]:
    """Arguments of ``GenProp`` for a table of that size.

    >>> chosen = table_settings(178, 13)
    >>> chosen["hidden"], chosen["batch_size"], chosen["epochs"]
    ((10,), 64, 800)
    """
    latents = max(1, min(rows // 10, max(min(columns, 10), columns // 10), 64))
    batch = 64 if rows <= SMALL else 256
    return {
        "hidden": (latents,),
        "skip": True,
        "dropout": 0.2,
        "hide": 0.3,
        "samples": 5,
        "optimizer": "adamw",
        "lr": 6e-3,
        "schedule": "onecycle",
        "batch_size": batch,
        "epochs": int(min(800, max(5, math.ceil(UPDATES * batch / rows)))),
        "validation": 0.0,
        "patience": None,
    }


def _missing(X: Any) -> NDArray[np.bool_]:
    import pandas as pd

    return np.asarray(pd.isna(X)) if hasattr(X, "columns") else missing_cells(np.asarray(X))

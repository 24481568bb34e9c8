"""An imputer for scikit-learn's pipelines, its model's size fitted to the table."""

import math
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from genprop.estimator import GenProp
from genprop.holes import missing_cells
from genprop.progress import Progress
from genprop.tables.ampute import unmasked
from genprop.tables.imputation import How
from genprop.tables.imputed import Imputed, impute_by

UPDATES = 8000  # of the optimizer for a model alone, about
MEMBER_UPDATES = 3400  # for each of several
SMALL = 10_000  # rows, up to which mini-batches are small
SIDES = ("mnar", "mnar-above", "mnar-below")
MEMBERS = ((1000, 5), (SMALL, 3))  # up to so many rows, how many models


class GenPropImputer(TransformerMixin, BaseEstimator):
    """Fills the holes of tables by models of their rows, fitted once, for rows old and new.

    A model is one of a small table by default: one layer of about ten latents, nets with an
    affine path and dropout, encoders that read in place of what is missing a linear regression of
    it, trained on rows of which more is hidden.
    Of small tables there are several, which differ by their seed: a mean is that of their means,
    and draws come from each of them by turns, so that they are as uncertain as the fit is.

    Args:
        method: what a hole becomes: ``"mean"`` (the most probable category, the median of ordered
            ones), or one draw, by ``"sir"``, ``"gibbs"``, ``"hmc"`` or ``"auto"``.
        visible: as of ``GenProp``: families of columns are chosen by what they hold, or by you.
        missing: as of ``GenProp``: ``"mar"``, or ``"mnar"`` where cells are missing by their own
            values, which is then modelled, too. Local optima have large and small values change
            places: so the first model is also fitted as ``"mnar-above"`` and ``"mnar-below"``, and
            all are of the kind under which values and holes are likeliest.
        samples: importance samples of a mean; paths of which a draw is one.
        add_indicator: whether columns follow that say where cells were missing, one for each column
            that had holes in fit.
        members: how many models; ``"auto"`` is 5 for up to 1,000 rows, 3 for up to 10,000, else 1.
        settings: arguments of ``GenProp`` in place of those chosen for the table.
        n_jobs: how many models are fitted at once, each in a process of its own; as of
            scikit-learn, None is one after the other and -1 as many as there are cores.
        random_state: seed of fit and of every draw after it.
        verbose: 0 is silent; 1 shows progress on a terminal.

    Attributes:
        models_: the ``GenProp`` of every member.
        model_: the first of them.
        settings_: its arguments, chosen and given.
        indicated_: numbers of the columns with an indicator.

    References:
        Mattei, Frellsen, 2019, MIWAE: deep generative modelling and imputation of incomplete data
        sets (importance-weighted bounds and means of seen cells). Lakshminarayanan, Pritzel,
        Blundell, 2017, Simple and scalable predictive uncertainty estimation using deep ensembles.

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
        missing: str = "mar",
        samples: int = 500,
        add_indicator: bool = False,
        members: int | str = "auto",
        settings: dict[str, Any] | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.method = method
        self.visible = visible
        self.missing = missing
        self.samples = samples
        self.add_indicator = add_indicator
        self.members = members
        self.settings = settings
        self.n_jobs = n_jobs
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

        Raises:
            ValueError: no members, or what ``GenProp.fit`` refuses.
        """
        X = self._check(X, reset=True)
        rows, columns = np.shape(X)
        count = member_count(self.members, rows)
        own = {n: getattr(self, n) for n in ("visible", "missing", "random_state", "verbose")}
        chosen = table_settings(rows, columns, count, self.missing)
        self.settings_ = {**chosen, **own, **(self.settings or {})}
        seeds = _seeds(self.settings_["random_state"], count)
        members = [{**self.settings_, "random_state": seed} for seed in seeds]
        self.models_ = self._trained(members, X)
        self.settings_["missing"] = self.models_[0].missing
        self.model_ = self.models_[0]
        self.indicated_ = np.flatnonzero(_missing(X).any(0))
        return self

    def transform(self, X: Any) -> Any:
        """The rows without holes, in the container and the types in which they came."""
        check_is_fitted(self)
        X = self._check(X, reset=False)
        filled = self.impute(X, 1, method=self.method, samples=self.samples)
        whole = filled.droplevel(0) if hasattr(filled, "columns") else filled[0]
        return self._with_indicator(whole, X) if self.add_indicator else whole

    def impute(self, X: Any, draws: int = 20, **how: Any) -> Any:
        """Several completions of the rows, as ``GenProp.impute`` has them, draw d of model d mod M.

        Args:
            X: the rows.
            draws: of each row.
            how: as of ``GenProp.impute``.
        """
        return self.imputation(X, draws, khat=False, **how).draws

    def imputation(
        self, X: Any, draws: int = 20, *, random_state: Any = None, **how: Any
    ) -> Imputed:
        """The same with diagnostics of each row, as ``GenProp.imputation``."""
        check_is_fitted(self)
        models = [member.model_ for member in self.models_]
        state = self.model_.random_state if random_state is None else random_state
        return impute_by(models, self.model_, X, How(draws=draws, **how), state)

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

    def _trained(self, members: list[dict[str, Any]], X: Any) -> list[GenProp]:
        """A model for each of these arguments; on which side cells go missing the first finds out.

        It does so by the loss that it comes to at the end with each.
        """
        if members[0]["missing"] != SIDES[0]:
            return self._fitted(members, X)
        sides = self._fitted([members[0] | {"missing": side} for side in SIDES], X)
        best = min(sides, key=_last_loss)
        return [best, *self._fitted([m | {"missing": best.missing} for m in members[1:]], X)]

    def _fitted(self, members: list[dict[str, Any]], X: Any) -> list[GenProp]:
        """A model for each of these arguments; those of other processes are told as they end."""
        at_once = self.n_jobs if len(members) > 1 else None
        apart = {} if at_once in (None, 1) else {"verbose": 0}
        fitted = Parallel(n_jobs=at_once, return_as="generator")(
            delayed(_fitted)(settings | apart, X) for settings in members
        )
        models = []
        with Progress(len(members), self.verbose if apart else 0, "models") as progress:
            for model in fitted:
                models.append(model)
                progress.show(model.history_.iloc[-1].to_dict())
        return models

    def _check(self, X: Any, reset: bool) -> Any:
        """The rows, checked as scikit-learn does; tables of many types are so by the model."""
        X = unmasked(X)
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


def member_count(members: int | str, rows: int) -> int:
    """How many models there are to be.

    Raises:
        ValueError: neither a positive number nor ``"auto"``.

    >>> [member_count("auto", rows) for rows in (178, 5000, 1_000_000)]
    [5, 3, 1]
    """
    if members == "auto":
        return next((count for most, count in MEMBERS if rows <= most), 1)
    if not isinstance(members, Integral) or members < 1:
        raise ValueError(f"members must be a positive whole number or 'auto', but is {members!r}")
    return int(members)


def table_settings(
    rows: int, columns: int, members: int = 1, missing: str = "mar"
) -> dict[str, Any]:
    """Arguments of ``GenProp`` for a table of that size, and for so many models of it.

    Where it is modelled why cells are missing, values move far from where they start, and so the
    learning rate is higher.

    >>> chosen = table_settings(178, 13)
    >>> chosen["hidden"], chosen["batch_size"], chosen["epochs"]
    ((10,), 128, 800)
    """
    latents = max(1, min(rows // 10, max(min(columns, 10), columns // 10), 64))
    batch = 128 if rows <= SMALL else 256
    updates = UPDATES if members == 1 else MEMBER_UPDATES
    return {
        "hidden": (latents,),
        "skip": True,
        "dropout": 0.2,
        "regress": True,
        "hide": 0.2,
        "samples": 5,
        "optimizer": "adamw",
        "lr": 6e-3 if missing == "mar" else 1.5e-2,
        "schedule": "onecycle",
        "batch_size": batch,
        "epochs": int(min(800, max(5, math.ceil(updates * batch / rows)))),
        "validation": 0.0,
        "patience": None,
    }


def _fitted(settings: dict[str, Any], X: Any) -> GenProp:
    return GenProp(**settings).fit(X)


def _last_loss(model: GenProp) -> float:
    """The mean over the last tenth of training, nats a row."""
    losses = model.history_["train"]
    return float(losses.tail(max(1, len(losses) // 10)).mean())


def _seeds(random_state: Any, count: int) -> list[Any]:
    """One for each model: the given one first, unless it is a generator or none."""
    if random_state is None:
        return [None] * count
    more = check_random_state(random_state).randint(2**31 - 1, size=count).tolist()
    return [random_state if isinstance(random_state, Integral) else more[0], *more[1:]]


def _missing(X: Any) -> NDArray[np.bool_]:
    import pandas as pd

    return np.asarray(pd.isna(X)) if hasattr(X, "columns") else missing_cells(np.asarray(X))

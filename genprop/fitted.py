"""What of a fitted estimator goes into a folder, and how it comes back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from genprop.description import describe, rebuild
from genprop.encodings import of_config
from genprop.model import Model
from genprop.persistence import fill, load, save
from genprop.prior import Prior
from genprop.rules.rule import Rule
from genprop.train import start_fabric

# a user's function has no place in a file; only fit would need it
STORED = (type(None), bool, int, float, str, tuple, list, dict, Prior, Rule)


def save_fitted(estimator: Any, directory: Path) -> None:
    """Writes all that was learned, with the arguments that a file can hold."""
    arguments = estimator.get_params(deep=False)
    config = {
        "estimator": describe({k: v for k, v in arguments.items() if isinstance(v, STORED)}),
        "encodings": [e.config() for e in estimator.encodings_.values()],
        "model": describe(estimator.model_),
        "history": estimator.history_.astype(float).to_dict("records"),
        "columns": estimator.encodings_["x"].columns if "x" in estimator.encodings_ else None,
        "features": getattr(estimator, "n_features_in_", None),
    }
    save(directory, config, dict(estimator.model_.state_dict()))


def load_fitted(
    kind: type[Any], directory: Path, modules: Mapping[str, nn.Module] | None, device: str
) -> Any:
    """The estimator of that kind which was written there.

    Raises:
        FileNotFoundError: there is no saved model.
        ValueError: damaged, foreign or newer files, or a module that was not passed.
    """
    config, tensors = load(directory)
    if "estimator" not in config:
        raise ValueError(f"{directory} holds a Model alone; read it with load_model")
    estimator = kind(**rebuild(config["estimator"], modules))
    encodings = [of_config(e) for e in config["encodings"]]
    estimator.encodings_ = {e.modality: e for e in encodings}
    model: Model = rebuild(config["model"], modules)
    fill(model, tensors)
    estimator.model_ = model.to(start_fabric(device).device).eval()
    keep_history(estimator, config["history"])
    if config["features"] is not None:
        estimator.n_features_in_ = config["features"]
    if config["columns"] is not None:
        estimator.feature_names_in_ = np.asarray(config["columns"], dtype=object)
    return estimator


def keep_history(estimator: Any, history: list[dict[str, float]]) -> None:
    """Sets what follows from training: the history, and how many features codes have."""
    import pandas as pd

    estimator.history_ = pd.DataFrame(history).astype({"epoch": int})
    estimator._n_features_out = estimator.model_.summit.elements

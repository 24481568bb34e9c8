"""What of a fitted estimator goes into a folder, and how it comes back."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from genprop.convolutional import Convolutions
from genprop.description import describe, rebuild
from genprop.encodings import of_config
from genprop.model import Model
from genprop.persistence import fill, freeze, frozen_names, load, save
from genprop.prior import Prior
from genprop.rules.rule import Rule
from genprop.stack import Stack
from genprop.train import start_fabric

# a user's function has no place in a file; only fit would need it
STORED = (type(None), bool, int, float, str, tuple, list, dict, Prior, Rule, Convolutions)
Fitted = TypeVar("Fitted", bound=Any)
GIVEN = "hidden"  # the argument that may hold stacks


def save_fitted(estimator: Any, directory: Path) -> None:
    """Writes all that was learned, with the arguments that a file can hold."""
    arguments = estimator.get_params(deep=False)
    whole = _with_given(estimator)
    config = {
        "estimator": describe({k: v for k, v in arguments.items() if isinstance(v, STORED)}),
        "encodings": [e.config() for e in estimator.encodings_.values()],
        "model": describe(estimator.model_),
        "history": estimator.history_.astype(float).to_dict("records"),
        "columns": estimator.encodings_["x"].columns if "x" in estimator.encodings_ else None,
        "features": getattr(estimator, "n_features_in_", None),
        "frozen": frozen_names(whole),
    }
    save(directory, config, dict(whole.state_dict()))


def load_fitted(
    kind: Callable[..., Fitted],
    directory: Path,
    modules: Mapping[str, nn.Module] | None,
    device: str,
) -> Fitted:
    """The estimator of that kind which was written there.

    Raises:
        FileNotFoundError: there is no saved model.
        ValueError: damaged, foreign or newer files, or a module that was not passed.
    """
    config, tensors = load(directory)
    if "estimator" not in config:
        raise ValueError(f"{directory} holds a Model alone; read it with load_model")
    model: Model = rebuild(config["model"], modules)
    # what was put into the model stands in both
    again = {p.replace("stacks", GIVEN, 1): deepcopy(m) for p, m in (modules or {}).items()}
    estimator = kind(**rebuild(config["estimator"], again | dict(modules or {})))
    encodings = [of_config(e) for e in config["encodings"]]
    estimator.encodings_ = {e.modality: e for e in encodings}
    estimator.model_ = model
    whole = _with_given(estimator)
    fill(whole, tensors)
    freeze(whole, config.get("frozen", []))
    estimator.model_ = model.to(start_fabric(device).device).eval()
    keep_history(estimator, config["history"])
    if config["features"] is not None:
        estimator.n_features_in_ = config["features"]
    if config["columns"] is not None:
        estimator.feature_names_in_ = np.asarray(config["columns"], dtype=object)
    return estimator


def _with_given(estimator: Any) -> nn.Module:
    """The model, and beside it the stacks it was given, which a fit has not changed."""
    hidden = estimator.hidden if isinstance(estimator.hidden, Mapping) else {}
    stacks = {name: stack for name, stack in hidden.items() if isinstance(stack, Stack)}
    whole = nn.Module()
    for name, part in (*estimator.model_.named_children(), (GIVEN, nn.ModuleDict(stacks))):
        whole.add_module(name, part)
    return whole


def keep_history(estimator: Any, history: list[dict[str, float]]) -> None:
    """Sets what follows from training: the history, and how many features codes have."""
    import pandas as pd

    rows = pd.DataFrame(history, columns=None if history else ["epoch", "train", "validation"])
    estimator.history_ = rows.astype({"epoch": int})
    estimator._n_features_out = estimator.model_.summit.elements

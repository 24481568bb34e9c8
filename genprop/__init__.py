"""Deep generative models with local credit assignment."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genprop.convolutional import Convolutions as Convolutions
    from genprop.data import Batch as Batch
    from genprop.estimator import GenProp as GenProp
    from genprop.likelihood.estimate import Estimate as Estimate
    from genprop.model import Model as Model
    from genprop.stack import Layer as Layer
    from genprop.stack import Stack as Stack
    from genprop.tables.imputer import GenPropImputer as GenPropImputer
    from genprop.train import Trainer as Trainer

# loaded where first used: scikit-learn alone takes longer to import than all of this package
PLACES = {
    "Batch": "genprop.data",
    "Convolutions": "genprop.convolutional",
    "Estimate": "genprop.likelihood.estimate",
    "GenProp": "genprop.estimator",
    "GenPropImputer": "genprop.tables.imputer",
    "Layer": "genprop.stack",
    "Model": "genprop.model",
    "Stack": "genprop.stack",
    "Trainer": "genprop.train",
}
__all__ = [
    "Batch",
    "Convolutions",
    "Estimate",
    "GenProp",
    "GenPropImputer",
    "Layer",
    "Model",
    "Stack",
    "Trainer",
]


def __getattr__(name: str) -> object:
    if name not in PLACES:
        raise AttributeError(f"module 'genprop' has no attribute {name!r}")
    return getattr(importlib.import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

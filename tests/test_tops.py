"""What stands over the codes of several modalities: every prior, next to them or in a model."""

from typing import Any

import numpy as np
import pytest

from genprop.build import BUILDERS
from genprop.estimator import GenProp
from genprop.model import Model
from genprop.priors.denoising import DenoisingPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.mixture import MixturePrior

ROWS = 90
DISCRETE = ("factorial", "autoregressive")
SLOW = ("cnf",)  # a solver's run for every draw: tests/priors/test_flow.py
INDEPENDENT = ("gaussian", "diagonal", "logistic")  # say nothing of one code by another
REAL = [name for name in BUILDERS if name not in (*DISCRETE, *SLOW)]
TOPS = [(name, False) for name in REAL if name not in INDEPENDENT]
TOPS += [(name, True) for name in ("full", "mixture", "nsf", "gsn")]


def sides() -> dict[str, np.ndarray]:
    """Three views of one cause, the first of them missing from every third row."""
    rng = np.random.default_rng(0)
    cause = rng.normal(size=(ROWS, 1))
    views = {name: cause * [1, -1] + 0.3 * rng.normal(size=(ROWS, 2)) for name in "abc"}
    views["a"][::3] = np.nan
    return views


@pytest.mark.parametrize(("prior", "nested"), TOPS)
def test_every_prior_draws_codes_of_one_modality_given_the_others(prior: str, nested: bool) -> None:
    model = GenProp(
        hidden=(2,),
        top=(2,) if nested else (),
        prior=prior,
        units=(8,),
        epochs=30,
        lr=1e-2,
        validation=0.0,
        verbose=0,
        random_state=0,
    ).fit(sides())
    asked = {"b": np.array([[2.0, -2.0], [-2.0, 2.0]]), "c": np.array([[2.0, -2.0], [-2.0, 2.0]])}
    drawn = model.impute(asked, draws=30, method="sir", samples=50, random_state=0)
    assert drawn["a"].shape == (30, 2, 2)
    assert np.isfinite(drawn["a"]).all()
    np.testing.assert_array_equal(drawn["b"], np.broadcast_to(asked["b"], (30, 2, 2)))
    high, low = drawn["a"][..., 0].mean(0)
    # 2 and -2 are expected; 30 draws of spread 1 err by 0.26, and 30 epochs leave much undone
    assert high - low > 0.5


def test_noise_of_each_modality_is_drawn_by_itself() -> None:
    model = GenProp(hidden=(2,), prior="denoising", epochs=1, verbose=0, random_state=0)
    assert model.fit(sides()).model_.prior.parts == (2, 2, 2)
    alone = GenProp(hidden=(2,), prior="denoising", epochs=1, verbose=0, random_state=0)
    prior = alone.fit(sides()["b"]).model_.prior
    assert isinstance(prior, DenoisingPrior)
    assert prior.parts is None


def test_components_of_a_mixture_let_codes_of_modalities_tell_of_each_other() -> None:
    """A single component tells nothing between them unless its covariance is full."""
    how = {"prior": "mixture", "epochs": 1, "verbose": 0, "random_state": 0}
    over_three = GenProp(hidden=(2,), **how).fit(sides()).model_.prior
    over_one = GenProp(hidden=(), top=(2,), **how).fit(sides()).model_.prior.prior
    assert isinstance(over_three, MixturePrior)
    assert isinstance(over_one, MixturePrior)
    assert (over_three.covariance, over_one.covariance) == ("full", "diagonal")


@pytest.mark.parametrize(
    ("settings", "views", "prior", "covariance"),
    [
        ({"hidden": (2,)}, "abc", MixturePrior, "full"),
        ({"hidden": (2,)}, "b", GaussianPrior, "standard"),
        ({"hidden": {"a": (), "b": (2,)}}, "ab", MixturePrior, "full"),
        ({"hidden": ()}, "abc", GaussianPrior, "full"),
        ({"hidden": ()}, "b", GaussianPrior, "full"),
        ({"hidden": (), "top": (2,)}, "abc", GaussianPrior, "standard"),
    ],
)
def test_own_prior_is_what_tells_of_several_codes(
    settings: dict[str, Any], views: str, prior: type, covariance: str
) -> None:
    model = GenProp(**settings, epochs=1, verbose=0, random_state=0)
    found = model.fit({name: sides()[name] for name in views}).model_.prior
    own = found.prior if isinstance(found, Model) else found
    assert type(own) is prior
    assert own.covariance == covariance


def test_own_prior_tells_what_a_gaussian_of_codes_cannot() -> None:
    """Which of four clusters it is, by a label whose code is no line: XOR of the two elements."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 2, size=(400, 2))
    x = 2.0 * corner - 1 + 0.1 * rng.normal(size=(400, 2))
    rows = {"x": x, "label": corner[:, 0] ^ corner[:, 1]}
    how = {"hidden": {"x": (2,), "label": (1,)}, "units": (16,), "epochs": 30, "lr": 1e-2}
    found = {}
    for prior in ("auto", "full"):
        model = GenProp(**how, prior=prior, verbose=0, random_state=0)
        model.fit({name: values[:300] for name, values in rows.items()})
        told = model.predict({"x": x[300:]}, random_state=0)
        found[prior] = (told == rows["label"][300:]).mean()
    assert found["auto"] > 0.9
    assert found["auto"] > found["full"]

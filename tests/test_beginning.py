"""Codes of several modalities begin under a Gaussian and end under the prior asked for."""

import numpy as np
import pytest
import torch

from genprop.estimator import GenProp
from genprop.model import Model
from genprop.priors.denoising import DenoisingPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.parzen import ParzenPrior
from genprop.rules.target import TargetPropagation

SMALL = {"hidden": (2,), "units": (4,), "verbose": 0, "random_state": 0, "validation": 0.0}


def views(rows: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"a": rng.normal(size=(rows, 2)), "b": rng.normal(size=(rows, 1))}


class Watched(TargetPropagation):
    """Notes the prior of every update, and fails in one of them."""

    def __init__(self, samples: int = 5, fail: int = -1, error: type[BaseException] = OSError):
        super().__init__(samples=samples)
        self.met: list[type] = []
        self.fail, self.error = fail, error

    def __call__(self, model: Model, batch):
        self.met.append(type(model.prior))
        if len(self.met) == self.fail:
            raise self.error
        return super().__call__(model, batch)


@pytest.mark.parametrize(
    ("prior", "kind"), [("denoising", DenoisingPrior), ("parzen", ParzenPrior)]
)
def test_a_third_of_the_epochs_passes_under_a_gaussian(prior: str, kind: type) -> None:
    rule = Watched()
    model = GenProp(**SMALL, prior=prior, rule=rule, epochs=7).fit(views())
    assert list(model.history_["epoch"]) == [1, 2, 3, 4, 5, 6, 7]
    updates = len(rule.met) // 7
    assert rule.met == [GaussianPrior] * (2 * updates) + [kind] * (5 * updates)
    assert isinstance(model.model_.prior, kind)
    assert not model.model_.prior.training


@pytest.mark.parametrize(
    ("X", "settings"),
    [
        (views()["a"], {"prior": "denoising"}),  # one modality
        (views(), {"prior": "denoising", "hidden": ()}),  # no codes to be learned
        (views(), {"prior": "denoising", "hidden": (), "top": (2,)}),
        (views(), {"prior": DenoisingPrior(4)}),  # which may have been fitted before
        (views(), {"prior": "mixture"}),
        (views(), {"prior": "denoising", "epochs": 2}),  # too few to share
    ],
)
def test_others_begin_as_they_end(X, settings) -> None:
    rule = Watched()
    model = GenProp(**{**SMALL, "epochs": 3, "rule": rule, **settings}).fit(X)
    assert set(rule.met) == {type(model.model_.prior)}


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_beginning_leaves_a_model_that_can_be_used(epoch: int) -> None:
    updates = len(views()["a"]) // 16 + 1  # of the fewest rows that a batch has
    rule = Watched(fail=updates * (epoch - 1) + 1, error=KeyboardInterrupt)
    with pytest.warns(UserWarning, match=f"interrupted in epoch {epoch}"):
        model = GenProp(**SMALL, prior="parzen", rule=rule, epochs=6).fit(views())
    assert list(model.history_["epoch"]) == list(range(1, epoch))
    prior = model.model_.prior
    assert isinstance(prior, ParzenPrior)
    assert int(prior.log_weights.isfinite().sum()) == 20  # of all rows
    assert np.isfinite(model.sample(3)["a"]).all()


def test_training_that_fails_gives_the_prior_back() -> None:
    model = GenProp(
        **SMALL, prior="denoising", rule=Watched(fail=1, error=ArithmeticError), epochs=6
    )
    with pytest.raises(ArithmeticError):
        model.fit(views())
    assert isinstance(model.model_.prior, DenoisingPrior)


def test_the_same_seed_gives_the_same_model() -> None:
    one, other = (GenProp(**SMALL, prior="denoising", epochs=3).fit(views()) for _ in range(2))
    for a, b in zip(one.model_.parameters(), other.model_.parameters(), strict=True):
        assert torch.equal(a, b)

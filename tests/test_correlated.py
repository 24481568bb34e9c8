"""Errors that go together: their covariance is learned, and what is seen tells of what is not."""

import numpy as np
import pytest
import torch
import zoo

from genprop import multivariate
from genprop.correlated import CorrelatedGaussian, Shares, best_shares, correlations
from genprop.data import Batch
from genprop.distributions import IndependentNormal
from genprop.estimator import GenProp
from genprop.multivariate import JointNormal
from genprop.unseen import unseen

SIZES = (3, 2)


def covariance() -> torch.Tensor:
    root = zoo.randn(5, 5)
    return root @ root.mT + 0.5 * torch.eye(5).double()


def errors(rows: int, sigma: torch.Tensor, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return zoo.randn(rows, 5) @ torch.linalg.cholesky(sigma).mT


def alike() -> torch.Tensor:
    block = torch.tensor([0, 0, 0, 1, 1])
    return (block[:, None] == block).double()


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_the_covariance_of_many_errors_is_found(holes: float) -> None:
    """20,000 rows; an entry's standard error is below 0.02 of its elements' spreads, and shares
    below 0.02 are not tried.
    """
    sigma = covariance()
    x = errors(20_000, sigma)
    seen = torch.rand(x.shape) >= holes
    family = CorrelatedGaussian(5, SIZES).double().eval()
    family.learn(torch.where(seen, x, 99.0), seen)
    law = family(torch.zeros(1, 5).double())
    spread = sigma.diagonal().sqrt()
    torch.testing.assert_close(
        (law.covariance - sigma) / spread / spread[:, None],
        torch.zeros(5, 5).double(),
        atol=0.06,
        rtol=0,
    )


def test_in_training_and_before_it_learned_elements_are_independent() -> None:
    family, outputs = CorrelatedGaussian(5).double(), zoo.randn(4, 5)
    x = zoo.randn(4, 5)
    plain = family.train()(outputs)
    assert isinstance(plain, IndependentNormal)
    torch.testing.assert_close(family.eval()(outputs).log_prob(x), plain.log_prob(x))


def test_matrices_that_are_drawn_in_stay_positive_definite_and_keep_their_diagonal() -> None:
    correlation = correlations(errors(6, covariance()), torch.ones(6, 5, dtype=torch.bool))
    for within, across in ((0.02, 0.02), (0.02, 1.0), (0.5, 0.7), (1.0, 1.0)):
        found = Shares(within, across).drawn_in(correlation, alike())
        assert torch.linalg.eigvalsh(found).min() > 0.015
        torch.testing.assert_close(found.diagonal(), torch.ones(5).double())
        outside = found[alike() == 0] - (1 - across) * correlation[alike() == 0]
        assert outside.abs().max() < 1e-12


def test_what_is_not_there_is_taken_away() -> None:
    """Among 40 rows without any dependence, chance correlations are nearly all taken away."""
    torch.manual_seed(1)
    noise = zoo.randn(40, 5)
    shares = best_shares(noise, torch.ones_like(noise, dtype=torch.bool), alike())
    assert shares.within >= 0.5
    strong = errors(400, covariance())
    strong = strong / strong.std(0)
    assert best_shares(strong, torch.ones_like(strong, dtype=torch.bool), alike()).within <= 0.1


def test_blocks_hold_all_elements() -> None:
    with pytest.raises(ValueError, match="all 5 elements together"):
        CorrelatedGaussian(5, (3, 3))


def two_views(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Two views of one row, with noise that both share, far more than a code of 1 can hold."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(rows, 6))
    return {
        "a": (shared + 0.3 * rng.normal(size=(rows, 6))).astype(np.float32),
        "b": (shared[:, ::-1] + 0.3 * rng.normal(size=(rows, 6))).astype(np.float32),
    }


def fitted(visible: str) -> GenProp:
    how = {"hidden": (), "top": (1,), "skip": True, "validation": 0.0, "patience": None}
    model = GenProp(visible=visible, epochs=15, hide=1.0, explain=True, random_state=0, **how)
    return model.fit(two_views(400))


def test_a_small_code_with_correlated_errors_tells_one_view_by_the_other() -> None:
    """Given one view, the other has variance 1 - 1/1.09² · 1.09 of 1.09: 0.165. A code of one
    number leaves five of six directions; correlations bring them, but for what is drawn in.
    """
    test = two_views(200, 1)
    asked = {"a": test["a"], "b": np.full_like(test["b"], np.nan)}
    found = {}
    for visible in ("gaussian", "correlated"):
        model = fitted(visible)
        mean = model.impute(asked, method="mean")["b"][0]
        draws = model.impute(asked, draws=50, method="sir")["b"]
        found[visible] = float(((mean - test["b"]) ** 2).mean())
        np.testing.assert_array_equal(model.impute(asked, method="sir")["a"][0], test["a"])
        if visible == "correlated":
            # draws of a calibrated law lie as far from each other as from the truth
            apart = ((draws[::2] - draws[1::2]) ** 2).mean()
            off = ((draws - test["b"]) ** 2).mean()
            assert 0.8 < apart / off < 1.25
    assert found["correlated"] < 0.3 < 0.6 < found["gaussian"]


def test_it_is_saved_with_its_model(tmp_path) -> None:
    model = fitted("correlated")
    model.save(tmp_path / "model.safetensors")
    again = GenProp.load(tmp_path / "model.safetensors")
    asked = {"a": two_views(5, 2)["a"], "b": np.full((5, 6), np.nan, np.float32)}
    one, other = (m.impute(asked, draws=3, random_state=0)["b"] for m in (model, again))
    np.testing.assert_array_equal(one, other)


def test_a_single_view_uses_what_is_seen_of_it() -> None:
    x = two_views(400)["a"]
    x[:, 3] = x[:, 2] + 0.05 * np.random.default_rng(2).normal(size=400).astype(np.float32)
    how = {"hidden": (1,), "epochs": 10, "validation": 0.0, "patience": None}
    model = GenProp(visible="correlated", hide=1.0, random_state=0, **how).fit(x)
    holed = x[:50].copy()
    holed[:, 3] = np.nan
    mean = model.impute(holed, method="mean")[0]
    assert ((mean[:, 3] - x[:50, 3]) ** 2).mean() < 0.2
    chains = model.impute(holed, draws=4, method="gibbs")
    assert np.isfinite(chains).all()
    batch = Batch.of(torch.zeros(3, 6), torch.tensor([[True] * 5 + [False]] * 3))
    drawn = unseen(model.model_, batch, 4).draw("x")
    assert (drawn[..., :5] == 0).all()


def test_pattern_by_pattern_is_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    law = JointNormal(zoo.randn(12, 5), torch.linalg.cholesky(covariance()))
    x, seen = zoo.randn(12, 5), torch.rand(4, 5).repeat(3, 1) < 0.5
    torch.manual_seed(0)
    whole = law.log_prob(x, seen), law.given(x, seen).mean, law.given(x, seen).sample((2,))
    monkeypatch.setattr(multivariate, "NUMBERS_AT_ONCE", 0)
    torch.manual_seed(0)
    parts = law.log_prob(x, seen), law.given(x, seen).mean, law.given(x, seen).sample((2,))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)

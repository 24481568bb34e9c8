"""Errors that go together: their covariance is learned, and what is seen tells of what is not."""

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from genprop import build, by_pattern
from genprop.correlated import CorrelatedGaussian
from genprop.correlations import LEAST, Rows, best_trust, cleaned, correlations, trusted
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


def whole(z: torch.Tensor) -> Rows:
    """One pass of rows without holes."""
    return Rows(z[None], torch.ones_like(z[None], dtype=torch.bool))


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_the_covariance_of_many_errors_is_found(holes: float) -> None:
    """Of 20,000 rows a correlation's standard error is below 0.02, and all blocks are trusted."""
    sigma = covariance()
    x = errors(20_000, sigma)[None]
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


def products(rows: Rows) -> torch.Tensor:
    """The sample's own correlations."""
    return torch.corrcoef(rows.z[0].mT)


@settings(deadline=None)
@given(
    rows=st.integers(20, 60),
    passes=st.integers(1, 3),
    holes=st.sampled_from([0.0, 0.3, 0.9]),
    trust=st.lists(st.floats(0, 1), min_size=2, max_size=2),
    seed=st.integers(0, 99),
)
def test_correlations_are_positive_definite_whatever_is_seen_and_trusted(
    rows: int, passes: int, holes: float, trust: list[float], seed: int
) -> None:
    """Also with fewer rows than elements, and elements that nobody saw."""
    torch.manual_seed(seed)
    seen = torch.rand(passes, rows, 40) >= holes
    block = torch.arange(40) // 20
    found = correlations(Rows(torch.where(seen, zoo.randn(passes, rows, 40), 0), seen), block)
    made = trusted(found, torch.tensor(trust).double(), block)
    for matrix in (found, made):
        assert torch.linalg.eigvalsh(matrix).min() > 0
        torch.testing.assert_close(matrix.diagonal(), torch.ones(40).double())
    across = block[:, None] != block
    torch.testing.assert_close(made[across], found[across] * trust[0] * trust[1])
    torch.testing.assert_close(made[~across], found[~across])


def test_what_is_not_there_is_taken_away() -> None:
    """Chance correlations of 40 rows and 10 elements, spread 0.16, are nearly all taken away; and
    errors of a matrix of 60 elements by 120 rows are more than halved.
    """
    torch.manual_seed(1)
    noise = whole(zoo.randn(40, 10))
    away = cleaned(noise) - torch.eye(10)
    assert away.square().sum() < 0.25 * (products(noise) - torch.eye(10)).square().sum()
    root = zoo.randn(60, 4)
    sigma = root @ root.mT + 0.5 * torch.eye(60).double()
    spread = sigma.diagonal().sqrt()
    truth = sigma / spread / spread[:, None]
    few = whole(zoo.randn(120, 60) @ torch.linalg.cholesky(truth).mT)

    def loss(found: torch.Tensor) -> float:
        """KL(truth || found), but for half."""
        ratio = torch.linalg.solve(found, truth)
        return float(ratio.diagonal().sum() - torch.linalg.slogdet(ratio).logabsdet - 60)

    assert loss(cleaned(few)) < 0.5 * loss(products(few))


def test_what_is_there_stays() -> None:
    strong = errors(2000, covariance())
    strong = whole(strong / strong.square().mean(0).sqrt())
    assert (cleaned(strong) - products(strong)).abs().max() < 0.1


@pytest.mark.parametrize("whole_blocks", [True, False])
def test_holes_cost_little(whole_blocks: bool) -> None:
    """600 rows of 20 elements, of which ten are nearly sums of others, a third of them unseen. What
    pairs of elements show where both are seen is not positive definite; made so it is far worse
    (KL(truth || found) in nats).
    """
    torch.manual_seed(4)
    block = torch.arange(20) // 10
    root = torch.cat([zoo.randn(10, 10), zoo.randn(10, 10)])
    sigma = root @ root.mT + 0.05 * torch.eye(20).double()
    spread = sigma.diagonal().sqrt()
    truth = sigma / spread / spread[:, None]
    z = zoo.randn(600, 20) @ torch.linalg.cholesky(truth).mT
    seen = (torch.rand(600, 2) > 1 / 3)[:, block] if whole_blocks else torch.rand(600, 20) > 1 / 3
    rows = Rows(torch.where(seen, z, 0)[None], seen[None])

    def loss(found: torch.Tensor) -> float:
        ratio = torch.linalg.solve(found, truth)
        return 0.5 * float(ratio.diagonal().sum() - torch.linalg.slogdet(ratio).logabsdet - 20)

    both = seen.double()
    values, vectors = torch.linalg.eigh((rows.z[0].mT @ rows.z[0]) / (both.mT @ both))
    assert values.min() < 0
    pairs = vectors * values.clamp_min(LEAST) @ vectors.mT
    found, alone = loss(correlations(rows, block)), loss(torch.eye(20).double())
    assert found < 0.1 * loss(pairs)
    assert found < 0.5 * alone


def three_blocks(rows: int) -> torch.Tensor:
    """Errors of 12, of which the first two fours are nearly the same and the last is noise."""
    torch.manual_seed(2)
    shared = zoo.randn(rows, 4)
    return torch.cat(
        [shared, (shared + 0.3 * zoo.randn(rows, 4)) / 1.09**0.5, zoo.randn(rows, 4)], -1
    )


@pytest.mark.parametrize("holes", [0.0, 0.2])
@pytest.mark.parametrize("rows", [81, 500])
def test_a_block_that_tells_nothing_does_not_make_others_distrusted(
    rows: int, holes: float
) -> None:
    z = three_blocks(rows)
    block = torch.arange(12) // 4
    seen = (torch.rand(rows, 3) >= holes)[:, block]
    trust = best_trust(Rows(torch.where(seen, z, 0)[None], seen[None]), block)
    assert trust[:2].min() >= 0.9
    assert trust[2] < trust[:2].min()


def test_rows_are_not_judged_by_what_was_learned_of_them() -> None:
    """Passes of a row are the same here, and what is learned of them is what one pass teaches; were
    they taken for different rows, chance would be found again, and trusted.
    """
    torch.manual_seed(3)
    z = zoo.randn(1, 101, 30)
    block = torch.arange(30) // 10
    one, three = (
        Rows(each, torch.ones_like(each, dtype=torch.bool)) for each in (z, z.expand(3, -1, -1))
    )
    torch.testing.assert_close(cleaned(one), cleaned(three))
    torch.testing.assert_close(best_trust(one, block), best_trust(three, block))


def test_few_rows_teach_their_scale_alone() -> None:
    family = CorrelatedGaussian(5, SIZES).double().eval()
    x = errors(19, covariance())[None]
    family.learn(x, torch.ones_like(x, dtype=torch.bool))
    found = family(torch.zeros(1, 5).double()).covariance.squeeze()
    torch.testing.assert_close(found, torch.diag(x[0].square().mean(0)))


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


def test_passes_of_a_row_stay_together_over_parts_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors reach the family as (passes, rows, elements), in the order of rows."""
    model = fitted("correlated").model_
    views = {name: torch.as_tensor(x) for name, x in two_views(7).items()}
    learned: list[torch.Tensor] = []
    monkeypatch.setattr(CorrelatedGaussian, "learn", lambda _, errors, seen: learned.append(errors))
    for at_once in (7, 3):
        monkeypatch.setattr(build, "ROWS", at_once)
        build.learn_correlations(model, Batch.of(views), hide=0.0)
    assert learned[0].shape == learned[1].shape == (build.ROUNDS, 7, 12)
    # codes are drawn, so that errors of one row differ, but less than those of two
    apart = torch.cdist(learned[0].mean(0), learned[1].mean(0))
    torch.testing.assert_close(apart.argmin(1), torch.arange(7))


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
    monkeypatch.setattr(by_pattern, "NUMBERS_AT_ONCE", 0)
    torch.manual_seed(0)
    parts = law.log_prob(x, seen), law.given(x, seen).mean, law.given(x, seen).sample((2,))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)

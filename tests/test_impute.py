"""Sampling-importance-resampling against exact conditionals."""

import pytest
import torch
import zoo

from genprop.conditional import Bernoulli
from genprop.data import Batch
from genprop.impute import resample
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.stack import Stack


@torch.no_grad()
def exact_conditional(model: Model, x: torch.Tensor, seen: torch.Tensor):
    """Mean and covariance of the unseen given the seen in one row."""
    law = zoo.exact_marginal(model)
    cov, unseen = law.covariance_matrix, ~seen
    gain = cov[unseen][:, seen] @ torch.linalg.inv(cov[seen][:, seen])
    mean = law.loc[unseen] + gain @ (x[seen] - law.loc[seen])
    return mean, cov[unseen][:, unseen] - gain @ cov[seen][:, unseen]


@pytest.mark.parametrize("sizes", [(4, 2), (4, 3, 2)])
def test_draws_have_the_exact_conditional_law(sizes):
    model = zoo.linear_gaussian(sizes)
    x = zoo.exact_marginal(model).sample((1,))
    for pattern in ([1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]):
        seen = torch.tensor([pattern]).bool()
        out = resample(model, Batch.of(x, seen), draws=4000, samples=40_000)
        drawn = out.x["x"][:, 0][:, ~seen[0]]
        mean, covariance = exact_conditional(model, x[0], seen[0])
        # 4,000 draws out of 40,000 paths: the error is that of min(4,000, ESS) draws; five of them
        n = min(4000.0, float(out.ess[0]) if any(pattern) else 4000.0)
        spread = covariance.diagonal().sqrt()
        assert ((drawn.mean(0) - mean).abs() < 5 * spread / n**0.5).all()
        torch.testing.assert_close(
            torch.cov(drawn.T).reshape(covariance.shape),
            covariance,
            rtol=0.0,
            atol=7 * float(covariance.abs().max()) / n**0.5,
        )


def test_seen_cells_stay_and_mean_takes_no_draw():
    model = zoo.linear_gaussian((4, 2))
    x = zoo.exact_marginal(model).sample((6,))
    seen = torch.rand(x.shape) < 0.5
    out = resample(model, Batch.of(x, seen), draws=3, samples=50, mean=True)
    assert torch.equal(out.x["x"][:, seen], x[seen].expand(3, -1))
    assert out.x["x"].shape == (3, 6, 4)
    assert out.ess.shape == out.khat.shape == (6,)


def test_whole_rows_come_back_as_they_are():
    model = Model(Stack.build(Bernoulli(5), (3,)), GaussianPrior(3))
    x = (torch.rand(4, 5) < 0.5).float()
    assert torch.equal(resample(model, Batch.of(x), draws=2).x["x"], x.expand(2, 4, 5))


def test_a_missing_modality_follows_the_prior_given_the_others():
    joint = GaussianPrior(2, "full")
    with torch.no_grad():
        joint.below[1, 0] = 3.0
    stacks = {n: zoo.linear_gaussian((2, 1)).named_stacks()[0][1] for n in ("a", "b")}
    model = Model(stacks, joint).double()
    a = zoo.exact_marginal(Model(stacks["a"], GaussianPrior(1).double())).sample((1,))
    batch = Batch.of({"a": a, "b": torch.full((1, 2), float("nan"), dtype=torch.float64)})
    out = resample(model, batch, draws=20_000, samples=20_000)
    A, b, scale = zoo.affine(stacks["a"][0].decoder)
    # P(code a | a) by algebra, then the code of b given it, then b's mean
    precision = 1 + (A[:, 0] ** 2 / scale**2).sum()
    code_a = (A[:, 0] * (a[0] - b) / scale**2).sum() / precision
    B, c, _ = zoo.affine(stacks["b"][0].decoder)
    expected = B[:, 0] * 3.0 * code_a + c
    drawn = out.x["b"][:, 0]
    assert torch.equal(out.x["a"][0], a)
    # five standard errors of 20,000 draws with weights
    spread = drawn.std(0) / min(20_000.0, float(out.ess[0])) ** 0.5
    assert ((drawn.mean(0) - expected).abs() < 5 * spread).all()


def test_rows_of_any_pattern_go_together_in_bounded_memory(monkeypatch):
    model = zoo.linear_gaussian((4, 2))
    x = zoo.exact_marginal(model).sample((50,))
    seen = torch.rand(x.shape) < torch.rand(50, 1)
    monkeypatch.setattr("genprop.likelihood.importance.NUMBERS_AT_ONCE", 5000)
    out = resample(model, Batch.of(x, seen), draws=2, samples=100)
    assert out.x["x"].shape == (2, 50, 4)
    assert torch.equal(out.x["x"][:, seen], x[seen].expand(2, -1))


def test_no_draw_or_sample_is_an_error():
    model = zoo.linear_gaussian((4, 2))
    with pytest.raises(ValueError, match="at least one draw"):
        resample(model, Batch.of(torch.zeros(1, 4)), draws=0)

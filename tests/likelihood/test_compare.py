"""Two models on the same rows, by hand and by ArviZ."""

import arviz as az
import numpy as np
import pytest
import zoo

from genprop.data import Batch
from genprop.likelihood.compare import compared, log_likelihood_data
from genprop.likelihood.estimate import Estimate
from genprop.likelihood.exact import exact
from genprop.likelihood.importance import importance

NOISY = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The inplace keyword")


def estimate(values: np.ndarray) -> Estimate:
    zeros = np.zeros(len(values))
    return Estimate(values, zeros, zeros, zeros, 0, "point", "exact")


def pair(rows: int = 60) -> tuple[Estimate, Estimate]:
    rng = np.random.default_rng(0)
    one = rng.normal(-5, 2, rows)
    return estimate(one), estimate(one - 0.3 + rng.normal(0, 0.1, rows))


def test_the_paired_difference_is_known_better_than_either_mean():
    one, other = pair()
    found = compared(one, other)
    assert abs(found.mean - 0.3) < 4 * found.std_error
    assert found.std_error < 0.1 * one.mean_std_error
    assert found.share == (one.log_prob > other.log_prob).mean()
    assert compared(other, one).mean == -found.mean
    assert "nats a row worse" in str(compared(other, one))


def test_the_true_model_wins_on_its_own_rows():
    truth, other = zoo.linear_gaussian((3, 2)), zoo.linear_gaussian((3, 2))
    batch = Batch.of(zoo.exact_marginal(truth).sample((200,)))
    found = compared(exact(truth, batch), exact(other, batch))
    assert found.mean > 3 * found.std_error
    assert (compared(importance(truth, batch, 50), exact(other, batch)).monte_carlo > 0).all()


def test_other_rows_are_refused():
    with pytest.raises(ValueError, match="needs the same rows, but one estimate has 60"):
        compared(pair()[0], pair(50)[1])
    with pytest.raises(ValueError, match="estimates of the same rows"):
        log_likelihood_data([pair()[0], pair(50)[1]])


@NOISY
def test_arviz_finds_the_same_sum_and_the_same_difference():
    one, other = pair()
    data = {"one": log_likelihood_data(one), "other": log_likelihood_data(other)}
    loo = az.loo(data["one"])
    elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    np.testing.assert_allclose(elpd, one.log_prob.sum(), atol=1e-6)
    table = az.compare(data)
    found, n = compared(one, other), one.rows
    assert list(table.index) == ["one", "other"]
    # ArviZ divides by n where the standard error divides by n - 1; its line 1 rounds to one digit
    tolerance = {"rtol": 0.02, "atol": 0.06}
    np.testing.assert_allclose(table["elpd_diff"].iloc[1], n * found.mean, **tolerance)
    np.testing.assert_allclose(table["dse"].iloc[1], n * found.std_error, **tolerance)


@NOISY
def test_an_ensemble_predicts_with_its_mean():
    one, _ = pair(20)
    members = [one.shifted(np.full(20, by)) for by in np.linspace(-0.2, 0.2, 60)]
    data = log_likelihood_data(members)
    assert data.log_likelihood["x"].shape == (1, 60, 20)
    loo = az.loo(data)
    elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    assert abs(elpd - one.log_prob.sum()) < 20 * 0.05

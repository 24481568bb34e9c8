"""What is said of chains, and the form in which ArviZ gets them."""

import ast
import inspect
import math
import re
import warnings
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor

from genprop import arviz_api, convergence, diagnostics
from genprop.conditional import Bernoulli, Gaussian
from genprop.data import Batch
from genprop.diagnostics import Diagnosis, diagnose, to_arviz
from genprop.kernel import Chain, run
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.priors.gaussian import GaussianPrior
from genprop.samplers.hamiltonian import HMC
from genprop.stack import Stack

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz

ROWS = 5


class Here(NamedTuple):
    position: Tensor


def chain_of(draws: Tensor, **info: Tensor) -> Chain[Here]:
    """A chain of given draws, all of them accepted."""
    told = {"acceptance": torch.ones(draws.shape[:-1]), **info}
    return Chain(draws, told, Here(draws[:, -1]))


def agreeing(*rows: int, elements: int = 2, chains: int = 4, draws: int = 400) -> Tensor:
    return torch.randn(chains, draws, *rows, elements, dtype=torch.float64)


def distrusted(chain: Chain[Here], posterior: Posterior | None = None) -> Diagnosis:
    """The diagnosis of a chain that is warned of, in one sentence, which is the verdict."""
    with pytest.warns(UserWarning, match="Do not trust") as caught:
        found = diagnose(chain, posterior)
    (warning,) = caught
    assert str(warning.message) == found.verdict == str(found)
    assert not found.trusted
    assert found.verdict.startswith("Do not trust ")
    assert found.verdict.count(". ") == 0
    return found


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    """Of an image under two layers and a size under one, some cells of both unseen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stacks = {
            "image": Stack.build(Bernoulli(6), hidden=(3, 2), units=(4,)),
            "size": Stack.build(Gaussian(2), hidden=(1,), units=(4,)),
        }
        model = zoo.perturbed(Model(stacks, GaussianPrior(3)), by=0.2)
        x = {"image": (torch.rand(ROWS, 6) < 0.5).double(), "size": zoo.randn(ROWS, 2)}
        x["image"][1, 2:4] = math.nan
        x["size"][2] = math.nan
        return Posterior(model, Batch.of(x))


@pytest.fixture(scope="module")
def chain(posterior: Posterior) -> Chain[Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return run(HMC(posterior.log_prob), posterior.start(2), draws=6, warmup=5)


def test_chains_that_agree_are_trusted_without_a_word_of_warning() -> None:
    found = diagnose(chain_of(agreeing(ROWS)))
    assert found.trusted
    assert found.verdict.startswith("The chains agree (R-hat at most 1.00")
    assert "of 1,600 draws at least 1," in found.verdict
    assert found.by_row()["trusted"].all()


def test_one_chain_cannot_agree_with_others() -> None:
    assert str(diagnose(chain_of(agreeing(chains=1)))).startswith("The halves of the one chain")


def test_the_worst_coordinate_is_named(posterior: Posterior) -> None:
    draws = agreeing(ROWS, elements=6)
    draws[0, :, 4, 3] += 3  # the first element of the image's second level
    found = distrusted(chain_of(draws), posterior)
    assert "the chains of 1 of 5 rows: R-hat is 1." in found.verdict
    assert "for image.2[0] in row 4 (above 1.01 in 1 of 30 coordinates)" in found.verdict
    assert "or temper the chains if modes hold them apart" in found.verdict
    assert found.by_row()["trusted"].tolist() == [True, True, True, True, False]
    worst = found.coordinates().iloc[0]
    assert (worst["variable"], worst["row"], worst["element"]) == ("image.2", 4, 0)
    assert worst["mean"] == pytest.approx(0.75, abs=0.2)


def test_a_run_that_is_too_short_is_told_how_much_longer_it_should_be() -> None:
    draws, phi = agreeing(2, draws=4000), 0.9  # one effective draw for 19
    for draw in range(1, 4000):
        draws[:, draw] = phi * draws[:, draw - 1] + math.sqrt(1 - phi**2) * draws[:, draw]
    short = distrusted(chain_of(draws[:, :800]))
    assert "of 3,200 draws are effective for position[" in short.verdict
    advised = re.search(r"run about (\d+) times as long", short.verdict)
    assert advised is not None
    assert 2 <= int(advised[1]) <= 5  # 170 are effective, and 400 are asked for
    assert diagnose(chain_of(draws)).trusted  # five times as long
    draws[..., 0, 1] = torch.randn(4, 4000)
    first, *_, last = diagnose(chain_of(draws)).coordinates()["ess_bulk"]
    assert first < 1500
    assert last > 10_000  # the one that mixes well comes last


def test_more_chains_are_asked_for_more_effective_draws() -> None:
    draws = agreeing(draws=300)
    assert diagnose(chain_of(draws)).least_ess == 400
    assert diagnose(chain_of(draws[:2])).least_ess == 200


def test_divergences_are_counted_and_condemn_their_row() -> None:
    diverging = torch.zeros(4, 400, 3, dtype=torch.bool)
    diverging[1, 7:9, 2] = True
    found = distrusted(chain_of(agreeing(3), diverging=diverging))
    assert found.divergences.tolist() == [0, 0, 2]
    assert found.by_row()["trusted"].tolist() == [True, True, False]
    assert "2 of 4,800 transitions diverged; take smaller steps" in found.verdict


def test_what_is_held_is_not_judged_but_a_row_where_nothing_moves_is() -> None:
    draws = agreeing(3)
    draws[..., 0, 1] = 1.5
    found = diagnose(chain_of(draws))
    assert found.trusted
    assert found.to_pandas().loc["position", "still"] == 1
    draws[..., 1, :] = 1.5
    found = distrusted(chain_of(draws))
    assert "the chains of 1 of 3 rows: nothing moves in row 1;" in found.verdict
    assert "nothing moves; " in distrusted(chain_of(draws[:, :, 1])).verdict


def test_chains_that_are_stuck_or_lost_are_named() -> None:
    draws = agreeing(3)
    draws[:, :, 2, 0] = torch.arange(4.0)[:, None]
    assert "each chain stands still elsewhere for position[0] in row 2;" in str(
        distrusted(chain_of(draws))
    )
    draws = agreeing()
    draws[3, 100, 1] = math.nan
    found = distrusted(chain_of(draws))
    assert "these chains: position[1] is not finite; take smaller steps" in found.verdict


def test_tables_hold_the_worst_and_the_median_of_the_statistics() -> None:
    draws = agreeing(3, 4)
    found = diagnose(chain_of(draws))
    statistics = found.variables["position"]
    assert statistics.rhat.shape == (3, 4, 2)
    line = found.to_pandas().loc["position"]
    assert line["coordinates"] == 24
    for name, worst in (("rhat", np.max), ("ess_bulk", np.min), ("ess_tail", np.min)):
        values = getattr(statistics, name)
        assert line[f"{name}_worst"] == worst(values)
        assert line[f"{name}_median"] == np.median(values)
        by_row = worst(values.reshape(12, 2), 1)
        assert found.by_row()[name].tolist() == by_row.tolist()
    assert line["mcse_worst"] == (statistics.mcse / statistics.sd).max()
    table = found.coordinates()
    assert len(table) == 24
    for _, one in table.iterrows():
        at = (*np.unravel_index(one["row"], (3, 4)), one["element"])
        assert one["ess_tail"] == statistics.ess_tail[at]


def test_acceptance_is_the_mean_of_each_row() -> None:
    acceptance = torch.rand(4, 400, 3)
    found = diagnose(chain_of(agreeing(3), acceptance=acceptance))
    np.testing.assert_allclose(found.acceptance, acceptance.mean((0, 1)), rtol=1e-5)
    assert found.by_row()["acceptance"].tolist() == found.acceptance.tolist()


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 draws of each chain"):
        diagnose(chain_of(agreeing(draws=3)))


def test_positions_must_be_the_posteriors(posterior: Posterior) -> None:
    with pytest.raises(ValueError, match="a row has 6 hidden values"):
        diagnose(chain_of(agreeing(ROWS)), posterior)


def test_arviz_gets_every_draw_under_its_name(posterior: Posterior, chain: Chain[Any]) -> None:
    data = to_arviz(chain, posterior)
    levels = posterior.split(chain.draws)
    assert set(data.posterior.data_vars) == set(levels) == {"image.1", "image.2", "size.1"}
    for name, values in levels.items():
        variable = data.posterior[name]
        assert variable.dims == ("chain", "draw", "row", f"{name}.element")
        np.testing.assert_array_equal(variable.values, values)
    assert data.posterior.attrs["inference_library"] == "genprop"


def test_arviz_gets_what_the_kernel_told(posterior: Posterior, chain: Chain[Any]) -> None:
    told = to_arviz(chain, posterior).sample_stats
    assert {"acceptance_rate", "diverging", "energy", "step_size"} <= set(told.data_vars)
    assert "acceptance" not in told
    for name in ("energy", "diverging", "step_size"):
        assert told[name].dims == ("chain", "draw", "row")
        np.testing.assert_array_equal(told[name].values, chain.info[name])
    np.testing.assert_array_equal(told["acceptance_rate"].values, chain.info["acceptance"])
    assert told["diverging"].dtype == bool


def test_arviz_gets_the_data_and_what_else_they_might_have_been(
    posterior: Posterior, chain: Chain[Any]
) -> None:
    data = to_arviz(chain, posterior)
    for name, x in posterior.batch.x.items():
        seen = posterior.batch.seen[name]
        observed = data.observed_data[name]
        assert observed.dims == ("row", f"{name}.element")
        assert seen is not None
        np.testing.assert_array_equal(np.isnan(observed.values), ~seen.numpy())
        np.testing.assert_array_equal(observed.values[seen], x[seen])
        drawn = data.posterior_predictive[name]
        assert drawn.dims == ("chain", "draw", "row", f"{name}.element")
        assert drawn.shape == (2, 6, *x.shape)
    assert set(np.unique(data.posterior_predictive["image"])) == {0.0, 1.0}
    assert not hasattr(to_arviz(chain, posterior, predictive=False), "posterior_predictive")


def test_predictions_follow_the_draws(posterior: Posterior) -> None:
    levels = {name: torch.zeros(1, 4000, ROWS, size) for name, size in posterior.sizes.items()}
    levels["image.1"][..., 0] = torch.arange(ROWS)
    draws = posterior.join(levels).double()
    data = to_arviz(chain_of(draws), posterior)
    expected = posterior.decode(draws[0, 0], mean=True)["image"]
    found = data.posterior_predictive["image"].mean(("chain", "draw"))
    # five standard errors of the mean of 4000 zeros and ones
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / math.sqrt(4000))


def test_log_likelihoods_and_the_layers_above_are_the_joint_density(
    posterior: Posterior, chain: Chain[Any]
) -> None:
    told = to_arviz(chain, posterior).log_likelihood
    assert told["image"].dims == ("chain", "draw", "row")
    levels = posterior.split(chain.draws)
    second = posterior.model.named_stacks()[0][1][1]
    with torch.no_grad():
        above = second.decoder(levels["image.2"]).log_prob(levels["image.1"])
        code = torch.cat([levels["image.2"], levels["size.1"]], -1)
        prior = posterior.model.prior
        assert isinstance(prior, GaussianPrior)
        total = told["image"].values + told["size"].values + (above + prior.log_prob(code)).numpy()
        np.testing.assert_allclose(total, posterior.log_prob(chain.draws), rtol=1e-9)
    assert (told["size"].values[:, :, 2] == 0).all()  # nothing of it is seen there


def test_labels_are_coordinates(posterior: Posterior, chain: Chain[Any]) -> None:
    names = ["ann", "bob", "cid", "dan", "eve"]
    data = to_arviz(chain, posterior, rows=names, elements={"size": ["height", "width"]})
    height = data.posterior_predictive["size"].sel(row="cid", **{"size.element": "height"})
    assert height.dims == ("chain", "draw")
    assert list(data.observed_data["row"].values) == names
    assert list(data.posterior["image.1.element"].values) == [0, 1, 2]


@pytest.mark.parametrize("rows", [(), (3,), (2, 3)])
def test_chains_of_any_law_have_positions_and_rows(rows: tuple[int, ...]) -> None:
    draws = agreeing(*rows, draws=10)
    data = to_arviz(chain_of(draws, other=torch.zeros(4)))
    dims = {0: (), 1: ("row",), 2: ("row_0", "row_1")}[len(rows)]
    assert data.posterior["position"].dims == ("chain", "draw", *dims, "position.element")
    np.testing.assert_array_equal(data.posterior["position"].values, draws)
    # what is no statistic of a draw has no place
    assert list(data.sample_stats.data_vars) == ["acceptance_rate"]
    assert not hasattr(data, "observed_data")


def test_arviz_comes_to_the_same_conclusions() -> None:
    chain = chain_of(agreeing(3))
    found, data = diagnose(chain), to_arviz(chain)
    rhat, ess = arviz.rhat(data), arviz.ess(data, method="bulk")
    values = getattr(rhat, "posterior", rhat)["position"].values
    np.testing.assert_allclose(values, found.variables["position"].rhat)
    values = getattr(ess, "posterior", ess)["position"].values
    np.testing.assert_allclose(values, found.variables["position"].ess_bulk)


@pytest.mark.parametrize("module", [arviz_api, convergence, diagnostics])
def test_heavy_packages_are_loaded_where_they_are_used(module: ModuleType) -> None:
    body = ast.parse(inspect.getsource(module)).body
    named = {ast.unparse(line).split()[1].split(".")[0] for line in body if is_import(line)}
    assert not named & {"arviz", "arviz_stats", "pandas", "scipy", "xarray"}


def is_import(line: ast.stmt) -> bool:
    return isinstance(line, ast.Import | ast.ImportFrom)

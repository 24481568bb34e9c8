"""The benchmark of imputers: its errors by hand, its plan, its bars."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # run from the checkout, never installed

from benchmarks import imputation, imputers, not_at_random, report

TINY = imputers.Effort(epochs=1, draws=3, trees=2, rounds=1)


def test_errors_of_types_by_hand() -> None:
    X = np.array([[0.0, 1.0, 1.0], [10.0, 2.0, 3.0]])
    point = np.array([[1.0, 2.0, 1.0], [10.0, 2.0, 1.0]])
    found = imputation.hivae_errors(
        X, point, np.ones((2, 3), dtype=bool), ["real", "cat", "ordinal"], [0, 2, 4]
    )
    assert found["real"] == pytest.approx((1 / 2) ** 0.5 / 10)
    assert found["nominal"] == 0.5
    assert found["ordinal"] == 0.25
    assert found["error"] == pytest.approx(np.mean([found["real"], 0.5, 0.25]))


@pytest.mark.parametrize("name", ["mean", "kNN", imputers.MIWAE, imputers.GENPROP])
def test_imputers_keep_what_is_seen(name: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 4))
    holes = np.where(rng.random(X.shape) < 0.3, np.nan, X)
    filled = imputers.IMPUTERS[name](holes, 0, TINY)
    seen = ~np.isnan(holes)
    assert np.isfinite(filled.point).all()
    np.testing.assert_allclose(filled.point[seen], X[seen])
    if filled.draws is not None:
        assert filled.draws.shape == (3, 40, 4)
        np.testing.assert_allclose(filled.draws[:, seen], np.tile(X[seen], (3, 1)))


def test_plan_and_bars() -> None:
    jobs = imputation.plan(imputation.parse(["--quick", "--only", "mcar", "--table", "wine"]))
    assert {job.table for job in jobs} == {"wine"}
    assert imputers.GENPROP in {job.imputer for job in jobs}
    outcomes = {
        jobs[0]._replace(imputer=name): {"error": error, "coverage": 0.9, "fit": 1.0}
        for name, error in ((imputers.GENPROP, 0.6), ("mean", 1.0))
    }
    bars = {bar["name"]: bar["holds"] for bar in imputation.judge(imputation.summarise(outcomes))}
    assert bars["wine: squared error"] is True
    assert bars["wine: coverage of 90 %"] is True
    assert bars["mean rank by error"] is True
    assert bars["diabetes: squared error"] is None


def test_ranks_are_means_over_the_tables_that_have_them() -> None:
    rows = [
        {"table": "a", "imputer": "p", "error": 1.0},
        {"table": "a", "imputer": "q", "error": 2.0},
        {"table": "a", "imputer": "r", "error": 0.0},
        {"table": "b", "imputer": "p", "error": 1.0},
        {"table": "b", "imputer": "q", "error": 0.5},
    ]
    assert imputation.mean_ranks(rows, "error") == {"p": 2.0, "q": 2.0}  # r is in one of two
    few = [
        {"table": "c", "imputer": "p", "error": 1.0},
        {"table": "c", "imputer": "s", "error": 1.0},
    ]
    told = {"table": "c", "imputer": "genprop, mnar", "error": 0.0}
    found = imputation.mean_ranks([*rows, *few, told], "error")
    assert found == {"p": (2 + 2 + 1.5) / 3, "q": 2.0}


def test_parts_come_together_in_one_file(tmp_path) -> None:
    path = tmp_path / "imputation.json"
    assert report.kept(path, quick=True) == ([], [])
    row = {"section": "time", "table": "a", "imputer": "p", "error": None}
    old = {"section": "mcar", "table": "b", "imputer": "q", "error": 1.0}
    report.write_json(path, {"quick": True, "rows": [row, old], "command": "first"})
    earlier, commands = report.kept(path, quick=True)
    assert commands == ["first"]
    names = ("section", "table", "imputer")
    assert report.merged(earlier, [{**old, "error": 2.0}], names) == [row, {**old, "error": 2.0}]
    with pytest.raises(SystemExit, match="another file"):
        report.kept(path, quick=False)


def test_the_protocol_of_cells_cut_by_their_value() -> None:
    X = not_at_random.read(None, "breast cancer")
    hidden = not_at_random.cut(X)
    assert X.shape == (569, 30)
    assert not hidden[:, 15:].any()
    assert (hidden[:, :15] == (X[:, :15] > 0)).all()
    # the paper's figure of the mean, by the same protocol
    job = imputation.Job("mnar", "breast cancer", 0.0, "mean", 0, TINY)
    found = imputation.run(job)["error"]
    assert found == pytest.approx(not_at_random.PUBLISHED["mean"][2], abs=0.005)
    explained = imputation.run(job._replace(imputer=not_at_random.KNOWN))
    assert np.isfinite(explained["error"])
    assert not_at_random.published()[0]["breast cancer"] == 1.82

"""The benchmark of digits in six views: its rows, its measures, its bars, its peers."""

import doctest
import json
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # run from the checkout, never installed

from benchmarks import multimodal, multimodal_peers, multimodal_rows, report
from benchmarks.multimodal_peers import Effort, Filled, Views

WIDTHS = dict(zip(multimodal_rows.VIEWS, (4, 5, 3, 4, 2, 2), strict=True))
TINY = Effort(epochs=1, draws=3, paths=5, train=60, test=12, chained=5, dense=5, chain=2, batch=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views that are affine in one another, with a column that is constant, sorted by class."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 200).astype(np.uint8)
    hidden = rng.normal(size=(2000, 2)) + labels[:, None]
    views = {n: (hidden @ rng.normal(size=(2, w)) + 5).astype("f4") for n, w in WIDTHS.items()}
    views["pix"][:, 0] = 3
    made: Path = tmp_path_factory.mktemp("mfeat")
    np.savez(made / "mfeat.npz", y=labels, **views)
    return made


def test_examples_in_the_measures() -> None:
    assert doctest.testmod(multimodal_rows).failed == 0


def test_rows_are_shuffled_split_and_standardised(folder: Path) -> None:
    rows = multimodal_rows.read(folder, 0, Effort())
    assert (len(rows.train_labels), len(rows.labels)) == (1500, 500)
    assert np.bincount(rows.labels).min() > 20  # of 50, about 6.6 being a standard deviation
    for name, x in rows.train.items():
        scale = np.where(np.arange(WIDTHS[name]) == 0, 0, 1) if name == "pix" else 1
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(x.std(0), scale, atol=1e-4)
    again = multimodal_rows.read(folder, 0, Effort())
    assert all(np.array_equal(x, again.test[name]) for name, x in rows.test.items())


def test_holes_are_whole_views_at_their_rate_and_leave_every_row_one(folder: Path) -> None:
    rows = multimodal_rows.read(folder, 0, Effort()).train
    holed = multimodal_rows.with_holes(rows, 0.5, 0)
    gone = np.stack([~multimodal_peers.seen_rows(x) for x in holed.values()], 1)
    for n, x in enumerate(holed.values()):
        assert np.array_equal(np.isnan(x).all(1), gone[:, n])
        assert np.array_equal(np.isnan(x).any(1), gone[:, n])
    assert not gone.all(1).any()
    # one row in 64 keeps a view that it would lose: 0.4974, and 9,000 cells err by 0.005
    assert gone.mean() == pytest.approx(0.4974, abs=0.02)
    for name, x in holed.items():
        seen = multimodal_peers.seen_rows(x)
        assert np.array_equal(x[seen], rows[name][seen])
    none = multimodal_rows.with_holes(rows, 0.0, 0)
    assert all(np.array_equal(x, none[name]) for name, x in rows.items())


def test_every_view_is_hidden_in_turn_and_every_row_meets_every_count() -> None:
    made = multimodal_rows.patterns(12, 0)
    in_turn = [set(multimodal_rows.VIEWS) - set(given) for count, given, _ in made if count == 5]
    assert in_turn == [{name} for name in multimodal_rows.VIEWS]
    for count in range(1, 5):
        chosen = [rows for n, given, rows in made if n == count == len(set(given))]
        assert sorted(np.concatenate(chosen)) == list(range(12))


def test_energy_score_is_least_for_draws_of_the_truth() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(4000, 2))
    score = {
        scale: multimodal_rows.energy_score(scale * rng.normal(size=(20, 4000, 2)), y).mean()
        for scale in (0.5, 1.0, 2.0)
    }
    assert score[1.0] < min(score[0.5], score[2.0])
    # E|X - X'| = sqrt(pi) for two elements, half of which is left; 4,000 rows err by 0.015
    assert score[1.0] == pytest.approx(np.sqrt(np.pi) / 2, abs=0.05)


@pytest.mark.parametrize("name", [multimodal_peers.RIDGE, multimodal_peers.NEIGHBOURS])
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_regressions_beat_the_mean(folder: Path, name: str, missing: float) -> None:
    rows = multimodal_rows.read(folder, 0, Effort())
    holed = multimodal_rows.with_holes(rows.train, missing, 0)
    asked = {n: np.full_like(x, np.nan) if n == "fac" else x for n, x in rows.test.items()}
    filled = multimodal_peers.PEERS[name](holed, 0, Effort()).fill(asked)
    assert list(filled.point) == ["fac"]
    error = ((filled.point["fac"] - rows.test["fac"]) ** 2).mean()
    assert error < (0.6 if missing else 0.01)  # the mean's is 1; holes at their mean cost much
    assert (filled.draws is None) == (name == multimodal_peers.RIDGE)
    if filled.draws is not None:
        assert filled.draws["fac"].shape == (20, 500, 5)


def test_contenders_are_scored_and_judged(folder: Path) -> None:
    gone = multimodal_peers.absent()
    names = [n for n in multimodal.CONTENDERS if n not in gone]
    names = [n for n in names if n.endswith(("joint", "full", "neighbours", "regression"))]
    jobs = [multimodal.Job(name, 0.5, 0, TINY, folder) for name in names]
    runs = list(chain.from_iterable(map(multimodal.run, jobs)))
    rows = multimodal.summarise(runs)
    ours = sum(name.startswith(multimodal.OURS) for name in names)
    ways = len(names) + ours * len(multimodal.LENT)
    assert sum(not row["view"] for row in rows) == ways * 5  # 1 to 5 views given
    for row in rows:
        assert row["error"] > 0
        assert ("energy" in row) == (row["contender"] != multimodal_peers.RIDGE)
        assert 0 <= row.get("accuracy", 0) <= 1
        assert 0 <= row["real"] <= 1
        own = row["contender"] in multimodal.OURS_SETTINGS
        defined = own and row["given"] == 5
        assert np.isfinite(row["log_prob"]) if defined else "log_prob" not in row
    in_turn = [r for r in rows if r["contender"] == names[0] and r["given"] == 5]
    means = {row["view"]: row["error"] for row in in_turn}
    assert means.pop("") == pytest.approx(np.mean(list(means.values())))
    bars = multimodal.judge(runs, by_view=False)
    assert len(bars) == 5 * 3 + 1  # a density where five are given
    assert all(set(bar) == {"name", "value", "bar", "holds"} for bar in bars)
    bars += multimodal.judge(runs, by_view=True)
    assert len({bar["name"] for bar in bars}) == len(bars) > 60
    assert len(multimodal.draw([r for r in rows if not r["view"]], quick=True).axes) == 3


def made(contender: str, split: int = 0, **measures: float) -> report.Row:
    score = {"given": 5, "view": "", **measures}
    return {"contender": contender, "missing": 0.0, "split": split, "scores": [score]}


def test_bars_take_the_best_of_either_side_measure_by_measure() -> None:
    runs = [
        made("genprop, joint", error=0.2, energy=3.0, accuracy=0.8),
        made("genprop, full", error=0.3, energy=2.0, accuracy=0.7),
        made("ridge regression", error=0.25),
        made("MoPoE", error=0.4, energy=2.5, accuracy=0.8),
        made("JNF", error=np.nan, energy=2.6, accuracy=0.1),
    ]
    error, energy, accuracy = multimodal.judge(runs, by_view=False)
    assert (error["value"], error["bar"], error["holds"]) == (
        0.2,
        "< 0.25 (ridge regression)",
        True,
    )
    assert (energy["value"], energy["bar"], energy["holds"]) == (2.0, "< 2.5 (MoPoE)", True)
    assert (accuracy["value"], accuracy["holds"]) == (0.8, False)  # as good is not better
    assert all(bar["holds"] is None for bar in multimodal.judge(runs[:2], by_view=False))
    assert multimodal.judge(runs, by_view=True) == []


def test_bars_compare_the_same_splits() -> None:
    hard = [made("genprop, joint", 1, error=0.6), made("ridge regression", 1, error=0.7)]
    easy = [
        made("genprop, joint", 0, error=0.2),
        made("genprop, full", 0, error=0.1),  # on this split alone: of no use against ridge
        made("ridge regression", 0, error=0.3),
        made("MoPoE", 0, error=0.15),
    ]
    (bar,) = multimodal.judge([*easy, *hard], by_view=False)
    assert bar["bar"] == "< 0.15 (MoPoE)"
    assert (bar["value"], bar["holds"]) == (0.1, True)
    (bar,) = multimodal.judge([*easy[:3], *hard], by_view=False)
    assert bar["value"] == pytest.approx(0.4)
    assert bar["bar"] == "< 0.5 (ridge regression)"


def test_what_did_not_stay_finite_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(train: Views, seed: int, effort: Effort) -> Filled:
        raise FloatingPointError("the loss is NaN")

    monkeypatch.setitem(multimodal.CONTENDERS, "broken", fails)
    job = multimodal.Job("broken", 0.0, 0, TINY, folder)
    made_runs = multimodal.run(job)
    (row,) = multimodal.summarise(made_runs)
    assert row["note"] == "the loss is NaN"
    assert multimodal.judge(made_runs, by_view=False) == []


@pytest.mark.skipif(bool(multimodal_peers.absent()), reason="multivae is not installed")
@pytest.mark.parametrize("name", multimodal_peers.MULTIVAE)
def test_peers_draw_with_holes_in_training(folder: Path, name: str) -> None:
    job = multimodal.Job(name, 0.5, 0, TINY, folder)
    (only,) = multimodal.run(job)
    scores = only["scores"]
    assert scores
    for score in scores:
        told = score["given"] == 5 and name != multimodal_peers.JOINT_ONLY
        measured = [m for m in multimodal.MEASURES if told or m != "log_prob"]
        assert np.isfinite([score[m] for m in measured]).all()


@pytest.mark.skipif(bool(multimodal_peers.absent()), reason="multivae is not installed")
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_all_subsets_at_once_are_multivaes_own(folder: Path, missing: float) -> None:
    effort = TINY._replace(train=150)  # more than the 63 subsets, which share them out
    rows = multimodal_rows.with_holes(multimodal_rows.read(folder, 0, effort).train, missing, 0)
    seen = {name: torch.as_tensor(multimodal_peers.seen_rows(x)) for name, x in rows.items()}
    batch = multimodal_peers._batch(multimodal_peers._told(rows), seen, torch.arange(150))
    fast = multimodal_peers._built("MoPoE", WIDTHS, TINY)
    theirs = type(fast).__bases__[0](fast.model_config, fast.encoders, fast.decoders)
    losses, latents = [], []
    for model in (fast, theirs):
        torch.manual_seed(1)
        losses.append(model(batch).loss)
        latents.append(model.inference(batch))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, list(fast.parameters())) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    ours, own = ({name: pair[0] for name, pair in one["subsets"].items()} for one in latents)
    torch.testing.assert_close(ours, own)
    torch.testing.assert_close(*(one["weights"] for one in latents), check_dtype=False)


def test_a_file_grows_run_by_run(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "views.json"
    common = ["--data", str(folder), "--quick", "--json", str(path)]
    multimodal.main([*common, "--only", multimodal_peers.RIDGE, "--missing", "0"])
    more = [*common, "--only", multimodal_peers.NEIGHBOURS, "--only", multimodal_peers.RIDGE]
    multimodal.main([*more, "--missing", "0", "--splits", "2", "--more"])
    kept = json.loads(path.read_text())
    assert [(r["contender"], r["split"]) for r in kept["runs"]] == [
        (multimodal_peers.RIDGE, 0),
        (multimodal_peers.NEIGHBOURS, 0),
        (multimodal_peers.RIDGE, 1),
        (multimodal_peers.NEIGHBOURS, 1),
    ]
    assert {row["splits"] for row in kept["rows"]} == {2}
    assert len(kept["commands"]) == 2
    with pytest.raises(SystemExit, match="give --json another file"):
        multimodal.main([*common, "--epochs", "3"])


def test_the_data_and_the_names_are_asked_for(folder: Path, tmp_path: Path) -> None:
    for words in (["--quick"], ["--data", str(tmp_path)], ["--data", str(folder), "--only", "x!"]):
        with pytest.raises(SystemExit):
            multimodal.parse(words)
    arguments = multimodal.parse(["--data", str(folder), "--only", "ridge", "--epochs", "7"])
    jobs = multimodal.plan(arguments)
    assert len(jobs) == 5 * 3
    assert jobs[0].effort == Effort(epochs=7)

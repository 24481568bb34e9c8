"""The benchmarks' shared parts, the form of their JSON, and one short run of what each measures."""

import doctest
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # run from the checkout, never installed

from benchmarks import (
    binary,
    contenders,
    depth,
    likelihood,
    report,
    rules,
    samplers,
    throughput,
)
from benchmarks.data import mnist, repeated_digits, split_digits
from benchmarks.memory import peak_allocated, peak_saved
from genprop.data import Batch
from genprop.posterior import Posterior

BAR = {"name", "value", "bar", "holds"}
TINY = rules.Budget(epochs=1, samples=10)


def test_bars_hold_at_the_limit() -> None:
    assert report.at_most("a", 0.1, 0.1) == {
        "name": "a",
        "value": 0.1,
        "bar": "<= 0.1",
        "holds": True,
    }
    assert report.at_least("a", 0.4, 0.5)["holds"] is False
    assert report.at_most("a", None, 1.0)["holds"] is None


def test_report_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    bars = [report.at_most("a", None, 1.0)]
    rows = [{"rule": "x", "nll": math.nan}]
    result = report.Report("rules", True, "python -m benchmarks.rules", [0], rows, bars)
    result.write(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    keys = {"benchmark", "quick", "note", "command", "environment", "rows", "bars"}
    assert set(content) == keys
    assert content["quick"] is True
    assert content["rows"] == [{"rule": "x", "nll": None}]
    assert [set(bar) for bar in content["bars"]] == [BAR]
    assert {"python", "packages", "cpu", "cores", "threads", "cuda", "seeds"} <= set(
        content["environment"]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_tables_say_what_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    bars = [report.at_least("speed", None, 0.9)]
    report.Report("depth", True, "", [0], [{"rule": "x", "nll": 1.0}], bars).show({"rule": "rule"})
    printed = capsys.readouterr().out
    assert "no result" in printed
    assert report.NOT_MEASURED in printed


def test_command_names_no_folder_of_data() -> None:
    shown = report.command("python -m benchmarks.depth", ["--data=/somewhere", "--data", "else"])
    assert shown == "python -m benchmarks.depth --data=DIR --data DIR"


def test_examples_in_the_report() -> None:
    assert doctest.testmod(report).failed == 0


def test_split_is_fixed() -> None:
    train, test = split_digits()
    assert (train.shape, test.shape) == ((1400, 64), (397, 64))
    assert torch.equal(train, split_digits()[0])
    assert set(train.unique().tolist()) == {0.0, 1.0}


def test_rows_without_a_folder(tmp_path: Path) -> None:
    pixels, source = mnist(50, tmp_path)
    assert pixels.shape == (50, 784)
    assert "random" in source
    assert repeated_digits(2000)[0].shape == (2000, 64)


@pytest.mark.parametrize("net", rules.NETS, ids=lambda net: net.name)
def test_rules_fit_their_nets(net: rules.Net) -> None:
    for rule in net.rules:
        rules.RULES[rule]().check(rules.build(net))


def test_rules_measures_and_judges() -> None:
    jobs = [rules.Job(rules.THREE, rule, 0, TINY) for rule in (rules.TP1, rules.ELBO)]
    outcomes = {job: rules.run(job) for job in jobs}
    differences, bars = rules.judge(outcomes, [0])
    (difference,) = differences
    one, other = outcomes.values()
    assert difference["mean"] == pytest.approx(one.nll - other.nll)
    assert len(bars) == len(rules.ASKED) + len(rules.PROTOTYPE)
    assert sum(bar["holds"] is not None for bar in bars) == 2
    assert {row["rule"] for row in rules.summarise(outcomes)} == {rules.TP1, rules.ELBO}
    assert all(o.nll <= o.elbo for o in outcomes.values())


def test_rules_chooses_what_to_run() -> None:
    jobs = rules.plan(rules.parse(["--quick", "--seeds", "1", "--only", "bernoulli"]))
    assert [job.rule for job in jobs] == list(rules.BINARY.rules)
    with pytest.raises(SystemExit):
        rules.parse(["--only", "nothing of that name"])


def test_contenders_tell_every_epoch() -> None:
    rows = (torch.rand(60, 6) < 0.5).float()
    task = contenders.Task(throughput.NARROW, (5, 4), 2, 20, rows, "noise")
    names = [name for name in throughput.CONTENDERS if throughput.is_installed(name)]
    timings = throughput.take_turns(task, names, throughput.Effort(rounds=1, epochs=2))
    for name in names:
        assert len(timings[name][0].epochs) == 2
        assert min(timings[name][0].epochs) > 0
        row = throughput.summarise(task, name, timings, dict.fromkeys(names, 0.0))
        assert row["rows_per_second"] > 0
    assert [set(bar) for bar in throughput.judge(task, timings)] == [BAR] * 3


def test_a_missing_peer_is_reported() -> None:
    task = contenders.Task(throughput.WIDE, (5,), 2, 20, torch.zeros(9, 6), "noise")
    timings = {throughput.OURS: [contenders.Timing(0.0, [1.0])]}
    row = throughput.summarise(task, throughput.PYTHAE, timings, {})
    assert "missing" in row["note"]
    assert "rows_per_second" not in row
    assert all(bar["holds"] is None for bar in throughput.judge(task, timings))


def test_the_missing_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not throughput.is_installed(throughput.PYTHAE)
    assert throughput.is_installed(throughput.LOOP)


def test_saved_bytes_are_those_of_the_graph() -> None:
    layer = torch.nn.Linear(10, 10, bias=False)
    x = torch.randn(4, 10)

    def update() -> None:
        layer(layer(x).tanh()).square().sum().backward()

    # x; the tanh's output, which the next layer holds too; the square's input: 4 x 10 floats each
    assert peak_saved(update, layer) == 3 * 160
    assert peak_allocated(update, torch.device("cpu")) >= 3 * 160


def test_depth_measures_what_grows() -> None:
    shape = depth.Shape(width=16, units=(16, 16), rows=32)
    points = [depth.Point(r, n, shape, "cpu", 1) for n in (2, 6) for r in depth.RULES]
    costs = {point: depth.measure(point) for point in points}
    assert max(depth.growth(costs, depth.LOCAL, "saved", shape)) < 0.5
    assert min(depth.growth(costs, depth.GLOBAL, "saved", shape)) > 5
    assert [set(bar) for bar in depth.judge(costs, shape)] == [BAR] * 4
    rows = [depth.describe(point, cost) for point, cost in costs.items()]
    assert len(depth.draw(rows, quick=True).axes) == 2


TRIFLE = samplers.Effort(1, 2, 8, 6, 1, (2,), (3, 5), 1)


@pytest.fixture(scope="module")
def posteriors() -> tuple[samplers.Target, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return samplers.prepared(samplers.fitted(1), samplers.digits()[:3], chains=2)


def test_the_lean_target_is_the_posterior() -> None:
    torch.manual_seed(0)
    model = samplers.fitted(1)
    target, h = samplers.prepared(model, samplers.digits()[:3], chains=2)
    whole = Posterior(model, Batch.of(samplers.digits()[:3])).log_prob(h)
    constant = 8 * math.log(2 * math.pi)
    torch.testing.assert_close(target(h) - constant, whole)


def test_every_way_of_sampling_has_rows_chains_and_times(
    posteriors: tuple[samplers.Target, torch.Tensor],
) -> None:
    target, start = posteriors
    jobs = samplers.plan(3, TRIFLE)
    assert len(jobs) == 6
    outcomes = {}
    for job in jobs:
        of, at = target.of(slice(job.rows)), start[:, : job.rows]
        outcomes[job] = samplers.sample(job, of, at, TRIFLE)
        assert outcomes[job].draws.shape == (2, 8, job.rows, samplers.CODE)
        assert min(outcomes[job].warmup, outcomes[job].seconds) > 0
    rows = samplers.summarise(outcomes, TRIFLE)
    by_way = {(row["way"], row["sampler"]): row for row in rows}
    assert by_way[samplers.NATIVE, "HMC"]["off"] == 0
    assert by_way[samplers.NATIVE, "MALA"]["gradients"] == samplers.THIN["MALA"]
    assert all(row["rate"] >= row["rate_with_warmup"] >= 0 for row in rows)
    assert [set(bar) for bar in samplers.judge(rows)] == [BAR] * 4


def test_effective_draws_a_second_are_those_of_the_worst_coordinate() -> None:
    outcome = samplers.Outcome(torch.zeros(1).numpy(), 6.0, 2.0, 1, 1.0)
    ess = torch.tensor([[20.0, 30.0], [10.0, 50.0]]).numpy()
    found = samplers.rates(ess, outcome, shared=1)
    assert found == {
        "rate": 2 * 10 / 2,
        "rate_with_warmup": 2 * 10 / 8,
        "rate_own": (10 + 20) / 2,
        "rate_own_with_warmup": (10 + 20) / 8,
        "rate_median": 2 * 25 / 2,
        "rate_shared": 2 * 20 / 2,
    }


def test_what_is_asked_for_is_our_better_kernel_over_the_best_of_others() -> None:
    names = [(samplers.NATIVE, 50.0), (samplers.NATIVE, 40.0), (samplers.JOINED, 5.0)]
    names.append((samplers.LOOPED, 4.0))
    keys = ("rate", "rate_with_warmup", "rate_own", "rate_own_with_warmup")
    rows = [{"way": way, **dict.fromkeys(keys, rate)} for way, rate in names]
    assert [bar["value"] for bar in samplers.judge(rows)] == [10.0] * 4
    assert all(bar["holds"] for bar in samplers.judge(rows))


def test_scaling_is_timed_and_drawn() -> None:
    torch.manual_seed(0)
    known = {"rows": 4, "seconds": 2.0, "seconds_warmup": 1.0, "gradients": 1.0, "rate_own": 8.0}
    rows = [{**known, "way": samplers.NATIVE, "sampler": name} for name in samplers.KERNELS]
    for way in (samplers.LOOPED, samplers.JOINED):
        rows += [{**known, "way": way, "sampler": name} for name in samplers.PYRO]
    scaling = list(samplers.scaled(samplers.fitted(1), rows, TRIFLE))
    assert [(row["sampler"], row["rows"]) for row in scaling] == [
        (name, size) for name in samplers.KERNELS for size in TRIFLE.sizes
    ]
    for row in scaling:  # a draw of a row is worth 8 · 2 / 4 / 8 of one
        assert row["rate_own"] == pytest.approx(0.5 * row["rows"] / row["seconds"])
    labels = samplers.draw(rows, scaling, quick=True).axes[0].get_legend_handles_labels()[1]
    assert len(labels) == 6


def test_likelihoods_are_ordered_bracketed_and_drawn() -> None:
    torch.manual_seed(0)
    effort = likelihood.Effort(2, 3, (2, 30), 2, 2, 2, 3)
    train, test, source = likelihood.images(None)
    assert "scikit-learn" in source
    rows: list[report.Row] = []
    gaps: list[report.Row] = []
    for task in likelihood.TASKS:
        model = likelihood.fitted(task, train, effort)
        rows += likelihood.estimates(task, model, test, effort)
        gaps.append(likelihood.bracket(task, model, effort))
    assert [row["method"] for row in rows[:5]] == [
        "ELBO",
        "importance 2",
        "importance 30",
        "refined 30",
        likelihood.AIS,
    ]
    for row in rows:
        assert row["rows"] == 3
        assert row["below"] is None or row["below"] == pytest.approx(
            next(r["log_prob"] for r in rows if r["model"] == row["model"] and r["below"] is None)
            - row["log_prob"],
            rel=1e-6,
        )
    assert all(gap["gap"] == pytest.approx(gap["upper"] - gap["lower"]) for gap in gaps)
    assert [set(bar) for bar in likelihood.judge(rows, gaps)] == [BAR] * 4
    assert len(likelihood.draw(rows, gaps, quick=True).axes) == 2


def binary_rows(folder: Path) -> binary.Split:
    """A set of three bits, two of which are the same, packed as the files are."""
    bits = np.random.default_rng(0).integers(0, 2, (60, 3))
    bits[:, 2] = bits[:, 0]
    parts = dict(zip(("train", "valid", "test"), np.split(bits.astype(np.uint8), 3), strict=True))
    packed = {name: np.packbits(part, axis=1) for name, part in parts.items()}
    np.savez(folder / "nade_dna.npz", **packed, n_features=3)
    return binary.read(folder, "nade_dna")


def test_binary_chooses_on_validation_and_tests_once(tmp_path: Path) -> None:
    rows = binary_rows(tmp_path)
    assert [tuple(part.shape) for part in rows] == [(20, 3)] * 3
    assert torch.equal(rows.test[:, 0], rows.test[:, 2])
    effort = binary.Effort(0.01, batch=10, check=2, draws=5, samples=20)
    row = binary.measure("nade_dna", rows, effort, binary.QUICK_CANDIDATES)
    assert row["validation"] == min(row["all_validations"].values())
    assert row["chosen"] == min(row["all_validations"], key=row["all_validations"].get)
    assert row["independent"] == pytest.approx(3 * math.log(2), abs=0.3)
    (bar,) = binary.judge([row])
    assert bar["value"] == pytest.approx(row["test"] - 84.26)
    assert binary.judge([{**row, "rws_nade": None}])[0]["holds"] is None


def test_binary_asks_for_its_data(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        binary.parse(["--quick"])
    with pytest.raises(SystemExit):
        binary.parse(["--data", str(tmp_path)])


def test_binary_models_begin_as_independent_units(tmp_path: Path) -> None:
    rows = binary_rows(tmp_path)
    for candidate in binary.QUICK_CANDIDATES:
        model = binary.built(candidate, rows.train)
        binary.rule_of(candidate).check(model)
        with torch.no_grad():
            share = model.sample((4000,)).mean(0)
        # nets of random weights move them, but not far
        assert (share - rows.train.mean(0)).abs().max() < 0.3

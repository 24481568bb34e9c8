"""The benchmark of credit: its plan, its parts at toy size, its bars, and files that grow."""

import gzip
import json
import math
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))  # run from the checkout, never installed

from benchmarks import credit, credit_images, report
from benchmarks.credit import CONTENDERS
from benchmarks.credit_images import CIFAR, IMAGES
from benchmarks.credit_rules import PERCEPTRONS, THIN
from genprop.credit.equilibrium import EquilibriumPropagation
from genprop.credit.network import CreditNetwork

JOB = credit.Job(credit.MNIST, "BP", 0, 1, float("inf"), 200, None)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_rule_fits_its_network(name: str) -> None:
    contender = replace(CONTENDERS[name], widths=(8,) * min(len(CONTENDERS[name].widths), 6))
    network = contender.small().network((3, 32, 32), 4)
    assert isinstance(network, CreditNetwork)
    contender.rule(network).check(network)
    assert contender.trainer(1, 1.0, 0.5).how.lr == 0.5 * contender.lr


def test_a_plan_can_be_split() -> None:
    whole = credit.plan(credit.parse(["--quick"]))
    assert {job.rule for job in whole} == set(CONTENDERS)
    some = credit.plan(credit.parse(["--data", "x", "--only", "DTP", "--seeds", "2"]))
    assert {job.rule for job in some} == {"DTP"}
    parts = credit.plan(credit.parse(["--data", "x", "--only", "EP"]))
    assert {job.rule for job in parts} == {n for n in PERCEPTRONS if "EP" in n}
    assert {job.seed for job in some} == {0, 1}
    both = credit.plan(credit.parse(["--data", "x", "--fashion", "y", "--seeds", "1"]))
    assert {job.data for job in both if job.rule in PERCEPTRONS} == {credit.MNIST, credit.FASHION}
    assert {job.data for job in both if job.rule in THIN} == {credit.FASHION}
    assert all(job.epochs == 1 for job in both if job.rule in THIN)
    assert not {job.rule for job in both} & set(IMAGES)
    images = credit.plan(credit.parse(["--cifar", "z", "--seeds", "1"]))
    assert {(job.data, job.rule) for job in images} == {(CIFAR, name) for name in IMAGES}
    for words in (["--quick"], ["--data", "x"]):
        with pytest.raises(SystemExit):
            credit.parse([*words, "--only", "nothing of that name"])
    with pytest.raises(SystemExit):
        credit.parse(["--data", "x", "--whole", "--choose"])
    with pytest.raises(SystemExit):
        credit.parse(["--data", "x", "--only", "conv"])
    with pytest.raises(SystemExit):
        credit.parse([])


def test_validation_rows_are_trained_on_only_if_wanted() -> None:
    (job,) = credit.plan(credit.parse(["--quick", "--only", "BP"]))
    held, whole = (
        credit.load(job._replace(rows=None, judged=None, whole=whole)) for whole in (False, True)
    )
    assert len(whole.train[0]) == len(held.train[0]) + len(held.validation[0])
    rows = len(held.train[0])
    assert torch.equal(whole.train[0][rows:], held.validation[0])
    assert torch.equal(whole.validation[0], held.validation[0])


def test_a_run_says_all_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(CONTENDERS["DTP"], widths=(8, 8, 8))
    monkeypatch.setitem(CONTENDERS, "DTP", small)
    run = credit.train(JOB._replace(rule="DTP", factor=3.0))
    assert 0 <= run["accuracy"] <= 100
    assert run["lr"] == 3 * small.lr
    assert set(run["angles"]) == {f"layer.{i}" for i in range(1, 5)}
    assert min(run["seconds"], run["memory"], run["updates"]) > 0
    again = credit.train(JOB._replace(rule="DTP", factor=3.0))
    assert again["accuracy"] == run["accuracy"]


def test_rates_are_tried_once_and_the_best_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data", "x", "--fashion", "y", "--only", "BP", "--epochs", "10", "--minutes", "5"]
    assert credit.rates(credit.parse(words)) == []
    jobs = credit.rates(credit.parse([*words, "--choose", "--seeds", "0"]))
    assert {(job.data, job.seed, job.epochs, job.minutes) for job in jobs} == {("MNIST", 0, 2, 1)}
    assert [job.factor for job in jobs] == [*credit.FACTORS]
    monkeypatch.setitem(CONTENDERS, "BP", replace(CONTENDERS["BP"], widths=(8,), lr=0.1))
    trials = [credit.try_rate(JOB._replace(factor=factor)) for factor in (0.1, math.inf)]
    assert trials[1]["accuracy"] == 0.0  # it blew up
    assert credit.chosen(trials) == {"BP": 0.1}


def run_of(rule: str, accuracy: float, seed: int = 0) -> dict[str, object]:
    known = {"angle": 1.0, "seconds": 1.0, "memory": 1.0, "lr": 1.0, "epochs": 1}
    return {"data": credit.MNIST, "rule": rule, "seed": seed, "accuracy": accuracy, **known}


def test_bars_compare_with_back_propagation_and_with_published_rows() -> None:
    runs = [run_of("BP", 98.0), run_of("BP", 98.2, 1), run_of("DTP", 97.8), run_of("DFA", 96.0)]
    rows = credit.summarise(runs)
    assert [row["rule"] for row in rows] == ["BP", "DFA", "DTP"]
    assert rows[0]["accuracy"] == pytest.approx(98.1)
    assert rows[0]["error_of_mean"] == pytest.approx(0.1)
    bars = {bar["name"]: bar for bar in credit.judge(rows)}
    assert bars["MNIST: points DTP is behind BP"]["value"] == pytest.approx(0.3)
    assert bars["MNIST: points the best local rule on its net is behind"]["holds"] is False
    assert bars["MNIST: error of the sign network, %"]["holds"] is None
    assert bars["MNIST, DFA: points behind its published row"]["value"] == pytest.approx(1.27)


def test_a_file_keeps_the_runs_that_are_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "credit.json"
    arguments = credit.parse(["--quick", "--json", str(path)])
    runs = [run_of("BP", 98.0), run_of("DTP", 97.0)]
    credit.result(arguments, runs, [], ["first"]).write(path)
    assert report.kept(path, quick=True, part="runs") == (runs, ["first"])
    assert {"rows", "bars", "runs"} <= set(json.loads(path.read_text(encoding="utf-8")))


def test_fashion_is_read_from_its_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    classes = np.arange(12, dtype=np.uint8) % 10
    for kind in ("train", "t10k"):
        for what, part in (("images-idx3", images), ("labels-idx1", classes)):
            head = struct.pack(f">HBB{part.ndim}I", 0, 0x08, part.ndim, *part.shape)
            content = head + part.tobytes()
            if kind == "train":
                (tmp_path / f"{kind}-{what}-ubyte").write_bytes(content)
            else:
                (tmp_path / f"{kind}-{what}-ubyte.gz").write_bytes(gzip.compress(content))
    digits = credit.load(JOB._replace(data=credit.FASHION, folder=tmp_path))
    assert [len(part[0]) for part in digits] == [10, 2, 12]
    torch.testing.assert_close(digits.test[0][3], torch.from_numpy(images[3]).flatten() / 255.0)
    assert digits.validation[1].tolist() == [0, 1]


@pytest.mark.parametrize("name", [n for n in IMAGES if n.startswith("conv")])
def test_convolutions_run_on_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "EP" in name:  # hundreds of steps take a minute
        rule = EquilibriumPropagation("centred", 1.0, 10, 3, 0.5, readout=True)
        quick = replace(CONTENDERS[name], rule=lambda network: rule)
        monkeypatch.setitem(CONTENDERS, name, quick)
    run = credit.train(JOB._replace(data=CIFAR, rule=name, judged=20, rows=130))
    assert 0 <= run["accuracy"] <= 100
    hidden = range(1, 1 + len(CONTENDERS[name].channels))
    assert {f"layer.{number}" for number in hidden} - {"layer.1"} <= set(run["angles"])


def test_coloured_images_are_read_from_their_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (6, 4, 3073), dtype=np.uint8)
    records[:, :, 0] %= 10
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for name, part in zip(names, records, strict=True):
        (tmp_path / name).write_bytes(part.tobytes())
    digits = credit.load(JOB._replace(data=CIFAR, rule="conv, BP", folder=tmp_path))
    assert [tuple(part[0].shape) for part in digits] == [(n, 3, 32, 32) for n in (17, 3, 4)]
    assert digits.test[1].tolist() == records[5, :, 0].tolist()
    green = records[5, 1, 1 + 1024 : 1 + 2048].reshape(32, 32) / 255.0
    wanted = (green - credit_images.MEANS[1]) / credit_images.SCALES[1]
    torch.testing.assert_close(digits.test[0][1, 1], torch.from_numpy(wanted).float())
    flat = credit.load(JOB._replace(data=CIFAR, rule="4 x 1024, BP", folder=tmp_path))
    assert flat.train[0].shape == (17, 3072)
    (tmp_path / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="records of 3073 bytes"):
        credit_images.read(tmp_path)

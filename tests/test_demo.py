"""The demo, with less effort than it makes for a user."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from genprop import GenProp, cli, demo

LITTLE = demo.Effort(epochs=12, samples=30, components=(10,), draws=3)
PICTURES = ("samples.png", "reconstructions.png", "imputations.png", "training.png")


class Shown(NamedTuple):
    folder: Path
    text: str
    results: dict[str, Any]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    text = io.StringIO()
    results = demo.run_demo(folder, 0, Console(file=text, width=80), LITTLE)
    return Shown(folder, text.getvalue(), results)


def test_digits_are_split_once_for_all() -> None:
    digits, again = demo.split_digits(), demo.split_digits()
    assert [len(part) for part in digits] == [1200, 200, 397, 397]
    assert all(np.array_equal(a, b) for a, b in zip(digits, again, strict=True))
    assert set(np.unique(np.concatenate(digits[:3]))) == {0, 1}
    assert set(digits.classes) == set(range(10))


def test_everything_is_written(shown: Shown) -> None:
    assert {path.name for path in shown.folder.iterdir()} == {*PICTURES, "model", "results.json"}
    assert all(min(imread(shown.folder / name).shape[:2]) > 300 for name in PICTURES)
    assert json.loads((shown.folder / "results.json").read_text()) == shown.results


def test_scores_are_finite_and_better_than_independent_pixels(shown: Shown) -> None:
    scores = shown.results["scores"]
    assert np.isfinite([number for score in scores.values() for number in score.values()]).all()
    margin = 2 * scores["independent"]["behind_std_error"]
    assert scores["independent"]["behind"] > margin > 0
    assert scores["genprop"]["behind"] == 0
    assert scores["genprop"]["log_prob"] < scores["genprop"]["lower_given_upper"] < 0


def test_the_account_adds_up(shown: Shown) -> None:
    account = shown.results["account"]
    assert account["x.1.target"] == account["x.2.reconstruction"]
    assert account["x.2.target"] == account["x.3.reconstruction"]
    assert "x.3.target" not in account
    ends = (".reconstruction", ".entropy")
    layers = sum(value for name, value in account.items() if name.endswith(ends))
    assert account["kl"] == pytest.approx(layers + account["prior"] + account["data"])
    # KL(Q(x, h) ‖ P(x, h)) is at least KL(Q(x) ‖ P(x))
    train = demo.split_digits().train
    log_prob = GenProp.load(shown.folder / "model").log_likelihood(train, samples=30).mean
    assert account["kl"] > account["data"] - log_prob > 0
    assert account["data"] == pytest.approx(-np.log(1200), abs=0.1)


def test_the_figures_are_told_within_eighty_columns(shown: Shown) -> None:
    lines = shown.text.replace(str(shown.folder), "folder").splitlines()
    assert max(map(len, lines)) <= 80
    scores, account = shown.results["scores"], shown.results["account"]
    numbers = [score["log_prob"] for score in scores.values()]
    numbers += [value for name, value in account.items()]
    assert all(f"{number:.2f}" in shown.text for number in numbers)
    assert all(name in shown.text for name in (*PICTURES, "results.json"))


def test_the_saved_model_is_the_one_that_was_scored(shown: Shown) -> None:
    model = GenProp.load(shown.folder / "model")
    assert [layer.above for layer in model.model_.stacks["x"].layers] == [32, 16, 8]
    again = model.log_likelihood(demo.split_digits().test, samples=30).mean
    assert again == pytest.approx(shown.results["scores"]["genprop"]["log_prob"], abs=1e-4)


def test_nothing_global_is_changed(tmp_path: Path) -> None:
    torch_state, threads = torch.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].copy()
    demo.run_demo(tmp_path, 1, None, demo.Effort(1, 2, (2,), 1))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert torch.get_num_threads() == threads


def test_the_command_prints_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def little(folder: Path, seed: int, console: Console | None) -> dict[str, Any]:
        return {"folder": folder, "seed": seed, "quiet": console is None}

    monkeypatch.setattr(demo, "run_demo", little)
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--out", str(tmp_path), "--seed", "3", "--json"])
    assert not stop.value.code
    told = json.loads(capsys.readouterr().out)
    assert told == {"folder": str(tmp_path), "seed": 3, "quiet": True}

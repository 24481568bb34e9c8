"""The benchmark of NICE runs, and its figures are the paper's units."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parents[1]))  # run from the checkout, never installed

from benchmarks import nice

TINY = nice.Size(units=(4,), batch=10, train=20, test=20, inpainting=2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nice, "QUICK", TINY)


def test_bits_are_the_papers() -> None:
    assert round(nice.bits(nice.PAPER_NATS), 2) == nice.PAPER_BITS
    assert nice.bits(0.0) == 8


def test_a_quick_run_writes_what_it_found(tiny: None, tmp_path: Path) -> None:
    result, picture = tmp_path / "nice.json", tmp_path / "nice.png"
    nice.main(["--quick", "--minutes", "0.005", "--json", str(result), "--plot", str(picture)])
    content = json.loads(result.read_text(encoding="utf-8"))
    assert [row["rows"] for row in content["rows"]] == ["train", "validation", "test"]
    assert all(math.isfinite(row["nats"]) for row in content["rows"])
    assert content["epochs"] == len(content["history"]) > 0
    assert content["seconds"] < 10
    assert [bar["holds"] for bar in content["bars"]] == [False, False]
    assert picture.stat().st_size > 1000


def test_data_are_levels_of_three_parts(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (nice.VALIDATION + 30, 28, 28), np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images, x_test=images[:25])
    digits = nice.load(tmp_path, TINY, torch.device("cpu"))
    assert [part.shape for part in digits] == [(20, 784)] * 3
    expected = torch.from_numpy(images[30:50].reshape(20, -1)) / 256
    assert torch.equal(digits.validation, expected.float())


def test_the_density_is_that_of_pixels_in_the_unit_interval() -> None:
    model, x = nice.build(TINY), torch.zeros(50, 784)
    # a flow that has learned nothing has its base's density, log ¼ an element at nearly zero
    assert nice.density(model, x) == pytest.approx(784 * math.log(0.25), abs=0.1)


def test_masks_are_the_papers() -> None:
    shares = {name: 1 - seen.float().mean().item() for name, seen in nice.masks().items()}
    assert shares.pop("75 %") == pytest.approx(0.75, abs=0.05)
    assert shares.pop("90 %") == pytest.approx(0.9, abs=0.05)
    assert set(shares.values()) == {0.5}


def test_a_picture_holds_samples_and_what_was_filled_in() -> None:
    model, x = nice.build(TINY), torch.zeros(20, 784)
    figure = nice.draw(model, x, TINY)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 70

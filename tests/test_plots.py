from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.datasets import load_digits

from genprop import plots

SHAPE = (8, 8)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    images: np.ndarray = load_digits().data[:30] / 16
    return images


@pytest.fixture(autouse=True)
def _untouched_settings() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def colour_share(figure: Figure, colour: tuple[float, float, float]) -> float:
    wanted = np.round(np.array(colour) * 255)
    return float((np.abs(pixels(figure) - wanted).max(-1) <= 2).mean())


def mosaics(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def headings(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def history(epochs: int = 30, layers: tuple[str, ...] = ("x.1", "x.2")) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    fall = 20 * np.exp(-epoch / 5)
    columns = {"epoch": epoch, "train": 18 + fall, "validation": 19 + fall, "prior": 8 + fall}
    columns["validation"] = columns["validation"] + np.maximum(0, epoch - 20) * 0.2
    for n, layer in enumerate(layers):
        for term in ("reconstruction", "entropy", "target"):
            columns[f"{layer}.{term}"] = n + fall
    return pd.DataFrame(columns)


def test_grid_holds_every_image_cell_by_cell(digits: np.ndarray) -> None:
    (mosaic,) = mosaics(plots.image_grid(digits[:6], SHAPE, columns=3))
    scale = (mosaic.shape[0] - plots.GAP) // 2 - plots.GAP
    first = mosaic[plots.GAP : plots.GAP + scale, plots.GAP : plots.GAP + scale, 0]
    cell = scale // 8
    np.testing.assert_allclose(1 - first[::cell, ::cell].reshape(-1), digits[0])


def test_picture_has_one_pixel_for_each_of_the_mosaic(digits: np.ndarray) -> None:
    figure = plots.image_grid(digits[:4], SHAPE)
    (mosaic,) = mosaics(figure)
    drawn = pixels(figure)
    assert drawn.shape[0] == mosaic.shape[0] + 2 * plots.MARGIN
    inside = drawn[plots.MARGIN : -plots.MARGIN, plots.MARGIN : -plots.MARGIN]
    assert np.abs(inside - mosaic * 255).max() <= 1


def test_values_beyond_the_unit_interval_are_stretched() -> None:
    images = np.array([[-2.0, 0.0, 2.0, 2.0]])
    (mosaic,) = mosaics(plots.image_grid(images, (2, 2)))
    half = (mosaic.shape[0] - 2 * plots.GAP) // 2
    corners = mosaic[plots.GAP :: half, plots.GAP :: half, 0][:2, :2]
    np.testing.assert_allclose(corners.reshape(-1), [1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("value", [0.0, 1.0, 7.0, np.nan])
def test_constant_images_are_drawn(value: float) -> None:
    assert np.isfinite(mosaics(plots.image_grid(np.full((3, 64), value), SHAPE))[0]).all()


def test_grid_with_titles(digits: np.ndarray) -> None:
    figure = plots.image_grid(digits[:5], SHAPE, columns=2, titles=list("abcde"))
    assert headings(figure) == list("abcde")
    assert len(figure.axes) == 5
    with pytest.raises(ValueError, match="Expected 5 titles, one an image, but got 1"):
        plots.image_grid(digits[:5], SHAPE, titles=["a"])


def test_samples_beside_data_with_and_without_means(digits: np.ndarray) -> None:
    two = plots.samples_beside_data(digits[:9], digits[9:18], SHAPE)
    three = plots.samples_beside_data(digits[:9], digits[9:18], SHAPE, digits[:9])
    assert headings(two) == ["data", "samples"]
    assert headings(three) == ["data", "samples", "mean of P(x|h)"]
    np.testing.assert_array_equal(mosaics(three)[1], mosaics(three)[2])


def test_reconstructions_stand_to_the_right_of_their_images(digits: np.ndarray) -> None:
    figure = plots.reconstructions(digits[:7], 1 - digits[:7], SHAPE, columns=3)
    assert len(figure.axes) == 3
    mosaic = mosaics(figure)[0]
    half = (mosaic.shape[1] - plots.GAP) // 2
    left, right = mosaic[:, plots.GAP : half], mosaic[:, half + plots.GAP : 2 * half]
    inked = slice(plots.GAP, half)
    np.testing.assert_allclose(left[inked], 1 - right[inked], atol=1e-9)


def test_imputations_tint_only_what_is_unseen(digits: np.ndarray) -> None:
    seen = np.ones((30, 64), dtype=bool)
    seen[:, 32:] = False
    draws = np.stack([np.where(seen, digits, digits[::-1])] * 9)
    figure = plots.imputations(digits, seen, draws, SHAPE, rows=4, shown=3)
    assert headings(figure) == ["original", "seen", "3 of 9 draws", "mean of all"]
    tinted = [(np.abs(m - plots.UNSEEN).max(-1) < 1e-9).mean() for m in mosaics(figure)]
    assert 0.4 < tinted[1] < 0.5
    assert max(tinted[0], *tinted[2:]) < 0.01
    assert colour_share(figure, plots.UNSEEN) > 0.05


def test_imputations_mean_is_that_of_all_draws(digits: np.ndarray) -> None:
    seen = np.zeros((30, 64), dtype=bool)
    draws = np.stack([np.zeros_like(digits), np.ones_like(digits), np.zeros_like(digits)])
    figure = plots.imputations(digits, seen, draws, SHAPE, rows=2, shown=1)
    mean = mosaics(figure)[-1]
    assert mean[10, 10, 0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("images", [np.zeros((3, 63)), np.zeros(64), np.zeros((0, 64))])
def test_images_of_another_shape_are_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Expected images of shape \(n, 64\) for 8 by 8 cells"):
        plots.image_grid(images, SHAPE)


def test_parts_that_do_not_fit_are_refused(digits: np.ndarray) -> None:
    seen = np.ones_like(digits, dtype=bool)
    with pytest.raises(ValueError, match="Expected reconstructions of the shape of the originals"):
        plots.reconstructions(digits, digits[:3], SHAPE)
    with pytest.raises(ValueError, match="Expected the mask of the shape of the originals"):
        plots.imputations(digits, seen[:3], digits[None], SHAPE)
    with pytest.raises(ValueError, match=r"Expected draws of shape \(draws, 30, 64\)"):
        plots.imputations(digits, seen, digits, SHAPE)


def test_curves_mark_the_best_epoch() -> None:
    table = history()
    best = int(table["epoch"][table["validation"].argmin()])
    bound = plots.training_curves(table).axes[0]
    assert f"at epoch {best}" in bound.get_title(loc="left")
    assert bound.get_xlabel() == "epoch"
    assert bound.get_ylabel() == "nats per row"


@pytest.mark.parametrize("epoch", [1, 4, 60, 100])
def test_the_best_epoch_is_always_in_the_picture(epoch: int) -> None:
    table = history(100)
    table.loc[epoch - 1, "validation"] = 3.0
    bound = plots.training_curves(table).axes[0]
    assert f"best 3.00 at epoch {epoch}" in bound.get_title(loc="left")
    low, high = bound.get_ylim()
    assert low < 3 < table["train"].iloc[5] < high < 50


@pytest.mark.parametrize(
    "layers", [(), ("x.1",), tuple(f"{m}.{n}" for m in "ab" for n in range(5))]
)
def test_curves_draw_every_term(layers: tuple[str, ...]) -> None:
    figure = plots.training_curves(history(layers=layers))
    pixels(figure)
    assert len(figure.axes) == (3 if layers else 1)
    if layers:
        decoders, encoders = figure.axes[1:]
        assert len(decoders.lines) == len(layers) + 1
        assert len(encoders.lines) == 2 * len(layers) + 3


def test_curves_name_the_modality_only_among_several() -> None:
    def legend(layers: tuple[str, ...]) -> list[str]:
        figure = plots.training_curves(history(layers=layers))
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert legend(("x.1",)) == ["layer 1", "prior", "log Q", "target"]
    assert legend(("image.1", "label.1"))[:2] == ["image, layer 1", "label, layer 1"]


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_curves_without_validation_mark_the_best_of_train(epochs: int) -> None:
    table = history(epochs).assign(validation=np.nan)
    bound = plots.training_curves(table).axes[0]
    assert f"at epoch {epochs}" in bound.get_title(loc="left")


def test_curves_bear_a_run_that_ended_in_nan() -> None:
    table = history()
    table.loc[10:, ["train", "validation"]] = np.nan
    assert "at epoch 10" in plots.training_curves(table).axes[0].get_title(loc="left")


def test_curves_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one epoch"):
        plots.training_curves(history().iloc[:0])
    with pytest.raises(ValueError, match="the columns 'epoch' and 'train'"):
        plots.training_curves(pd.DataFrame({"loss": [1.0]}))


@pytest.mark.parametrize("ending", ["png", "pdf", "svg", "jpg"])
def test_pictures_are_saved(digits: np.ndarray, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"grid.{ending}"
    plots.save_figure(plots.image_grid(digits[:4], SHAPE), path)
    assert path.stat().st_size > 500
    assert list(tmp_path.iterdir()) == [path]


def test_saved_picture_is_the_picture(digits: np.ndarray, tmp_path: Path) -> None:
    figure = plots.image_grid(digits[:4], SHAPE)
    plots.save_figure(figure, tmp_path / "grid.png")
    saved = imread(tmp_path / "grid.png")[..., :3]
    np.testing.assert_allclose(saved * 255, pixels(figure), atol=1)


def test_a_picture_of_an_unknown_ending_is_refused(digits: np.ndarray, tmp_path: Path) -> None:
    figure = plots.image_grid(digits[:4], SHAPE)
    with pytest.raises(ValueError, match=r"Expected a file that ends in \.eps"):
        plots.save_figure(figure, tmp_path / "grid.docx")
    with pytest.raises(FileNotFoundError, match="create it first"):
        plots.save_figure(figure, tmp_path / "none" / "grid.png")

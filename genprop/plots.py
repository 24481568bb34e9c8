"""Pictures of data, samples, reconstructions, imputations and training, from plain arrays.

Every function returns a matplotlib Figure of its own and leaves no global state behind. Images are
rows of (n, pixels) with a shape (height, width), drawn as dark ink on white: values within [0, 1]
as they are, others stretched from the least to the largest of the picture. What was not seen is
tinted light blue.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genprop.files import atomic, check_writable

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
TILE = 84  # pixels of the picture that an image takes, about; a whole number for each of its own
GAP = 3
MARGIN = 18
HEADING = 34
INK = "#222222"
NEUTRAL = "#8a8a8a"
UNSEEN = (0.73, 0.86, 0.96)
FRAME = (0.86, 0.86, 0.86)
# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is lost on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

Panel = tuple[str, np.ndarray]
"""A heading and an image of shape (height, width, 3)."""


def image_grid(
    images: np.ndarray,
    shape: tuple[int, int],
    columns: int | None = None,
    titles: Sequence[str] | None = None,
) -> "Figure":
    """Images as tiles, row by row.

    Args:
        images: of shape (n, height * width); NaN is drawn as not seen.
        shape: (height, width).
        columns: how many tiles side by side; by default as many as make the picture square.
        titles: a title above each image.
    """
    (tiles,) = _tiles(shape, images)
    columns = columns or int(np.ceil(np.sqrt(len(tiles))))
    if titles is None:
        return _figure([("", _mosaic(tiles, columns))])
    if len(titles) != len(tiles):
        raise ValueError(f"Expected {len(tiles)} titles, one an image, but got {len(titles)}.")
    named = [(title, _mosaic(tile[None], 1)) for title, tile in zip(titles, tiles, strict=True)]
    return _figure(*[named[start : start + columns] for start in range(0, len(named), columns)])


def samples_beside_data(
    samples: np.ndarray,
    data: np.ndarray,
    shape: tuple[int, int],
    means: np.ndarray | None = None,
) -> "Figure":
    """Data, samples of the model and, if given, the means of P(x|h) that they were drawn from.

    Args:
        samples: of shape (n, height * width).
        data: rows to compare with; as many as there are samples look best.
        shape: (height, width).
        means: the mean of P(x|h) for each sample.
    """
    panels = {"data": data, "samples": samples}
    if means is not None:
        panels["mean of P(x|h)"] = means
    columns = int(np.ceil(np.sqrt(len(samples))))
    tiles = _tiles(shape, *panels.values())
    return _figure([(name, _mosaic(t, columns)) for name, t in zip(panels, tiles, strict=True)])


def reconstructions(
    data: np.ndarray, reconstructed: np.ndarray, shape: tuple[int, int], columns: int = 5
) -> "Figure":
    """Pairs of an image and, to its right, its reconstruction.

    Args:
        data: of shape (n, height * width).
        reconstructed: of the same shape.
        shape: (height, width).
        columns: pairs side by side.
    """
    _same_shape("reconstructions", reconstructed, data)
    left, right = _tiles(shape, data, reconstructed)
    pairs = [
        _mosaic(_interleaved(left[n::columns], right[n::columns]), 2)
        for n in range(min(columns, len(left)))
    ]
    headings = ["data, each with its reconstruction to the right"] + [""] * (len(pairs) - 1)
    return _figure(list(zip(headings, pairs, strict=True)))


def imputations(
    original: np.ndarray,
    seen: np.ndarray,
    draws: np.ndarray,
    shape: tuple[int, int],
    rows: int = 10,
    shown: int = 6,
) -> "Figure":
    """For each image: itself, what is seen of it, several draws of the rest, and their mean.

    Args:
        original: the whole images, of shape (rows, height * width).
        seen: True where a cell was observed, of the same shape.
        draws: completed images, of shape (draws, rows, height * width).
        shape: (height, width).
        rows: the most images to draw.
        shown: the most draws to show of each; the mean is that of all.
    """
    _same_shape("the mask", seen, original)
    if draws.ndim != 3 or draws.shape[1:] != original.shape:
        raise ValueError(
            f"Expected draws of shape (draws, {original.shape[0]}, {original.shape[1]}) as the "
            f"originals have it, but got {draws.shape}."
        )
    whole, part = original[:rows], np.where(seen, original, np.nan)[:rows]
    few = draws[:shown, :rows].swapaxes(0, 1).reshape(-1, original.shape[1])
    tiles = _tiles(shape, whole, part, few, draws[:, :rows].mean(0))
    headings = ("original", "seen", _how_many(shown, len(draws)), "mean of all")
    across = (1, 1, min(shown, len(draws)), 1)
    return _figure(list(zip(headings, map(_mosaic, tiles, across), strict=True)))


def training_curves(history: "pandas.DataFrame") -> "Figure":
    """The bound over the epochs and, where `history` has them, the terms of each layer.

    Args:
        history: one row per epoch, in nats per row: `epoch`, `train`, perhaps `validation` and
            `prior`, and for each layer `<modality>.<layer>.reconstruction`, `.entropy` (the
            mean of log Q) and, below the top, `.target`.
    """
    missing = {"epoch", "train"} - set(history.columns)
    if missing or not history["train"].notna().any():
        raise ValueError(
            "Expected a history with the columns 'epoch' and 'train' and at least one epoch with a "
            f"number, but got {history.shape[0]} rows of {list(history.columns)}; fit first."
        )
    layers = _layers(history)
    figure = blank(width=13.2 if layers else 5.0, height=3.9, constrained=True)
    panels = figure.subplots(1, 3 if layers else 1, squeeze=False)[0]
    _draw_bound(panels[0], history)
    if layers:
        _draw_decoders(panels[1], history, layers)
        _draw_encoders(panels[2], history, layers)
        handles = [line for axes in panels[1:] for line in axes.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture whole or not at all, as its ending says: .png, .pdf, .svg, .jpg and others.

    Args:
        figure: the picture.
        path: the file to be.
    """
    check_picture(path)
    with atomic(path) as fresh:
        figure.savefig(fresh, dpi=figure.dpi, facecolor="white")


def check_picture(path: Path) -> None:
    """Raises, before any work is done, if no picture can be written at a path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    check_writable(path, tuple(f".{kind}" for kind in FigureCanvasAgg.filetypes))


def blank(width: float, height: float, constrained: bool = False) -> "Figure":
    """An empty white figure, of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width, height),
        dpi=DPI,
        facecolor="white",
        layout="constrained" if constrained else None,
    )
    FigureCanvasAgg(figure)
    return figure


def _same_shape(name: str, given: np.ndarray, original: np.ndarray) -> None:
    if given.shape != original.shape:
        raise ValueError(
            f"Expected {name} of the shape of the originals, {original.shape}, but got "
            f"{given.shape}."
        )


def _tiles(shape: tuple[int, int], *sets: np.ndarray) -> list[np.ndarray]:
    """Sets of images as ink on white, (n, height, width, 3), all with one measure of ink."""
    limits = _limits(sets)
    return [_enlarged(_inked(images, shape, limits)) for images in sets]


def _limits(sets: Sequence[np.ndarray]) -> tuple[float, float]:
    """The values drawn as white and as full ink: 0 and 1 unless some go beyond them."""
    finite = np.concatenate([images[np.isfinite(images)].ravel() for images in sets])
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (float(low), float(high))


def _inked(images: np.ndarray, shape: tuple[int, int], limits: tuple[float, float]) -> np.ndarray:
    """Colours of images, the cells without a value tinted."""
    pixels = shape[0] * shape[1]
    if images.ndim != 2 or not len(images) or images.shape[1] != pixels:
        raise ValueError(
            f"Expected images of shape (n, {pixels}) for {shape[0]} by {shape[1]} cells, but got "
            f"{images.shape}."
        )
    low, high = limits
    ink = np.clip((images.astype(float) - low) / ((high - low) or 1.0), 0, 1).reshape(-1, *shape)
    return np.where(np.isnan(ink)[..., None], UNSEEN, 1 - ink[..., None])


def _enlarged(colours: np.ndarray) -> np.ndarray:
    """Each cell as a square of whole pixels, so that an image takes about one tile."""
    scale = max(1, round(TILE / max(colours.shape[1:3])))
    return colours.repeat(scale, axis=1).repeat(scale, axis=2)


def _interleaved(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.stack([left, right], axis=1).reshape(-1, *left.shape[1:])


def _mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles side by side in a grey frame; places left over at the end are white."""
    n, height, width, _ = tiles.shape
    rows = -(-n // columns)
    high, wide = height + GAP, width + GAP
    mosaic = np.ones((rows * high + GAP, columns * wide + GAP, 3))
    for place, tile in enumerate(tiles):
        top, left = place // columns * high, place % columns * wide
        mosaic[top : top + high + GAP, left : left + wide + GAP] = FRAME
        mosaic[top + GAP : top + high, left + GAP : left + wide] = tile
    return mosaic


def _how_many(shown: int, draws: int) -> str:
    return f"{shown} of {draws} draws" if shown < draws else f"{draws} draws"


def _figure(*lines: Sequence[Panel]) -> "Figure":
    """Lines of panels under their headings, one pixel of a mosaic to one of the picture."""
    headings = [HEADING if any(heading for heading, _ in line) else 0 for line in lines]
    wide = MARGIN + max(sum(mosaic.shape[1] + MARGIN for _, mosaic in line) for line in lines)
    high = MARGIN + sum(headings) + sum(_height(line) + MARGIN for line in lines)
    figure = blank(wide / DPI, high / DPI)
    top = high - MARGIN
    for line, heading in zip(lines, headings, strict=True):
        _place(figure, line, top - heading, (wide, high))
        top -= heading + _height(line) + MARGIN
    return figure


def _height(line: Sequence[Panel]) -> int:
    return max(len(mosaic) for _, mosaic in line)


def _place(figure: "Figure", line: Sequence[Panel], top: int, size: tuple[int, int]) -> None:
    """Put panels side by side under `top`, in a figure of a size in pixels."""
    wide, high = size
    left = MARGIN
    for heading, mosaic in line:
        tall, broad, _ = mosaic.shape
        corner = (left / wide, (top - tall) / high, broad / wide, tall / high)
        axes = figure.add_axes(corner)
        axes.imshow(mosaic, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        figure.text(left / wide, (top + 9) / high, heading, fontsize=8, color=INK)
        left += broad + MARGIN


def _layers(history: "pandas.DataFrame") -> list[str]:
    """The names `<modality>.<layer>` that have terms, from the data upward."""
    ends = (".reconstruction", ".entropy", ".target")
    return list(
        dict.fromkeys(
            str(name).rpartition(".")[0] for name in history.columns if str(name).endswith(ends)
        )
    )


def _draw_bound(axes: "Axes", history: "pandas.DataFrame") -> None:
    """Train and validation bound, and a mark at the best epoch."""
    curves = {"train": NEUTRAL}
    if "validation" in history and history["validation"].notna().any():
        curves["validation"] = INK
    for name, colour in curves.items():
        _draw_curve(axes, history, name, colour, label=name)
    name, colour = list(curves.items())[-1]
    best = history[name].astype(float).argmin()
    epoch, value = history["epoch"].iloc[best], history[name].iloc[best]
    axes.plot(epoch, value, "o", color=colour, markersize=6, markeredgecolor="white", zorder=3)
    axes.axvline(epoch, color=colour, linewidth=0.8, linestyle=":")
    _skip_fall(axes, history[list(curves)].to_numpy(dtype=float))
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    _finish(axes, f"Bound on -log P(x): best {value:.2f} at epoch {epoch}")


def _skip_fall(axes: "Axes", values: np.ndarray) -> None:
    """Let the steep fall of the first epochs run out of the picture, so that the rest is seen."""
    finite = np.isfinite(values)
    later = finite.copy()
    later[: len(values) // 20] = False
    if later.any():
        low, high = values[finite].min(), values[later].max()
        space = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - space, high + space)


def _draw_decoders(axes: "Axes", history: "pandas.DataFrame", layers: list[str]) -> None:
    """What each decoder, and the prior, pays for the level below it."""
    for layer, colour in zip(layers, colours(len(layers)), strict=True):
        _draw_curve(axes, history, f"{layer}.reconstruction", colour, label=_label(layer, layers))
    _draw_curve(axes, history, "prior", NEUTRAL, ":", label="prior")
    _finish(axes, "Decoders and prior: reconstruction of the level below")


def _draw_encoders(axes: "Axes", history: "pandas.DataFrame", layers: list[str]) -> None:
    """The two terms that hold each encoder: its log Q and its target, at the top the prior."""
    for layer, colour in zip(layers, colours(len(layers)), strict=True):
        _draw_curve(axes, history, f"{layer}.entropy", colour)
        _draw_curve(axes, history, f"{layer}.target", colour, "--")
    _draw_curve(axes, history, "prior", NEUTRAL, ":")
    axes.plot([], [], "-", color=NEUTRAL, label="log Q")
    axes.plot([], [], "--", color=NEUTRAL, label="target")
    _finish(axes, "Encoders: log Q (negative entropy), target, prior")


def _draw_curve(
    axes: "Axes",
    history: "pandas.DataFrame",
    name: str,
    colour: str,
    style: str = "-",
    label: str = "",
) -> None:
    if name in history:
        marker = "o" if len(history) == 1 else ""
        x, y = history["epoch"], history[name].astype(float)
        axes.plot(x, y, style, color=colour, label=label, marker=marker, linewidth=1.4)


def _label(layer: str, layers: list[str]) -> str:
    """The name of a layer for a legend, with its modality only where there are several."""
    modality, _, level = layer.rpartition(".")
    level = f"layer {level}" if level.isdigit() else level
    several = len({name.rpartition(".")[0] for name in layers}) > 1
    return f"{modality}, {level}" if several else level


def colours(n: int) -> list[str]:
    """As many colours as asked for; beyond the palette, in order from dark to light."""
    from matplotlib import colormaps, colors

    if n <= len(PALETTE):
        return list(PALETTE[:n])
    return [colors.to_hex(colormaps["viridis"](0.9 * k / (n - 1))) for k in range(n)]


def _finish(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("nats per row", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)

"""Pictures of modalities side by side, given beside drawn."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genprop.encodings import Encodings, is_label
from genprop.plots import HEADING, INK, NEUTRAL, blank
from genprop.tables.encoding import FAMILY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.75  # inches
GAP = 0.2  # of a cell, between modalities
ROWS, SHOWN = 10, 8
Shape = tuple[int, int] | None


class Block(NamedTuple):
    """Columns of a picture: draws of one modality.

    Attributes:
        name: above them.
        values: ``(draws, rows, *event)``; what is given is one draw.
        shape: (height, width) of images; those of two dimensions tell it.
    """

    name: str
    values: NDArray[Any]
    shape: Shape = None


def given_beside_drawn(
    given: Any,
    draws: Any,
    shapes: tuple[Shape, Shape] = (None, None),
    names: tuple[str, str] = ("given", "drawn"),
    rows: int = ROWS,
    shown: int = SHOWN,
) -> "Figure":
    """A line for each row: what is given of one modality, and several draws of another.

    An image is drawn as ink, a label or another single value as text, and any other vector as a
    curve over its elements, each of them standardised by its own mean and spread over the curves of
    its modality, so that a large one hides none. NaN is left out.

    Args:
        given: ``(rows, *event)``.
        draws: ``(draws, rows, *event)``.
        shapes: (height, width) of those of the two that are images; two dimensions tell it.
        names: of the two modalities.
        rows: the most rows to draw.
        shown: the most draws of each.

    Raises:
        ValueError: draws of another number of rows, or nothing to draw.

    >>> figure = given_beside_drawn(["a", "b"], np.zeros((3, 2, 4)), (None, (2, 2)))
    >>> figure.axes[0].texts[0].get_text()
    'a'
    """
    known, drawn = np.asarray(given), np.asarray(draws)
    if drawn.ndim < 2 or drawn.shape[1] != len(known) or not drawn.size:
        raise ValueError(
            f"draws must be (draws, {len(known)}, …) for {len(known)} given rows, but have shape "
            f"{drawn.shape}"
        )
    blocks = [Block(names[0], known[None], shapes[0]), Block(names[1], drawn, shapes[1])]
    return _side_by_side([Block(n, v[:shown, :rows], shape) for n, v, shape in blocks])


def completions(given: Any, drawn: Any, rows: int = ROWS, shown: int = SHOWN) -> "Figure":
    """A line for each row: the modalities that show something of it, and draws of what is lacking.

    Args:
        given: rows with holes, an array, a DataFrame or a dict of them by modality.
        drawn: completions of them, as ``GenProp.sample(…, given=given)`` has them.
        rows: the most rows to draw.
        shown: the most draws of each.

    Raises:
        ValueError: nothing is lacking.

    >>> holes = np.array([[[0.0, np.nan], [1.0, 1.0]]])
    >>> figure = completions({"image": holes}, {"image": np.zeros((3, 1, 2, 2))})
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['image', 'image, drawn', '', '']
    """
    import pandas as pd

    known = {n: np.asarray(x)[:rows] for n, x in _by_modality(given).items()}
    lacking = {n for n in _by_modality(drawn) if n not in known or pd.isna(known[n]).any()}
    if not lacking:
        raise ValueError("the given rows lack nothing, so that there is no draw to show")
    count = len(next(iter(_by_modality(given).values())))
    blocks = [Block(n, x[None]) for n, x in known.items() if not pd.isna(x).all()]
    for name, draws in _by_modality(drawn).items():
        if name in lacking:
            values = np.asarray(draws)
            if hasattr(draws, "columns"):
                values = values.reshape(-1, count, values.shape[-1])
            blocks.append(Block(f"{name}, drawn", values[:shown, :rows]))
    return _side_by_side(blocks)


def check_drawable(encodings: Encodings) -> None:
    """Refuses modalities that are neither numbers nor one label.

    Raises:
        ValueError: there is one.
    """
    for name, encoding in encodings.items():
        several = encoding.family == "categorical" and not is_label(encoding)
        if several or encoding.family == FAMILY:
            raise ValueError(
                f"a picture shows arrays of numbers and single labels, but modality {name!r} has "
                f"columns of several kinds or categories; leave the picture out"
            )


def _by_modality(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {"x": data}


def _side_by_side(blocks: Sequence[Block]) -> "Figure":
    widths = [len(block.values) for block in blocks]
    down, gaps = blocks[0].values.shape[1], len(blocks) - 1
    size = CELL * (sum(widths) + GAP * gaps), CELL * down + HEADING / 100
    figure = blank(*size, constrained=True)
    # a narrow column without cells ends each block
    ratios = [ratio for width in widths for ratio in (*(1.0,) * width, GAP)][:-1]
    grid = figure.add_gridspec(down, len(ratios), width_ratios=ratios)
    wide = [column for column, ratio in enumerate(ratios) if ratio == 1]
    cells = np.array([[figure.add_subplot(grid[r, c]) for c in wide] for r in range(down)])
    parts = np.split(cells, np.cumsum(widths)[:-1], axis=1)
    for block, part in zip(blocks, parts, strict=True):
        _fill(part, block)
        part[0, 0].set_title(block.name, fontsize=8, color=INK, loc="left")
    return figure


def _fill(cells: NDArray[Any], block: Block) -> None:
    """The cells of a block, all on one scale."""
    event = block.values.shape[2:]
    shape = block.shape or (event if len(event) == 2 else None)
    curves = shape is None and int(np.prod(event)) > 1
    values = _standardised(block.values) if curves else block.values
    limits = _limits(values)
    for (row, draw), axes in np.ndenumerate(cells):
        _show(axes, values[draw, row], shape, limits)


def _standardised(values: NDArray[Any]) -> NDArray[np.float64]:
    """Each element by its mean and spread over draws and rows; one vector alone stays as it is."""
    flat = np.asarray(values, dtype=float).reshape(*values.shape[:2], -1)
    if flat.shape[0] * flat.shape[1] == 1:
        return flat
    found = np.ma.masked_invalid(flat)
    mean, spread = found.mean((0, 1)), found.std((0, 1))
    z: NDArray[np.float64] = ((found - mean) / np.where(spread > 0, spread, 1)).filled(np.nan)
    return z


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    """The least and the largest value, of which the former is white."""
    if values.dtype.kind not in "biuf":
        return 0.0, 1.0
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _show(axes: "Axes", value: Any, shape: Shape, limits: Sequence[float]) -> None:
    """One cell without a frame of ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#dddddd")
    if shape is not None:
        pixels = np.asarray(value, dtype=float).reshape(shape)
        axes.imshow(pixels, cmap="gray_r", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    elif np.size(value) == 1:
        axes.text(
            0.5, 0.5, _word(np.ravel(value)[0]), ha="center", va="center", fontsize=9, color=INK
        )
    else:
        axes.axhline(0, color=NEUTRAL, linewidth=0.4)
        axes.plot(np.ravel(value), color=INK, linewidth=0.8)
        space = 0.05 * (limits[1] - limits[0]) or 1.0
        axes.set_ylim(limits[0] - space, limits[1] + space)


def _word(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)

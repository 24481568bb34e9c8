"""Pictures of one modality beside another, given beside drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genprop.plots import HEADING, INK, NEUTRAL, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.75  # inches
Shape = tuple[int, int] | None


def given_beside_drawn(
    given: Any,
    draws: Any,
    shapes: tuple[Shape, Shape] = (None, None),
    names: tuple[str, str] = ("given", "drawn"),
    rows: int = 10,
    shown: int = 8,
) -> "Figure":
    """A line for each row: what is given of one modality, and several draws of another.

    An image is drawn as ink, a label or another single value as text, and any other vector as a
    curve over its elements; within a modality all have the same scale. NaN is left out.

    Args:
        given: ``(rows, *event)``.
        draws: ``(draws, rows, *event)``.
        shapes: (height, width) of those of the two that are images.
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
    known, drawn = known[:rows], drawn[:shown, :rows]
    across, down = 1 + len(drawn), len(known)
    figure = blank(CELL * across, CELL * down + HEADING / 100, constrained=True)
    cells = figure.subplots(down, across, squeeze=False)
    limits = _limits(known), _limits(drawn)
    for line in range(down):
        _show(cells[line, 0], known[line], shapes[0], limits[0])
        for column in range(1, across):
            _show(cells[line, column], drawn[column - 1, line], shapes[1], limits[1])
    for axes, name in zip(cells[0, :2], names, strict=True):
        axes.set_title(name, fontsize=8, color=INK, loc="left")
    return figure


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
            0.5, 0.5, str(np.ravel(value)[0]), ha="center", va="center", fontsize=9, color=INK
        )
    else:
        axes.plot(np.ravel(value), color=INK, linewidth=0.8)
        axes.axhline(0, color=NEUTRAL, linewidth=0.4)
        space = 0.05 * (limits[1] - limits[0]) or 1.0
        axes.set_ylim(limits[0] - space, limits[1] + space)

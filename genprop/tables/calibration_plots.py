"""A picture of calibration: coverage, ranks of the truth, and width beside error."""

from typing import TYPE_CHECKING

import numpy as np

from genprop.plots import INK, NEUTRAL, blank, colours
from genprop.tables.calibration import BINS, Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def calibration_plot(found: Calibration) -> "Figure":
    """Coverage against level, the histogram of ranks, and each column's width beside its error.

    Calibrated draws lie on the diagonal, have ranks as even as chance allows (the band), and are
    as wide as their errors ask for.

    Args:
        found: of at least one column of numbers.

    Raises:
        ValueError: there is none.
    """
    if not len(found.numbers):
        raise ValueError(
            "only columns of numbers have ranks and intervals to draw, but none is there"
        )
    figure = blank(width=9.0, height=3.0, constrained=True)
    left, middle, right = figure.subplots(1, 3)
    _draw_coverage(left, found)
    _draw_ranks(middle, found)
    _draw_widths(right, found)
    return figure


def _draw_coverage(axes: "Axes", found: Calibration) -> None:
    levels = [
        float(n.split("_")[1]) / 100 for n in map(str, found.numbers) if n.startswith("coverage")
    ]
    for (_, line), colour in zip(
        found.numbers.iterrows(), colours(len(found.numbers)), strict=True
    ):
        covered = [line[f"coverage_{100 * level:g}"] for level in levels]
        axes.plot(levels, covered, color=colour, linewidth=0.7, alpha=0.6)
    axes.plot(levels, [found.coverage(level) for level in levels], "o-", color=INK, linewidth=1.6)
    axes.plot([0, 1], [0, 1], ":", color=NEUTRAL)
    _finish(axes, "Coverage of central intervals", "level", "share of hidden cells inside")


def _draw_ranks(axes: "Axes", found: Calibration) -> None:
    ranks = np.concatenate([*found.pit.values()])
    counts = np.histogram(ranks, bins=BINS, range=(0, 1))[0] / len(ranks) * BINS
    spread = 2 * np.sqrt(BINS / len(ranks))
    axes.axhspan(1 - spread, 1 + spread, color=NEUTRAL, alpha=0.2, linewidth=0)
    axes.stairs(counts, np.linspace(0, 1, BINS + 1), color=INK, linewidth=1.4)
    axes.set_ylim(bottom=0)
    _finish(axes, "Ranks of the truth (PIT)", "rank", "density")


def _draw_widths(axes: "Axes", found: Calibration) -> None:
    name = "width_90" if "width_90" in found.numbers else next(
        name for name in map(str, found.numbers) if name.startswith("width")
    )  # fmt: skip
    axes.plot(found.numbers["rmse"], found.numbers[name], "o", color=INK, markersize=4, alpha=0.7)
    _finish(axes, "Width beside error, a point a column", "RMSE, sd", "width of the interval, sd")


def _finish(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)

"""Pictures of Markov chains: where they went, and whether they went to the same places.

Draws are arrays ``(chain, draw, coordinate)`` with a title for each coordinate.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from genprop.plots import INK, NEUTRAL, blank, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BINS = 20
DRAWS_A_BIN = 20  # at the least, of each chain
COLUMNS = 2


def trace_plot(draws: np.ndarray, titles: Sequence[str]) -> "Figure":
    """Each coordinate's draws over time, and beside them what each chain says of their law.

    Chains that agree cross one another all the way, and their histograms lie on each other.

    Args:
        draws: of shape (chain, draw, coordinate).
        titles: one a coordinate.
    """
    _check(draws, titles)
    figure = blank(width=9.0, height=0.5 + 1.5 * len(titles), constrained=True)
    panels = figure.subplots(
        len(titles), 2, squeeze=False, sharey="row", width_ratios=(5, 1), sharex="col"
    )
    for (left, right), title, series in zip(panels, titles, np.moveaxis(draws, 2, 0), strict=True):
        bins = np.histogram_bin_edges(series[np.isfinite(series)], bins=25)
        for chain, colour in zip(series, colours(len(series)), strict=True):
            left.plot(chain, color=colour, linewidth=0.5, alpha=0.8)
            heights = np.histogram(chain, bins, density=True)[0]
            right.stairs(heights, bins, orientation="horizontal", color=colour, linewidth=1.0)
        _finish(left, title)
        _finish(right, "")
        right.set_xticks([])
        right.tick_params(left=False)
        right.spines["bottom"].set_visible(False)
        left.set_xlim(0, series.shape[1])
    panels[-1, 0].set_xlabel("draw", fontsize=8)
    return figure


def rank_plot(draws: np.ndarray, titles: Sequence[str]) -> "Figure":
    """How the ranks of each chain's draws among those of all chains are distributed.

    Of chains that agree every bar comes up to the dotted line, as far as chance goes.

    Args:
        draws: of shape (chain, draw, coordinate).
        titles: one a coordinate.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner, 2021, section 3.4 (rank plots).
    """
    _check(draws, titles)
    lines = -(-len(titles) // COLUMNS)
    chains = len(draws)
    height = 0.4 + lines * (0.5 + 0.42 * chains)
    figure = blank(width=9.0, height=height, constrained=True)
    panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes, title, series in zip(panels, titles, np.moveaxis(draws, 2, 0), strict=False):
        _draw_ranks(axes, series)
        _finish(axes, title)
        axes.grid(visible=False)
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(titles) - COLUMNS) : len(titles)]:
        axes.set_xlabel("rank among the draws of all chains", fontsize=8)
    return figure


def _draw_ranks(axes: "Axes", series: np.ndarray) -> None:
    """The first chain on top, each on a base line of its own."""
    from scipy.stats import rankdata

    chains, length = series.shape
    count = max(2, min(MOST_BINS, length // DRAWS_A_BIN))
    edges = np.linspace(0.5, series.size + 0.5, count + 1)
    ranks = rankdata(series.ravel()).reshape(series.shape)
    shares = np.stack([np.histogram(chain, edges)[0] * count / length for chain in ranks])
    even = 0.9 / max(2.0, shares.max())  # so that no bar reaches the next base line
    bases = np.arange(chains)[::-1]
    for base, share, colour in zip(bases, shares, colours(chains), strict=True):
        heights = base + even * share
        axes.stairs(heights, edges, baseline=base, fill=True, color=colour, alpha=0.7)
    axes.hlines(bases + even, edges[0], edges[-1], INK, linewidth=0.8, linestyle=":")
    axes.hlines(bases, edges[0], edges[-1], NEUTRAL, linewidth=0.5)
    axes.set_ylim(0, chains)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_yticks(bases, [f"chain {n}" for n in range(chains)])


def _finish(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def _check(draws: np.ndarray, titles: Sequence[str]) -> None:
    if draws.ndim != 3 or not len(titles) or draws.shape[2] != len(titles):
        raise ValueError(
            f"Expected draws of shape (chain, draw, {len(titles)}), a coordinate for each title, "
            f"but got {draws.shape}."
        )

"""Pictures of chains: every draw is in them, and chains that differ look it."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from genprop.chain_plots import rank_plot, trace_plot

TITLES = ["a", "b", "c"]


@pytest.fixture
def draws() -> np.ndarray:
    """Four chains, whose first coordinate is the same for all; its second differs by chain."""
    x = np.random.default_rng(0).normal(size=(4, 200, 3))
    x[:, :, 1] += 10 * np.arange(4)[:, None]
    return x


def bars(figure: Figure, coordinate: int) -> np.ndarray:
    """Heights ``(chain, bin)`` in units of the dotted line."""
    axes = figure.axes[coordinate]
    dotted, bases = (lines.get_segments()[0][0, 1] for lines in axes.collections)
    steps = [step.get_data() for step in axes.patches]  # type: ignore[attr-defined]
    return np.stack([step.values - step.baseline for step in steps]) / (dotted - bases)


def test_traces_hold_every_draw(draws: np.ndarray) -> None:
    figure = trace_plot(draws, TITLES)
    left = figure.axes[::2]
    assert [axes.get_title("left") for axes in left] == TITLES
    for coordinate, axes in enumerate(left):
        drawn = np.stack([line.get_ydata() for line in axes.lines])
        np.testing.assert_array_equal(drawn, draws[:, :, coordinate])
        assert len({line.get_color() for line in axes.lines}) == 4


def test_laws_of_chains_stand_beside_their_traces(draws: np.ndarray) -> None:
    for coordinate, axes in enumerate(trace_plot(draws, TITLES).axes[1::2]):
        assert len(axes.patches) == 4
        for patch, chain in zip(axes.patches, draws[:, :, coordinate], strict=True):
            heights, edges, _ = patch.get_data()  # type: ignore[attr-defined]
            assert (heights * np.diff(edges)).sum() == pytest.approx(1)
            middle = (heights * np.diff(edges) * (edges[:-1] + edges[1:]) / 2).sum()
            assert middle == pytest.approx(chain.mean(), abs=np.diff(edges)[0])


def test_ranks_of_chains_that_agree_are_even(draws: np.ndarray) -> None:
    heights = bars(rank_plot(draws, TITLES), 0)
    assert heights.mean(1) == pytest.approx(np.ones(4))
    # ten bins of 20 draws on average: none is off by five standard errors
    assert np.abs(heights - 1).max() < 5 / np.sqrt(20)


def test_chains_apart_have_ranks_of_their_own(draws: np.ndarray) -> None:
    figure = rank_plot(draws, TITLES)
    heights = bars(figure, 1)
    assert ((heights > 0).sum(0) <= 2).all()
    assert heights.max() == pytest.approx(4)
    # no chain is drawn over the one above
    steps = [step.get_data() for step in figure.axes[1].patches]  # type: ignore[attr-defined]
    assert all(step.values.max() < step.baseline + 1 for step in steps)


def test_zeros_and_ones_have_pictures_too() -> None:
    x = (np.random.default_rng(0).random((2, 50, 2)) < 0.3).astype(float)
    for plot in (trace_plot, rank_plot):
        plot(x, ["a", "b"]).canvas.draw()


@pytest.mark.parametrize("shape", [(4, 10), (4, 10, 2), (4, 10, 0)])
def test_every_coordinate_needs_a_title(shape: tuple[int, ...]) -> None:
    titles = TITLES if shape[-1] else []
    for plot in (trace_plot, rank_plot):
        with pytest.raises(ValueError, match="Expected draws of shape"):
            plot(np.zeros(shape), titles)

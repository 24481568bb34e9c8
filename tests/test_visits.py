"""Which rows are visited: all of them, and those that show what is rare more than once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genprop.data import Batch
from genprop.estimator import GenProp
from genprop.visits import visits


def rows_with_labels(rows: int, labelled: int) -> Batch:
    label = torch.ones(rows, 1)
    label[labelled:] = torch.nan
    return Batch.of({"image": torch.ones(rows, 2), "label": label})


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0, 0.95))
def test_each_modality_has_its_share_and_no_row_is_left_out(rows, labelled, balance) -> None:
    labelled = min(labelled, rows)
    order = visits(rows_with_labels(rows, labelled), balance)
    count = order.bincount(minlength=rows)
    assert (count >= 1).all()
    assert (count[labelled:] == 1).all()
    if labelled:
        shown = (order < labelled).sum() / len(order)
        assert shown >= balance - 1e-6
        # all come before any comes again
        assert count[:labelled].max() - count[:labelled].min() <= 1
        # and not one visit more than it takes
        assert labelled == rows or len(order) == rows or (shown - 1 / len(order)) < balance
    else:
        assert len(order) == rows


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=40),
    st.floats(0.01, 0.3),
)
def test_several_rare_modalities_have_their_share_each(shown, balance) -> None:
    """Of three modalities, any of them missing anywhere, beside one that all rows show."""
    shown = torch.tensor(shown)
    x = {str(k): torch.ones(len(shown), 2) for k in range(4)}
    for k in range(3):
        x[str(k)][~shown[:, k]] = torch.nan
    order = visits(Batch.of(x), balance)
    count = order.bincount(minlength=len(shown))
    assert (count >= 1).all()
    assert (count[~shown.any(1)] == 1).all()
    for k in range(3):
        if shown[:, k].any():
            assert shown[order, k].double().mean() >= balance - 1e-9


@pytest.mark.parametrize("balance", [0.5, 0.8])
def test_shares_that_cannot_be_had_together_are_refused(balance: float) -> None:
    """Two modalities that no row shows together, beside one that most rows show alone."""
    x = {name: torch.full((50, 1), torch.nan) for name in "ab"} | {"c": torch.ones(50, 1)}
    x["a"][:5], x["b"][5:8] = 1.0, 1.0
    with pytest.raises(ValueError, match=f"balance={balance} asks for that share"):
        visits(Batch.of(x), balance)
    order = visits(Batch.of(x), 0.45)
    assert (order < 5).double().mean() >= 0.45
    assert ((order >= 5) & (order < 8)).double().mean() >= 0.45


def test_without_balance_rows_come_once_in_the_order_of_before() -> None:
    torch.manual_seed(0)
    expected = torch.randperm(50)
    torch.manual_seed(0)
    assert torch.equal(visits(rows_with_labels(50, 3)), expected)


def test_rare_labels_are_learned_in_both_directions() -> None:
    """Two blobs of 600 rows, of which six have a label."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=600)
    x = rng.normal(size=(600, 4)) + 3.0 * (2 * label[:, None] - 1)
    shown = np.where(np.arange(600) < 6, label, np.nan)
    settings = {"hidden": (), "top": (2,), "units": (16,), "epochs": 12, "hide": 1.0, "verbose": 0}
    settings |= {"explain": True, "random_state": 0, "validation": 0.0, "lr": 3e-3}
    right = {}
    for balance in (0.0, 0.2):
        model = GenProp(**settings, balance=balance).fit({"x": x, "label": shown})
        given = {"label": np.array([0.0, 1.0])}
        drawn = model.impute(given, method="sir", draws=100, random_state=0)["x"]
        right[balance] = ((drawn.mean(-1) > 0) == [False, True]).mean()
    # half would be right by chance; of this seed 0.93 and 0.79 are, and 200 draws err by 0.03
    assert right[0.2] > 0.85
    assert right[0.2] > right[0.0] + 0.05


@pytest.mark.parametrize("balance", [-0.1, 1.0, float("nan")])
def test_a_share_is_asked_for(balance: float) -> None:
    with pytest.raises(ValueError, match="share from 0 to below 1"):
        GenProp(balance=balance, verbose=0).fit(np.zeros((4, 2)))

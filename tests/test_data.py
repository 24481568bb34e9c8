import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genprop.data import Batch

NAN = math.nan


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Values and a mask of one shape; among the values some NaN."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 5))

    def table(cells: st.SearchStrategy) -> Tensor:
        cells = st.lists(cells, min_size=columns, max_size=columns)
        return torch.tensor(draw(st.lists(cells, min_size=rows, max_size=rows)))

    return table(st.sampled_from([-2.0, 0.0, 1.0, 3.5, NAN])), table(st.booleans())


def mask_of(batch: Batch, name: str = "x") -> Tensor:
    seen = batch.seen[name]
    return torch.ones(batch.x[name].shape, dtype=torch.bool) if seen is None else seen


@given(tables())
def test_a_cell_is_seen_if_the_mask_says_so_and_it_is_a_number(
    table: tuple[Tensor, Tensor],
) -> None:
    x, mask = table
    batch = Batch.of(x, mask)
    assert torch.equal(mask_of(batch), mask & ~x.isnan())
    assert torch.equal(batch.x["x"], torch.where(mask_of(batch), x, 0.0))


@given(tables())
def test_nan_and_the_mask_are_the_same_statement(table: tuple[Tensor, Tensor]) -> None:
    x, mask = table
    a, b = Batch.of(x, mask), Batch.of(torch.where(mask, x, NAN))
    assert torch.equal(a.x["x"], b.x["x"])
    assert torch.equal(mask_of(a), mask_of(b))


@given(tables(), st.sampled_from([NAN, math.inf, -math.inf, 1e38]))
def test_what_is_under_the_mask_is_not_kept(table: tuple[Tensor, Tensor], garbage: float) -> None:
    x, mask = table
    a, b = Batch.of(x, mask), Batch.of(torch.where(mask, x, garbage), mask)
    assert torch.equal(a.x["x"], b.x["x"])
    assert torch.equal(mask_of(a), mask_of(b))


@given(tables())
def test_a_batch_of_a_batch_is_the_same(table: tuple[Tensor, Tensor]) -> None:
    batch = Batch.of(*table)
    again = Batch.of(batch.x, batch.seen)
    assert torch.equal(batch.x["x"], again.x["x"])
    assert torch.equal(mask_of(batch), mask_of(again))


@given(tables())
def test_rows_are_present_where_anything_is_seen(table: tuple[Tensor, Tensor]) -> None:
    batch = Batch.of(*table)
    present = batch.present("x")
    expected = [bool(row.any()) for row in mask_of(batch)]
    assert (present is None and all(expected)) or present.tolist() == expected


@given(tables(), st.floats(0, 1))
def test_hiding_only_removes(table: tuple[Tensor, Tensor], probability: float) -> None:
    batch = Batch.of(*table)
    fewer = batch.hide(probability)
    assert not (mask_of(fewer) & ~mask_of(batch)).any()
    assert torch.equal(fewer.x["x"], torch.where(mask_of(fewer), batch.x["x"], 0.0))


@given(tables())
def test_hiding_with_probability_zero_hides_nothing(table: tuple[Tensor, Tensor]) -> None:
    batch = Batch.of(*table)
    assert torch.equal(mask_of(batch.hide(0.0)), mask_of(batch))


def test_hiding_touches_the_share_of_rows_it_was_told_and_half_of_their_cells() -> None:
    # 4000 rows of 50 cells; errors are five standard deviations of a share of that many
    kept = mask_of(Batch.of(torch.ones(4000, 50)).hide(0.3)).float()
    touched = (kept.mean(1) < 1).float().mean().item()
    # a rate below 1/50 often leaves the row whole: on average one row in 51
    assert touched == pytest.approx(0.3 * 50 / 51, abs=5 * math.sqrt(0.21 / 4000))
    assert kept.mean().item() == pytest.approx(0.85, abs=5 * math.sqrt(0.0775 / 4000))


@given(tables(), st.booleans())
def test_hiding_by_modality_hides_whole_what_is_named(
    table: tuple[Tensor, Tensor], explain: bool
) -> None:
    rows = len(table[0])
    other = {"b": torch.ones(rows, 2), "c": torch.ones(rows, 1)}
    batch = Batch.of({"a": table[0], **other}, {"a": table[1]})
    fewer = batch.hide({"b": 1.0}, explain=explain)
    told = {name: fewer.told(name) for name in "abc"}
    assert told["b"] is not None
    assert not told["b"].any()
    assert told["c"] is None or told["c"].all()
    assert torch.equal(mask_of(fewer, "a"), mask_of(batch, "a"))
    assert told["a"] is None or torch.equal(told["a"], mask_of(batch, "a"))
    if explain:
        assert all(torch.equal(mask_of(fewer, name), mask_of(batch, name)) for name in "abc")


def test_modalities_are_hidden_in_their_shares_of_rows_and_independently() -> None:
    # of 4000 rows; errors are five standard deviations of a share of that many
    told = Batch.of({"a": torch.ones(4000, 3), "b": torch.ones(4000, 2)}).hide({"a": 0.3, "b": 0.5})
    a, b = ((~mask_of(told, name)).float() for name in "ab")
    assert (a == a[:, :1]).all()
    assert (b == b[:, :1]).all()
    found = [a[:, 0].mean(), b[:, 0].mean(), (a[:, 0] * b[:, 0]).mean()]
    for share, expected in zip(found, (0.3, 0.5, 0.15), strict=True):
        assert share.item() == pytest.approx(
            expected, abs=5 * math.sqrt(expected * (1 - expected) / 4000)
        )


@given(tables(), st.data())
def test_rows_taken_are_those_rows(table: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    batch = Batch.of({"a": table[0], "b": torch.ones(len(table[0]), 2)}, {"a": table[1]})
    index = torch.tensor(data.draw(st.lists(st.integers(0, batch.rows - 1), max_size=8)), dtype=int)
    part = batch.take(index)
    assert part.rows == len(index)
    for name in ("a", "b"):
        assert torch.equal(part.x[name], batch.x[name][index])
        assert torch.equal(mask_of(part, name), mask_of(batch, name)[index])
    assert torch.equal(batch.take(slice(1, 3)).x["a"], batch.x["a"][1:3])


def test_a_tensor_alone_is_modality_x() -> None:
    batch = Batch.of(torch.ones(4, 2))
    assert list(batch.x) == ["x"]
    assert batch.seen == {"x": None}
    assert batch.rows == 4


def test_modalities_keep_their_order_and_their_masks() -> None:
    x = {"b": torch.ones(2, 3), "a": torch.tensor([[NAN], [1.0]])}
    batch = Batch.of(x, {"b": torch.tensor([[True, False, True]] * 2)})
    assert list(batch.x) == ["b", "a"]
    assert mask_of(batch, "b").tolist() == [[True, False, True]] * 2
    assert mask_of(batch, "a").tolist() == [[False], [True]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_become_floating(dtype: torch.dtype) -> None:
    batch = Batch.of(torch.ones(2, 3, dtype=dtype))
    assert torch.equal(batch.x["x"], torch.ones(2, 3))


def test_a_batch_moves_to_another_precision() -> None:
    batch = Batch.of(torch.tensor([[1.0, NAN]])).to("cpu", torch.float64)
    assert batch.x["x"].dtype == torch.float64
    assert mask_of(batch).tolist() == [[True, False]]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=12))
def test_entropy_is_that_of_the_rows_counts(rows: list[tuple[int, int]]) -> None:
    shares = [n / len(rows) for n in Counter(rows).values()]
    table = torch.tensor(rows).float()
    batch = Batch.of({"a": table[:, :1], "b": table[:, 1:]})
    assert batch.entropy() == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-12)


@pytest.mark.parametrize("cell", [0.5, NAN])
def test_real_or_missing_values_have_no_entropy(cell: float) -> None:
    assert math.isnan(Batch.of(torch.tensor([[0.0], [cell]])).entropy())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Batch.of({}), "at least one modality"),
        (lambda: Batch.of(torch.zeros(3)), r"modality 'x' must be \(rows, elements\).*\(3,\)"),
        (lambda: Batch.of(torch.zeros(())), r"modality 'x' must be \(rows, elements\)"),
        (lambda: Batch.of({"image": torch.zeros(2, 3, 3)}), r"'image' must be .*\(2, 3, 3\)"),
        (
            lambda: Batch.of({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}),
            "same rows, but have {'a': 2, 'b': 3}",
        ),
        (
            lambda: Batch.of(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool)),
            r"mask of modality 'x' .*\(2, 3\), but is .*\(2, 2\)",
        ),
        (lambda: Batch.of(torch.zeros(2, 3), torch.ones(2, 3)), "boolean .* but is torch.float32"),
        (
            lambda: Batch.of(torch.zeros(2, 3), {"y": torch.ones(2, 3, dtype=torch.bool)}),
            r"masks are given for \['y'\], but the modalities are \['x'\]",
        ),
        (lambda: Batch.of(torch.tensor([[math.inf]])), "'x' holds infinite values"),
        (lambda: Batch.of({"a": torch.tensor([[-math.inf, NAN]])}), "'a' holds infinite values"),
    ],
)
def test_impossible_batches_are_refused(make: Callable[[], Batch], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

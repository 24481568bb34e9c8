"""The codes that priors follow: of all rows, whatever these lack."""

import pytest
import torch
import zoo
from torch import Tensor

from genprop.codes import whole_codes
from genprop.conditional import Bernoulli, Gaussian
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.gsn import NeighbourPrior
from genprop.priors.parzen import ParzenPrior
from genprop.stack import Stack

ROWS = 4000


def beside_each_other() -> Model:
    """Two vectors that are their own codes, under a prior that follows them."""
    return Model({"a": Stack(elements=2), "b": Stack(elements=3)}, ParzenPrior(5)).double()


def law() -> Tensor:
    """A covariance by which either vector tells of the other."""
    torch.manual_seed(0)
    root = torch.randn(5, 5).double()
    return root @ root.mT + 0.5 * torch.eye(5)


def holed(share: float) -> tuple[Batch, Tensor]:
    """Draws of N(1, law), of which rows lack one vector or both; and the draws."""
    x = 1 + torch.randn(ROWS, 5).double() @ torch.linalg.cholesky(law()).mT
    hidden = torch.rand(ROWS, 2) < share
    seen = {"a": ~hidden[:, :1].expand(-1, 2), "b": ~hidden[:, 1:].expand(-1, 3)}
    return Batch.of({"a": x[:, :2], "b": x[:, 2:]}, seen), x


def test_codes_of_rows_with_holes_have_the_law_of_whole_ones() -> None:
    batch, _ = holed(0.5)
    codes = whole_codes(beside_each_other(), batch)
    anything = torch.cat([batch.present("a")[:, None], batch.present("b")[:, None]], -1).any(-1)
    assert len(codes) == anything.sum()
    # of 3,000 rows, a third of them with both: correlations err by 1 / √1000
    spread = law().diagonal().sqrt()
    error = (codes.mT.cov() - law()) / spread / spread[:, None]
    assert error.abs().max() < 4 * 1000**-0.5
    assert ((codes.mean(0) - 1) / spread).abs().max() < 4 * 2000**-0.5


def test_what_is_seen_is_not_touched_and_what_is_not_tells_nothing() -> None:
    batch, x = holed(0.3)
    assert batch.seen["a"] is not None
    assert batch.seen["b"] is not None
    seen = torch.cat([batch.seen["a"], batch.seen["b"]], -1)
    shown = seen.any(-1)
    other = torch.where(seen, x, 7.0)
    found = []
    for rows in (x, other):
        torch.manual_seed(1)
        told = Batch.of({"a": rows[:, :2], "b": rows[:, 2:]}, batch.seen)
        found.append(whole_codes(beside_each_other(), told))
    assert torch.equal(*found)
    assert torch.equal(found[0][seen[shown]], x[shown][seen[shown]])


def in_turns(rows: int = 60) -> Batch:
    """Rows that show the one vector or the other."""
    x, first = torch.randn(rows, 5).double(), torch.arange(rows)[:, None] % 2 == 0
    seen = {"a": first.expand(-1, 2), "b": ~first.expand(-1, 3)}
    return Batch.of({"a": x[:, :2], "b": x[:, 2:]}, seen)


def test_no_row_need_be_whole() -> None:
    codes = whole_codes(beside_each_other(), in_turns())
    assert codes.shape == (60, 5)
    assert codes.isfinite().all()


def test_layers_above_encode_what_a_row_shows() -> None:
    above = Model(zoo.stack(Gaussian(5), (2,)), ParzenPrior(2))
    stacks = dict(beside_each_other().named_stacks())
    assert whole_codes(Model(stacks, above).double(), in_turns()).shape == (60, 2)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_few_rows_are_enough(rows: int) -> None:
    x = torch.randn(rows, 5).double()
    seen = {"a": torch.ones(rows, 2, dtype=torch.bool), "b": torch.zeros(rows, 3, dtype=torch.bool)}
    codes = whole_codes(beside_each_other(), Batch.of({"a": x[:, :2], "b": x[:, 2:]}, seen))
    assert codes.isfinite().all()


def test_rows_that_show_nothing_are_no_codes() -> None:
    batch, _ = holed(1.0)
    with pytest.raises(ValueError, match="learns from rows that show something"):
        whole_codes(beside_each_other(), batch)


def bits_in_three(rows: int) -> Tensor:
    """Two bits, one that says whether they differ, nine times of ten, and two of any kind."""
    first, any_kind = torch.rand(rows, 2) < 0.4, torch.rand(rows, 2) < 0.7
    told = (first[:, :1] ^ first[:, 1:]) ^ (torch.rand(rows, 1) < 0.1)
    return torch.cat([first, told, any_kind], -1).float()


def in_three(x: Tensor, hidden: Tensor) -> tuple[Model, Batch]:
    """These bits as their own codes, ``hidden`` by modality."""
    sizes = {"a": 2, "b": 1, "c": 2}
    model = Model({n: Stack(elements=s) for n, s in sizes.items()}, NeighbourPrior(Bernoulli(5)))
    parts = dict(zip(sizes, x.split([*sizes.values()], -1), strict=True))
    seen = {n: ~hidden[:, i, None].expand_as(parts[n]) for i, n in enumerate(sizes)}
    return model, Batch.of(parts, seen)


def states(codes: Tensor) -> Tensor:
    """How often each of the values of three bits occurs."""
    number = (codes[:, :3] * torch.tensor([4.0, 2.0, 1.0])).sum(-1).long()
    return number.bincount(minlength=8) / len(codes)


def test_discrete_codes_of_rows_with_holes_have_the_law_of_whole_ones() -> None:
    torch.manual_seed(0)
    hidden = torch.rand(ROWS, 3) < 0.4
    model, batch = in_three(bits_in_three(ROWS), hidden)
    codes = whole_codes(model, batch)
    assert len(codes) == (~hidden.all(-1)).sum()
    # bits of which no correlation tells; 36 % of the rows show all three
    frequency = states(bits_in_three(10**6))
    assert ((states(codes) - frequency).abs() < 4 * (frequency / (0.36 * ROWS)).sqrt()).all()
    assert set(codes.unique().tolist()) == {0.0, 1.0}


def test_what_is_hidden_of_discrete_codes_tells_nothing() -> None:
    torch.manual_seed(0)
    x, hidden = bits_in_three(200), torch.rand(200, 3) < 0.4
    seen = ~hidden.repeat_interleave(torch.tensor([2, 1, 2]), -1)
    found = []
    for rows in (x, torch.where(seen, x, 1 - x)):
        torch.manual_seed(1)
        found.append(whole_codes(*in_three(rows, hidden)))
    shown = seen.any(-1)
    assert torch.equal(*found)
    assert torch.equal(found[0][seen[shown]], x[shown][seen[shown]])


def test_discrete_codes_are_lent_where_no_row_is_whole() -> None:
    torch.manual_seed(0)
    number = torch.arange(ROWS) % 2
    hidden = torch.stack([torch.zeros(ROWS), number == 0, number == 1], -1).bool()
    x = bits_in_three(ROWS)
    codes = whole_codes(*in_three(x, hidden))
    frequency = states(bits_in_three(10**6))
    assert ((states(codes) - frequency).abs() < 4 * (frequency / (ROWS / 2)).sqrt()).all()
    assert torch.equal(codes[:, :2], x[:, :2])


def test_discrete_codes_with_nothing_in_common_are_lent_by_chance() -> None:
    torch.manual_seed(0)
    number = torch.arange(ROWS) % 3
    codes = whole_codes(*in_three(bits_in_three(ROWS), torch.eye(3)[number] == 0))
    a, b, c = 0.4, 0.9 * 0.48 + 0.1 * 0.52, 0.7  # each bit's share of ones
    error = codes.mean(0) - torch.tensor([a, a, b, c, c])
    assert (error.abs() < 4 * 0.5 * (ROWS / 3) ** -0.5).all()
    assert codes[:, [0, 2]].mT.corrcoef()[0, 1].abs() < 4 * (ROWS / 3) ** -0.5


def test_bits_that_nobody_shows_are_zero() -> None:
    hidden = torch.tensor([[False, False, True]]).expand(9, 3)
    x = bits_in_three(9)
    codes = whole_codes(*in_three(x, hidden))
    assert torch.equal(codes, torch.cat([x[:, :3], torch.zeros(9, 2)], -1))

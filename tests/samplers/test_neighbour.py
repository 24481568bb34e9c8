"""Nearest stored codes, and whether samples are copies."""

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genprop.kernel import run
from genprop.samplers import neighbour
from genprop.samplers.neighbour import NearestNeighbour, memorisation, nearest


def brute(codes: Tensor, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    distance = (queries[..., None, :] - codes).norm(dim=-1)
    value, index = distance.sort(dim=-1, stable=True)
    return value[..., :count], index[..., :count]


@settings(max_examples=25, deadline=None)
@given(
    codes=st.integers(1, 60),
    elements=st.sampled_from([1, 3, 16, 17, 40]),
    queries=st.integers(1, 5),
    count=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    blocks=st.booleans(),
)
def test_it_finds_what_comparing_all_with_all_finds(
    codes: int, elements: int, queries: int, count: int, seed: int, blocks: bool
) -> None:
    torch.manual_seed(seed)
    bank, asked = zoo.randn(codes, elements), zoo.randn(2, queries, elements)
    count = min(count, codes)
    patch = pytest.MonkeyPatch()
    if blocks:  # so many that a block holds a few codes only
        patch.setattr(neighbour, "NUMBERS_AT_ONCE", 64)
        patch.setattr(neighbour, "SHORT", 0)
    try:
        distance, index = nearest(bank, asked, count)
    finally:
        patch.undo()
    value, place = brute(bank, asked, count)
    torch.testing.assert_close(distance, value)
    assert torch.equal(index, place)


def test_an_approximate_search_finds_nearly_all_of_the_nearest() -> None:
    torch.manual_seed(0)
    centres = 3 * torch.randn(200, 20)
    codes = centres[torch.randint(200, (20_000,))] + torch.randn(20_000, 20)
    queries = codes[:500] + 0.5 * torch.randn(500, 20)
    distance, index = nearest(codes, queries, 5)
    found_distance, found = nearest(codes, queries, 5, exact=False)
    same = (index[:, :, None] == found[:, None]).any(-1)
    assert same[:, 0].float().mean() > 0.98
    assert same.float().mean() > 0.95
    assert (found_distance >= distance - 1e-5).all()
    assert torch.equal(nearest(codes, queries, 5, exact=False)[1], found)


@pytest.mark.parametrize("elements", [2, 50])
def test_a_copy_far_from_the_origin_is_at_distance_zero(elements: int) -> None:
    codes = 1000 + torch.randn(300, elements)
    distance, index = nearest(codes, codes[7:9])
    assert torch.equal(distance, torch.zeros(2, 1))
    assert index[:, 0].tolist() == [7, 8]


def test_chains_stay_on_the_stored_codes_and_reach_their_neighbours() -> None:
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [50.0, 0.0]])
    kernel = NearestNeighbour(codes, scale=0.5)
    torch.manual_seed(0)
    chain = run(kernel, codes[:1].repeat(300, 1), draws=20)
    assert (chain.draws[..., None, :] == codes).all(-1).any(-1).all()
    found = {tuple(code) for code in chain.draws.reshape(-1, 2).tolist()}
    assert found == {(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)}  # the fourth is 48 scales away
    assert torch.equal(chain.info["distance"] > 0, chain.info["distance"] >= 1)
    starts = kernel.start(400)
    assert (starts[:, None] == codes).all(-1).any(0).all()


def test_between_two_codes_a_chain_chooses_by_what_noise_makes_nearer() -> None:
    codes, scale = torch.tensor([[0.0], [1.0]]).double(), 0.7
    kernel = NearestNeighbour(codes, scale)
    moved = run(kernel, codes[:1].repeat(20_000, 1), draws=1).draws[:, 0, 0].mean()
    share = 1 - torch.distributions.Normal(0, 1).cdf(torch.tensor(0.5 / scale))
    assert (moved - share).abs() < 5 * (share * (1 - share) / 20_000).sqrt()


def test_a_learned_step_takes_the_place_of_the_search() -> None:
    kernel = NearestNeighbour(torch.zeros(1, 2), 0.0, reconstruct=lambda h: h / 2)
    draws = run(kernel, torch.ones(1, 2), draws=3).draws
    assert draws[0, :, 0].tolist() == [0.5, 0.25, 0.125]


def rows(n: int, elements: int = 10) -> Tensor:
    return torch.randn(n, elements)


@pytest.mark.parametrize("seed", range(5))
def test_new_rows_are_no_copies(seed: int) -> None:
    torch.manual_seed(seed)
    found = memorisation(rows(1000), rows(2000), rows(1000))
    assert not found.copies
    assert found.share < 0.05
    assert "no sign of copies" in str(found)
    for near, usual in zip(found.samples, found.held_out, strict=True):
        assert near == pytest.approx(usual, rel=0.2)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_copies_and_near_copies_are_flagged(share: float) -> None:
    training, samples = rows(2000), rows(1000)
    few = int(share * 1000)
    samples[:few] = training[:few] + 0.01 * torch.randn(few, 10)
    found = memorisation(samples, training, rows(1000))
    assert found.copies
    assert found.share == pytest.approx(share + 0.01 * (1 - share), abs=0.02)
    assert str(found).endswith("copies of training rows")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nearest(torch.zeros(0, 2), torch.zeros(1, 2)), "at least one"),
        (lambda: nearest(torch.zeros(3), torch.zeros(1, 2)), r"shape \(3,\)"),
        (lambda: nearest(torch.zeros(3, 2), torch.zeros(1, 4)), "codes have 2 elements.* has 4"),
        (lambda: nearest(torch.zeros(3, 2), torch.zeros(1, 2), 4), "4 nearest of 3 codes"),
        (lambda: nearest(torch.zeros(3, 2), torch.zeros(0, 2)), "at least one row"),
        (lambda: NearestNeighbour(torch.zeros(3, 2), -1.0), "scale of at least 0, but got -1"),
        (lambda: NearestNeighbour(torch.zeros(3, 2), float("nan")), "but got nan"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

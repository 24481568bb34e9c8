"""Every row's noise is its own, and as good as torch's."""

import numpy as np
import pytest
import torch
from scipy import stats

from genprop.tables.row_noise import RowNoise, distinct, keys_of

ROWS = 3000
KEYS = keys_of([torch.arange(ROWS)[:, None].double()], 1)


def drawn(keys: torch.Tensor, name: str) -> torch.Tensor:
    """Two draws of each row, ``(rows, 2)``."""
    rows = len(keys)
    p = torch.linspace(0.1, 0.9, 2).expand(rows, 2)
    with RowNoise(keys):
        made = {
            "rand": lambda: torch.rand(rows, 2),
            "randn": lambda: torch.randn((rows, 2), dtype=torch.float64),
            "rand_like": lambda: torch.rand_like(p),
            "randn_like": lambda: torch.randn_like(p),
            "bernoulli": lambda: torch.bernoulli(p),
            "exponential": lambda: torch.empty(rows, 2).exponential_(),
            "multinomial": lambda: torch.multinomial(p, 2, replacement=True).double(),
            "poisson": lambda: torch.poisson(10 * p),
            "gamma": lambda: torch._standard_gamma(p.clone()),
        }[name]()
    return made


NAMES = ("rand", "randn", "rand_like", "randn_like", "bernoulli")
NAMES += ("exponential", "multinomial", "poisson", "gamma")
every_function = pytest.mark.parametrize("name", NAMES)


@every_function
def test_a_row_draws_the_same_in_any_batch_and_order(name: str) -> None:
    whole = drawn(KEYS[:50], name)
    part = drawn(KEYS[:50].flip(0)[3:20], name)
    assert torch.equal(whole.flip(0)[3:20], part)
    assert not torch.equal(whole, drawn(KEYS[50:100], name))


LAWS = {
    "rand": stats.uniform(),
    "randn": stats.norm(),
    "rand_like": stats.uniform(),
    "randn_like": stats.norm(),
    "exponential": stats.expon(),
    "gamma": stats.gamma(0.1),
}


@pytest.mark.parametrize("name", LAWS)
def test_continuous_draws_have_their_laws(name: str) -> None:
    first = drawn(KEYS, name)[:, 0].double().numpy()
    # below this in 99.9 % of all seeds, and the seed is fixed
    assert stats.kstest(first, LAWS[name].cdf).statistic < 1.95 / ROWS**0.5


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("bernoulli", stats.bernoulli(0.1)),
        ("poisson", stats.poisson(1.0)),
        ("multinomial", stats.bernoulli(0.9)),
    ],
)
def test_whole_numbers_have_their_laws(name: str, law) -> None:
    first = drawn(KEYS, name)[:, 0].numpy()
    counted = np.bincount(first.astype(int), minlength=8)[:8]
    expected = ROWS * law.pmf(np.arange(8))
    spread = np.sqrt(expected + 1e-9)
    assert (np.abs(counted - expected) <= 4 * spread + 1).all()


def test_places_calls_and_rows_are_independent() -> None:
    with RowNoise(KEYS):
        one, two = torch.randn(2, ROWS, 3).double(), torch.randn(ROWS, 2).double()
    series = np.column_stack([one.movedim(1, 0).reshape(ROWS, 6), two])
    correlation = np.corrcoef(series.T) - np.eye(8)
    assert np.abs(correlation).max() < 4.5 / ROWS**0.5
    lagged = np.corrcoef(series[1:, 0], series[:-1, 0])[0, 1]
    assert abs(lagged) < 4.5 / ROWS**0.5


def test_what_has_no_dimension_of_rows_is_torchs_own() -> None:
    torch.manual_seed(0)
    expected = torch.randn(7)
    torch.manual_seed(0)
    with RowNoise(KEYS):
        assert torch.equal(torch.randn(7), expected)
    state = torch.get_rng_state()
    with RowNoise(KEYS):
        torch.randn(ROWS)
    assert torch.equal(state, torch.get_rng_state())


def test_keys_differ_by_content_place_seed_and_earlier_equals() -> None:
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [0.0, 0.0]])
    keys = keys_of([x], 0)
    assert len(set(keys.tolist())) == 4
    assert not (keys == keys_of([x], 1)).any()
    assert keys_of([x[2:]], 0)[0] == keys[0]


def test_a_size_of_its_own() -> None:
    assert distinct(5, {5, 6}) == 7
    assert distinct(4, set()) == 4

"""The net that estimates noise, and its divergence."""

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import jacobian

from genprop.denoiser import Denoiser

ELEMENTS = 4


def net() -> Denoiser:
    return zoo.perturbed(Denoiser(ELEMENTS, units=(7, 5)))


def pattern(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    """One random pattern: what is noisy of it, and what is told of the rest of all rows."""
    state = torch.randint(3, (ELEMENTS,), generator=torch.Generator().manual_seed(seed))
    flags = torch.cat([state == 1, state == 2]).double().expand(rows, -1)
    held = torch.where(state == 1, zoo.randn(rows, ELEMENTS), 0)
    return state == 0, torch.cat([flags, held], -1)


def jacobians(denoiser: Denoiser, z: Tensor, level: Tensor, rest: Tensor) -> Tensor:
    rows = zip(z, level, rest, strict=True)
    return torch.stack([jacobian(lambda x, at=at, s=s: denoiser(x, at, s), x) for x, at, s in rows])


def test_it_starts_without_a_word() -> None:
    assert torch.equal(Denoiser(3)(torch.randn(5, 3), torch.zeros(5, 1)), torch.zeros(5, 3))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99))
def test_trace_is_the_trace_of_the_jacobian(seed: int) -> None:
    denoiser = net()
    z, level = zoo.randn(3, ELEMENTS), 4 * zoo.randn(3, 1)
    noisy, rest = pattern(seed, 3)
    u, trace = denoiser.with_trace(z, level, denoiser.coupling(noisy), rest)
    torch.testing.assert_close(u, denoiser(z, level, rest))
    exact = jacobians(denoiser, z, level, rest).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(trace, exact[:, noisy].sum(-1))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99))
def test_products_are_those_with_the_jacobian(seed: int) -> None:
    denoiser = net()
    z, level, vectors = zoo.randn(3, ELEMENTS), 4 * zoo.randn(3, 1), zoo.randn(6, 3, ELEMENTS)
    rest = pattern(seed, 3)[1]
    u, products = denoiser.with_products(z, level, vectors, rest)
    torch.testing.assert_close(u, denoiser(z, level, rest))
    exact = jacobians(denoiser, z, level, rest)
    torch.testing.assert_close(products, torch.einsum("kri,rij,krj->kr", vectors, exact, vectors))


def test_one_level_for_all_rows_is_that_level_in_each() -> None:
    denoiser = net()
    z = zoo.randn(5, ELEMENTS)
    one = denoiser(z, torch.tensor(1.5).double())
    torch.testing.assert_close(one, denoiser(z, torch.full((5, 1), 1.5).double()))


def test_it_falls_silent_with_the_noise() -> None:
    denoiser = net()
    z = zoo.randn(50, ELEMENTS)
    at_ten, at_twelve = (denoiser(z, torch.tensor(x).double()) for x in (10.0, 12.0))
    # in proportion to σ, but for what the angle's waves still change
    ratio = at_twelve.norm() / at_ten.norm()
    assert ratio.item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.1)


def test_impossible_nets_are_refused() -> None:
    for elements, units in ((0, (3, 3)), (2, (3,)), (2, (3, 0)), (2, (3, 3, 3))):
        with pytest.raises(ValueError, match="two positive widths of hidden layers, but got"):
            Denoiser(elements, units)

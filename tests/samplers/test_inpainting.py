"""Inpainting by NICE's schedule."""

import math

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from genprop.samplers.inpainting import inpaint


def flat(x: Tensor) -> Tensor:
    return 0 * x.sum(-1)


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


@settings(deadline=None, max_examples=30)
@given(
    shape=st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
    steps=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_what_is_seen_stays_and_the_rest_is_between_the_bounds(
    shape: tuple[int, ...], steps: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, seen = 5 * zoo.randn(*shape), torch.rand(shape) < 0.5
    filled = inpaint(normal, x, seen, steps, low=-1.0, high=2.0)
    assert torch.equal(filled[seen], x[seen])
    assert ((filled[~seen] >= -1) & (filled[~seen] <= 2)).all()


@pytest.mark.parametrize("scale", [1.0, 0.3, "elementwise"])
def test_every_step_is_the_papers(scale: float | str) -> None:
    x, seen, slope = zoo.randn(4, 3), torch.tensor([True, False, False]), zoo.randn(3)
    s = zoo.widths(3) if scale == "elementwise" else scale
    torch.manual_seed(1)
    found = inpaint(lambda h: h @ slope, x, seen, 5, low=-100.0, high=100.0, scale=s)
    torch.manual_seed(1)
    expected = x
    for i in range(5):
        step = 10 / (100 + i) * (s**2 * slope + s * torch.randn_like(x))
        expected = torch.where(seen, x, expected + step)
    torch.testing.assert_close(found, expected)


def test_steep_densities_swing_between_the_bounds_unless_the_scale_is_small() -> None:
    def steep(h: Tensor) -> Tensor:
        return -0.5 * ((h[..., 0] - 0.4) / 0.01).square()

    x, seen = torch.rand(50, 1), torch.zeros(1, dtype=torch.bool)
    swinging = inpaint(steep, x, seen, 100)
    assert ((swinging == 0) | (swinging == 1)).all()
    settled = inpaint(steep, x, seen, 1000, scale=0.01)
    torch.testing.assert_close(settled, torch.full_like(x, 0.4), atol=0.01, rtol=0)


def test_it_comes_to_the_mode_given_what_is_seen() -> None:
    precision = torch.linalg.inv(torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double())
    x, seen = torch.tensor([[1.5, 0.0]]).double().expand(500, 2), torch.tensor([True, False])
    filled = inpaint(lambda h: -0.5 * (h @ precision * h).sum(-1), x, seen, 1000, -5.0, 5.0)[:, 1]
    # with α = 10 / 1100 and curvature 1 / 0.36, an AR(1) process whose variance is about α·0.36/2
    assert filled.mean().item() == pytest.approx(0.8 * 1.5, abs=0.01)
    assert 0.02 < filled.std().item() < 0.07


def test_no_gradient_is_kept() -> None:
    net = nn.Linear(2, 1)
    x = torch.zeros(3, 2, requires_grad=True)
    filled = inpaint(lambda h: net(h)[..., 0], x, torch.tensor([True, False]), 3)
    assert not filled.requires_grad
    assert x.grad is None
    assert net.weight.grad is None


def test_a_place_without_a_slope_is_left_by_noise() -> None:
    filled = inpaint(lambda h: h.sum(-1).sqrt() - 3, torch.zeros(50, 1), torch.zeros(1).bool(), 20)
    assert torch.isfinite(filled).all()
    assert (
        inpaint(lambda h: math.nan * h.sum(-1), torch.zeros(5, 1), torch.zeros(1).bool(), 3)
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"low": 1.0, "high": 1.0}, {"low": math.nan}])
def test_impossible_settings_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least one step and low < high, but got"):
        inpaint(flat, torch.zeros(2), torch.tensor([True, False]), **arguments)

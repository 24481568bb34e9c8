"""A batch of joint Gaussians is its members, one by one; one alone is in test_distributions.py."""

from itertools import product

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop import by_pattern, marginals
from genprop.distributions import IndependentNormal
from genprop.multivariate import JointNormal

ELEMENTS = 3
LAWS = 4
MASKS = zoo.patterns(elements=ELEMENTS)
DRAWS = 20_000

# the shapes that loc and scale_tril may have before the event, and the batch they make
SHAPES = [
    ((LAWS,), (LAWS,), (LAWS,)),
    ((LAWS,), (), (LAWS,)),
    ((), (LAWS,), (LAWS,)),
    ((2, LAWS), (LAWS,), (2, LAWS)),
    ((2, 1), (1, LAWS), (2, LAWS)),
]


def triangular(*shape: int, elements: int = ELEMENTS) -> Tensor:
    below = zoo.randn(*shape, elements, elements).tril(-1)
    return below + torch.diag_embed(zoo.widths(*shape, elements))


def batch(loc: tuple[int, ...], tril: tuple[int, ...]) -> JointNormal:
    return JointNormal(zoo.randn(*loc, ELEMENTS), triangular(*tril))


def member(law: JointNormal, place: tuple[int, ...]) -> JointNormal:
    """One law of a batch."""
    whole = law.scale_tril.expand(*law.batch_shape, ELEMENTS, ELEMENTS)
    return JointNormal(law.loc[place], whole[place])


def places(law: JointNormal) -> list[tuple[int, ...]]:
    return list(product(*map(range, law.batch_shape)))


@pytest.mark.parametrize(("loc", "tril", "shape"), SHAPES)
@pytest.mark.parametrize("rows", [(), (5,), (3, 5)])
def test_each_value_meets_every_law(
    loc: tuple[int, ...], tril: tuple[int, ...], shape: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    law = batch(loc, tril)
    x = zoo.randn(*rows, *[1] * len(shape), ELEMENTS)
    seen = torch.rand(x.shape) < 0.6
    width = zoo.widths(ELEMENTS)
    assert law.batch_shape == shape
    for place in places(law):
        one, at = member(law, place), (..., *place)
        flat, mask = x.reshape(*rows, ELEMENTS), seen.reshape(*rows, ELEMENTS)
        given, alone = law.given(x, seen), one.given(flat, mask)
        torch.testing.assert_close(law.log_prob(x)[at], one.log_prob(flat))
        torch.testing.assert_close(law.log_prob(x, seen)[at], one.log_prob(flat, mask))
        torch.testing.assert_close(given.log_prob(x)[at], alone.log_prob(flat))
        torch.testing.assert_close(given.mean[(*at, slice(None))], alone.mean)
        noisy = law.denoise(x, width)[(*at, slice(None))]
        torch.testing.assert_close(noisy, one.denoise(flat, width))
        torch.testing.assert_close(law.variance[place], one.covariance.diagonal())


@settings(max_examples=40, deadline=None)
@given(
    elements=st.integers(1, 4),
    laws=st.integers(1, 3),
    rows=st.integers(0, 4),
    own=st.booleans(),
    seed=st.integers(0, 999),
)
def test_a_mask_may_differ_from_law_to_law(
    elements: int, laws: int, rows: int, own: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    law = JointNormal(zoo.randn(laws, elements), triangular(laws, elements=elements))
    x = zoo.randn(rows, laws if own else 1, elements)
    seen = torch.rand(rows, laws if own else 1, elements) < 0.5
    marginal, mean = law.log_prob(x, seen), law.given(x, seen).mean
    assert marginal.shape == (rows, laws)
    assert mean.shape == law.given(x, seen).sample().shape == (rows, laws, elements)
    for row, k in product(range(rows), range(laws)):
        one = JointNormal(law.loc[k], law.scale_tril[k])
        value, mask = x[row, k if own else 0], seen[row, k if own else 0]
        torch.testing.assert_close(marginal[row, k], one.log_prob(value, mask))
        torch.testing.assert_close(mean[row, k], one.given(value, mask).mean)


def test_draws_have_each_laws_mean_and_covariance() -> None:
    law = batch((LAWS,), (LAWS,))
    away = law.sample((DRAWS,)) - law.mean
    products = away[..., :, None] * away[..., None, :]
    assert (away.mean(0).abs() < 5 * away.std(0) / DRAWS**0.5).all()
    assert ((products.mean(0) - law.covariance).abs() < 5 * products.std(0) / DRAWS**0.5).all()


def test_draws_given_what_is_seen_have_each_conditionals_mean() -> None:
    law, x = batch((LAWS,), (LAWS,)), zoo.randn(len(MASKS), 1, ELEMENTS)
    given = law.given(x, MASKS[:, None])
    draws = given.sample((DRAWS,))
    assert draws.shape == (DRAWS, len(MASKS), LAWS, ELEMENTS)
    error = 5 * draws.std(0) / DRAWS**0.5 + 1e-9
    assert ((draws.mean(0) - given.mean).abs() < error).all()


@pytest.mark.parametrize("scale", [0.7, "scalar", "elementwise", "every row"])
def test_smoothed_is_the_law_after_noise(scale: float | str) -> None:
    law = batch((LAWS,), (LAWS,))
    kinds = {
        "scalar": torch.tensor(0.7).double(),
        "elementwise": zoo.widths(ELEMENTS),
        "every row": zoo.widths(5, 1, ELEMENTS),
    }
    width = kinds.get(str(scale), scale)
    noise = torch.diag_embed(torch.as_tensor(width).expand(5, LAWS, ELEMENTS).square())
    y = zoo.randn(5, 1, ELEMENTS)
    expected = MultivariateNormal(law.loc, law.covariance + noise)
    torch.testing.assert_close(law.smoothed(width).log_prob(y), expected.log_prob(y))


def test_smoothed_products_are_the_law_after_noise() -> None:
    law, width = IndependentNormal(zoo.randn(LAWS, 2), zoo.widths(2)), zoo.widths(5, 1, 2)
    y = zoo.randn(5, 1, 2)
    spread = (law.scale.square() + width.square()).sqrt()
    expected = torch.distributions.Normal(law.loc, spread).log_prob(y).sum(-1)
    torch.testing.assert_close(law.smoothed(width).log_prob(y), expected)


def test_parameters_make_the_law_anew() -> None:
    law, x = batch((LAWS,), (LAWS,)), zoo.randn(5, 1, ELEMENTS)
    picked = law.with_parameters(*(p[[2, 0]] for p in law.parameters))
    torch.testing.assert_close(picked.log_prob(x), law.log_prob(x)[:, [2, 0]])


@pytest.mark.parametrize(("loc", "tril", "shape"), SHAPES)
@pytest.mark.parametrize("rows", [(), (0,), (5,), (3, 5)])
@pytest.mark.parametrize(
    ("at_once", "sizes"),
    [(0, 8), (2**22, 8), (2**22, 1), (2**22, 2)],
    ids=["by pattern", "at once", "of one size", "of two sizes"],
)
def test_the_marginals_gradient_is_that_of_finite_differences(
    loc: tuple[int, ...],
    tril: tuple[int, ...],
    shape: tuple[int, ...],
    rows: tuple[int, ...],
    at_once: int,
    sizes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(by_pattern, "NUMBERS_AT_ONCE", at_once)
    monkeypatch.setattr(marginals, "SIZES", sizes)
    law = batch(loc, tril)
    leaves = [p.clone().requires_grad_() for p in law.parameters]
    x = zoo.randn(*rows, *[1] * len(shape), ELEMENTS).requires_grad_()
    seen = torch.rand(x.shape) < 0.6

    def marginal(x: Tensor, *parameters: Tensor) -> Tensor:
        return law.with_parameters(*parameters).log_prob(x, seen)

    assert torch.autograd.gradcheck(marginal, (x, *leaves))


def test_marginals_of_many_sizes_are_those_of_each_row() -> None:
    elements, rows = 20, 60
    law = JointNormal(zoo.randn(elements), triangular(elements=elements))
    x, seen = zoo.randn(rows, elements), torch.rand(rows, elements) < torch.rand(rows, 1)
    assert len(seen.sum(-1).unique()) > marginals.SIZES
    for value, mask, found in zip(x, seen, law.log_prob(x, seen), strict=True):
        part = law.covariance[mask][:, mask]
        truth = MultivariateNormal(law.loc[mask], part).log_prob(value[mask]) if mask.any() else 0
        torch.testing.assert_close(found, torch.as_tensor(truth, dtype=found.dtype))


def test_a_second_derivative_of_a_marginal_is_refused() -> None:
    law, x = batch((), ()), zoo.randn(5, ELEMENTS).requires_grad_()
    marginal = law.log_prob(x, MASKS[-1:]).sum()
    (once,) = torch.autograd.grad(marginal, x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(once.sum(), x)


def test_full_covariances_need_no_matrix_for_every_row_and_law() -> None:
    elements, laws, rows = 24, 8, 4096
    law = JointNormal(zoo.randn(laws, elements), triangular(laws, elements=elements))
    x, seen = zoo.randn(rows, 1, elements), zoo.patterns(elements=2)[torch.arange(rows) % 4]
    x, mask = x.requires_grad_(), seen.repeat(1, elements // 2)[:, None]
    with torch.profiler.profile(profile_memory=True) as profiled:
        law.log_prob(x, mask).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profiled.events())
    assert largest <= 2 * rows * laws * elements * x.element_size()

"""Mixtures of Gaussians: what they say is what the sum over components says."""

import math

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from genprop import by_pattern, mixture
from genprop.distributions import IndependentNormal
from genprop.mixture import Components, MixtureNormal
from genprop.multivariate import JointNormal

DRAWS = 20_000
ELEMENTS = 2
MASKS = zoo.patterns(elements=ELEMENTS)
STEP = 0.05
AXIS = STEP * torch.arange(-240, 241, dtype=torch.float64)


def triangular(*shape: int) -> Tensor:
    return zoo.randn(*shape).tril(-1) + torch.diag_embed(zoo.widths(*shape[:-1]))


def diagonal(*shape: int, elements: int = ELEMENTS) -> IndependentNormal:
    return IndependentNormal(2 * zoo.randn(*shape, elements), zoo.widths(*shape, elements))


KINDS = {
    "diagonal": diagonal,
    "one scale": lambda *shape: IndependentNormal(2 * zoo.randn(*shape, ELEMENTS), zoo.widths(2)),
    "full": lambda *shape: JointNormal(
        2 * zoo.randn(*shape, ELEMENTS), triangular(*shape, ELEMENTS, ELEMENTS)
    ),
    "one covariance": lambda *shape: JointNormal(
        2 * zoo.randn(*shape, ELEMENTS), triangular(ELEMENTS, ELEMENTS)
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, *shape: int) -> MixtureNormal:
    shape = shape or (3,)
    return MixtureNormal(zoo.randn(*shape).log_softmax(-1), KINDS[kind](*shape))


def covariance(components: Components) -> Tensor:
    if isinstance(components, JointNormal):
        return components.covariance
    return torch.diag_embed(components.variance)


def torchs(law: MixtureNormal) -> MixtureSameFamily:
    full = covariance(law.components).expand(*law.log_weights.shape, ELEMENTS, ELEMENTS)
    parts = MultivariateNormal(law.components.mean, full)
    return MixtureSameFamily(Categorical(logits=law.log_weights), parts)


@every_kind
@pytest.mark.parametrize("rows", [(), (5,)])
def test_it_is_that_of_torch(kind: str, rows: tuple[int, ...]) -> None:
    law = make(kind, *rows, 3)
    x, expected = zoo.randn(4, *rows, ELEMENTS), torchs(law)
    torch.testing.assert_close(law.log_prob(x), expected.log_prob(x))
    torch.testing.assert_close(law.mean, expected.mean)
    torch.testing.assert_close(law.variance, expected.variance)
    assert law.batch_shape == rows
    assert "MixtureNormal" in repr(law)


@every_kind
@pytest.mark.parametrize("rows", [(), (3,)])
def test_draws_have_its_mean_and_covariance(kind: str, rows: tuple[int, ...]) -> None:
    law = make(kind, *rows, 3)
    draws = law.sample((DRAWS,))
    assert draws.shape == (DRAWS, *rows, ELEMENTS)
    error = 5 * draws.std(0) / math.sqrt(DRAWS)
    assert ((draws.mean(0) - law.mean).abs() < error).all()
    products = (draws - law.mean).prod(-1)
    apart = law.components.mean - law.mean[..., None, :]
    parts = covariance(law.components)[..., 0, 1] + apart.prod(-1)
    expected = (law.weights * parts).sum(-1)
    error = 5 * products.std(0) / math.sqrt(DRAWS)
    assert ((products.mean(0) - expected).abs() < error).all()


def test_a_draw_costs_no_more_where_there_are_more_components() -> None:
    # drawn of every component, these would be 40 gigabytes
    many, elements = 100_000, 50
    loc = torch.arange(many)[:, None].expand(many, elements).float()
    law = MixtureNormal(torch.zeros(many), IndependentNormal(loc, torch.full((elements,), 1e-6)))
    draws = law.sample((1000,))
    assert draws.shape == (1000, elements)
    assert (draws.std(-1) < 1e-1).all()
    assert len(draws[:, 0].round().unique()) > 900


@pytest.mark.parametrize("kind", ["full", "one covariance"])
@pytest.mark.parametrize("rows", [(), (len(MASKS),)])
def test_draws_by_component_are_those_with_a_matrix_each(
    kind: str, rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding apart."""
    law, x = make(kind, *rows, 3), zoo.randn(len(MASKS), ELEMENTS)
    found = []
    for at_once in (2**30, 0):
        monkeypatch.setattr(by_pattern, "NUMBERS_AT_ONCE", at_once)
        torch.manual_seed(0)
        found.append((law.sample((9,)), law.given(x, MASKS).sample((2, 9))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_draws_of_full_covariances_take_little_memory() -> None:
    # with a matrix for each draw these would be 32 gigabytes
    law = MixtureNormal(torch.zeros(4), JointNormal(torch.zeros(4, 200), torch.eye(200)[None]))
    x, seen = torch.ones(200), torch.arange(200) < 100
    draws = law.given(x, seen).sample((200_000,))
    assert (draws[:, :100] == 1).all()
    # 2e7 standard normals
    torch.testing.assert_close(draws[:, 100:].var(), torch.tensor(1.0), atol=2e-3, rtol=0)


def test_nothing_can_be_drawn() -> None:
    assert make("diagonal").sample((0, 2)).shape == (0, 2, ELEMENTS)


@every_kind
def test_every_row_may_have_a_mixture_of_its_own(kind: str) -> None:
    law, x = make(kind, len(MASKS), 3), zoo.randn(2, len(MASKS), ELEMENTS)
    width = zoo.widths(len(MASKS), ELEMENTS)
    given = law.given(x, MASKS)
    for row, seen in enumerate(MASKS):
        parts = [p if p.ndim < 3 else p[row] for p in law.components.parameters]
        one = MixtureNormal(law.log_weights[row], law.components.with_parameters(*parts))
        alone = one.given(x[:, row], seen)
        torch.testing.assert_close(law.log_prob(x, MASKS)[:, row], one.log_prob(x[:, row], seen))
        torch.testing.assert_close(
            law.denoise(x, width)[:, row], one.denoise(x[:, row], width[row])
        )
        torch.testing.assert_close(given.mean[:, row], alone.mean)
        torch.testing.assert_close(given.log_prob(x)[:, row], alone.log_prob(x[:, row]))


@every_kind
@pytest.mark.parametrize("seen", MASKS, ids=str)
def test_conditionals_are_those_of_a_grid(kind: str, seen: Tensor) -> None:
    law, x = make(kind), zoo.randn(ELEMENTS)
    axes = [v[None] if held else AXIS for v, held in zip(x, seen, strict=True)]
    whole = torch.cartesian_prod(*axes)
    log_weight = int((~seen).sum()) * math.log(STEP)
    p = torchs(law).log_prob(whole) + log_weight
    given = law.given(x, seen)
    torch.testing.assert_close(law.log_prob(x, seen), p.logsumexp(0), atol=1e-6, rtol=0)
    expected = p.log_softmax(0) - log_weight
    torch.testing.assert_close(given.log_prob(whole), expected, atol=1e-6, rtol=0)
    mean = p.softmax(0) @ whole
    torch.testing.assert_close(given.mean, mean, atol=1e-6, rtol=0)
    draws = given.sample((DRAWS,))
    for found, power in ((draws, whole), (draws.square(), whole.square())):
        # the seen elements do not vary, and their mean is rounded
        error = 5 * found.std(0) / math.sqrt(DRAWS) + 1e-6
        assert ((found.mean(0) - p.softmax(0) @ power).abs() < error).all()


@every_kind
@pytest.mark.parametrize("scale", [0.3, "elementwise", "every row"])
def test_it_denoises_by_tweedies_formula(kind: str, scale: float | str) -> None:
    law = make(kind)
    kinds = {"elementwise": zoo.widths(ELEMENTS), "every row": zoo.widths(5, ELEMENTS)}
    width = kinds.get(str(scale), torch.tensor(0.3).double())
    y = (2 * zoo.randn(4, 5, ELEMENTS)).requires_grad_()
    (slope,) = torch.autograd.grad(law.smoothed(width).log_prob(y).sum(), y)
    given = float(scale) if isinstance(scale, float) else width
    torch.testing.assert_close(law.denoise(y, given), y + width**2 * slope)


@every_kind
def test_what_weighs_nothing_is_not_there(kind: str) -> None:
    law, x = make(kind, 3), zoo.randn(len(MASKS), ELEMENTS)
    log_weights = law.log_weights.clone()
    log_weights[1] = -math.inf
    without = MixtureNormal(log_weights, law.components)
    kept = [p if p.ndim < 2 or len(p) != 3 else p[[0, 2]] for p in law.components.parameters]
    less = MixtureNormal(log_weights[[0, 2]], law.components.with_parameters(*kept))
    for found, expected in (
        (without.log_prob(x), less.log_prob(x)),
        (without.log_prob(x, MASKS), less.log_prob(x, MASKS)),
        (without.given(x, MASKS).mean, less.given(x, MASKS).mean),
        (without.denoise(x, 0.5), less.denoise(x, 0.5)),
    ):
        torch.testing.assert_close(found, expected)
    far = MixtureNormal(
        torch.tensor([0.0, -math.inf]), IndependentNormal(1e9 * torch.eye(2), torch.ones(2))
    )
    assert (far.sample((1000,))[:, 0] > 1e8).all()


@every_kind
def test_a_part_of_a_mixture_has_its_share_of_the_density(kind: str) -> None:
    law, x = make(kind), zoo.randn(len(MASKS), ELEMENTS)
    part = MixtureNormal(law.log_weights - 2.0, law.components)
    torch.testing.assert_close(part.log_prob(x, MASKS), law.log_prob(x, MASKS) - 2)
    torch.testing.assert_close(part.mean, law.mean)
    torch.testing.assert_close(part.variance, law.variance)
    torch.testing.assert_close(part.given(x, MASKS).log_prob(x), law.given(x, MASKS).log_prob(x))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(1, 4), max_size=3),
    masked=st.sampled_from(["no", "all", "last", "one"]),
    kind=st.sampled_from(list(KINDS)),
    numbers=st.integers(1, 60),
)
def test_parts_make_the_whole(rows: list[int], masked: str, kind: str, numbers: int) -> None:
    law, x = make(kind), zoo.randn(*rows, ELEMENTS)
    shapes = {"all": x.shape, "last": x.shape[-2:], "one": x.shape[-1:]}
    seen = None if masked == "no" else torch.rand(shapes[masked]) < 0.5
    whole = law.joint(x, seen).logsumexp(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "NUMBERS_AT_ONCE", numbers)
        found = law.log_prob(x, seen)
    assert found.shape == torch.Size(rows)
    torch.testing.assert_close(found, whole)


@every_kind
def test_what_is_not_seen_does_not_count(kind: str) -> None:
    law, x = make(kind), zoo.randn(len(MASKS), ELEMENTS)
    for garbage in (1e30, math.nan):
        other = torch.where(MASKS, x, garbage)
        assert torch.equal(law.log_prob(x, MASKS), law.log_prob(other, MASKS))
        assert torch.equal(law.given(x, MASKS).mean, law.given(other, MASKS).mean)
        assert law.given(other, MASKS).sample((3,)).isfinite().all()

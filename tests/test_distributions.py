import math

import pytest
import torch
import zoo
from torch import Tensor, distributions

from genprop.distributions import (
    Discrete,
    Held,
    IndependentBernoulli,
    IndependentCategorical,
    IndependentNormal,
    Product,
)
from genprop.logistic import IndependentLogistic
from genprop.multivariate import JointNormal

GRID = torch.linspace(-60, 60, 24001, dtype=torch.float64)
DRAWS = 20_000
SIGMAS = 5

every_law = pytest.mark.parametrize("name", zoo.laws())
every_continuous = pytest.mark.parametrize("name", zoo.continuous_laws())
every_discrete = pytest.mark.parametrize("name", zoo.discrete_laws())


def make(name: str) -> Product:
    return zoo.laws()[name]()


def points(law: Product) -> tuple[Tensor, Tensor]:
    """Values x, ``(points, 1, elements)``, and the log of what each of them weighs in a sum.

    The whole support of a discrete law; of a continuous one a grid, the same in every element.
    """
    if isinstance(law, Discrete):
        x = zoo.support(law)
        return x[:, None], torch.zeros(len(x), dtype=x.dtype)
    x = GRID[:, None].expand(-1, law.event_shape[0])
    return x[:, None], (GRID[1] - GRID[0]).log().expand(len(GRID))


def value(law: Product, rows: int = zoo.ROWS) -> Tensor:
    """A value of the law for each row."""
    return law.sample()[:rows]


@every_continuous
def test_every_element_has_total_probability_one(name: str) -> None:
    law = make(name)
    x, log_weight = points(law)
    total = (law.elements(x) + log_weight[:, None, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-9, rtol=0)


@every_discrete
def test_all_values_have_total_probability_one(name: str) -> None:
    law = make(name)
    total = law.log_prob(points(law)[0]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


def as_torch(law: Product) -> list[distributions.Distribution]:
    """The same law by torch.distributions, in pieces over consecutive elements."""
    if isinstance(law, IndependentNormal):
        pieces = [distributions.Normal(law.loc, law.scale)]
    elif isinstance(law, IndependentBernoulli):
        pieces = [distributions.Bernoulli(logits=law.logits)]
    elif isinstance(law, IndependentCategorical):
        parts = law.logits.split(law.sizes, -1)
        return [distributions.OneHotCategorical(logits=logits) for logits in parts]
    else:
        assert isinstance(law, IndependentLogistic)
        uniform = distributions.Uniform(torch.zeros_like(law.loc), torch.ones_like(law.loc))
        moves = [
            distributions.SigmoidTransform().inv,
            distributions.AffineTransform(law.loc, law.scale),
        ]
        pieces = [distributions.TransformedDistribution(uniform, moves)]
    return [distributions.Independent(piece, 1) for piece in pieces]


@every_law
def test_log_prob_is_that_of_torch(name: str) -> None:
    law = make(name)
    x = law.sample((4,))
    pieces = as_torch(law)
    parts = x.split([piece.event_shape[0] for piece in pieces], -1)
    expected = sum(piece.log_prob(part) for piece, part in zip(pieces, parts, strict=True))
    torch.testing.assert_close(law.log_prob(x), expected)


@every_law
@pytest.mark.parametrize("shape", [(), (5,), (3, 2)])
def test_draws_have_sample_then_batch_then_event_shape(name: str, shape: tuple[int, ...]) -> None:
    law = make(name)
    x = law.sample(shape)
    assert x.shape == (*shape, *law.batch_shape, *law.event_shape)
    assert law.log_prob(x).shape == (*shape, *law.batch_shape)
    assert law.entropy().shape == law.batch_shape
    assert law.mean.shape == law.mode.shape == law.variance.shape == (zoo.ROWS, x.shape[-1])


@every_law
@pytest.mark.parametrize("shape", [(), (4,)])
def test_log_prob_is_the_sum_over_elements(name: str, shape: tuple[int, ...]) -> None:
    law = make(name)
    x = law.sample(shape)
    everything = torch.ones(x.shape, dtype=torch.bool)
    torch.testing.assert_close(law.log_prob(x), law.elements(x).sum(-1))
    torch.testing.assert_close(law.log_prob(x), law.log_prob(x, everything))


@every_continuous
@pytest.mark.parametrize("shape", [(), (4,)])
def test_log_prob_of_own_draws_has_the_gradient_of_minus_the_entropy(
    name: str, shape: tuple[int, ...]
) -> None:
    law = zoo.continuous_laws()[name]()
    loc, scale = parameters = [p.requires_grad_() for p in law.parameters]
    log_prob = law.log_prob(law.rsample(shape))
    pull = zoo.randn(*log_prob.shape)
    (found,) = torch.autograd.grad((-pull * law.entropy()).sum(), scale)
    zero, expected = torch.autograd.grad((pull * log_prob).sum(), parameters)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(zero, torch.zeros_like(loc))


def assert_mean(samples: Tensor, expected: Tensor) -> None:
    """Within five standard errors of the mean of the first dimension."""
    error = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - expected).abs() <= SIGMAS * error + 1e-12).all()


@every_law
def test_draws_have_the_mean_and_variance(name: str) -> None:
    law = make(name)
    x = law.sample((DRAWS,))
    assert_mean(x, law.mean)
    assert_mean((x - law.mean).square(), law.variance)


@every_law
def test_laws_can_be_printed(name: str) -> None:
    law = make(name)
    assert type(law).__name__ in repr(law)
    assert "Held" in repr(law.given(law.sample(), zoo.patterns(law)[0]))


@every_discrete
def test_mode_is_the_most_probable_value(name: str) -> None:
    law = make(name)
    best = law.log_prob(points(law)[0]).max(0).values
    torch.testing.assert_close(law.log_prob(law.mode), best)


@every_continuous
def test_no_value_is_more_probable_than_the_mode(name: str) -> None:
    law = make(name)
    assert (law.log_prob(points(law)[0]) <= law.log_prob(law.mode)).all()


@every_continuous
def test_entropy_is_minus_the_mean_log_density(name: str) -> None:
    law = make(name)
    x, log_weight = points(law)
    log_p = law.elements(x)
    terms = -(log_p + log_weight[:, None, None]).exp() * log_p
    torch.testing.assert_close(law.entropy(), terms.sum((0, 2)), atol=1e-8, rtol=0)


@every_discrete
def test_entropy_is_minus_the_mean_log_probability(name: str) -> None:
    law = make(name)
    log_p = law.log_prob(points(law)[0])
    torch.testing.assert_close(law.entropy(), -(log_p.exp() * log_p).sum(0))


@every_discrete
def test_masked_log_prob_sums_the_unseen_out(name: str) -> None:
    law = make(name)
    x, all_values = value(law), points(law)[0]
    for seen in zoo.patterns(law):
        agrees = ((all_values == x) | ~seen).all(-1)
        total = (law.log_prob(all_values).exp() * agrees).sum(0)
        torch.testing.assert_close(law.log_prob(x, seen), total.log())


@every_continuous
def test_masked_log_density_integrates_the_unseen_out(name: str) -> None:
    law = make(name)
    x, log_weight = points(law)
    seen = torch.tensor([True, False])
    first = value(law)
    whole = torch.stack(torch.broadcast_tensors(first[:, 0], x[..., 1]), -1)
    marginal = (law.log_prob(whole) + log_weight[:, None]).logsumexp(0)
    torch.testing.assert_close(law.log_prob(first, seen), marginal, atol=1e-9, rtol=0)


@every_law
def test_masks_may_differ_from_row_to_row(name: str) -> None:
    law = make(name)
    x, masks = value(law), zoo.patterns(law)
    picked = masks[torch.randint(len(masks), (zoo.ROWS,))]
    expected = [law.log_prob(x, mask)[row] for row, mask in enumerate(picked)]
    torch.testing.assert_close(law.log_prob(x, picked), torch.stack(expected))


@every_law
@pytest.mark.parametrize("garbage", [-1.0, 1e30])
def test_a_value_that_is_not_seen_changes_nothing(name: str, garbage: float) -> None:
    parameters = [p.float().requires_grad_() for p in make(name).parameters]
    law = make(name).with_parameters(*parameters)
    x, seen = value(law), zoo.patterns(law)[1]
    outcomes = []
    for filled in (x, torch.where(seen, x, garbage)):
        log_prob = law.log_prob(filled, seen)
        slopes = torch.autograd.grad(log_prob.sum(), parameters)
        outcomes.append((log_prob, *slopes))
    for a, b in zip(*outcomes, strict=True):
        assert torch.equal(a, b)


def smoothed(law: Product, y: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """E[x | x + scale·ε = y] and ∇ log P_scale(y) elementwise, by a sum over all x.

    The noise is independent, so that a sum over the grid (or over the whole support) is exact to
    the grid's error.
    """
    x, log_weight = points(law)
    y = y.detach().requires_grad_()
    misfit = -0.5 * ((y - x) / scale).square()
    if isinstance(law, Discrete):
        joint = (law.log_prob(x) + misfit.sum(-1))[..., None]
    else:
        joint = law.elements(x) + log_weight[:, None, None] + misfit
    log_density = joint.logsumexp(0)
    slope = torch.autograd.grad(log_density.sum(), y)[0]
    return (joint.softmax(0) * x).sum(0).detach(), slope


@every_law
@pytest.mark.parametrize("outlying", [0.0, 25.0])
def test_denoise_is_the_posterior_mean_and_tweedies_formula(name: str, outlying: float) -> None:
    law = make(name)
    for scale in (0.2, 1.0, 4.0, zoo.widths(zoo.ROWS, law.event_shape[0])):
        y = law.sample() + scale * zoo.randn(zoo.ROWS, law.event_shape[0]) + outlying
        mean, slope = smoothed(law, y, scale)
        tweedie = y + scale**2 * slope
        torch.testing.assert_close(mean, tweedie, atol=1e-6, rtol=0)
        torch.testing.assert_close(law.denoise(y, scale), mean, atol=1e-6, rtol=0)


@every_law
def test_denoise_approaches_the_mean_as_noise_grows(name: str) -> None:
    law = make(name)
    y = law.sample()
    torch.testing.assert_close(law.denoise(y, 1e4), law.mean, atol=1e-2, rtol=0)


@every_law
def test_denoise_leaves_values_alone_as_noise_vanishes(name: str) -> None:
    law = make(name)
    y = law.sample()
    torch.testing.assert_close(law.denoise(y, 1e-3), y, atol=1e-4, rtol=0)


@every_continuous
def test_reparameterised_draws_carry_the_gradient_of_mean_and_variance(name: str) -> None:
    parameters = [p.requires_grad_() for p in make(name).parameters]
    law = make(name).with_parameters(*parameters)
    draws = law.rsample((DRAWS,))
    moments = ((draws, law.mean), ((draws - law.mean.detach()).square(), law.variance))
    for samples, exact in moments:
        expected = torch.autograd.grad(
            exact.sum(), parameters, retain_graph=True, allow_unused=True
        )
        blocks = samples.unflatten(0, (50, -1)).mean(1).sum((1, 2))
        found = [torch.autograd.grad(b, parameters, retain_graph=True) for b in blocks]
        for slopes, slope in zip(zip(*found, strict=True), expected, strict=True):
            assert_mean(torch.stack(slopes), torch.zeros(()) if slope is None else slope)


@every_discrete
def test_straight_through_draws_carry_the_gradient_of_the_mean(name: str) -> None:
    law = make(name)
    parameters = [p.requires_grad_() for p in law.parameters]
    x, pull = law.straight_through(), zoo.randn(*law.mean.shape)
    assert (points(law)[0] == x).all(-1).any(0).all()
    found = torch.autograd.grad((pull * x).sum(), parameters, retain_graph=True)
    expected = torch.autograd.grad((pull * law.mean).sum(), parameters)
    torch.testing.assert_close(found, expected)


@every_law
def test_samples_and_detached_laws_carry_no_gradient(name: str) -> None:
    parameters = [p.requires_grad_() for p in make(name).parameters]
    law = make(name).with_parameters(*parameters)
    x = law.sample()
    assert not x.requires_grad
    assert law.log_prob(x).requires_grad
    assert not law.detach().log_prob(x).requires_grad
    torch.testing.assert_close(law.detach().log_prob(x), law.log_prob(x).detach())


@pytest.mark.parametrize("logits", [-1e30, -100.0, 0.0, 100.0, 1e30])
def test_bernoulli_is_finite_at_any_logits(logits: float) -> None:
    law = IndependentBernoulli(torch.full((2,), logits))
    x = law.sample()
    for number in (law.log_prob(x), law.log_prob(1 - x), law.entropy(), law.denoise(x, 0.1).sum()):
        assert torch.isfinite(number)


def test_categorical_is_finite_at_any_logits() -> None:
    law = IndependentCategorical(torch.tensor([1e30, -1e30, 0.0, 5e29, -5e29]), (2, 3))
    x = law.sample()
    for number in (law.log_prob(x), law.log_prob(x.flip(-1)), law.entropy()):
        assert torch.isfinite(number)


@every_law
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_held_elements_keep_their_values(name: str, shape: tuple[int, ...]) -> None:
    law = make(name)
    x, seen = value(law), zoo.patterns(law)[1]
    held = law.given(x, seen)
    draws = held.sample(shape)
    assert isinstance(held, Held)
    assert draws.shape == (*shape, *x.shape)
    assert torch.equal(draws[..., seen], x[:, seen].expand(*shape, -1, -1))
    assert torch.equal(held.mean[:, seen], x[:, seen])
    assert torch.equal(held.mean[:, ~seen], law.mean[:, ~seen])
    assert torch.equal(held.mode[:, seen], x[:, seen])
    assert torch.equal(held.mode[:, ~seen], law.mode[:, ~seen])


@every_law
def test_one_law_holds_many_rows(name: str) -> None:
    law = make(name)
    x = law.sample()
    one = law.with_parameters(*(p[0] if p.ndim > 1 else p for p in law.parameters))
    seen = zoo.patterns(law)[torch.arange(zoo.ROWS)]
    held = one.given(x, seen)
    draws = held.sample((4,))
    assert draws.shape == (4, *x.shape)
    assert torch.equal(draws[:, seen], x[seen].expand(4, -1))
    hidden = draws[:, ~seen]
    assert not torch.equal(hidden[0], hidden[1])


@every_law
def test_held_log_prob_is_that_of_what_is_not_seen(name: str) -> None:
    law = make(name)
    x = value(law)
    for seen in zoo.patterns(law):
        whole = law.log_prob(x, seen) + law.given(x, seen).log_prob(x)
        torch.testing.assert_close(whole, law.log_prob(x))


def test_held_draws_of_the_unseen_follow_the_law() -> None:
    law = IndependentNormal(zoo.randn(2), zoo.widths(2))
    x, seen = zoo.randn(3, 2), torch.tensor([[True, False], [False, True], [False, False]])
    held = law.given(x, seen)
    assert_mean(held.sample((DRAWS,)), held.mean)


ELEMENTS = 4
MASKS = zoo.patterns(elements=ELEMENTS)


@pytest.fixture
def joint() -> JointNormal:
    tril = zoo.randn(ELEMENTS, ELEMENTS).tril(-1) + torch.diag(zoo.widths(ELEMENTS))
    return JointNormal(zoo.randn(ELEMENTS), tril)


@pytest.fixture
def rows() -> Tensor:
    """One row for every mask."""
    return 2 * zoo.randn(len(MASKS), ELEMENTS)


def textbook(law: JointNormal, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the unseen elements of one row given the seen ones."""
    covariance, away = law.covariance, (x - law.mean)[seen]
    gain = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
    left = covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen]
    return law.mean[~seen] + gain @ away, left


def normal_log_prob(mean: Tensor, covariance: Tensor, x: Tensor) -> Tensor:
    if not len(mean):
        return torch.zeros((), dtype=x.dtype)
    return distributions.MultivariateNormal(mean, covariance).log_prob(x)


def test_joint_normal_is_that_of_torch(joint: JointNormal) -> None:
    expected = distributions.MultivariateNormal(joint.loc, scale_tril=joint.scale_tril)
    x = joint.sample((3, 2))
    torch.testing.assert_close(joint.log_prob(x), expected.log_prob(x))
    torch.testing.assert_close(joint.log_prob(x[0, 0]), expected.log_prob(x[0, 0]))
    torch.testing.assert_close(joint.covariance, expected.covariance_matrix)


def test_joint_normal_can_be_printed(joint: JointNormal, rows: Tensor) -> None:
    assert "JointNormal" in repr(joint)
    assert "JointNormalGiven" in repr(joint.given(rows, MASKS))


def test_joint_normal_draws_have_its_mean_and_covariance(joint: JointNormal) -> None:
    x = joint.sample((DRAWS,)) - joint.mean
    assert_mean(x, torch.zeros(ELEMENTS))
    assert_mean(x[:, :, None] * x[:, None, :], joint.covariance)


def test_joint_normal_marginals_are_those_of_the_seen_block(
    joint: JointNormal, rows: Tensor
) -> None:
    found = joint.log_prob(rows, MASKS)
    for x, seen, log_prob in zip(rows, MASKS, found, strict=True):
        block = joint.covariance[seen][:, seen]
        torch.testing.assert_close(log_prob, normal_log_prob(joint.mean[seen], block, x[seen]))


def test_joint_normal_conditional_is_the_textbooks(joint: JointNormal, rows: Tensor) -> None:
    given = joint.given(rows, MASKS)
    log_probs = given.log_prob(rows)
    for row, (x, seen) in enumerate(zip(rows, MASKS, strict=True)):
        mean, covariance = textbook(joint, x, seen)
        torch.testing.assert_close(given.mean[row, ~seen], mean)
        assert torch.equal(given.mean[row, seen], x[seen])
        torch.testing.assert_close(log_probs[row], normal_log_prob(mean, covariance, x[~seen]))


def test_joint_normal_conditional_draws_are_the_textbooks(joint: JointNormal, rows: Tensor) -> None:
    draws = joint.given(rows, MASKS).sample((DRAWS,))
    assert draws.shape == (DRAWS, *rows.shape)
    for row, (x, seen) in enumerate(zip(rows, MASKS, strict=True)):
        mean, covariance = textbook(joint, x, seen)
        away = draws[:, row, ~seen] - mean
        assert torch.equal(draws[:, row, seen], x[seen].expand(DRAWS, -1))
        if len(mean):
            assert_mean(away, torch.zeros_like(mean))
            assert_mean(away[:, :, None] * away[:, None, :], covariance)


def test_joint_normal_log_prob_is_that_of_the_seen_and_of_the_rest(
    joint: JointNormal, rows: Tensor
) -> None:
    rest = joint.given(rows, MASKS).log_prob(rows)
    torch.testing.assert_close(joint.log_prob(rows), joint.log_prob(rows, MASKS) + rest)


def test_joint_normal_ignores_what_is_not_seen(joint: JointNormal, rows: Tensor) -> None:
    garbage = torch.where(MASKS, rows, 1e30)
    assert torch.equal(joint.log_prob(rows, MASKS), joint.log_prob(garbage, MASKS))
    assert torch.equal(joint.given(rows, MASKS).mean, joint.given(garbage, MASKS).mean)


def test_joint_normal_given_nothing_or_everything(joint: JointNormal, rows: Tensor) -> None:
    nothing = joint.given(rows, torch.zeros_like(MASKS))
    torch.testing.assert_close(nothing.mean, joint.mean.expand_as(rows))
    torch.testing.assert_close(nothing.log_prob(rows), joint.log_prob(rows))
    everything = joint.given(rows, torch.ones_like(MASKS))
    assert torch.equal(everything.mean, rows)
    assert torch.equal(everything.sample((2,)), rows.expand(2, -1, -1))
    assert everything.log_prob(rows).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [0.1, 1.0, "elementwise"])
def test_joint_normal_denoises_by_tweedies_formula(
    joint: JointNormal, rows: Tensor, scale: float | str
) -> None:
    width = zoo.widths(*rows.shape) if scale == "elementwise" else torch.tensor(scale).double()
    noise = torch.diag_embed(width.expand_as(rows).square())
    y = rows.requires_grad_()
    smooth = distributions.MultivariateNormal(joint.loc, joint.covariance + noise)
    slope = torch.autograd.grad(smooth.log_prob(y).sum(), y)[0]
    expected = y + (noise @ slope[..., None])[..., 0]
    torch.testing.assert_close(joint.denoise(y, width), expected)

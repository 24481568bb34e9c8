"""Flows: their densities by autograd, and what a Gaussian guide makes of them."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import settings as fuzzed
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from genprop.description import describe
from genprop.flows import TRANSFORMS, Base, Stretch, build_flow, zuko
from genprop.guide import Guide
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.persistence import load_model, save_model
from genprop.priors.flow import FlowPrior
from genprop.stack import Stack

ELEMENTS = 6
DRAWS = 1500
AXIS = torch.linspace(-9, 9, 301, dtype=torch.float64)
STEP = AXIS[1] - AXIS[0]

every_flow = pytest.mark.parametrize("name", TRANSFORMS)


def make(name: str, elements: int = 2, by: float = 0.2, **options: object) -> FlowPrior:
    """A flow of a shape of its own, with a guide of its moments."""
    prior = zoo.perturbed(FlowPrior(elements, name, units=(6,), **options), by)
    prior.follow(prior.sample((500,)))
    return prior


def precision(name: str) -> dict[str, float]:
    """An ODE is solved to 1e-6."""
    return {"atol": 2e-4 if name == "cnf" else 1e-8, "rtol": 0}


class Banana(nn.Module):
    """h_1 = z_1, h_2 = 0.6 z_2 + 0.5 (h_1² - 1), and h_j = 0.5 (h_{j-1} + h_{j-2}) + 0.6 z_j."""

    def __init__(self) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.tensor(0.6))

    def forward(self) -> "BananaLaw":
        return BananaLaw(self.width)


class BananaLaw(Distribution):
    arg_constraints = {}

    def __init__(self, width: Tensor) -> None:
        self.width = width
        super().__init__(torch.Size(), torch.Size((ELEMENTS,)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        h = list(value.unbind(-1))
        means = [0 * h[0], 0.5 * (h[0].square() - 1)]
        means += [0.5 * (h[j - 1] + h[j - 2]) for j in range(2, ELEMENTS)]
        widths = [torch.ones_like(self.width)] + [self.width] * (ELEMENTS - 1)
        laws = [Normal(m, w, validate_args=False) for m, w in zip(means, widths, strict=True)]
        return torch.stack([law.log_prob(x) for law, x in zip(laws, h, strict=True)]).sum(0)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        z = torch.randn(*sample_shape, ELEMENTS, dtype=self.width.dtype)
        h = [z[..., 0], self.width.detach() * z[..., 1] + 0.5 * (z[..., 0].square() - 1)]
        for j in range(2, ELEMENTS):
            h.append(0.5 * (h[-1] + h[-2]) + self.width.detach() * z[..., j])
        return torch.stack(h, -1)


def linear() -> tuple[FlowPrior, JointNormal]:
    """A flow of Zuko that is a linear map, and the Gaussian that it makes."""
    factors = 0.3 * zoo.randn(ELEMENTS, ELEMENTS) + torch.eye(ELEMENTS).double()
    lazy, laws = zuko().lazy, zuko().distributions
    transform = lazy.UnconditionalTransform(zuko().transforms.LULinearTransform, factors)
    loc, scale = zoo.randn(ELEMENTS), zoo.widths(ELEMENTS)
    base = lazy.UnconditionalDistribution(laws.DiagNormal, loc, scale, buffer=True)
    prior = FlowPrior(ELEMENTS, lazy.Flow(transform, base)).double()
    with torch.no_grad():
        matrix = transform()(torch.eye(ELEMENTS).double()).mT
        back = torch.linalg.inv(matrix)
        covariance = back @ torch.diag(scale**2) @ back.mT
    return prior, JointNormal(back @ loc, torch.linalg.cholesky(covariance))


def told(prior: FlowPrior, law: JointNormal) -> FlowPrior:
    """The prior with that law as its guide."""
    prior.guide.loc.copy_(law.loc)
    prior.guide.scale_tril.copy_(law.scale_tril)
    return prior


def assert_mean(values: Tensor, expected: Tensor | float, slack: float = 0.0) -> None:
    """Of independent draws, within five standard errors and the slack of a grid."""
    error = 5 * values.std(0) / math.sqrt(len(values)) + slack
    assert ((values.mean(0) - expected).abs() <= error).all(), (values.mean(0), expected, error)


@every_flow
@pytest.mark.parametrize("elements", [1, 2, 5])
def test_the_log_determinant_is_that_of_autograd(name: str, elements: int) -> None:
    prior = make(name, elements, base="logistic")
    transform, base = prior.law.transform, prior.law.base
    for h in prior.sample((5,)):
        jacobian = torch.autograd.functional.jacobian(transform, h)
        expected = base.log_prob(transform(h)) + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(prior.log_prob(h), expected, **precision(name))


@every_flow
@pytest.mark.parametrize("elements", [1, 2, 5])
def test_the_inverse_takes_everything_back(name: str, elements: int) -> None:
    prior = make(name, elements)
    transform, h = prior.law.transform, 2 * zoo.randn(4, 3, elements)
    torch.testing.assert_close(transform.inv(transform(h)), h, **precision(name))
    torch.testing.assert_close(transform(transform.inv(h)), h, **precision(name))
    assert not torch.equal(transform(h), h)


@every_flow
@pytest.mark.parametrize("base", ["gaussian", "logistic"])
def test_a_flow_begins_as_its_base(name: str, base: str) -> None:
    prior, h = FlowPrior(3, name, base=base).double(), 2 * zoo.randn(20, 3)
    torch.testing.assert_close(prior.log_prob(h), Base(3, base).double()().log_prob(h))


@every_flow
@pytest.mark.parametrize("base", ["gaussian", "logistic"])
def test_total_probability_is_one_and_draws_follow_the_density(name: str, base: str) -> None:
    prior = make(name, base=base)
    axis = AXIS[:: 5 if name == "cnf" else 1] * (1 if base == "gaussian" else 3)
    grid, step = torch.cartesian_prod(axis, axis), axis[1] - axis[0]
    with torch.no_grad():
        p = prior.log_prob(grid).exp() * step**2
    # the rectangle rule meets bends in splines
    assert p.sum().item() == pytest.approx(1, abs=2e-3)
    h = prior.sample((DRAWS,))
    for draws, values in ((h, grid), (h.square(), grid.square()), (h.prod(-1), grid.prod(-1))):
        expected = (p.reshape(-1, *[1] * (values.ndim - 1)) * values).sum(0)
        assert_mean(draws, expected, slack=0.02)


def test_nice_stretches_by_its_last_diagonal_only() -> None:
    prior, h = make("nice", 5), zoo.randn(7, 5)
    last = prior.built.transform.transforms[-1]
    assert isinstance(last, Stretch)
    scale = last().scale
    volume = prior.law.transform.log_abs_det_jacobian(h, h)
    torch.testing.assert_close(volume, scale.log().sum().expand(7))
    torch.testing.assert_close(scale, last.log_scale.exp(), rtol=5e-3, atol=0)
    masks = [step.mask.tolist() for step in prior.built.transform.transforms[:-1]]
    assert masks == [[True, False] * 2 + [True], [False, True] * 2 + [False]] * 2


def test_splines_leave_what_is_beyond_their_box() -> None:
    prior, far = make("nsf", 3, by=1.0), torch.tensor([[6.0, -7.0, 30.0]]).double()
    torch.testing.assert_close(prior.law.transform(far), far)
    assert not torch.allclose(prior.law.transform(0.1 * far), 0.1 * far)


@pytest.mark.parametrize("size", [-1e6, 1e6])
def test_no_diagonal_is_zero_or_infinite(size: float) -> None:
    stretch = Stretch(2)
    nn.init.constant_(stretch.log_scale, size)
    assert torch.isfinite(stretch()(torch.ones(2))).all()
    assert (stretch()(torch.ones(2)) > 0).all()


def test_estimates_are_exact_where_the_guide_is_the_law() -> None:
    prior, law = linear()
    told(prior, law)
    h, seen = law.sample((64,)), zoo.patterns(elements=ELEMENTS)
    expected = law.log_prob(h, seen)
    torch.testing.assert_close(prior.log_prob(h, seen), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(-prior.loss(h, seen), expected, rtol=1e-8, atol=1e-8)
    conditional = prior.condition(h, seen).log_prob(h)
    torch.testing.assert_close(conditional, law.given(h, seen).log_prob(h))


@every_flow
def test_estimates_of_a_marginal_are_unbiased(name: str) -> None:
    prior = make(name, draws=8)
    h = prior.sample((3,))
    grid = torch.stack(
        torch.broadcast_tensors(h[:, None, 0], AXIS[:: 5 if name == "cnf" else 1]), -1
    )
    step = grid[0, 1, 1] - grid[0, 0, 1]
    with torch.no_grad():
        exact = prior.log_prob(grid).exp().sum(-1) * step
        seen = torch.tensor([True, False]).expand(1000, 3, 2)
        found = prior.log_prob(h.expand(1000, 3, 2), seen).exp()
    assert_mean(found, exact, slack=1e-3)


def test_the_loss_is_above_the_truth_and_comes_near_it_with_more_proposals() -> None:
    prior, times = make("nice", by=0.3), 300
    prior.follow(2 * prior.sample((500,)))
    h = prior.sample((10,))
    grid = torch.stack(torch.broadcast_tensors(h[:, None, 0], AXIS), -1)
    seen, gaps = torch.tensor([True, False]).expand(times, 10, 2), {}
    with torch.no_grad():
        exact = -(prior.log_prob(grid).logsumexp(-1) + STEP.log())
        for training, prior.draws in ((False, 1), (False, 64), (True, 64)):
            prior.train(training)
            gap = prior.loss(h.expand(times, 10, 2), seen) - exact
            error = 5 * gap.std(0) / math.sqrt(times) + 1e-3
            assert (gap.mean(0) > -error).all()
            gaps[training, prior.draws] = gap.mean().item()
    # the gap falls like the inverse of the number of proposals, of which training has four
    assert gaps[False, 1] > 0.02
    assert gaps[False, 64] < gaps[False, 1] / 10
    assert gaps[False, 1] / 10 < gaps[True, 64] < gaps[False, 1] / 2


def test_rows_of_any_pattern_go_together() -> None:
    prior = make("realnvp", 3, draws=4000)
    h, seen = prior.sample((2, 8)), zoo.patterns(elements=3)
    values = prior.log_prob(h, seen)
    assert values.shape == (2, 8)
    assert torch.equal(values[:, 0], torch.zeros(2).double())
    torch.testing.assert_close(values[:, -1], prior.log_prob(h[:, -1]))
    again = torch.stack([prior.log_prob(row, mask) for row, mask in zip(h[0], seen, strict=True)])
    torch.testing.assert_close(values[0], again, atol=0.1, rtol=0)
    assert (prior.loss(h, seen) == 0).any(-1).all()


@fuzzed(deadline=None, max_examples=10)
@given(
    shape=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    junk=st.sampled_from([1e30, -1e30, math.nan, math.inf]),
    seed=st.integers(0, 2**31),
)
def test_what_is_not_seen_does_not_matter(shape: tuple[int, ...], junk: float, seed: int) -> None:
    torch.manual_seed(seed)
    prior = make("nice", 3, draws=4, warmup=2, transitions=1)
    h = prior.sample(shape)
    seen = torch.rand(h.shape) < 0.5
    outcomes = []
    for filled in (h, torch.where(seen, h, junk)):
        torch.manual_seed(1)
        outcomes.append((prior.loss(filled, seen), prior.condition(filled, seen).sample((2,))))
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)
    assert outcomes[0][0].shape == shape
    assert outcomes[0][1].shape == (2, *h.shape)


@every_flow
def test_the_loss_of_what_is_seen_has_the_gradient_of_differences(name: str) -> None:
    prior = make(name, 3, draws=8)
    h = prior.sample((4,))
    seen = torch.tensor(
        [[True, False, True], [True, True, True], [False] * 3, [False, True, False]]
    )

    def loss(at: Tensor) -> Tensor:
        torch.manual_seed(1)
        return prior.loss(at, seen).sum()

    start = h.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(start), start)
    size, way = (1e-3 if name == "cnf" else 1e-6), zoo.randn(4, 3)
    with torch.no_grad():
        found = (loss(h + size * way) - loss(h - size * way)) / (2 * size)
    assert found.item() == pytest.approx(
        (slope * way).sum().item(), abs=0.01 if name == "cnf" else 1e-5
    )
    assert (slope[~seen] == 0).all()


def test_a_partly_seen_loss_trains_the_flow() -> None:
    prior = make("nsf")
    seen = torch.tensor([True, False])
    prior.loss(prior.sample((10,)), seen).sum().backward()
    assert sum(p.grad.abs().sum() for p in prior.parameters()) > 0


def posterior_mean(prior: FlowPrior, noisy: Tensor, scale: Tensor) -> Tensor:
    grid = torch.cartesian_prod(AXIS, AXIS)
    with torch.no_grad():
        log_p = prior.log_prob(grid)
    misfit = -0.5 * ((noisy[:, None] - grid) / scale[:, None]).square().sum(-1)
    return (log_p + misfit).softmax(-1) @ grid


@pytest.mark.parametrize("name", ["nice", "nsf"])
def test_reconstruction_is_the_posterior_mean(name: str) -> None:
    prior = make(name, draws=256)
    # another noise in every element of every row
    scale = 0.3 + zoo.widths(5, 2)
    noisy = prior.sample((5,)) + scale * zoo.randn(5, 2)
    several = torch.stack([prior.reconstruct(noisy, scale) for _ in range(40)])
    # self-normalised weights are biased by less than a hundredth at 256 proposals
    assert_mean(several, posterior_mean(prior, noisy, scale), slack=0.01)


def test_reconstruction_without_noise_is_the_code_itself() -> None:
    prior, h = make("nice"), zoo.randn(5, 2)
    torch.testing.assert_close(prior.reconstruct(h, 0.0), h)
    half = torch.tensor([0.0, 0.5]).double()
    torch.testing.assert_close(prior.reconstruct(h, half)[:, 0], h[:, 0])


def test_reconstruction_under_much_noise_is_the_mean() -> None:
    prior = make("nice", draws=4096)
    mean = posterior_mean(prior, torch.zeros(1, 2).double(), torch.full((1, 2), 1e4).double())
    found = prior.reconstruct(zoo.randn(3, 2), 1e4)
    torch.testing.assert_close(found, mean.expand(3, 2), atol=0.15, rtol=0)


def moments(law: JointNormal, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the unseen elements of one row."""
    covariance, away = law.covariance, (h - law.mean)[seen]
    gain = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
    left = covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen]
    return law.mean[~seen] + gain @ away, left


@pytest.mark.parametrize("told_of_it", [True, False])
def test_conditionals_of_a_gaussian_flow_are_the_textbooks(told_of_it: bool) -> None:
    prior, law = linear()
    if told_of_it:
        prior.follow(law.sample((2000,)))
    masks = list(itertools.islice(zoo.patterns(elements=ELEMENTS), 1, 63, 20))
    seen = torch.stack(masks)
    h = law.sample((len(seen),))
    draws = prior.condition(h, seen).sample((DRAWS,))
    assert torch.equal(draws[:, seen], h[seen].expand(DRAWS, -1))
    for row, mask in enumerate(seen):
        mean, covariance = moments(law, h[row], mask)
        away = draws[:, row, ~mask] - mean
        assert_mean(away, 0)
        assert_mean(away[:, :, None] * away[:, None], covariance)


def test_conditionals_of_a_banana_are_those_of_a_grid() -> None:
    prior = FlowPrior(ELEMENTS, Banana()).double()
    prior.follow(prior.sample((2000,)))
    h = torch.tensor([0.0, 1.0, 0.5, 0.6, 0.0, 0.9]).double()
    seen = torch.tensor([False, True, True, True, False, True])
    whole = h.expand(len(AXIS), len(AXIS), -1).clone()
    whole[..., 0], whole[..., 4] = AXIS[:, None], AXIS
    with torch.no_grad():
        p = prior.log_prob(whole).flatten().softmax(0)
    free = whole[..., ~seen].reshape(-1, 2)
    mean = p @ free
    covariance = (free - mean).mT @ (p[:, None] * (free - mean))
    draws = prior.condition(h, seen).sample((DRAWS,))[:, ~seen]
    assert_mean(draws, mean, slack=1e-3)
    away = draws - mean
    assert_mean(away[:, :, None] * away[:, None], covariance, slack=1e-3)
    # what h_2 says of h_1 is the size and not the sign
    assert 0.3 < (draws[:, 0] > 0).double().mean() < 0.7
    assert covariance[0, 0] > 1


@pytest.mark.parametrize("settings", [(1, 50, 20), (500, 0, 1)], ids=["chains", "weights"])
def test_chains_and_weights_mend_what_a_poor_guide_proposes(settings: tuple[int, ...]) -> None:
    draws, warmup, transitions = settings
    prior = FlowPrior(ELEMENTS, Banana(), draws=draws, warmup=warmup, transitions=transitions)
    prior.double()
    h, seen = torch.zeros(ELEMENTS).double(), torch.tensor([True, False] + [True] * 4)
    away = prior.condition(h, seen).sample((DRAWS,))[:, 1]
    whole = h.expand(len(AXIS), -1).clone()
    whole[:, 1] = AXIS
    with torch.no_grad():
        p = prior.log_prob(whole).softmax(0)
    mean = p @ AXIS
    assert_mean(away, mean)
    assert_mean((away - mean).square(), p @ (AXIS - mean).square())


def test_nothing_seen_draws_the_prior_and_all_seen_draws_nothing() -> None:
    prior, law = linear()
    h = law.sample((2,))
    seen = torch.tensor([[False], [True]]).expand(2, ELEMENTS)
    draws = prior.condition(h, seen).sample((DRAWS,))
    assert torch.equal(draws[:, 1], h[1].expand(DRAWS, -1))
    away = draws[:, 0] - law.mean
    assert_mean(away, 0)
    assert_mean(away[:, :, None] * away[:, None], law.covariance)


def test_draws_keep_no_gradient_and_change_no_weight() -> None:
    prior = make("nsf", warmup=3, transitions=2)
    before = {name: p.clone() for name, p in prior.state_dict().items()}
    h = prior.sample((3,)).requires_grad_()
    draws = prior.condition(h, torch.tensor([True, False])).sample((2,))
    assert not draws.requires_grad
    assert not prior.reconstruct(h, 0.5).requires_grad
    assert h.grad is None
    assert all(p.grad is None and p.requires_grad for p in prior.parameters())
    for name, tensor in prior.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_guide_follows_the_codes() -> None:
    guide, codes = Guide(3).double(), zoo.randn(400, 3) @ zoo.randn(3, 3) + zoo.randn(3)
    guide.follow(codes)
    covariance = codes.mT.cov(correction=0)
    shrunk = covariance * 400 / 403 + torch.diag(covariance.diagonal()) * 3 / 403
    torch.testing.assert_close(guide.law.mean, codes.mean(0))
    torch.testing.assert_close(guide.law.covariance, shrunk, rtol=1e-4, atol=1e-5)


def test_a_guide_of_few_or_constant_codes_is_a_law() -> None:
    for codes in (zoo.randn(2, 5), torch.ones(4, 5).double(), zoo.randn(1, 5)):
        guide = Guide(5).double()
        guide.follow(codes)
        assert torch.isfinite(guide.law.log_prob(zoo.randn(5))).all()


def test_a_guides_posterior_is_the_textbooks() -> None:
    guide = Guide(2).double()
    guide.follow(zoo.randn(400, 2) @ zoo.randn(2, 2))
    y, scale = zoo.randn(3, 2), zoo.widths(3, 2)
    draws = guide.posterior(y, scale, DRAWS)
    assert_mean(draws, guide.law.denoise(y, scale))
    noise = torch.diag_embed(scale**2)
    total = guide.law.covariance
    expected = total - total @ torch.linalg.solve(total + noise, total)
    away = draws - guide.law.denoise(y, scale)
    assert_mean(away[..., :, None] * away[..., None, :], expected)


def test_refit_learns_a_law_and_brings_the_guide_along() -> None:
    prior = FlowPrior(2, "maf", transforms=2, units=(16,)).double()
    x = zoo.randn(700)
    codes = torch.stack([x, 0.5 * (x.square() - 1) + 0.4 * zoo.randn(700)], -1)
    train, test = codes[:400], codes[400:]
    prior.refit(train)
    with torch.no_grad():
        found = prior.log_prob(test).mean()
    gaussian = JointNormal(train.mean(0), torch.linalg.cholesky(train.mT.cov()))
    truth = Normal(0.0, 1.0).log_prob(test[:, 0]) + Normal(
        0.5 * (test[:, 0].square() - 1), 0.4
    ).log_prob(test[:, 1])
    assert found > gaussian.log_prob(test).mean() + 0.2
    assert found < truth.mean() + 0.1
    torch.testing.assert_close(prior.guide.law.mean, train.mean(0))


def test_a_flow_whose_weights_are_held_is_followed_only() -> None:
    prior = make("nice")
    prior.requires_grad_(False)
    before, codes = prior.loss(torch.zeros(2).double()), zoo.randn(50, 2) + 3
    prior.refit(codes)
    assert torch.equal(before, prior.loss(torch.zeros(2).double()))
    torch.testing.assert_close(prior.guide.law.mean, codes.mean(0))
    assert not any(p.requires_grad for p in prior.parameters())


def test_a_flow_of_ones_own_has_to_be_given_again(tmp_path: Path) -> None:
    def own() -> nn.Module:
        return zuko().flows.MAF(2, transforms=2, hidden_features=(4,))

    prior = FlowPrior(2, own(), draws=8)
    prior.follow(torch.randn(20, 2))
    assert json.loads(json.dumps(describe(prior)))["args"]["flow"]["foreign"]
    save_model(Model(Stack(elements=2), prior), tmp_path)
    with pytest.raises(
        ValueError, match=r"zuko.flows.autoregressive.MAF at prior.flow, .* modules="
    ):
        load_model(tmp_path)
    back = load_model(tmp_path, modules={"prior.flow": own()}).prior
    h = torch.randn(5, 2)
    assert torch.equal(back.log_prob(h), prior.log_prob(h))
    assert torch.equal(back.guide.loc, prior.guide.loc)


@every_flow
def test_a_named_flow_comes_back(name: str, tmp_path: Path) -> None:
    prior = make(name, base="logistic", activation="tanh", draws=7)
    save_model(Model(Stack(elements=2), prior), tmp_path)
    back, h = load_model(tmp_path).prior, prior.sample((5,))
    assert torch.equal(back.log_prob(h), prior.log_prob(h))
    assert describe(back) == describe(prior)


def test_torch_goes_on_checking_arguments() -> None:
    FlowPrior(2, "nsf")
    with pytest.raises(ValueError, match="scale"):
        Normal(0.0, -1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flow": "glow"}, "nice, realnvp, nsf, maf, cnf, but is 'glow'"),
        ({"base": "cauchy"}, "gaussian, logistic, but is 'cauchy'"),
        ({"activation": "step"}, "activation must be one of .*, but is 'step'"),
        ({"elements": 0}, "at least one element .* got 0 and 3"),
        ({"transforms": 0}, "one transform, but got 2 and 0"),
        ({"draws": 0}, "draws=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"transitions": 0}, "transitions=0"),
        ({"flow": nn.Linear(2, 2)}, "flow of Zuko over 2 elements without context"),
        ({"flow": Banana()}, "over 2 elements"),
    ],
)
def test_impossible_flows_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowPrior(**{"elements": 2, **arguments})


@pytest.mark.parametrize("option", [{"base": "logistic"}, {"transforms": 2}, {"units": (3,)}])
def test_a_flow_that_is_given_takes_no_options(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="brings its own, so leave them out"):
        FlowPrior(2, build_flow("nice", 2), **option)


def test_a_flow_with_context_is_refused() -> None:
    with pytest.raises(ValueError, match="without context"):
        FlowPrior(2, zuko().flows.MAF(2, context=1))

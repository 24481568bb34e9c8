"""Data of finitely many levels: the laws, the families, and NICE on raw values."""

import itertools
import json
import math

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genprop.data import Batch
from genprop.description import describe, rebuild
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.priors.flow import FlowPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.quantised import (
    BinOf,
    IndependentPoints,
    IndependentUniform,
    UniformBin,
    dequantising,
)
from genprop.stack import Layer, Stack
from genprop.train import Trainer

DRAWS = 20_000
ROWS = 3
LEVELS = 5  # no power of two, so that the ends of bins are rounded

every_rule = pytest.mark.parametrize("rule", zoo.rules())
levels_and_type = given(
    levels=st.integers(2, 400),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)


def uniform(shared: bool = False) -> IndependentUniform:
    return IndependentUniform(zoo.randn(ROWS, 2), zoo.widths(*((2,) if shared else (ROWS, 2))))


def every_value(elements: int = 2, levels: int = LEVELS) -> Tensor:
    """All data of so many elements, ``(values, elements)``."""
    values = itertools.product(range(levels), repeat=elements)
    return torch.tensor(list(values), dtype=torch.float64) / levels


def nice(prior: str = "nice") -> Model:
    """A flow over two dequantised elements, moved and scaled to lie in the unit square."""
    flow = zoo.perturbed(FlowPrior(2, prior, units=(5,), base="logistic"), 0.2)
    if prior == "nice":
        with torch.no_grad():
            flow.built.transform.transforms[-1].log_scale += 1.5
    return Model(Stack([dequantising(2, LEVELS)]), flow).double()


def exact(model: Model, x: Tensor, points: int = 60) -> Tensor:
    """Log ∫_bin P(h) dh by the midpoint rule, for every row."""
    axis = (torch.arange(points, dtype=torch.float64) + 0.5) / points / LEVELS
    offsets = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = model.prior.log_prob(x[:, None] + offsets)
    return density.logsumexp(-1) - math.log(len(offsets)) - 2 * math.log(LEVELS)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (4, 2)])
def test_uniform_draws_are_inside_and_have_a_constant_density(
    shared: bool, shape: tuple[int, ...]
) -> None:
    law = uniform(shared)
    x = law.rsample(shape)
    assert x.shape == (*shape, ROWS, 2)
    volume = law.width.log().expand(ROWS, 2).sum(-1)
    torch.testing.assert_close(law.log_prob(x), -volume.expand(*shape, ROWS))
    torch.testing.assert_close(law.entropy(), volume)
    seen = torch.tensor([True, False])
    torch.testing.assert_close(law.log_prob(x, seen), -law.width[..., 0].log().expand(*shape, ROWS))


def test_uniform_has_no_mass_outside() -> None:
    law = uniform()
    for outside in (law.low - 1e-9, law.low + law.width):
        assert (law.elements(outside) == -math.inf).all()
    assert torch.isfinite(law.elements(law.low)).all()


def test_uniform_draws_have_its_mean_and_variance() -> None:
    law = uniform(shared=True)
    x = law.sample((DRAWS,))
    for values, expected in ((x, law.mean), ((x - law.mean).square(), law.variance)):
        error = 5 * values.std(0) / math.sqrt(DRAWS)
        assert ((values.mean(0) - expected).abs() < error).all()


def test_uniform_draws_move_with_their_parameters() -> None:
    low, width = (p.requires_grad_() for p in uniform().parameters)
    law = IndependentUniform(low, width)
    x = law.rsample((7,))
    by_low, by_width = torch.autograd.grad(x.sum(), (low, width), retain_graph=True)
    torch.testing.assert_close(by_low, torch.full_like(low, 7.0))
    torch.testing.assert_close(by_width, ((x - low) / width).sum(0))
    (slope,) = torch.autograd.grad(law.entropy().sum(), width)
    torch.testing.assert_close(slope, 1 / width)
    assert not law.detach().log_prob(x.detach()).requires_grad


@pytest.mark.parametrize("noise", [1e-4, 0.02, 0.3, 1.0, 5.0, 1e3])
@pytest.mark.parametrize("away", [-20.0, -1.0, 0.0, 0.3, 1.0, 3.0])
def test_denoising_a_uniform_is_the_posterior_mean(noise: float, away: float) -> None:
    law = uniform()
    scale = noise * zoo.widths(ROWS, 2)
    y = law.low + (away if away else 0.5 * law.width + 0.1 * scale)
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    x = law.low[..., None] + law.width[..., None] * t
    weights = (-0.5 * ((y[..., None] - x) / scale[..., None]).square()).softmax(-1)
    found = law.denoise(y, scale)
    # the sum is off by less than a step of its grid where noise is narrower than that
    torch.testing.assert_close(found, (weights * x).sum(-1), atol=1e-5, rtol=0)
    assert ((found >= law.low) & (found <= law.low + law.width)).all()
    single = law.with_parameters(*(p.float() for p in law.parameters))
    near = single.denoise(y.float(), scale.float())
    torch.testing.assert_close(near, found.float(), atol=2e-3, rtol=0)


def test_points_are_certain() -> None:
    x = every_value()
    law = IndependentPoints(x, 1 / LEVELS)
    found = law.log_prob(x[:, None])
    expected = torch.full((len(x), len(x)), -math.inf).double().fill_diagonal_(0)
    torch.testing.assert_close(found, expected)
    for same in (law.mean, law.mode, law.sample(), law.denoise(x + 3, 0.1)):
        assert torch.equal(same, x)
    assert (law.variance == 0).all()
    assert (law.entropy() == 0).all()
    assert law.sample((4, 2)).shape == (4, 2, *x.shape)


@settings(deadline=None)
@levels_and_type
def test_every_value_comes_back_from_its_bin(levels: int, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    # as users make it: in double precision first, or in whole numbers
    number = torch.arange(levels)
    for x in ((number / levels).to(dtype), (number.double() / levels).to(dtype)):
        encoded = UniformBin(levels, levels)(x)
        ends = torch.stack([encoded.low, torch.nextafter(encoded.low + encoded.width, encoded.low)])
        for h in (encoded.sample((50,)), ends):
            decoded = BinOf(levels, levels)(h)
            assert (decoded.log_prob(x) == 0).all()
            assert torch.isfinite(encoded.log_prob(h)).all()
            assert torch.equal((decoded.mean * levels).round().long(), number.expand(h.shape))
        expected = torch.tensor(-levels * math.log(levels), dtype=dtype)
        torch.testing.assert_close(encoded.entropy(), expected, rtol=1e-4, atol=0)


def test_bins_are_one_after_the_other() -> None:
    h = torch.linspace(-1, 2, 3001).double()[:, None]
    x = BinOf(1, LEVELS)(h).mean
    assert torch.equal(x, (h * LEVELS).floor().clamp(0, LEVELS - 1) / LEVELS)
    total = BinOf(1, LEVELS)(h[:, None]).log_prob(every_value(1)).exp().sum(-1)
    assert torch.equal(total, torch.ones_like(total))


@pytest.mark.parametrize("wrong", [0.3, 1.0, -0.2, 3.0, math.nan, math.inf])
def test_other_values_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"holds .*; divide whole numbers from 0 to 4 by 5"):
        UniformBin(2, LEVELS)(torch.tensor([0.2, wrong]))


@pytest.mark.parametrize("family", [UniformBin, BinOf])
@pytest.mark.parametrize("sizes", [(0, 4), (3, 1)])
def test_impossible_families_are_refused(family: type, sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"but got {sizes[0]} and {sizes[1]}"):
        family(*sizes)


def test_a_layer_gives_the_data_back_whatever_is_missing() -> None:
    layer, x = dequantising(2, LEVELS), every_value()
    h = layer.encoder(x, torch.rand(x.shape) < 0.5).sample((9,))
    assert torch.equal(layer.decoder(h).sample(), x.expand(9, -1, -1))
    assert (layer.below, layer.above) == (2, 2)
    assert not list(layer.parameters())


def test_a_layer_is_described_and_rebuilt() -> None:
    described = json.loads(json.dumps(describe(dequantising(3, 7))))
    again = rebuild(described)
    assert isinstance(again, Layer)
    assert describe(again) == describe(dequantising(3, 7))


def test_probabilities_of_all_data_sum_to_the_mass_of_the_cube() -> None:
    model, x = nice(), every_value()
    axis = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    side = axis[1] - axis[0]
    cube = (axis >= 0) & (axis < 1)
    with torch.no_grad():
        inside = model.prior.log_prob(torch.cartesian_prod(axis[cube], axis[cube])).exp().sum()
    # the rectangle rule, whose error is of the order of a step
    expected = pytest.approx((inside * side**2).item(), abs=0.03)
    assert exact(model, x).exp().sum().item() == expected


@pytest.mark.parametrize("prior", ["nice", "nsf"])
def test_importance_sampling_finds_the_likelihood_of_discrete_data(prior: str) -> None:
    model, x = nice(prior), every_value()
    estimate = importance(model, Batch.of(x), samples=4000)
    error = 5 * torch.as_tensor(estimate.std_error) + 1e-3
    assert ((torch.as_tensor(estimate.log_prob) - exact(model, x)).abs() < error).all()


def test_the_bound_of_one_draw_is_the_density_less_the_levels() -> None:
    model, x = nice(), every_value()
    batch = Batch.of(x)
    paths = model.encode(batch)
    log_density = model.prior.log_prob(paths["x"].code)
    found = model.log_weights(paths, batch)
    torch.testing.assert_close(found, log_density - 2 * math.log(LEVELS))


@every_rule
def test_every_rule_tells_a_flow_the_gradient_of_its_loss_on_dequantised_data(rule: str) -> None:
    model, batch = nice(), Batch.of(every_value())
    made = zoo.rules()[rule]()
    made.check(model)
    found = zoo.gradients(model, batch, made)
    for name, p in found.items():
        assert torch.isfinite(p).all(), name
    assert sum(p.abs().sum() for p in found.values()) > 0


@pytest.mark.parametrize("rule", ["target-1-decoder", "elbo"])
def test_one_sample_is_maximum_likelihood(rule: str) -> None:
    model, x = nice(), every_value()
    found = zoo.gradients(model, Batch.of(x), zoo.rules()[rule]())
    torch.manual_seed(zoo.SEED)
    h = model.stacks["x"][0].encoder(x).sample(() if rule.startswith("target") else (1,))
    model.zero_grad()
    model.prior.loss(h).mean().backward()
    zoo.assert_same(found, zoo.told(model))


@pytest.mark.parametrize("rule", ["target-1-decoder", "elbo"])
def test_training_finds_the_shape_of_the_data(rule: str) -> None:
    x = torch.tensor([[0, 1], [1, 3], [2, 4], [3, 3], [4, 1]]).double().repeat(40, 1) / LEVELS
    model = Model(Stack([dequantising(2, LEVELS)]), FlowPrior(2, "nsf", 2, units=(16,)))
    before = exact(model.double(), x[:5]).mean().item()
    Trainer(epochs=8, batch_size=20, lr=2e-2, verbose=0, device="cpu", precision="64").fit(
        model, zoo.rules()[rule](), Batch.of(x)
    )
    after = exact(model, x[:5]).mean().item()
    # a law of its own has -log 5; one that is uniform over all data -2 log 5
    assert before < -2 * math.log(LEVELS) - 1
    assert after > -2 * math.log(LEVELS) + 0.5


def test_layers_may_stand_on_it() -> None:
    top = Stack.build(zoo.Gaussian(2), (2,), units=(4,))[0]
    model = zoo.perturbed(Model(Stack([dequantising(2, LEVELS), top]), GaussianPrior(2)), 0.1)
    batch = Batch.of(every_value())
    told = zoo.gradients(model, batch, zoo.rules()["elbo"]())
    local = zoo.gradients(model, batch, zoo.rules()["target-1-decoder"]())
    assert all(torch.isfinite(p).all() for p in (*told.values(), *local.values()))
    assert model.decode(model.prior.sample((50,)))["x"].x.unique().numel() <= LEVELS


@pytest.mark.parametrize("rule", ["target-1-decoder", "target-5-decoder", "wake-5", "dreg-5"])
def test_missing_elements_are_left_out_one_by_one(rule: str) -> None:
    model = Model(Stack([dequantising(3, 4)]), zoo.perturbed(GaussianPrior(3, "diagonal"))).double()
    x = torch.tensor([[0.25, 0.5, 0.0], [0.75, 0.0, 0.5]], dtype=torch.float64)
    seen = torch.tensor([[True, False, True], [False, False, True]])
    batch = Batch.of(x, seen)
    law = torch.distributions.Normal(model.prior.law.loc, model.prior.law.scale)
    low, high = law.cdf(x), law.cdf(x + 0.25)
    exact = torch.where(seen, (high - low).log(), 0).sum(-1).detach()
    estimate = importance(model, batch, 4000)
    error = 5 * torch.from_numpy(estimate.std_error) + 1e-6
    assert ((torch.from_numpy(estimate.log_prob) - exact).abs() < error).all()
    draws = model.complete(batch, 50)[0]["x"]
    assert torch.equal(draws[:, seen], x[seen].expand(50, -1))
    assert torch.equal((4 * draws).round(), 4 * draws)
    one, other = (
        zoo.gradients(model, Batch.of(torch.where(seen, x, fill), seen), zoo.rules()[rule]())
        for fill in (0.25, 0.75)
    )
    zoo.assert_same(one, other)

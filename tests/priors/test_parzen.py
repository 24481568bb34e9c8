"""What only a Parzen prior promises: of its bank, its scale, and what it leaves out of a sum."""

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import zoo
from conditioning import ELEMENTS, PATTERNS, assert_conditional, known
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genprop.conditional import Bernoulli, Gaussian
from genprop.data import Batch
from genprop.model import Model
from genprop.persistence import load_model, save_model
from genprop.prior import FollowingPrior
from genprop.priors import parzen
from genprop.priors.parzen import Kernels, ParzenPrior, bandwidth, improved
from genprop.rules.target import TargetPropagation
from genprop.stack import Stack
from genprop.train import Trainer

MASKS = zoo.patterns(elements=2)


def prior(codes: Tensor, bank: int = 0, nearest: int = 1000) -> ParzenPrior:
    """Kernels at these codes, by default all of them, and all of them near."""
    made = ParzenPrior(codes.shape[-1], bank or len(codes), nearest, shrink=False)
    made = made.to(codes.dtype).eval()
    made.refit(codes)
    return made


def normal(h: Tensor, kernels: Tensor, scale: Tensor) -> Tensor:
    """Log N(h; kernel, scale²), ``(rows, kernels)``."""
    return torch.distributions.Normal(kernels, scale).log_prob(h[..., None, :]).sum(-1)


def one_left_out(codes: Tensor, scale: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """The mean of log P(h_i | the other codes), code by code."""
    terms = []
    for i in range(len(codes)):
        others = share * torch.cat([codes[:i], codes[i + 1 :]])
        terms.append(normal(codes[i], others, scale).logsumexp(0) - math.log(len(others)))
    return torch.stack(terms).mean()


numbers = st.floats(-50, 50, width=32)


@st.composite
def banks(draw: st.DrawFn) -> Tensor:
    n, elements = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    row = st.lists(numbers, min_size=elements, max_size=elements)
    return torch.tensor(draw(st.lists(row, min_size=n, max_size=n)), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(codes=banks(), start=st.floats(0.3, 30), share=st.floats(0, 1))
@pytest.mark.parametrize("shrink", [False, True])
def test_a_step_never_makes_left_out_codes_less_probable(
    shrink: bool, codes: Tensor, start: float, share: float
) -> None:
    codes = codes - codes.mean(0)
    scale = torch.full((codes.shape[-1],), start, dtype=torch.float64)
    now = Kernels(scale, torch.full_like(scale, share if shrink else 1.0))
    for _ in range(5):
        better, value = improved(codes, now, shrink)
        exact = one_left_out(codes, now.scale, now.share)
        torch.testing.assert_close(value, exact, atol=1e-6, rtol=1e-6)
        # the same floor as in use, for codes may be equal
        better = better._replace(scale=better.scale.clamp_min(math.exp(-6)))
        assert one_left_out(codes, better.scale, better.share) > value - 1e-6
        now = better


def test_drawing_kernels_to_the_mean_never_makes_left_out_codes_less_probable() -> None:
    for codes in (zoo.randn(200, 4), 3 * zoo.randn(200, 2).sign() + zoo.randn(200, 2)):
        codes = codes - codes.mean(0)
        plain, drawn = bandwidth(codes), bandwidth(codes, shrink=True)
        gain = one_left_out(codes, *drawn) - one_left_out(codes, *plain)
        assert gain > -1e-4


def test_of_a_gaussian_nothing_is_left_but_the_gaussian() -> None:
    codes = zoo.randn(1000, 3)
    found = ParzenPrior(3, bank=1000).double().eval()
    found.refit(codes)
    h = zoo.randn(2000, 3)
    gap = zoo.IndependentNormal(torch.zeros(3), torch.ones(3)).log_prob(h) - found.log_prob(h)
    # what estimating three means and scales from a thousand codes costs, and their kernels
    assert gap.mean() < 0.02


@settings(max_examples=40, deadline=None)
@given(codes=banks())
def test_the_scale_is_finite_and_positive_whatever_the_codes(codes: Tensor) -> None:
    assert (bandwidth(codes).scale >= math.exp(-6) - 1e-9).all()
    assert torch.isfinite(bandwidth(codes).scale).all()


@pytest.mark.parametrize("elements", [1, 3])
def test_no_scale_nearby_is_better(elements: int) -> None:
    codes = zoo.randn(200, elements) * zoo.widths(elements)
    scale = bandwidth(codes).scale
    best = one_left_out(codes, scale)
    for d in range(elements):
        for factor in (0.8, 1.25):
            other = scale.clone()
            other[d] *= factor
            assert one_left_out(codes, other) < best


def test_the_scale_knows_no_units() -> None:
    codes, units = zoo.randn(100, 2), torch.tensor([10.0, 0.3]).double()
    torch.testing.assert_close(bandwidth(7 + units * codes).scale, units * bandwidth(codes).scale)


def test_the_scale_is_found_from_any_start() -> None:
    codes = zoo.randn(300, 2)
    best = one_left_out(codes, bandwidth(codes).scale)
    for start in (0.01, 0.1, 10.0):
        scale = bandwidth(codes, Kernels(torch.full((2,), start), torch.ones(2))).scale
        assert (best - one_left_out(codes, scale)).abs() < 1e-3


def test_of_many_codes_a_part_tells_the_scale() -> None:
    codes = zoo.randn(5000, 1)
    # 256 of them are visited: s² is off by a tenth or less, and the likelihood by its square
    best = one_left_out(codes[::5], bandwidth(codes[::5]).scale)
    assert (best - one_left_out(codes[::5], bandwidth(codes).scale)).abs() < 0.01


def test_equal_codes_do_not_make_the_scale_zero() -> None:
    twins = zoo.randn(20, 2).repeat(2, 1)
    found = prior(twins)
    assert (found.scale >= math.exp(-6)).all()
    assert torch.isfinite(found.log_prob(zoo.randn(5, 2))).all()


def test_one_code_is_a_standard_gaussian_about_it() -> None:
    found = prior(torch.tensor([[2.0, 3.0]]), bank=5)
    expected = torch.distributions.Normal(torch.tensor([2.0, 3.0]), 1.0)
    h = torch.randn(4, 2)
    torch.testing.assert_close(found.log_prob(h), expected.log_prob(h).sum(-1))


@pytest.mark.parametrize("mode", [True, False])
def test_before_any_codes_it_is_a_standard_gaussian(mode: bool) -> None:
    fresh, h = ParzenPrior(2).train(mode), torch.randn(5, 2)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(h).sum(-1)
    torch.testing.assert_close(fresh.log_prob(h), expected)
    torch.testing.assert_close(fresh.loss(h), -expected)
    torch.testing.assert_close(fresh.reconstruct(h, 1.0), h / 2)
    assert fresh.sample((1000,)).std() < 1.2


def test_it_is_the_mean_of_its_kernels() -> None:
    codes = zoo.randn(40, 2)
    found = prior(codes, bank=50)
    h = 2 * zoo.randn(6, 2)
    expected = normal(h, codes, found.scale).logsumexp(-1) - math.log(40)
    torch.testing.assert_close(found.log_prob(h), expected)
    torch.testing.assert_close(found.law.log_prob(h), expected)
    assert (found.truncation_bound(h) == 0).all()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    nearest=st.integers(1, 45),
    width=st.floats(0.05, 5),
    masked=st.booleans(),
    seed=st.integers(0, 999),
)
def test_what_truncation_costs_is_bounded(
    n: int, nearest: int, width: float, masked: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    found = prior(zoo.randn(n, 2), bank=40, nearest=nearest)
    found.scale.fill_(width)
    h = 2 * zoo.randn(7, 2)
    seen = torch.rand(7, 2) < 0.5 if masked else None
    lost = found.law.log_prob(h, seen) - found.log_prob(h, seen)
    bound = found.truncation_bound(h, seen)
    assert (lost > -1e-9).all()
    # where nothing is seen there is nothing to sum
    assert (lost < bound + 1e-9).all()
    if nearest >= n:
        assert (bound == 0).all()


def test_truncation_costs_something_where_kernels_are_wide() -> None:
    found = prior(zoo.randn(200, 2), nearest=20)
    found.scale.fill_(0.5)
    h = zoo.randn(50, 2)
    lost = found.law.log_prob(h) - found.log_prob(h)
    assert lost.mean() > 0.3


def test_nothing_seen_has_probability_one_however_few_are_summed() -> None:
    found = prior(zoo.randn(50, 2), nearest=3)
    h, nothing = zoo.randn(4, 2).requires_grad_(), torch.zeros(4, 2, dtype=torch.bool)
    for training in (True, False):
        loss = found.train(training).loss(h, nothing)
        assert (loss == 0).all()
        (slope,) = torch.autograd.grad(loss.sum(), h)
        assert (slope == 0).all()


@pytest.mark.parametrize("seen", [None, *MASKS], ids=str)
def test_training_leaves_the_nearest_kernel_out(seen: Tensor | None) -> None:
    codes = zoo.randn(30, 2)
    found = prior(codes).train()
    h = codes[:8] + 0.01 * zoo.randn(8, 2)
    held = torch.ones(2, dtype=torch.bool) if seen is None else seen
    each = torch.distributions.Normal(codes, found.scale).log_prob(h[:, None])
    joint = torch.where(held, each, 0).sum(-1) - math.log(30)
    left = joint.sort(-1).values[:, :-1].logsumexp(-1) * bool(held.any())
    mask = None if seen is None else seen.expand(8, 2)
    torch.testing.assert_close(found.loss(h, mask), -left)
    assert (found.loss(h, mask) >= -found.log_prob(h, mask)).all()
    assert torch.equal(found.eval().loss(h, mask), -found.log_prob(h, mask))


def test_a_code_gains_nothing_in_training_by_lying_where_its_kernel_lies() -> None:
    found = prior(zoo.randn(30, 2), nearest=5).train()
    found.scale.fill_(0.01)
    h = found.centres[:10].clone().requires_grad_()
    loss = found.loss(h)
    (slope,) = torch.autograd.grad(loss.sum(), h)
    assert (loss > -found.log_prob(h) + 10).all(), "its own kernel alone would make it probable"
    assert (slope.abs().amax(-1) > 1).all(), "and would hold it where it is"


def test_with_one_near_kernel_another_one_stands_in_for_it() -> None:
    found = prior(zoo.randn(30, 2), nearest=1).train()
    loss = found.loss(zoo.randn(10, 2))
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("scale", [0.3, "elementwise"])
def test_reconstruction_is_a_step_of_the_mean_shift(scale: float | str) -> None:
    codes, h = zoo.randn(30, 2), 2 * zoo.randn(5, 2)
    width = zoo.widths(2) if scale == "elementwise" else torch.tensor(0.3).double()
    found = prior(codes, nearest=3)
    found.scale.fill_(1e-9)
    # codes without width, seen through noise of scale s: Σ_i w_i h_i, w_i ∝ exp(-‖h - h_i‖²/2s²)
    misfit = ((h[:, None] - codes) / width).square().sum(-1)
    expected = (-0.5 * misfit).softmax(-1) @ codes
    torch.testing.assert_close(found.reconstruct(h, width), expected)
    # the least of noise leads to the nearest code
    nearest = codes[torch.cdist(h, codes).argmin(-1)]
    torch.testing.assert_close(found.reconstruct(h, 1e-4), nearest)
    # kernels of a width of their own: part of the way, by the law of all kernels
    found.scale.fill_(0.2)
    torch.testing.assert_close(found.reconstruct(h, width), found.law.denoise(h, width))


@pytest.mark.parametrize("nearest", [1, 1000])
def test_conditionals_are_those_of_all_kernels(nearest: int) -> None:
    found = prior(zoo.randn(50, 2), bank=60, nearest=nearest)
    h = zoo.randn(3, len(MASKS), 2)
    given, exact = found.condition(h, MASKS), found.law.given(h, MASKS)
    torch.testing.assert_close(given.mean, exact.mean)
    draws = given.sample((4000, 2)).flatten(0, 1)
    assert draws.shape == (8000, 3, len(MASKS), 2)
    # seen elements do not vary
    error = 5 * draws.std(0) / math.sqrt(8000) + 1e-12
    assert ((draws.mean(0) - exact.mean).abs() < error).all()
    assert given.sample().shape == h.shape


def test_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = prior(zoo.randn(50, 2), nearest=7)
    h, width = zoo.randn(3, 5, 2), zoo.widths(5, 2)
    seen = torch.rand(5, 2) < 0.5

    def everything() -> list[Tensor]:
        return [
            found.log_prob(h),
            found.log_prob(h, seen),
            found.train().loss(h, seen),
            found.eval().truncation_bound(h, seen),
            found.reconstruct(h, width),
            found.condition(h, seen).mean,
        ]

    whole = everything()
    monkeypatch.setattr(parzen, "NUMBERS_AT_ONCE", 100)
    for one, other in zip(whole, everything(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_scale_is_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = zoo.randn(50, 2)
    whole = bandwidth(codes).scale
    monkeypatch.setattr(parzen, "NUMBERS_AT_ONCE", 200)
    torch.testing.assert_close(bandwidth(codes).scale, whole)


def test_single_precision_far_from_zero_is_enough() -> None:
    codes = 1000 + torch.randn(60, 2)
    single, double = prior(codes, nearest=20), prior(codes.double(), nearest=20)
    h = 1000 + torch.randn(10, 2)
    torch.testing.assert_close(single.scale.double(), double.scale, rtol=1e-3, atol=0)
    for found, exact in (
        (single.log_prob(h), double.log_prob(h.double())),
        (single.reconstruct(h, 0.5), double.reconstruct(h.double(), 0.5)),
    ):
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-2)


def test_mixed_precision_does_not_choose_other_kernels() -> None:
    found = prior(100 * torch.randn(200, 3), nearest=10)
    found.scale.fill_(1.0)
    h, seen = found.centres[:20] + torch.randn(20, 3), torch.rand(20, 3) < 0.7
    expected = found.log_prob(h), found.reconstruct(h, 0.5), found.condition(h, seen).mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = found.log_prob(h), found.reconstruct(h, 0.5), found.condition(h, seen).mean
    # the sums of squares themselves have three digits, as those of every Gaussian then
    torch.testing.assert_close(expected[0], same[0], rtol=1e-2, atol=0)
    for one, other in zip(expected[1:], same[1:], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows", [3, 10, 11, 95])
def test_the_bank_holds_codes_of_rows_far_and_wide(rows: int) -> None:
    found, codes = (
        ParzenPrior(1, bank=10, shrink=False),
        torch.arange(rows, dtype=torch.float32)[:, None],
    )
    state = torch.get_rng_state()
    found.follow(codes)
    assert torch.equal(torch.get_rng_state(), state)
    kept = found.centres[: min(rows, 10), 0]
    steps = kept.diff()
    assert kept[0] == 0
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1
    assert rows - kept[-1] <= steps.min() + 1
    assert found.log_weights.exp().sum().item() == pytest.approx(1)
    assert (found.centres[min(rows, 10) :] == 0).all()


def test_fewer_codes_than_before_leave_none_behind() -> None:
    found = prior(torch.randn(20, 1), bank=20)
    later = 5 + torch.randn(8, 1)
    found.follow(later)
    torch.testing.assert_close(found.law.mean, later.mean(0))
    found.refit(later)
    assert torch.equal(found.centres[:8], later)
    assert (found.centres[8:] == 0).all()


def test_following_goes_on_from_the_present_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []

    def counted(codes: Tensor, now: Kernels, shrink: bool) -> tuple[Kernels, Tensor]:
        steps.append(now.scale[0].item())
        return improved(codes, now, shrink)

    found, codes = prior(torch.randn(500, 2)), torch.randn(500, 2)
    monkeypatch.setattr(parzen, "improved", counted)
    found.refit(codes)
    anew = len(steps)
    steps.clear()
    before = found.scale[0].item()
    found.follow(codes + 0.01 * torch.randn(500, 2))
    assert steps[0] == pytest.approx(before)
    assert len(steps) < anew


def test_training_hands_over_the_codes_before_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Stack.build(Gaussian(4), (3, 2), units=(8,))
    model = Model(layers, ParzenPrior(2, bank=50, nearest=20))
    assert isinstance(model.prior, FollowingPrior)
    banks: list[Tensor] = []
    follow = ParzenPrior.follow

    def watched(self: ParzenPrior, codes: Tensor) -> None:
        follow(self, codes)
        banks.append(self.centres.clone())

    monkeypatch.setattr(ParzenPrior, "follow", watched)
    common = torch.randn(80, 1)
    data = Batch.of(common + 0.3 * torch.randn(80, 4))
    how = Trainer(epochs=30, lr=1e-2, verbose=0, device="cpu")
    history = how.fit(model, TargetPropagation(1), data)
    assert len(banks) == 30
    assert all(not torch.equal(a, b) for a, b in pairwise(banks))
    assert not model.training
    assert not torch.equal(model.prior.scale, torch.ones(2))
    assert history[-1]["train"] < history[0]["train"] - 1


def test_a_saved_bank_comes_back(tmp_path: Path) -> None:
    layers = Stack.build(Bernoulli(4), (2,), units=(8,))
    model = Model(layers, ParzenPrior(2, bank=30, nearest=7))
    model.prior.refit(torch.randn(40, 2))
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    h = model.prior.sample((5,))
    assert isinstance(loaded.prior, ParzenPrior)
    assert (loaded.prior.bank, loaded.prior.nearest) == (30, 7)
    assert torch.equal(loaded.prior.log_prob(h), model.prior.log_prob(h))
    # it is for use, not in training, where a kernel would be left out
    assert torch.equal(loaded.prior.loss(h), -model.prior.log_prob(h))


def test_conditionals_in_six_dimensions_are_the_smoothed_textbooks() -> None:
    truth = known()
    found = prior(truth.sample(8000), nearest=500)
    h = truth.sample(len(PATTERNS))
    # the kernels are many draws of the truth, each with noise of their scale; near what is seen
    # there are fewer, 1 / Σ w², and they err like so many draws
    precision = torch.where(PATTERNS, found.scale**-2, 0)
    weights = found.log_shares(torch.where(PATTERNS, h, 0), precision).softmax(-1)
    near = 1 / weights.square().sum(-1)
    assert near.min() > 10
    smooth = truth.smoothed(found.scale)
    assert_conditional(found.condition(h, PATTERNS), smooth, h, PATTERNS, kernels=near)


def test_it_nears_the_truth_with_more_codes() -> None:
    truth = known()
    h = truth.sample(500)
    exact = torch.stack(
        [
            torch.distributions.MultivariateNormal(m, c).log_prob(h) + w.log()
            for w, m, c in zip(*truth, strict=True)
        ]
    ).logsumexp(0)
    lost = [(exact - prior(truth.sample(n)).log_prob(h)).mean().item() for n in (100, 1000, 4000)]
    assert lost[0] > lost[1] > lost[2] > 0
    assert h.shape[-1] == ELEMENTS


MEMORY = """
import resource, torch
from genprop.priors.parzen import ParzenPrior
torch.set_num_threads(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
prior = ParzenPrior(8, bank=12_000, nearest=64).eval()
codes, h = torch.randn(12_000, 8), torch.randn(4_000, 8)
seen = torch.rand(4_000, 8) < 0.5
with torch.no_grad():
    prior.log_prob(h[:1])
    before = peak()
    prior.refit(codes)
    prior.log_prob(h)
    prior.log_prob(h, seen)
    prior.reconstruct(h, 0.5)
    prior.condition(h, seen).sample((1,))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count the peak")
def test_memory_stays_small_with_many_kernels_and_rows() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    # all distances at once would be 183 MiB, and twice that with their weights
    assert float(done.stdout) < 120


def test_impossible_parzen_priors_are_refused() -> None:
    for sizes in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="positive sizes, but got elements="):
            ParzenPrior(*sizes)
    with pytest.raises(ValueError, match="at codes, but got none"):
        ParzenPrior(2).refit(torch.zeros(0, 2))

"""What every kernel promises, over those of the zoo, and what the loop that runs them does."""

import math
from typing import NamedTuple

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from genprop.kernel import AdaptiveKernel, Kernel, LogDensity, run

CHAINS = 10_000
ROWS = 3

every_kernel = pytest.mark.parametrize("name", zoo.kernels())


class Here(NamedTuple):
    position: Tensor
    learned: Tensor


class Told(NamedTuple):
    acceptance: Tensor
    accepted: Tensor


class Steps(AdaptiveKernel[Here]):
    """Adds one at every step, and keeps the shares of the warm-up that it is told."""

    def init(self, position: Tensor) -> Here:
        return Here(position, torch.zeros(0))

    def step(self, state: Here) -> tuple[Here, Told]:
        one = torch.ones(state.position.shape[:-1])
        return state._replace(position=state.position + 1), Told(one, one > 0)

    def adapt(self, state: Here, info: object, share: float) -> Here:
        return state._replace(learned=torch.cat([state.learned, torch.tensor([share])]))


class Targets(nn.Module):
    """Another Gaussian for every row, correlated within it; its mean is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(zoo.randn(ROWS, 2))
        tril = zoo.randn(ROWS, 2, 2).tril(-1) + torch.diag_embed(zoo.widths(ROWS, 2))
        self.register_buffer("tril", tril)

    def forward(self, x: Tensor) -> Tensor:
        law = torch.distributions.MultivariateNormal(self.mean, scale_tril=self.tril)
        return law.log_prob(x)

    def sample(self, chains: int) -> Tensor:
        noise = zoo.randn(chains, ROWS, 2)
        return self.mean.detach() + torch.einsum("rij,crj->cri", self.tril, noise)

    def covariance(self) -> Tensor:
        return self.tril @ self.tril.mT


@pytest.fixture
def targets() -> Targets:
    return Targets()


def make(name: str, log_prob: LogDensity) -> Kernel:
    return zoo.kernels()[name](log_prob)


def assert_moments(x: Tensor, targets: Targets) -> None:
    """Of independent chains ``(chains, rows, 2)``, within five standard errors."""
    away = x - targets.mean.detach()
    products = away[..., :, None] * away[..., None, :]
    for found, expected in ((away, 0.0), (products, targets.covariance())):
        error = 5 * found.std(0) / math.sqrt(len(x))
        assert ((found.mean(0) - expected).abs() < error).all()


@every_kernel
def test_a_kernel_leaves_its_law_unchanged_in_every_row(name: str, targets: Targets) -> None:
    kernel = make(name, targets)
    start = targets.sample(CHAINS)
    chain = run(kernel, start, draws=1, thin=4)
    assert_moments(chain.draws[:, 0], targets)
    moved = (chain.draws[:, 0] != start).any(-1).double().mean(0)
    assert (moved > 0.2).all()


@every_kernel
def test_a_kernel_comes_to_its_law_from_elsewhere(name: str, targets: Targets) -> None:
    start = targets.mean.detach() + 3 * torch.ones(CHAINS // 5, ROWS, 2).double()
    chain = run(make(name, targets), start, draws=1, warmup=100, thin=25)
    assert_moments(chain.draws[:, 0], targets)


@every_kernel
@pytest.mark.parametrize("rows", [(), (ROWS,), (4, ROWS)])
def test_draws_are_in_arvizs_order(name: str, rows: tuple[int, ...], targets: Targets) -> None:
    log_prob = targets if rows else lambda x: -x.square().sum(-1)
    kernel = make(name, log_prob)
    chain = run(kernel, torch.zeros(5, *rows, 2).double(), draws=7, warmup=3)
    assert chain.draws.shape == (5, 7, *rows, 2)
    assert {"acceptance", "accepted"} <= chain.info.keys()
    assert {part.shape for part in chain.info.values()} == {(5, 7, *rows)}
    assert ((chain.info["acceptance"] >= 0) & (chain.info["acceptance"] <= 1)).all()
    assert chain.info["accepted"].dtype == torch.bool
    assert torch.equal(chain.draws[:, -1], chain.state.position)


@every_kernel
def test_a_rejected_chain_stays_and_an_accepted_one_moves(name: str, targets: Targets) -> None:
    chain = run(make(name, targets), targets.sample(200), draws=5)
    moved = (chain.draws.diff(dim=1) != 0).any(-1)
    assert torch.equal(moved, chain.info["accepted"][:, 1:])


@every_kernel
def test_the_same_seed_gives_the_same_chain(name: str, targets: Targets) -> None:
    start, chains = targets.sample(4), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        chains.append(run(make(name, targets), start, draws=5, warmup=10).draws)
    assert torch.equal(chains[0], chains[1])
    assert not torch.equal(chains[0], chains[2])


@every_kernel
def test_a_run_that_is_continued_is_one_that_never_stopped(name: str, targets: Targets) -> None:
    kernel, start = make(name, targets), targets.sample(4)
    torch.manual_seed(1)
    whole = run(kernel, start, draws=8, warmup=10)
    torch.manual_seed(1)
    first = run(kernel, start, draws=3, warmup=10)
    # a kernel remembers nothing: another one goes on as well
    second = run(make(name, targets), first.state, draws=5)
    assert torch.equal(whole.draws, torch.cat([first.draws, second.draws], 1))
    for part, values in whole.info.items():
        assert torch.equal(values, torch.cat([first.info[part], second.info[part]], 1))


@every_kernel
def test_no_gradient_is_kept(name: str, targets: Targets) -> None:
    start = targets.sample(4).requires_grad_()
    chain = run(make(name, targets), start, draws=3, warmup=3)
    assert start.grad is None
    assert targets.mean.grad is None
    assert targets.mean.requires_grad
    assert not chain.draws.requires_grad
    assert not any(part.requires_grad for part in chain.info.values())


@every_kernel
@pytest.mark.parametrize("outside", [math.nan, -math.inf, math.inf])
def test_no_chain_goes_where_the_density_is_not_finite(name: str, outside: float) -> None:
    def half_disc(x: Tensor) -> Tensor:
        return torch.where((x[..., 0] > 0) & (x.norm(dim=-1) < 2), -x.sum(-1), outside * x[..., 1])

    start = torch.rand(500, 2).double() + 0.1
    chain = run(make(name, half_disc), start, draws=20, warmup=20)
    assert torch.isfinite(chain.draws).all()
    assert torch.isfinite(half_disc(chain.draws)).all()
    # most chains move; of a random walk that is tuned for twenty steps only, many
    assert chain.info["accepted"].any(1).double().mean() > 0.2
    assert not chain.info["accepted"].all()


@settings(deadline=None)
@given(draws=st.integers(1, 5), warmup=st.integers(0, 5), thin=st.integers(1, 4))
def test_warm_up_comes_first_and_thinning_counts_transitions(
    draws: int, warmup: int, thin: int
) -> None:
    chain = run(Steps(), torch.zeros(2, 1), draws, warmup, thin)
    expected = warmup + thin * torch.arange(1.0, draws + 1)
    assert torch.equal(chain.draws[..., 0], expected.expand(2, -1))
    shares = torch.arange(1, warmup + 1) / max(warmup, 1)
    torch.testing.assert_close(chain.state.learned, shares)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0}, "at least one draw.* draws=0"),
        ({"draws": 1, "warmup": -1}, "warmup=-1"),
        ({"draws": 1, "thin": 0}, "thin=0"),
    ],
)
def test_impossible_runs_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(Steps(), torch.zeros(2, 1), **arguments)


def test_positions_need_a_dimension_of_chains() -> None:
    with pytest.raises(ValueError, match=r"have shape \(2,\); for one chain put a dimension"):
        run(Steps(), torch.zeros(2), 1)

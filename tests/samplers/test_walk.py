"""Chains without a density: where they rest when their parts are exact conditionals."""

from itertools import product

import exact
import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Bernoulli, Conditional, Gaussian
from genprop.data import Batch
from genprop.distributions import IndependentNormal
from genprop.kernel import run
from genprop.mixture import MixtureNormal
from genprop.model import Model
from genprop.nets import MLP
from genprop.priors.autoregressive import AutoregressivePrior
from genprop.priors.gaussian import GaussianPrior
from genprop.samplers.walk import EncodeDecode, Walk
from genprop.stack import Layer, Stack

NOISE = 1.5


def mixture() -> MixtureNormal:
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double()
    scales = torch.tensor([[0.5, 1.0], [0.7, 0.4]]).double()
    return MixtureNormal(torch.tensor([0.3, 0.7]).double().log(), IndependentNormal(means, scales))


def corrupt(h: Tensor) -> Tensor:
    return h + NOISE * torch.randn_like(h)


def reverse(noisy: Tensor) -> Tensor:
    """A draw of P(h | h + NOISE·ε = noisy) for h of the mixture."""
    law = mixture()
    chosen = law.smoothed(NOISE).joint(noisy).softmax(-1)
    index = torch.multinomial(chosen.reshape(-1, 2), 1).reshape(noisy.shape[:-1])
    loc, scale = (p[index] for p in law.components.parameters)
    keep = scale**2 / (scale**2 + NOISE**2)
    return loc + keep * (noisy - loc) + keep.sqrt() * NOISE * torch.randn_like(noisy)


def test_a_denoising_chain_rests_at_the_law_whose_corruption_it_reverses() -> None:
    start = torch.full((10_000, 2), 5.0).double()  # far from both modes
    draws = run(Walk(corrupt, reverse), start, draws=2, warmup=30, thin=5).draws
    truth = exact.tested(mixture().sample((50_000,)), {})
    for draw in (draws[:, 0], draws[:, 1]):
        exact.assert_same_means(exact.tested(draw, {}), truth)
        right = (draw[:, 0] > 0).double()[:, None]
        exact.assert_same_means(right, (truth[:, :1] > 0).double())


def test_a_denoising_chain_that_takes_means_for_draws_rests_elsewhere() -> None:
    walk = Walk(corrupt, lambda noisy: mixture().denoise(noisy, NOISE))
    truth = exact.tested(mixture().sample((50_000,)), {})
    draws = run(walk, mixture().sample((10_000,)), draws=1, warmup=10).draws[:, 0]
    with pytest.raises(AssertionError, match="standard errors"):
        exact.assert_same_means(exact.tested(draws, {}), truth)


def test_a_denoising_chain_of_bits_rests_at_their_law() -> None:
    every = torch.tensor(list(product((0.0, 1.0), repeat=3))).double()
    law = torch.softmax(2 * zoo.randn(8), 0)
    flipped = (every[:, None] != every).double().sum(-1)
    channel = 0.3**flipped * 0.7 ** (3 - flipped)  # C(h̃ | h), each bit turned over by 30 %
    back = law[:, None] * channel / (law @ channel)  # P(h | h̃) in its columns

    def index(h: Tensor) -> Tensor:
        return (h @ torch.tensor([4.0, 2.0, 1.0]).double()).long()

    walk = Walk(
        lambda h: (h + torch.bernoulli(torch.full_like(h, 0.3))) % 2,
        lambda h: every[torch.multinomial(back.T[index(h)], 1)[:, 0]],
    )
    ends = run(walk, torch.zeros(20_000, 3).double(), draws=1, warmup=20).draws[:, 0]
    shares = torch.bincount(index(ends), minlength=8) / len(ends)
    assert ((shares - law).abs() < 5 * (law * (1 - law) / len(ends)).sqrt()).all()


def exact_parts(width: float = 1.0) -> Model:
    """Two diagonal layers of which each encoder is the decoder's exact reverse, if width is 1."""
    layers = []
    for masked in (True, False):
        up, down = Gaussian(2, scale="net"), Gaussian(2)
        encoder = Conditional(MLP(2, 4, units=(), masked=masked), up)
        layers.append(Layer(encoder, Conditional(MLP(2, 2, units=()), down)))
    model = zoo.perturbed(Model(Stack(layers), GaussianPrior(2, "diagonal")), 0.2)
    for level in (2, 1):
        with torch.no_grad():
            layers[level - 1].decoder.net.first.weight.copy_(torch.diag(zoo.widths(2)))
        zoo.invert(layers[level - 1], zoo.exact_marginal(model, level), width)
    return model


def paths(model: Model, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Positions of the chain, and their x, at draws of P(h, x)."""
    hidden, x = exact.draws(model, rows)
    return torch.cat([*(v[None] for v in x.values()), hidden], -1), x


def moved(model: Model, holes: bool | None) -> tuple[Tensor, Tensor]:
    """What the chain makes of draws of P(h, x), and others that it did not touch."""
    position, x = paths(model, 8000)
    batch = None if holes is None else Batch.of(x, exact.holes(x) if holes else None)
    draws = run(EncodeDecode(model, batch), position, draws=1, thin=4).draws[:, 0]
    return exact.tested(draws, {}), exact.tested(paths(model, 40_000)[0], {})


@pytest.mark.parametrize("holes", [None, True, False])
def test_the_joint_law_stays_where_the_parts_are_exact_conditionals(holes: bool | None) -> None:
    exact.assert_same_means(*moved(exact_parts(), holes))


def test_the_joint_law_does_not_stay_where_they_are_not() -> None:
    with pytest.raises(AssertionError, match="standard errors"):
        exact.assert_same_means(*moved(exact_parts(width=1.3), None))


def test_unseen_cells_come_to_their_law_given_the_seen() -> None:
    model = exact_parts()
    law, places = exact.joint_law(model)
    x = torch.tensor([[1.5, 0.0], [0.0, -2.0]]).double()
    seen = torch.tensor([[True, False], [False, True]])
    chain = EncodeDecode(model, Batch.of(x, seen))
    draws = run(chain, chain.start(6000), draws=1, warmup=30).draws[:, 0]
    assert torch.equal(draws[..., :2][:, seen], x[seen].expand(6000, -1))
    for row in range(2):
        whole = torch.zeros(6).double()
        whole[places["x"]] = x[row]
        known = torch.zeros(6, dtype=torch.bool)
        known[places["x"]] = seen[row]
        truth = exact.given(law, whole, known).sample((30_000,))
        own = torch.cat([draws[:, row, 2:], draws[:, row, :2][:, ~seen[row]]], -1)
        exact.assert_same_means(exact.tested(own, {}), exact.tested(truth, {}))


def copied() -> Model:
    """Two modalities of one bit each, which their codes hold as it is; the prior joins them."""
    stacks = {name: zoo.stack(Bernoulli(1), (1,), "bernoulli") for name in "ab"}
    for stack in stacks.values():
        for part in (stack[0].encoder, stack[0].decoder):
            part.net = MLP(1, 1, units=(), masked=True)
            torch.nn.init.constant_(part.net.first.weight, 60.0)
            torch.nn.init.constant_(part.net.first.bias, -30.0)
    return zoo.perturbed(Model(stacks, AutoregressivePrior(2, units=3)), 0.0)


def test_an_absent_modality_comes_to_its_law_given_the_others() -> None:
    model = copied()
    torch.nn.init.constant_(model.prior.family.V, 2.0)
    torch.nn.init.constant_(model.prior.family.W, 1.5)
    torch.nn.init.constant_(model.prior.outputs, -2.0)
    a = torch.tensor([[0.0], [1.0]]).double()
    hidden = {"b": torch.zeros(2, 1, dtype=torch.bool)}
    chain = EncodeDecode(model, Batch.of({"a": a, "b": torch.zeros(2, 1).double()}, hidden))
    end = run(chain, chain.start(6000), draws=1, warmup=20).draws[:, 0]
    draws = chain.split(end)["b.0"][..., 0]
    every = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]]).double()
    share = model.prior.log_prob(every).softmax(-1)[:, 1].detach()
    error = (share * (1 - share) / 6000).sqrt()
    assert (share[1] - share[0]).abs() > 0.1, "the test would see nothing"
    assert ((draws.mean(0) - share).abs() < 5 * error).all()


@pytest.mark.parametrize("name", zoo.models())
def test_it_walks_on_every_model_and_holds_what_is_seen(name: str) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model, holes=True)
    chain = EncodeDecode(model, batch)
    draws = chain.split(run(chain, chain.start(3), draws=2).draws)
    for modality, seen in batch.seen.items():
        x = draws[f"{modality}.0"]
        mask = torch.ones_like(batch.x[modality], dtype=torch.bool) if seen is None else seen
        assert torch.equal(x[..., mask], batch.x[modality][mask].expand(3, 2, -1))
        assert torch.isfinite(x).all()


def test_a_free_chain_of_every_model_starts_at_its_draws() -> None:
    for make in zoo.models().values():
        chain = EncodeDecode(make())
        start = chain.start(4)
        assert start.shape == (4, sum(chain.sizes.values()))
        assert torch.isfinite(run(chain, start, draws=1).draws).all()


def test_what_cannot_walk_is_refused() -> None:
    with pytest.raises(ValueError, match="a walk needs a transition"):
        Walk()
    with pytest.raises(ValueError, match="no stack has a layer"):
        EncodeDecode(Model(Stack(elements=2), GaussianPrior(2)))
    chain = EncodeDecode(zoo.gaussian(1))
    with pytest.raises(ValueError, match="x and its levels have 6 elements, but positions have 5"):
        chain.init(torch.zeros(2, 5))

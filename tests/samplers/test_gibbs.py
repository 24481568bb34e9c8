"""Gibbs sampling between levels and modalities: it leaves P(h, x_unseen | x_seen) as it is."""

from collections.abc import Callable
from itertools import product

import exact
import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Autoregressive, Bernoulli
from genprop.data import Batch
from genprop.kernel import run
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.priors.autoregressive import AutoregressivePrior
from genprop.priors.factorial import FactorialPrior
from genprop.samplers.gibbs import Gibbs, Move
from genprop.stack import Stack


def bits(nested: bool) -> Model:
    """Two modalities of zeros and ones, so small that all their hidden values can be listed."""
    stacks = {"a": zoo.stack(Bernoulli(2), (2, 1), "bernoulli")}
    stacks["b"] = zoo.stack(Bernoulli(3), (2,), "bernoulli")
    prior = FactorialPrior(Bernoulli(2)) if nested else AutoregressivePrior(3, units=4)
    if nested:
        prior = Model(zoo.stack(Bernoulli(3), (2,), "bernoulli"), prior)
    return zoo.perturbed(Model(stacks, prior), 0.7)


def with_a_flow() -> Model:
    """A prior that knows no conditionals, over two modalities."""
    stacks = {"image": zoo.stack(Bernoulli(4), (1,)), "label": zoo.stack(Bernoulli(3), (1,))}
    return zoo.perturbed(Model(stacks, zoo.flow("nsf")), 0.1)


def chained_modalities() -> Model:
    """Autoregressive layers of two modalities under an autoregressive model."""
    stacks = {n: zoo.stack(Autoregressive(3, units=3), (2,), "autoregressive") for n in "ab"}
    above = zoo.stack(Autoregressive(4, units=3), (2,), "autoregressive")
    return zoo.perturbed(Model(stacks, Model(above, AutoregressivePrior(2, units=3))), 0.3)


ALIKE = ("one-layer", "standard-prior", "nested", "nested-bernoulli")  # nothing new in them
MODELS: dict[str, Callable[[], Model]] = {
    **{name: make for name, make in zoo.models().items() if name not in ALIKE},
    "linear": lambda: zoo.linear_gaussian((3, 2, 2)),
    "bits": lambda: bits(nested=False),
    "nested-bits": lambda: bits(nested=True),
    "flow": with_a_flow,
    "chained": chained_modalities,
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_it_leaves_the_joint_law_as_it_is(name: str) -> None:
    rows = 1000 if name == "autoregressive" else 6000
    exact.assert_joint_law_stays(MODELS[name](), Gibbs, rows, masks=exact.holes)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_weights_of_a_move_are_those_of_the_whole_path(name: str) -> None:
    model = MODELS[name]()
    posterior = Posterior(model, zoo.batch(model, holes=True), smooth=False)
    kernel, before = Gibbs(posterior), posterior.split(posterior.start(3))
    for move in kernel._moves:
        inner = move.ladder.levels[move.block[-1]] != move.ladder.levels[-1]
        if not (move.upward or inner):
            continue  # what the prior proposes is weighed by what it stands for
        after = before | (kernel._rise if move.upward else kernel._descend)(move, before)
        found, expected = [], []
        for levels in (before, after):
            position = posterior.join(levels)
            found.append(kernel._log_weight(move, levels))
            expected.append(posterior.log_prob(position) - proposed(posterior, move, levels))
        torch.testing.assert_close(found[1] - found[0], expected[1] - expected[0])


def proposed(posterior: Posterior, move: Move, levels: dict[str, Tensor]) -> Tensor:
    """The log-density of the block under what proposes it, written out."""
    x = posterior.data(levels)[move.at][move.ladder.name]
    path, total = [x, *(levels[name] for name in move.ladder.levels)], torch.zeros(3, 6).double()
    for number in move.block:
        if move.upward:
            seen = None if number else move.ladder.valued
            law = move.stack[number].encoder(path[number], seen)
        else:
            law = move.stack[number + 1].decoder(path[number + 2])
        total = total + law.log_prob(path[number + 1])
    return total


def transition(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """P(h | x_seen) of one row by enumeration, and where a sweep leads from each h.

    Returns:
        Probabilities ``(values,)`` and shares of many chains ``(values, values)``.
    """
    every = torch.tensor(list(product((0.0, 1.0), repeat=posterior.elements))).double()
    law = posterior.log_prob(every[:, None])[:, 0].softmax(0)
    starts = every[:, None].repeat(500, 1, 1)
    ends = run(Gibbs(posterior), starts, draws=1).draws[:, 0]
    match = (ends == every).all(-1).double()
    return law, match.reshape(500, len(every), len(every)).mean(0)


@pytest.mark.parametrize("nested", [False, True])
@torch.no_grad()
def test_every_value_leads_to_every_other_and_the_posterior_stays(nested: bool) -> None:
    model = bits(nested)
    seen = {"a": torch.tensor([[False, True]]), "b": torch.tensor([[False, False, False]])}
    x = {"a": torch.ones(1, 2).double(), "b": torch.zeros(1, 3).double()}
    posterior = Posterior(model, Batch.of(x, seen), smooth=False)
    law, moves = transition(posterior)
    error = ((law[:, None] * moves * (1 - moves)).sum(0) / 500).sqrt()
    assert ((law @ moves - law).abs() < 5 * error + 1e-3).all()
    assert ((moves @ moves @ moves) > 0).all()


@pytest.mark.parametrize("name", ["linear", "three-layers", "bernoulli"])
@torch.no_grad()
def test_ranks_among_its_draws_are_uniform(name: str) -> None:
    model = MODELS[name]()
    truth, x = exact.draws(model, 200)
    posterior = Posterior(model, Batch.of(x, exact.holes(x)), smooth=False)
    draws = run(Gibbs(posterior), posterior.start(9), draws=1, warmup=40).draws[:, 0]
    # a sum with unequal weights has no ties where levels are discrete
    weights = zoo.randn(posterior.elements, 3)
    functions = [
        torch.cat([h @ weights, posterior.log_prob(h)[..., None]], -1) for h in (truth[0], draws)
    ]
    noise = [1e-9 * torch.randn_like(f) for f in functions]
    exact.assert_ranks_are_uniform(functions[0] + noise[0], functions[1] + noise[1])


@torch.no_grad()
def test_where_parts_are_exact_conditionals_every_proposal_is_taken() -> None:
    model = zoo.with_exact_upper_encoders(1)
    layer = zoo.only_stack(model)[0]
    layer.decoder.net.first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    zoo.invert(layer, zoo.exact_marginal(model, 1))
    posterior = Posterior(model, zoo.batch(model))
    info = run(Gibbs(posterior), posterior.start(50), draws=3).info
    torch.testing.assert_close(info["below"], torch.ones_like(info["below"]))
    assert info["above"].mean() < 0.9
    assert info["accepted"].all()


@torch.no_grad()
def test_what_is_absent_is_drawn_from_the_model_without_a_rejection() -> None:
    model = zoo.two_modalities()
    batch = zoo.batch(model, holes=True)
    nothing = {name: torch.zeros_like(x, dtype=torch.bool) for name, x in batch.x.items()}
    posterior = Posterior(model, Batch.of(batch.x, nothing), smooth=False)
    info = run(Gibbs(posterior), posterior.start(50), draws=1).info
    whole = run(Gibbs(Posterior(model, batch, smooth=False)), posterior.start(50), draws=1).info
    assert info["above"].mean() > whole["above"].mean()
    kernel = Gibbs(posterior)
    paths = [move for move in kernel._moves if len(move.block) == len(move.ladder.levels)]
    levels = posterior.split(posterior.start(50))
    for move in (move for move in paths if not move.upward):
        levels, chance = kernel._tried(move, levels)
        torch.testing.assert_close(chance, torch.ones_like(chance))


@torch.no_grad()
def test_a_run_goes_on_as_if_it_had_not_ended() -> None:
    model = zoo.mixed()
    posterior = Posterior(model, zoo.batch(model, holes=True), smooth=False)
    start, kernel = posterior.start(2), Gibbs(posterior)
    torch.manual_seed(1)
    whole = run(kernel, start, draws=4).draws
    torch.manual_seed(1)
    first = run(kernel, start, draws=2)
    rest = run(kernel, first.state, draws=2).draws
    assert torch.equal(torch.cat([first.draws, rest], 1), whole)


def test_chains_that_start_where_there_is_no_mass_are_refused() -> None:
    layers = [zoo.layers()["dequantising"](), *zoo.stack(zoo.Gaussian(3), (2,)).layers]
    model = Model(Stack(layers), zoo.GaussianPrior(2))
    posterior = Posterior(model, Batch.of(torch.tensor([[0.0, 0.25, 0.5]])))
    assert torch.isfinite(posterior.log_prob(posterior.start(3))).all()
    with pytest.raises(ValueError, match="not finite at the start of 2 of 2 chains; start them at"):
        Gibbs(posterior).init(posterior.start(2) + 10)

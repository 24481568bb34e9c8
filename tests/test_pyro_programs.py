"""A model as Pyro's programs: the same densities, the same bound, parameters that learn."""

import pyro
import pytest
import torch
import zoo
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO

from genprop.conditional import Gaussian
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.gsn import GSNPrior
from genprop.stack import Stack

NAMES = [name for name in zoo.models() if "raw" not in name]


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def total(trace: poutine.Trace) -> torch.Tensor:
    """The log-probability of every row, all sites together."""
    trace.compute_log_prob()
    values = [n["log_prob"] for n in trace.nodes.values() if n["type"] == "sample"]
    return torch.stack([v for v in values if torch.is_tensor(v) and v.ndim == 1]).sum(0)


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_of_a_path_is_the_models(name: str) -> None:
    model = zoo.models()[name]()
    batch, programs = zoo.batch(model), model.as_pyro()
    guide = poutine.trace(programs.guide).get_trace(batch)
    trace = poutine.trace(poutine.replay(programs.model, guide)).get_trace(batch)
    found = total(trace) - total(guide)
    assert torch.allclose(found, own_weight(model, batch, guide, ""))


def own_weight(model: Model, batch: Batch, guide: poutine.Trace, head: str) -> torch.Tensor:
    """Log P(x, h) - log Q(h | x) of the traced path, by the model's own parts."""
    code, total_weight = guide.nodes[f"{head}code"]["value"], 0
    tops = code.split(list(model.sizes.values()), -1)
    for (modality, stack), top in zip(model.named_stacks(), tops, strict=True):
        middle = range(1, len(stack.layers))
        h = [
            batch.x[modality],
            *(guide.nodes[f"{head}{modality}.h{n}"]["value"] for n in middle),
            top,
        ]
        known = stack.seen_below(batch.seen[modality])
        for level in range(len(stack.layers)):
            q = stack[level].encoder(h[level], known[level])
            p = stack[level].decoder(h[level + 1])
            total_weight = (
                total_weight + p.log_prob(h[level], known[level]) - q.log_prob(h[level + 1])
            )
    if isinstance(model.prior, Model):
        return total_weight + own_weight(
            model.prior, model.prior.batch(code), guide, f"{head}prior."
        )
    return total_weight + model.prior.log_prob(code)


def test_cells_that_are_not_seen_have_no_part() -> None:
    model = zoo.two_modalities()
    batch = zoo.batch(model, holes=True)
    programs = model.as_pyro()
    guide = poutine.trace(programs.guide).get_trace(batch)
    other = {n: torch.where(batch.seen[n], x, 1 - x) for n, x in batch.x.items()}
    weights = [
        total(poutine.trace(poutine.replay(programs.model, guide)).get_trace(each))
        for each in (batch, Batch(other, batch.seen))
    ]
    assert torch.equal(*weights)


def test_variational_inference_learns_and_predicts() -> None:
    torch.manual_seed(0)
    model = zoo.gaussian()
    batch, programs = zoo.batch(model, rows=64), model.as_pyro()
    svi = SVI(programs.model, programs.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(batch) for _ in range(200)]
    assert sum(losses[-20:]) < sum(losses[:20])
    drawn = Predictive(programs.generate, num_samples=5)(7)
    assert drawn["x"].shape == (5, 7, model.elements)
    posterior = Predictive(programs.guide, num_samples=5)(batch)
    assert posterior["code"].shape == (5, 64, model.prior.elements)


def test_chains_of_pyro_find_the_posterior() -> None:
    model = zoo.linear_gaussian((3, 2))
    x = zoo.exact_marginal(model).sample((1,))
    batch = Batch.of(x)
    torch.manual_seed(0)
    chain = MCMC(
        NUTS(model.as_pyro().model), num_samples=300, warmup_steps=100, disable_progbar=True
    )
    chain.run(batch)
    found = chain.get_samples()["code"][:, 0]
    paths = model.encode(batch, 20_000)
    weights = model.log_weights(paths, batch).softmax(0)
    mean = (weights[..., None] * paths["x"].code).sum(0)[0]
    # 300 draws of a chain, at the least 60 effective ones: four standard errors
    assert ((found.mean(0) - mean).abs() < 4 * found.std(0) / 60**0.5).all()


def test_what_pyro_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="a layer in every stack"):
        zoo.with_raw_modality().as_pyro()
    stack = Stack.build(Gaussian(3), (2,))
    with pytest.raises(TypeError, match="GSNPrior has none"):
        Model(stack, GSNPrior(Gaussian(2))).as_pyro()

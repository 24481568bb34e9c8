"""Sweeps of local differences: where they rest, and that they rise."""

import exact
import pytest
import torch
import zoo
from sklearn.datasets import load_digits
from torch import Tensor

from genprop.conditional import Conditional, Gaussian
from genprop.data import Batch
from genprop.model import Model
from genprop.nets import MLP
from genprop.posterior import Posterior
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.target import TargetPropagation
from genprop.samplers.ascent import ascend
from genprop.samplers.inference import Inference, dream
from genprop.stack import Layer, Path, Stack
from genprop.train import Trainer


def one_layer(A: Tensor) -> Model:
    """x = A h + 0.5 ε under h ~ N(0, I), with the encoder's mean E[h | x], noise-free."""
    up, down = Gaussian(A.shape[1], scale="net"), Gaussian(A.shape[0], scale=0.5)
    encoder = Conditional(MLP(A.shape[0], 2 * A.shape[1], units=(), masked=True), up)
    layer = Layer(encoder, Conditional(MLP(A.shape[1], A.shape[0], units=()), down))
    model = Model(Stack([layer]), GaussianPrior(A.shape[1])).double()
    torch.nn.init.zeros_(layer.decoder.net.first.bias)
    with torch.no_grad():
        layer.decoder.net.first.weight.copy_(A)
    zoo.invert(layer, zoo.exact_marginal(model, 1))
    return model


def deep() -> Model:
    """Two diagonal layers, each encoder with the mean and variance of P(h_l | h_{l-1})."""
    layers = []
    for masked in (True, False):
        encoder = Conditional(MLP(2, 4, units=(), masked=masked), Gaussian(2, scale="net"))
        layers.append(Layer(encoder, Conditional(MLP(2, 2, units=()), Gaussian(2))))
    model = zoo.perturbed(Model(Stack(layers), GaussianPrior(2, "diagonal")), 0.2)
    for level in (2, 1):
        with torch.no_grad():
            layers[level - 1].decoder.net.first.weight.copy_(torch.diag(zoo.widths(2)))
        zoo.invert(layers[level - 1], zoo.exact_marginal(model, level))
    return model


def wide() -> Model:
    return one_layer(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.5, 0.0]]).double())


def digits() -> tuple[Model, Tensor]:
    """Two nonlinear layers trained on digits, and digits that they did not see."""
    rows = torch.tensor(load_digits().data[:600] / 16).double()
    model = Model(Stack.build(Gaussian(64), (8, 3), units=(16,)), GaussianPrior(3)).double()
    how = Trainer(epochs=12, batch_size=100, lr=3e-2, device="cpu", precision="64", verbose=0)
    how.fit(model, TargetPropagation(), Batch.of(rows[:500]), Batch.of(rows[500:]))
    return model, rows[500:]


def hidden(paths: dict[str, Path]) -> Tensor:
    return torch.cat([h for path in paths.values() for h in path.h[1:]], -1)


def moved(paths: dict[str, Path], by: float) -> dict[str, Path]:
    """Hidden levels elsewhere."""
    return {
        name: Path((path.x, *(h + by * torch.randn_like(h) for h in path.h[1:])), ())
        for name, path in paths.items()
    }


def heights(model: Model, batch: Batch, inference: Inference, sweeps: int, by: float) -> Tensor:
    """Log P(x_seen, h) before and after each sweep, ``(sweeps + 1, rows)``."""
    posterior, paths = Posterior(model, batch), moved(Inference(0)(model, batch), by)
    found = [posterior.log_prob(hidden(paths))]
    for _ in range(sweeps):
        paths = inference(model, batch, paths)
        found.append(posterior.log_prob(hidden(paths)))
    return torch.stack(found)


@pytest.mark.parametrize("make", [wide, deep])
@pytest.mark.parametrize("holes", [False, True])
@torch.no_grad()
def test_with_exact_inverses_it_rises_to_the_most_probable_path(make, holes: bool) -> None:
    model = make()
    x = exact.draws(model, 8)[1]
    batch = Batch.of(x, exact.holes(x) if holes else None)
    found = heights(model, batch, Inference(1, delta=0.1, noise=1e-4), 15, by=1.0)
    assert (found.diff(dim=0) > -1e-7).all()
    start = moved(Inference(0)(model, batch), by=1.0)
    paths = Inference(250, delta=0.9, noise=1e-4)(model, batch, start)
    peak = ascend(Posterior(model, batch).log_prob, hidden(paths), tolerance=1e-8)
    torch.testing.assert_close(hidden(paths), peak.position, rtol=0, atol=1e-4)
    assert (found[0] < peak.log_prob - 0.1).all(), "the test would see nothing"


def test_it_raises_the_probability_of_paths_of_a_trained_model() -> None:
    model, rows = digits()
    found = heights(model, Batch.of(rows), Inference(1, delta=0.03, noise=0.1), 8, by=0.0).mean(-1)
    assert (found.diff() > 0).all(), found


def test_a_sweep_is_the_published_one() -> None:
    model = zoo.gaussian(2)
    (low, high), batch = zoo.only_stack(model).layers, zoo.batch(model)
    start = Inference(0)(model, batch)["x"]
    x, h1, h2 = start.h
    torch.testing.assert_close(h1, low.encoder(x).mean)
    torch.testing.assert_close(h2, high.encoder(h1).mean)
    h2 = h2 + 0.2 * (high.encoder(h1).mean - high.encoder(high.decoder(h2).mean).mean)
    h1 = h1 + 0.2 * (low.encoder(x).mean - low.encoder(low.decoder(h1).mean).mean)
    h1 = h1 + 0.05 * (high.decoder(h2).mean - start.h[1])
    found = Inference(1, delta=0.2, alpha=0.05)(model, batch)["x"]
    torch.testing.assert_close(found.h[2], h2)
    torch.testing.assert_close(found.h[1], h1)


@pytest.mark.parametrize("name", zoo.models())
def test_it_fills_in_what_is_not_seen_in_every_model(name: str) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model, holes=True)
    # a model with a part that has no layer cannot reconstruct codes
    noise = None if name == "nested-raw-part" else 0.5
    paths = Inference(3, noise=noise)(model, batch)
    for modality, path in paths.items():
        seen, stack = batch.seen[modality], dict(model.named_stacks())[modality]
        assert all(torch.isfinite(h).all() for h in path.h)
        if seen is not None:
            assert torch.equal(path.x[seen], batch.x[modality][seen])
            if len(stack.layers):
                guess = stack[0].decoder(path.h[1]).mean
                torch.testing.assert_close(path.x[~seen], guess[~seen])


def test_levels_stay_within_their_limits() -> None:
    model = zoo.gaussian(2)
    inference = Inference(5, delta=2.0, limits={"x.2": (0.0, 0.1)})
    h = inference(model, zoo.batch(model))["x"].h
    assert ((h[2] >= 0) & (h[2] <= 0.1)).all()
    assert (h[1].abs() > 0.1).any()


def test_dreams_are_improved_round_by_round() -> None:
    model = zoo.two_modalities()
    torch.manual_seed(1)
    plain = dream(model, 50, rounds=0)
    torch.manual_seed(1)
    code = model.prior.sample((50,))
    for (name, stack), h in zip(model.named_stacks(), code.split([2, 2], -1), strict=True):
        for level in reversed(range(len(stack.layers))):
            h = stack[level].decoder(h).mean
        torch.testing.assert_close(plain[name], h)
    torch.manual_seed(1)
    still = dream(model, 50, Inference(0), rounds=2)
    torch.manual_seed(1)
    dreamt = dream(model, 50, rounds=2)
    assert {n: x.shape for n, x in dreamt.items()} == {n: x.shape for n, x in plain.items()}
    assert not torch.equal(still["image"], dreamt["image"])


def test_what_cannot_be_inferred_is_refused() -> None:
    model = zoo.gaussian(1)
    with pytest.raises(ValueError, match="sweeps=-1"):
        Inference(-1)
    with pytest.raises(ValueError, match=r"limits=\{'x\.1': \(1\.0, 0\.0\)\}"):
        Inference(limits={"x.1": (1.0, 0.0)})
    with pytest.raises(ValueError, match=r"noise=0\.0"):
        Inference(noise=0.0)
    with pytest.raises(ValueError, match="3 elements, but its stack expects 4"):
        Inference()(model, Batch.of(torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="n=0, rounds=3"):
        dream(model, 0)

"""A label's discriminant influence: ∇ log P(label | codes) for codes, and for nothing else."""

from collections.abc import Callable

import pytest
import torch
import zoo
from torch import Tensor
from torch.distributions import MultivariateNormal

from genprop.data import Batch
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.priors.gaussian import GaussianPrior
from genprop.rules import target as module
from genprop.rules.target import TargetPropagation
from genprop.stack import Stack


def price_gradient(model: Model, batch: Batch, code: Tensor, share: float) -> Tensor:
    """The gradient that joint codes get from what the rule makes of their price."""
    top = module._tops(model, batch, torch.Size(()))[0].drawn(code)
    top.blind = {"label": share}
    h = code.clone().requires_grad_()
    top.code = lambda: h
    (gradient,) = torch.autograd.grad(top.pleasing.sum(), h)
    return gradient


def nested_gaussian() -> Model:
    """A linear-Gaussian layer over the code of an image and a label as it is."""
    image = zoo.linear_gaussian((3, 2)).stacks["x"]
    return Model({"image": image, "label": Stack(elements=2)}, zoo.linear_gaussian((4, 3)))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_codes_climb_the_conditional_law_of_the_label(share: float) -> None:
    model = zoo.two_modalities()
    assert isinstance(model.prior, GaussianPrior)
    assert isinstance(model.prior.law, JointNormal)
    batch, first = zoo.batch(model), model.sizes["image"]
    code = zoo.randn(batch.rows, model.prior.elements)
    loc, covariance = model.prior.law.loc.detach(), model.prior.law.covariance.detach()
    h = code.clone().requires_grad_()
    joint = MultivariateNormal(loc, covariance).log_prob(h)
    alone = MultivariateNormal(loc[:first], covariance[:first, :first]).log_prob(h[:, :first])
    (wanted,) = torch.autograd.grad(-(joint - share * alone).sum(), h)
    torch.testing.assert_close(price_gradient(model, batch, code, share), wanted)


@torch.no_grad()
def reconstruction(model: Model, code: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the layer above makes of what is seen of joint codes: its mean and scale."""
    assert isinstance(model.prior, Model)
    layer = zoo.only_stack(model.prior)[0]
    law = layer.decoder(layer.encoder(code if seen is None else code * seen, seen).mean)
    return law.mean, law.stddev


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_layers_above_reconstruct_with_the_label_and_without(share: float) -> None:
    model = nested_gaussian()
    batch = zoo.batch(model)
    code, seen = zoo.randn(batch.rows, 4), torch.tensor([True, True, False, False])
    given, scale = reconstruction(model, code, None)
    missing, _ = reconstruction(model, code, seen.expand(batch.rows, -1))
    wanted = (code - given - share * seen * (code - missing)) / scale**2
    found = price_gradient(model, batch, code.expand(20_000, -1, -1), share)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - wanted).abs() < 5 * error).all()


def test_a_label_that_says_nothing_has_no_influence() -> None:
    model = nested_gaussian()
    assert isinstance(model.prior, Model)
    batch = zoo.batch(model)
    code = zoo.randn(batch.rows, 4)
    with torch.no_grad():  # a code that follows nothing follows no label
        zoo.only_stack(model.prior)[0].decoder.net.first.weight[:2] = 0
    found = price_gradient(model, batch, code, 1.0)
    torch.testing.assert_close(found[:, :2], torch.zeros_like(found[:, :2]))
    assert (found[:, 2:] != 0).all()


MODELS = pytest.mark.parametrize(
    "make", [zoo.two_modalities, zoo.nested_over_two_modalities, zoo.nested_with_raw_part]
)


@MODELS
def test_rows_without_the_label_are_trained_as_before(make: Callable[[], Model]) -> None:
    model = make()
    batch = zoo.batch(model)
    unseen = torch.zeros_like(batch.x["label"], dtype=torch.bool)
    batch = Batch(
        {**batch.x, "label": torch.zeros_like(batch.x["label"])}, {"image": None, "label": unseen}
    )
    plain = zoo.gradients(model, batch, TargetPropagation())
    zoo.assert_same(zoo.gradients(model, batch, TargetPropagation(label="label")), plain)


@pytest.mark.parametrize("samples", [1, 5])
@MODELS
def test_only_the_top_encoders_of_the_others_learn_otherwise(
    make: Callable[[], Model], samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    batch = zoo.batch(model)
    plain = zoo.gradients(model, batch, TargetPropagation(samples))
    drawn = module._Top.drawn

    def undisturbed(top: module._Top, code: Tensor) -> module._Top:
        with torch.random.fork_rng(devices=[]):
            return drawn(top, code)

    monkeypatch.setattr(module._Top, "drawn", undisturbed)
    found = zoo.gradients(model, batch, TargetPropagation(samples, label="label"))
    other = {name for name in plain if not torch.equal(plain[name], found[name])}
    assert other
    assert all(name.startswith("stacks.image.layers.1.encoder") for name in other), other


@pytest.mark.parametrize("label", ["text", "image"])
def test_labels_it_cannot_use_are_refused(label: str) -> None:
    model = zoo.gaussian() if label == "image" else zoo.two_modalities()
    with pytest.raises(ValueError, match="one of several modalities"):
        TargetPropagation(label=label).check(model)


@pytest.mark.parametrize("sizes", [(), (3,)])
def test_without_an_encoder_to_teach_it_is_said(sizes: tuple[int, ...]) -> None:
    label = zoo.stack(zoo.Gaussian(2), sizes) if sizes else Stack(elements=2)
    stacks = {"image": Stack(elements=3), "label": label}
    prior = GaussianPrior(3 + label.code_elements)
    with pytest.raises(ValueError, match="but none has a layer; give one to image by hidden"):
        TargetPropagation(label="label").check(Model(stacks, prior))


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        TargetPropagation(label="y", discriminant=2.0)

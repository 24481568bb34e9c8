"""A label's discriminant influence: ∇ log P(label | codes) for codes, and for nothing else."""

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


def price_gradient(model: Model, batch: Batch, code: Tensor, share: float) -> Tensor:
    """The gradient that joint codes get from what the rule makes of their price."""
    top = module._tops(model, batch, torch.Size(()))[-1]
    top.blind = {"label": share}
    h = code.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(top.price(h).sum(), h)
    return gradient


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


def test_rows_without_the_label_are_trained_as_before() -> None:
    model = zoo.two_modalities()
    batch = zoo.batch(model)
    unseen = torch.zeros_like(batch.x["label"], dtype=torch.bool)
    batch = Batch(
        {**batch.x, "label": torch.zeros_like(batch.x["label"])}, {"image": None, "label": unseen}
    )
    plain = zoo.gradients(model, batch, TargetPropagation())
    zoo.assert_same(zoo.gradients(model, batch, TargetPropagation(label="label")), plain)


@pytest.mark.parametrize("samples", [1, 5])
def test_only_the_top_encoders_of_the_others_learn_otherwise(samples: int) -> None:
    model = zoo.two_modalities()
    batch = zoo.batch(model)
    plain = zoo.gradients(model, batch, TargetPropagation(samples))
    found = zoo.gradients(model, batch, TargetPropagation(samples, label="label"))
    other = {name for name in plain if not torch.equal(plain[name], found[name])}
    assert other
    assert all(name.startswith("stacks.image.layers.1.encoder") for name in other), other


@pytest.mark.parametrize("label", ["text", "image"])
def test_labels_it_cannot_use_are_refused(label: str) -> None:
    model = zoo.gaussian() if label == "image" else zoo.two_modalities()
    with pytest.raises(ValueError, match="one of several modalities"):
        TargetPropagation(label=label).check(model)


def test_layers_above_are_refused() -> None:
    model = zoo.nested_over_two_modalities()
    with pytest.raises(ValueError, match="layers are above"):
        TargetPropagation(label=next(iter(model.stacks))).check(model)


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        TargetPropagation(label="y", discriminant=2.0)

"""What only a VampPrior promises: it is made of the top encoders, and moves nothing below them."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from genprop.conditional import Bernoulli, Conditional, Gaussian, Logistic
from genprop.data import Batch
from genprop.model import Model
from genprop.nets import MLP
from genprop.persistence import load_model, save_model
from genprop.priors import vamp
from genprop.priors.vamp import VampPrior
from genprop.rules.backprop import Backprop
from genprop.rules.target import TargetPropagation
from genprop.stack import Stack
from genprop.train import Trainer
from genprop.validation import mean_bound

COMPONENTS = 4


def tops(*stacks: Stack) -> list[Conditional]:
    return [stack[-1].encoder for stack in stacks]


def one_stack(hidden: tuple[int, ...] = (3, 2), visible: int = 5) -> Model:
    layers = zoo.stack(Bernoulli(visible), hidden)
    binary = len(hidden) == 1
    return zoo.perturbed(Model(layers, VampPrior(tops(layers), COMPONENTS, binary=binary)), 0.1)


def two_stacks() -> Model:
    """An image whose top encoder reads reals, and bits whose only encoder reads them."""
    stacks = {"image": zoo.stack(Gaussian(4), (3, 2)), "bits": zoo.stack(Bernoulli(3), (1,))}
    prior = VampPrior(tops(*stacks.values()), COMPONENTS, binary=(False, True))
    return zoo.perturbed(Model(stacks, prior), 0.1)


def prior_of(model: Model) -> VampPrior:
    assert isinstance(model.prior, VampPrior)
    return model.prior


def test_it_mixes_the_encoders_laws_at_the_pseudo_inputs() -> None:
    model = two_stacks()
    prior = prior_of(model)
    (reals, bits), (image, flags) = prior.pseudo_inputs, tops(*model.stacks.values())
    a, b = image(reals), flags(torch.sigmoid(bits))
    loc, scale = torch.cat([a.mean, b.mean], -1), torch.cat([a.stddev, b.stddev], -1)
    expected = MixtureSameFamily(
        Categorical(logits=prior.logits), Independent(Normal(loc, scale), 1)
    )
    h = zoo.randn(6, 3)
    torch.testing.assert_close(prior.log_prob(h), expected.log_prob(h))
    assert prior.elements == 3


def test_of_one_layer_the_pseudo_inputs_are_data() -> None:
    model = one_stack(hidden=(2,))
    (u,) = prior_of(model).pseudo_inputs
    assert u.shape == (COMPONENTS, 5)
    # codes of the data are then the more probable the nearer it is to a pseudo-input
    law = model.stacks["x"][0].encoder(u.sigmoid())
    assert prior_of(model).log_prob(law.mean).exp().min() > 0


def told(model: Model, part: Tensor) -> set[str]:
    """Which parameters a part of a rule reaches; shared ones go by their name in the stack."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    slopes = torch.autograd.grad(part, parameters, allow_unused=True, retain_graph=True)
    return {n for n, s in zip(names, slopes, strict=True) if s is not None and s.any()}


@pytest.mark.parametrize("make", [one_stack, two_stacks], ids=["one", "two"])
@pytest.mark.parametrize("samples", [1, 5])
def test_its_term_reaches_the_top_encoders_and_its_own_only(
    make: Callable[[], Model], samples: int
) -> None:
    model = make()
    encoders = {
        f"stacks.{name}.layers.{len(stack.layers) - 1}.encoder"
        for name, stack in model.named_stacks()
    }
    parts: dict[str, Tensor] = {}
    for term in TargetPropagation(samples)(model, zoo.batch(model)):
        parts |= term.parts
    own = told(model, parts["prior.loss"])
    inside = {n for n in own if n.startswith("prior.")}
    assert inside == {"prior.logits", *(f"prior.pseudo_inputs.{i}" for i in range(len(encoders)))}
    reached = {e for e in encoders if any(n.startswith(e) for n in own - inside)}
    assert reached == encoders
    assert all(n.startswith(tuple(encoders)) for n in own - inside)


def test_of_one_layer_the_local_rule_is_the_doubly_reparameterised_one() -> None:
    """An encoder's two parts, as encoder and within the prior, add up to the bound's gradient."""
    model = one_stack(hidden=(2,))
    batch = zoo.batch(model)
    local = zoo.gradients(model, batch, TargetPropagation(5))
    zoo.assert_same(local, zoo.gradients(model, batch, Backprop(5, "dreg")))
    assert local["prior.pseudo_inputs.0"].any()


def test_an_encoder_is_one_module_wherever_it_stands() -> None:
    model = two_stacks()
    for layers, encoder in zip(model.stacks.values(), prior_of(model).encoders, strict=True):
        assert layers[-1].encoder is encoder
    names = [n for n, _ in model.named_parameters() if n.startswith("prior.")]
    assert not any("encoders" in n for n in names), "each is told once what to change"
    copy = deepcopy(model)
    assert copy.stacks["image"][-1].encoder is prior_of(copy).encoders[0]


@pytest.mark.parametrize("make", [one_stack, two_stacks], ids=["one", "two"])
def test_a_saved_model_still_shares_its_encoders(make: Callable[[], Model], tmp_path: Path) -> None:
    model = make()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    for layers, encoder in zip(loaded.stacks.values(), prior_of(loaded).encoders, strict=True):
        assert layers[-1].encoder is encoder
    h = model.prior.sample((5,))
    assert torch.equal(loaded.prior.log_prob(h), model.prior.log_prob(h))
    assert prior_of(loaded).binary == prior_of(model).binary


def test_training_with_it_raises_the_bound() -> None:
    torch.manual_seed(1)
    common = torch.rand(200, 1) < 0.5
    data = Batch.of((common ^ (torch.rand(200, 6) < 0.1)).float())
    layers = Stack.build(Bernoulli(6), (4, 2), units=(16,))
    model = Model(layers, VampPrior(tops(layers), 5))
    before = mean_bound(model, data, 20)
    Trainer(epochs=40, lr=1e-2, verbose=0, device="cpu").fit(model, TargetPropagation(1), data)
    assert mean_bound(model, data, 20) > before + 0.5


def test_refit_raises_the_likelihood_and_leaves_the_encoders() -> None:
    model = two_stacks()
    prior = prior_of(model)
    h = 0.5 * zoo.randn(300, 3)
    layers = {n: p.clone() for n, p in model.stacks.named_parameters()}
    before = prior.log_prob(h).mean()
    prior.refit(h)
    assert prior.log_prob(h).mean() > before + 0.1
    for n, p in model.stacks.named_parameters():
        assert torch.equal(p, layers[n])
        assert p.grad is None
        assert p.requires_grad
    # it is a maximum: nothing of the prior's own would change it much
    slopes = torch.autograd.grad(prior.loss(h).mean(), [prior.logits, *prior.pseudo_inputs])
    assert max(s.abs().max() for s in slopes) < 1e-2


def test_refit_takes_codes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    h = zoo.randn(50, 2)
    prior = prior_of(one_stack())
    other = deepcopy(prior)
    prior.refit(h)
    monkeypatch.setattr(vamp, "NUMBERS_AT_ONCE", 7 * COMPONENTS * 2)
    other.refit(h)
    torch.testing.assert_close(other.log_prob(h), prior.log_prob(h), atol=1e-4, rtol=0)


def test_refit_keeps_noisy_nets_calm() -> None:
    noisy = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))
    prior = VampPrior([Conditional(noisy, Gaussian(2))], COMPONENTS, inputs=3).double()
    other = deepcopy(prior)
    kept = {n: b.clone() for n, b in prior.named_buffers()}
    h = zoo.randn(50, 2)
    prior.refit(h)
    other.refit(h)
    assert all(module.training for module in noisy.modules())
    for n, b in prior.named_buffers():
        assert torch.equal(b, kept[n])
    for one, same in zip(prior.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_a_net_of_ones_own_says_how_much_it_reads() -> None:
    encoder = Conditional(nn.Linear(7, 2), Gaussian(2))
    assert VampPrior([encoder], 3, inputs=7).log_prob(torch.zeros(4, 2)).shape == (4,)
    with pytest.raises(ValueError, match="a Linear, reads is not known; give inputs="):
        VampPrior([encoder])


def test_impossible_vamp_priors_are_refused() -> None:
    encoder = Conditional(MLP(4, 2), Gaussian(2))
    with pytest.raises(ValueError, match="at least one encoder and one component, but got 0 and"):
        VampPrior([])
    with pytest.raises(ValueError, match="one component, but got 1 and 0"):
        VampPrior([encoder], 0)
    with pytest.raises(ValueError, match="reads 4 elements, not 5"):
        VampPrior([encoder], inputs=5)
    with pytest.raises(ValueError, match="binary says 2 things about 1 encoders"):
        VampPrior([encoder], binary=[True, False])
    for family in (Bernoulli(2), Logistic(2)):
        with pytest.raises(ValueError, match=f"one gives {type(family).__name__}"):
            VampPrior([Conditional(MLP(4, 2), family)])

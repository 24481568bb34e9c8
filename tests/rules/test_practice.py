"""Rows with hidden parts teach encoders alone: decoders and prior learn P of whole rows."""

from copy import deepcopy
from itertools import chain

import numpy as np
import pytest
import torch
import zoo

from genprop.estimator import GenProp
from genprop.model import Model
from genprop.priors.vamp import VampPrior
from genprop.rules.practice import practised
from genprop.rules.target import TargetPropagation
from genprop.train import Trainer

# every rule, and every model
FITTING = [
    (model, rule)
    for model, rule in zoo.trainings()
    if model == "two-modalities" or rule == "target-5-decoder"
]


@pytest.mark.parametrize(("model", "rule"), FITTING)
def test_hidden_rows_reach_no_decoder_and_no_prior(model: str, rule: str) -> None:
    net, kind = zoo.models()[model](), zoo.rules()[rule]()
    batch = zoo.batch(net)
    torch.manual_seed(0)
    hidden = batch.hide(1.0, explain=True)
    terms = practised(kind, net, batch, hidden)
    for _ in list(kind(net, batch)):
        next(terms)
    net.zero_grad()
    for term in terms:
        assert term.account == {}
        if term.value.requires_grad:
            term.value.backward()
    generative = chain(
        net.summit.parameters(),
        *(s[k].decoder.parameters() for _, s in net.all_stacks() for k in range(len(s.layers))),
    )
    assert all(p.grad is None or not p.grad.any() for p in generative)
    assert all(p.requires_grad for p in net.parameters())
    encoders = [s[k].encoder for _, s in net.all_stacks() for k in range(len(s.layers))]
    assert any(p.grad is not None and p.grad.any() for e in encoders for p in e.parameters())


def under_vamp() -> Model:
    """Two modalities under a prior that is made of their encoders."""
    stacks = dict(zoo.two_modalities().named_stacks())
    encoders = [stack[-1].encoder for stack in stacks.values()]
    return zoo.perturbed(Model(stacks, VampPrior(encoders, components=3)), 0.1)


@pytest.mark.parametrize("rule", zoo.rules())
def test_encoders_that_a_prior_is_made_of_practise_as_if_it_were_a_constant(rule: str) -> None:
    net, kind = under_vamp(), zoo.rules()[rule]()
    beside = Model(deepcopy(dict(net.named_stacks())), deepcopy(net.prior).requires_grad_(False))
    batch = zoo.batch(net)
    torch.manual_seed(0)
    hidden = batch.hide(1.0, explain=True)
    found = []
    for model in (net, beside):
        torch.manual_seed(1)
        terms = practised(kind, model, batch, hidden)
        for _ in list(kind(model, batch)):
            next(terms)
        for term in terms:
            if term.value.requires_grad:
                term.value.backward()
        found.append({n: p.grad for n, p in model.stacks.named_parameters() if "encoder" in n})
    own, expected = found
    assert own.keys() == expected.keys()
    assert any(gradient is not None and gradient.any() for gradient in own.values())
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    assert net.prior.logits.grad is None
    assert all(u.grad is None for u in net.prior.pseudo_inputs)


def test_samples_are_as_sharp_as_the_data() -> None:
    """x is -1 or 1. A code of nothing stands for 0, which decoders that explain it draw, too."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], size=(400, 1)) + 0.1 * rng.normal(size=(400, 4))
    settings = {"hidden": (), "top": (2,), "prior": "vamp", "units": (16,), "samples": 1}
    settings |= {"hide": 1.0, "explain": True, "lr": 5e-3, "epochs": 30, "validation": 0.0}
    between = {}
    for practise in (False, True):
        model = GenProp(**settings, practise=practise, random_state=0, verbose=0)
        drawn = model.fit({"a": x[:, :2], "b": x[:, 2:]}).sample(4000, random_state=0)
        means = np.concatenate(list(drawn.values()), 1).mean(1)
        between[practise] = (np.abs(means) < 0.5).mean()
    # of three seeds 0.16 to 0.18, and none
    assert between[False] > 0.1
    assert between[True] < 0.02


def test_one_update_of_decoders_is_that_of_whole_rows() -> None:
    """What is hidden from encoders, and whether it is explained, changes nothing for them."""
    torch.manual_seed(0)
    begun, data = zoo.two_modalities().float(), zoo.batch(zoo.two_modalities())
    found = []
    for explain in (False, True):
        model = deepcopy(begun)
        torch.manual_seed(1)
        how = {"epochs": 1, "batch_size": data.rows, "optimizer": "sgd", "lr": 0.1, "verbose": 0}
        how |= {"hide": 1.0, "explain": explain, "practise": True}
        Trainer(**how).fit(model, TargetPropagation(1), data.to("cpu", torch.float32))
        found.append({n: p for n, p in model.named_parameters() if "encoder" not in n})
    assert all(torch.equal(p, found[1][name]) for name, p in found[0].items())
    before = dict(begun.named_parameters())
    assert any(not torch.equal(p, before[name]) for name, p in found[0].items())

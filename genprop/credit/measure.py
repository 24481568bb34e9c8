"""What a rule's update looks like beside back-propagation's, and the state of a network."""

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from genprop.credit.backprop import BackPropagation
from genprop.credit.block import UNITS, sent
from genprop.credit.network import CreditNetwork, named
from genprop.credit.rule import CreditRule
from genprop.rules.rule import Term


class Agreement(NamedTuple):
    """An update beside another one of the same block.

    Attributes:
        angle: between the two, in degrees; NaN where one is zero.
        ratio: length of the first over that of the second; NaN where that is zero.
    """

    angle: float
    ratio: float


def updates(network: CreditNetwork, rule: CreditRule, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Each block's gradient by a rule, weights and bias in one vector; nothing is changed."""
    return slopes(network, deepcopy(rule)(network, x, y))  # averages of its own stay as they are


def slopes(network: CreditNetwork, terms: Iterable[Term]) -> dict[str, Tensor]:
    """The gradient of terms by each block, weights and bias in one vector."""
    parameters = [p for block in network.layers for p in block.parameters()]
    sums = [torch.zeros_like(p) for p in parameters]
    for term in terms:
        if not (term.parts and term.value.requires_grad):
            continue
        found = torch.autograd.grad(term.value, parameters, allow_unused=True)
        sums = [s if g is None else s + g for s, g in zip(sums, found, strict=True)]
    pairs = zip(sums[::2], sums[1::2], strict=True)
    return {
        name: torch.cat([weight.flatten(), bias])
        for (name, _), (weight, bias) in zip(named(network), pairs, strict=True)
    }


def agreement(
    network: CreditNetwork, rule: CreditRule, x: Tensor, y: Tensor
) -> dict[str, Agreement]:
    """A rule's update beside back-propagation's, block by block.

    Through signs and samples the yardstick is the straight-through estimate, and both see the same
    draws.
    """
    state = torch.get_rng_state()
    ours = updates(network, rule, x, y)
    torch.set_rng_state(state)
    theirs = updates(network, BackPropagation(straight_through=True), x, y)
    return {name: _compare(ours[name], theirs[name]) for name in ours}


def _compare(ours: Tensor, theirs: Tensor) -> Agreement:
    lengths = ours.norm(), theirs.norm()
    if not lengths[1] > 0:
        return Agreement(math.nan, math.nan)
    ratio = float(lengths[0] / lengths[1])
    if not lengths[0] > 0:
        return Agreement(math.nan, ratio)
    cosine = functional.cosine_similarity(ours, theirs, dim=0).clamp(-1, 1)
    return Agreement(math.degrees(math.acos(float(cosine))), ratio)


@torch.no_grad()
def conditions(network: CreditNetwork) -> dict[str, float]:
    """The largest over the smallest singular value of each block's weights, flat for images."""
    found = {}
    for name, block in named(network):
        values = torch.linalg.svdvals(block.weight.flatten(1).double())
        found[name] = float(values[0] / values[-1]) if values[-1] > 0 else math.inf
    return found


@torch.no_grad()
def saturation(network: CreditNetwork, x: Tensor, level: float = 0.05) -> dict[str, float]:
    """The share of a layer's units, over rows, whose derivative is below a level of its largest.

    Args:
        network: whose units are looked at.
        x: rows.
        level: share of the largest derivative the unit can have, 1 or, of sigmoids, 1/4.
    """
    path = network.path(x)
    found = {}
    for (name, block), below in zip(named(network), path, strict=False):
        unit = UNITS[block.unit].act
        with torch.enable_grad():
            inputs = block.affine(sent(below, block.receives)).detach().requires_grad_()
            (slope,) = torch.autograd.grad(unit(inputs).sum(), inputs)
        largest = 0.25 if unit is torch.sigmoid else 1.0
        found[name] = float((slope < level * largest).double().mean())
    return found

"""Ancestral sampling."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.autoregressive import AutoregressiveBernoulli
from genprop.distributions import (
    IndependentBernoulli,
    IndependentCategorical,
    IndependentNormal,
    LocationScale,
)
from genprop.mixture import MixtureNormal
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.prior import LawPrior, Prior
from genprop.quantised import IndependentPoints
from genprop.stack import Stack


@torch.no_grad()
def ancestral(
    model: Model, n: int, mean: bool = False, temperature: float = 1.0
) -> dict[str, Tensor]:
    """Independent draws of x: h_L ~ P(h_L), then h_{l-1} ~ P(h_{l-1} | h_l) down to the data.

    Only with ``mean=False`` and ``temperature=1`` are they draws of P(x); the other two are for
    show. A temperature multiplies the scales of continuous laws, of the prior's too (of a mixture
    those of its components), and divides the log-odds of discrete ones. Near zero all that varies
    is which component of a mixture is drawn.

    Args:
        model: the model.
        n: how many draws.
        mean: ends at E[x | h_1] in place of a draw, as pictures in papers often do.
        temperature: of the noise in the prior and in every decoder; above 0.

    Returns:
        For each modality ``(n, elements)``.

    Raises:
        ValueError: n is less than one, a temperature that is not positive, or another one than 1
            where a law has no scale that could be multiplied.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> ancestral(model, 3)["x"].shape
    torch.Size([3, 6])
    """
    if n < 1:
        raise ValueError(f"n is how many samples to draw, at least 1, but is {n}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be positive and finite, but is {temperature}")
    if temperature == 1:
        paths = model.decode(model.prior.sample((n,)), mean)
        return {name: path.x for name, path in paths.items()}
    return _tempered(model, n, mean, temperature)


def _tempered(model: Model, n: int, mean: bool, temperature: float) -> dict[str, Tensor]:
    code = _code(model.prior, n, temperature).split(list(model.sizes.values()), -1)
    stacks = zip(model.named_stacks(), code, strict=True)
    return {name: _decoded(stack, h, mean, temperature) for (name, stack), h in stacks}


def _code(prior: Prior, n: int, temperature: float) -> Tensor:
    if isinstance(prior, Model):
        return torch.cat(list(_tempered(prior, n, False, temperature).values()), -1)
    law = prior.law if isinstance(prior, LawPrior) else None
    if law is None:
        raise ValueError(
            f"{type(prior).__name__} has no scale that a temperature could multiply; leave it at "
            f"1, or use a prior that is a law, as prior='full' or prior='mixture'"
        )
    drawn: Tensor = with_temperature(law, temperature).sample((n,))
    return drawn


def _decoded(stack: Stack, h: Tensor, mean: bool, temperature: float) -> Tensor:
    for level in reversed(range(len(stack.layers))):
        law = stack[level].decoder(h)
        h = law.mean if mean and not level else with_temperature(law, temperature).sample()
    return h


def with_temperature(law: Distribution, temperature: float) -> Distribution:
    """A law with its scales multiplied by the temperature, or its log-odds divided by it.

    Raises:
        ValueError: it has neither.

    >>> law = IndependentBernoulli(torch.tensor([2.0]))
    >>> with_temperature(law, 0.5).logits
    tensor([4.])
    """
    if isinstance(law, IndependentPoints):
        return law
    if isinstance(law, LocationScale):
        return law.with_parameters(law.loc, law.scale * temperature)
    if isinstance(law, JointNormal):
        return JointNormal(law.loc, law.scale_tril * temperature)
    if isinstance(law, IndependentBernoulli | IndependentCategorical):
        return law.with_parameters(law.logits / temperature)
    if isinstance(law, AutoregressiveBernoulli):
        return law.with_parameters(law.c, law.b / temperature, law.W, law.V / temperature)
    if isinstance(law, MixtureNormal):
        components = with_temperature(law.components, temperature)
        assert isinstance(components, IndependentNormal | JointNormal)
        return MixtureNormal(law.log_weights, components)
    raise ValueError(
        f"{type(law).__name__} has no scale that a temperature could multiply; leave it at 1"
    )

"""Back-propagation through the whole stack: the yardstick."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.distributions import Product
from genprop.model import Model
from genprop.nets import constant
from genprop.passage import Foot, Passage, climb_stack, input_of, straight_through
from genprop.rules.rule import (
    Rule,
    Term,
    check_samples,
    climb,
    discrete_layers,
    mean_over_rows,
    negative_bound,
    summit,
)

BOUNDS = ("elbo", "iwae", "dreg")


class Backprop(Rule):
    r"""Descends a bound of -log P(x) by its gradient through all layers.

    Formula: with log w_k = log P(x, h_k) - log Q(h_k | x), h_k ~ Q(h | x), descend::

        elbo   - (1/K) Σ_k log w_k
        iwae   - log (1/K) Σ_k w_k
        dreg   the iwae's bound; the encoders' gradient is that of -Σ_k ŵ_k² log w_k through the
               draws only, ŵ_k = w_k / Σ w

    Discrete layers pass their gradient straight through.

    Local: nothing; the one term reaches all encoders, decoders and the prior. Transported: the
    weights of every encoder and decoder, transposed. Cost: K forward and backward passes, about 3 K
    passes. Memory: the graph of all layers, K times.

    Args:
        samples: paths K drawn for each row.
        bound: ``"elbo"``, ``"iwae"`` or ``"dreg"``.

    Raises:
        ValueError: no sample, or an unknown bound.

    References:
        Kingma, Welling, 2014, Auto-encoding variational Bayes. Burda, Grosse, Salakhutdinov, 2016,
        Importance weighted autoencoders. Tucker, Lawson, Gu, Maddison, 2019, Doubly
        reparameterized gradient estimators for Monte Carlo objectives.

    >>> Backprop(samples=5, bound="iwae").bound
    'iwae'
    """

    def __init__(self, samples: int = 1, bound: str = "elbo") -> None:
        if bound not in BOUNDS:
            raise ValueError(f"bound must be one of {', '.join(BOUNDS)}, but is {bound!r}")
        self.samples, self.bound = check_samples(samples), bound

    def check(self, model: Model) -> None:
        discrete = discrete_layers(model)
        if discrete and self.bound == "dreg":
            raise ValueError(
                f"layers {', '.join(discrete)} are discrete and cannot be reparameterised; use "
                f"bound='iwae', or rule='target'"
            )

    def __call__(self, model: Model, batch: Batch) -> Iterator[Term]:
        own: list[Tensor] = []
        shape = torch.Size((self.samples,))
        up = partial(_climb_without_score, own) if self.bound == "dreg" else _climb_through
        path = list(climb(model, batch, shape, up, local=False))
        prior = summit(model, batch, {p.modality: p.h for p in path}, shape).loss()
        account = {"prior": prior.detach().mean()}
        log_w = -prior
        for passage in path:
            reconstruction = passage.explained(passage.below)
            log_q = passage.log_q()
            log_w = log_w - reconstruction - log_q
            account[f"{passage.name}.reconstruction"] = reconstruction.detach().mean()
            account[f"{passage.name}.entropy"] = log_q.detach().mean()
        if self.bound != "elbo":
            account["bound"] = negative_bound(log_w.detach())
        yield Term("model", {"model.bound": self._loss(log_w, own)}, account)

    def _loss(self, log_w: Tensor, own: list[Tensor]) -> Tensor:
        if self.bound == "elbo":
            return -log_w.mean()
        if self.bound == "iwae":
            return negative_bound(log_w)
        weights = log_w.detach().softmax(0)
        for draw in (draw for draw in own if draw.requires_grad):
            # decoders see w; encoders, through their own copy of the draw, w²
            draw.register_hook(lambda gradient: gradient * weights[..., None].to(gradient.dtype))
        return -mean_over_rows(log_w, weights)


def _climb_through(foot: Foot, shape: torch.Size) -> Iterator[Passage]:
    return climb_stack(foot, shape, straight_through, local=False)


def _climb_without_score(own: list[Tensor], foot: Foot, shape: torch.Size) -> Iterator[Passage]:
    """A climb whose densities Q are constant in the encoders but not in what these are given.

    Every draw is the sum of two copies of itself: one carries the gradient to the layer's own
    encoder (and is added to ``own``), the other to the layers below.
    """
    name, stack, below, seen, present, told = foot
    for level in range(len(stack.layers)):
        layer = stack[level]
        given, mask = input_of(layer, below, seen, told)
        mine = layer.encoder(given.detach(), mask)
        with constant(layer.encoder):
            held = layer.encoder(given, mask)
        draw = mine.draw(shape)
        own.append(draw)
        h = _same_draw(mine, held, draw.detach()) + (draw - draw.detach())
        yield Passage(f"{name}.{level + 1}", layer, below, seen, present, held, h, layer.decoder(h))
        below, shape = h, torch.Size()
        seen, told = (seen, told) if layer.elementwise else (None, None)


def _same_draw(mine: Product, held: Product, draw: Tensor) -> Tensor:
    """The draw as a function of the held law's location and scale, its noise constant."""
    (loc, scale), (held_loc, held_scale) = mine.detach().parameters, held.parameters
    return held_loc + held_scale * ((draw - loc) / scale)

"""Target propagation: every layer learns from a target that the layer above makes."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.distributions import Continuous, Product
from genprop.model import Model
from genprop.rules.rule import (
    Cost,
    Passage,
    Rule,
    Term,
    check_samples,
    climb,
    codes,
    constant,
    discrete_layers,
    log_weights,
    mean_over_rows,
    negative_bound,
    trainable,
)

TARGETS = ("decoder", "difference", "long")


class TargetPropagation(Rule):
    r"""Credit from the layer just above, as a target in the layer's own space.

    For a path h_0 = x, h_1, …, h_L drawn from Q, and sg = held constant::

        layer l:  - log P(sg h_{l-1} | h_l) + log Q(h_l | sg h_{l-1}) - log P(h_l | sg h_{l+1})
        prior:    - log P(sg h_L)

    The third part is the layer's target: what the layer above makes of it, its decoder constant;
    at the top, the constant prior. By Fisher's identity ∇ log P(h_l) is the mean of
    ∇ log P(h_l | h_{l+1}) over P(h_{l+1} | h_l), so this is the gradient of KL(Q‖P) up to the
    inference gap above the layer. With several samples, w_k ∝ P(path_k) / Q(path_k) weighs decoders
    and prior, and w_k² the reparameterised encoders (whose score is dropped); a discrete encoder
    descends -w_k log Q(h_l | sg h_{l-1}).

    Args:
        samples: paths K drawn for each row; discrete layers need at least 2.
        target: ``"decoder"`` as above. The other two put the target ĥ_{l+1} of the layer above in
            place of h_{l+1}, with g the decoder's mean: ``"long"``, ĥ_l = g_{l+1}(ĥ_{l+1}), coming
            down from the code ĥ_L = h_L; ``"difference"``, which corrects this by the layer's own
            misfit, ĥ_l = h_l + g_{l+1}(ĥ_{l+1}) - g_{l+1}(h_{l+1}), from ĥ_L, the prior's
            reconstruction of the code.

    Raises:
        ValueError: no sample, or an unknown target.

    References:
        Bengio, 2014, How auto-encoders could provide credit assignment in deep networks via
        target propagation (arXiv 1407.7906). Lee, Zhang, Fischer, Bengio, 2015, Difference target
        propagation. Tucker, Lawson, Gu, Maddison, 2019, Doubly reparameterized gradient estimators.
        Bornschein, Bengio, 2015, Reweighted wake-sleep.

    >>> TargetPropagation(samples=5).samples
    5
    """

    def __init__(self, samples: int = 1, target: str = "decoder") -> None:
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, but is {target!r}")
        self.samples, self.target = check_samples(samples), target

    def check(self, model: Model) -> None:
        discrete = discrete_layers(model)
        if discrete and self.samples < 2:
            raise ValueError(
                f"layers {', '.join(discrete)} are discrete, and one sample tells nothing about a "
                f"discrete encoder; use samples=5 (at least 2)"
            )

    def __call__(self, model: Model, batch: Batch) -> Iterator[Term]:
        several = self.samples > 1
        shape = torch.Size((self.samples,) if several else ())
        top = _Top(model, batch, shape)
        costs = (_cost(passage, several) for passage in climb(model, batch, shape))
        if several or self.target != "decoder":
            yield from self._whole(list(costs), top)
        else:
            yield from _streamed(costs, top)

    def _whole(self, costs: Sequence[Cost], top: "_Top") -> Iterator[Term]:
        """With the whole path at hand: weights, and targets that come from the top."""
        for cost in costs:
            top.add(cost)
        log_w = log_weights(costs, top.pleasing) if self.samples > 1 else None
        weights = None if log_w is None else log_w.softmax(0)
        targets = _targets([cost.passage for cost in costs], top, self.target)
        for cost in costs:
            if cost.passage.name in targets:
                yield _layer_term(cost, targets[cost.passage.name], weights)
        bound = {} if log_w is None else {"bound": negative_bound(log_w)}
        yield from top.terms(weights, bound)


def _cost(passage: Passage, several: bool) -> Cost:
    q, h = passage.q, passage.h
    if isinstance(q, Continuous):
        # one sample needs no more than the mean of log Q, whose gradient is the draw's own;
        # several drop the score: there the density is held constant
        log_q = q.detach().log_prob(h) if several else -q.entropy()
    else:
        log_q = q.log_prob(h)
    return Cost(passage, passage.reconstruction, passage.only_present(log_q))


def _streamed(costs: Iterator[Cost], top: "_Top") -> Iterator[Term]:
    """One layer after the other: no more than two layers' graphs are ever held."""
    low: Cost | None = None
    for high in costs:
        if low is not None and _same_stack(low.passage, high.passage):
            yield _layer_term(low, high.passage.p.detach(), None)
        top.add(high)
        low = high
    yield from top.terms(None, {})


def _same_stack(low: Passage, high: Passage) -> bool:
    return low.modality == high.modality


class _Top:
    """The top layers of all stacks, which the prior joins."""

    def __init__(self, model: Model, batch: Batch, shape: torch.Size) -> None:
        self.model, self.batch, self.shape = model, batch, shape
        self.seen = model.code_seen(batch)
        self.costs: dict[str, Cost] = {}

    def add(self, cost: Cost) -> None:
        """Keeps a layer in place of the one below it."""
        self.costs[cost.passage.modality] = cost

    def code(self) -> Tensor:
        """The joint code, with the top encoders' graphs."""
        tops = {name: cost.passage.h for name, cost in self.costs.items()}
        return codes(self.model, self.batch, tops, self.shape)

    @cached_property
    def pleasing(self) -> Tensor:
        """What the codes cost under the constant prior."""
        with constant(self.model.prior):
            return self.model.prior.loss(self.code(), self.seen)

    def terms(self, weights: Tensor | None, bound: dict[str, Tensor]) -> Iterator[Term]:
        """The top layers' term, whose target is the prior, and the prior's own."""
        if self.costs:
            pleasing = mean_over_rows(self.pleasing, weights)
            account = {**bound, "prior": _plain_mean(self.pleasing, pleasing, weights)}
            parts: dict[str, Tensor] = {}
            for cost in self.costs.values():
                _add_layer(parts, account, cost, weights)
            if self.pleasing.requires_grad:
                parts["prior.target"] = pleasing
            names = [cost.passage.name for cost in self.costs.values()]
            yield Term(names[0] if len(names) == 1 else "top", parts, account)
        if trainable(self.model.prior):
            own = self.model.prior.loss(self.code().detach(), self.seen)
            account = {} if self.costs else {"prior": own.detach().mean()}
            yield Term("prior", {"prior.loss": mean_over_rows(own, weights)}, account)


def _layer_term(cost: Cost, target: Product, weights: Tensor | None) -> Term:
    parts: dict[str, Tensor] = {}
    account: dict[str, Tensor] = {}
    _add_layer(parts, account, cost, weights)
    passage = cost.passage
    loss = passage.only_present(-target.log_prob(passage.h))
    name = f"{passage.name}.target"
    mean = mean_over_rows(loss, weights)
    account[name] = _plain_mean(loss, mean, weights)
    if passage.q.has_rsample:
        parts[name] = mean
    return Term(passage.name, parts, account)


def _add_layer(
    parts: dict[str, Tensor], account: dict[str, Tensor], cost: Cost, weights: Tensor | None
) -> None:
    """A layer's reconstruction, and the entropy (or, if discrete, the wake term) of its encoder."""
    passage, name = cost.passage, cost.passage.name
    reconstruction = mean_over_rows(cost.reconstruction, weights)
    log_q = mean_over_rows(cost.log_q, weights)
    parts[f"{name}.reconstruction"] = reconstruction
    account[f"{name}.reconstruction"] = _plain_mean(cost.reconstruction, reconstruction, weights)
    account[f"{name}.entropy"] = _plain_mean(cost.log_q, log_q, weights)
    if not passage.q.has_rsample:
        parts[f"{name}.wake"] = -log_q
        return
    parts[f"{name}.entropy"] = log_q
    if weights is not None and passage.h.requires_grad:
        # what comes back to h is multiplied by w once more: the encoder sees w², others w
        passage.h.register_hook(lambda g: g * weights[..., None].to(g.dtype))


def _plain_mean(values: Tensor, weighted: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over draws and rows that the account records, which may be at hand already."""
    return weighted.detach() if weights is None else values.detach().mean()


def _targets(path: Sequence[Passage], top: _Top, target: str) -> dict[str, Product]:
    """The law that gives each layer below a top its target, by the layer's name."""
    pairs = [(low, high) for low, high in pairwise(path) if _same_stack(low, high)]
    if target == "decoder":
        return {low.name: high.p.detach() for low, high in pairs}
    with torch.no_grad():
        return _from_above(pairs, top, target)


def _from_above(
    pairs: Sequence[tuple[Passage, Passage]], top: _Top, target: str
) -> dict[str, Product]:
    """Decoders' laws given the targets ĥ of the layers above, which come down from the top."""
    better = _improved_codes(top) if target == "difference" else _codes(top)
    laws: dict[str, Product] = {}
    for low, high in reversed(pairs):
        law = laws[low.name] = high.layer.decoder(better[high.name])
        better[low.name] = law.mean if target == "long" else low.h + law.mean - high.p.mean
    return laws


def _codes(top: _Top) -> dict[str, Tensor]:
    """Each top code by its layer's name."""
    return {cost.passage.name: cost.passage.h for cost in top.costs.values()}


def _improved_codes(top: _Top) -> dict[str, Tensor]:
    """The prior's reconstruction of each top code, taken as seen through its encoder's noise."""
    code, prior = top.code(), top.model.prior
    if top.seen is not None:
        code = prior.condition(code, top.seen).sample()
    passages = {name: cost.passage for name, cost in top.costs.items()}
    # a code that is the data itself was seen without noise
    spreads = {n: torch.zeros_like(x).expand(*top.shape, *x.shape) for n, x in top.batch.x.items()}
    spreads |= {name: p.q.stddev.expand_as(p.h) for name, p in passages.items()}
    noise = codes(top.model, top.batch, spreads, top.shape)
    better = prior.reconstruct(code, noise).split(list(top.model.sizes.values()), dim=-1)
    by_modality = dict(zip(top.model.stacks, better, strict=True))
    return {p.name: by_modality[name] for name, p in passages.items()}

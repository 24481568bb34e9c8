"""Target propagation: every layer learns from a target that the layer above makes."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.distributions import Continuous, Product
from genprop.model import NESTED, Model
from genprop.nets import constant
from genprop.passage import Passage
from genprop.rules.rule import (
    Cost,
    Rule,
    Term,
    check_samples,
    climb,
    codes,
    discrete_layers,
    log_weights,
    mean_over_rows,
    negative_bound,
    summit,
)

TARGETS = ("decoder", "difference", "long")


class TargetPropagation(Rule):
    r"""Credit from the layer just above, as a target in the layer's own space.

    Formula: for a path h_0 = x, h_1, …, h_L drawn from Q, and sg = held constant, descend::

        layer l:  - log P(sg h_{l-1} | h_l) + log Q(h_l | sg h_{l-1}) - log P(h_l | sg h_{l+1})
        prior:    - log P(sg h_L)

    The third part is the layer's target: what the layer above makes of it, its decoder constant;
    at the top, the constant prior. By Fisher's identity ∇ log P(h_l) is the mean of
    ∇ log P(h_l | h_{l+1}) over P(h_{l+1} | h_l), so this is the gradient of KL(Q‖P) up to the
    inference gap above the layer. With several samples, w_k ∝ P(path_k) / Q(path_k) weighs decoders
    and prior, and w_k² the reparameterised encoders (whose score is dropped); a discrete encoder
    descends -w_k log Q(h_l | sg h_{l-1}).

    Local: a layer's term reaches its own encoder and decoder, the prior's term the prior.
    Transported: no weight; the derivative of -log P(h_l | h_{l+1}) by h_l, which comes down one
    layer and no further, and with several samples one number w_k a path. Cost: K forward passes of
    encoders and decoders and their derivatives, about 3 K passes; other targets than decoders' take
    a pass of the decoders more. Memory: with one sample and decoder targets two layers' graphs, at
    any depth; else those of all layers, none of which reaches another.

    Args:
        samples: paths K drawn for each row; discrete layers need at least 2.
        target: ``"decoder"`` as above. The other two put the target ĥ_{l+1} of the layer above in
            place of h_{l+1}, with g the decoder's mean: ``"long"``, ĥ_l = g_{l+1}(ĥ_{l+1}), coming
            down from the code ĥ_L = h_L; ``"difference"``, which corrects this by the layer's own
            misfit, ĥ_l = h_l + g_{l+1}(ĥ_{l+1}) - g_{l+1}(h_{l+1}), from ĥ_L, the prior's
            reconstruction of the code.
        label: a modality whose influence on the others' codes is discriminant, or None. Where it is
            seen these codes please log P(h, y) - a log P(h) in place of log P(h, y): at a = 1 the
            law of the label alone, ∇ log P(y | h), as the difference of the prior's
            reconstructions with and without the label has it; of a prior that is a model,
            ∇ log P(h | h') of an h' that is drawn with the label, minus that of one without.
            What is above the codes learns as before.
        discriminant: a, between 0 and 1, the share of it.

    Raises:
        ValueError: no sample, an unknown target, or a label beside another target than "decoder".
            ``check`` refuses a label beside which no other modality has a layer.

    References:
        Bengio, 2014, How auto-encoders could provide credit assignment in deep networks via
        target propagation (arXiv 1407.7906). Lee, Zhang, Fischer, Bengio, 2015, Difference target
        propagation. Tucker, Lawson, Gu, Maddison, 2019, Doubly reparameterized gradient estimators.
        Bornschein, Bengio, 2015, Reweighted wake-sleep.

    >>> TargetPropagation(samples=5).samples
    5
    """

    def __init__(
        self,
        samples: int = 1,
        target: str = "decoder",
        label: str | None = None,
        discriminant: float = 1.0,
    ) -> None:
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, but is {target!r}")
        if label is not None and (target != "decoder" or not 0 <= discriminant <= 1):
            raise ValueError(
                f"a discriminant label needs target='decoder' and a share between 0 and 1, but got "
                f"target={target!r} and discriminant={discriminant!r}"
            )
        self.samples, self.target = check_samples(samples), target
        self.label, self.discriminant = label, discriminant

    def check(self, model: Model) -> None:
        if self.label is not None:
            _check_label(model, self.label)
        discrete = discrete_layers(model)
        if discrete and self.samples < 2:
            raise ValueError(
                f"layers {', '.join(discrete)} are discrete, and one sample tells nothing about a "
                f"discrete encoder; use samples=5 (at least 2)"
            )

    def __call__(self, model: Model, batch: Batch) -> Iterator[Term]:
        several = self.samples > 1 and model.has_layers
        shape = torch.Size((self.samples,) if several else ())
        tops = _tops(model, batch, shape)
        tops[0].blind = {} if self.label is None else {self.label: self.discriminant}
        costs = (_cost(passage, several) for passage in climb(model, batch, shape))
        if several or self.target != "decoder":
            yield from self._whole(list(costs), tops, several)
        else:
            yield from _streamed(costs, tops)

    def _whole(
        self, costs: Sequence[Cost], tops: Sequence["_Top"], several: bool
    ) -> Iterator[Term]:
        """With the whole path at hand: weights, and targets that come from the top."""
        for cost in costs:
            tops[_height(cost)].add(cost)
        log_w = log_weights(costs, tops[-1].pleasing) if several else None
        weights = None if log_w is None else log_w.softmax(0)
        if self.target != "decoder":
            _improve(tops, costs, self.target)
        for low, high in pairwise(costs):
            if _same_stack(low, high):
                yield _layer_term(low, tops[_height(high)].law(high.passage), weights)
        for top in tops[:-1]:
            yield from top.term(weights)
        yield from tops[-1].term(weights, {} if log_w is None else {"bound": negative_bound(log_w)})


def _cost(passage: Passage, several: bool) -> Cost:
    q = passage.q
    if not isinstance(q, Continuous):
        log_q = passage.log_q()
    elif several or passage.known is not None:
        # several samples drop the score: there the density is held constant
        log_q = passage.log_q(q.detach())
    else:
        # one needs no more than the mean of log Q, whose gradient is the draw's own
        log_q = passage.only_present(-q.entropy())
    return Cost(passage, passage.reconstruction, log_q)


def _streamed(costs: Iterator[Cost], tops: Sequence["_Top"]) -> Iterator[Term]:
    """One layer after the other: no more than two layers' graphs are ever held."""
    low: Cost | None = None
    for high in costs:
        top = tops[_height(high)]
        if low is not None and _same_stack(low, high):
            yield _layer_term(low, high.passage.p.detach(), None)
        top.add(high)
        if top.below is not None and top.is_met:
            yield from top.below.term(None)
        low = high
    for top in tops:
        yield from top.term(None)


def _same_stack(low: Cost, high: Cost) -> bool:
    return low.passage.modality == high.passage.modality


def _height(cost: Cost) -> int:
    """How many models' priors lie below the layer."""
    return cost.passage.name.split(".").count(NESTED)


class _Top:
    """The top layers of all stacks of a model, which its prior joins."""

    def __init__(
        self, model: Model, batch: Batch | None, below: "_Top | None", shape: torch.Size
    ) -> None:
        self.model, self.below, self.shape = model, below, shape
        self.above: _Top | None = None
        self.costs: dict[str, Cost] = {}
        self.lowest: dict[str, Passage] = {}
        self.laws: dict[str, Product] = {}
        self.told = False
        self.blind: dict[str, float] = {}
        self._batch = batch

    @cached_property
    def batch(self) -> Batch:
        """The model's rows; above another model, their codes."""
        if self._batch is not None:
            return self._batch
        assert self.below is not None
        return self.model.batch(self.below.code().detach(), self.below.seen)

    @cached_property
    def seen(self) -> Tensor | None:
        """What of the joint code is seen."""
        return self.model.code_seen(self.batch)

    @property
    def is_met(self) -> bool:
        """Whether the climb has been in every stack, so that the codes below know their targets."""
        return len(self.lowest) == len(self.model.stacks)

    def add(self, cost: Cost) -> None:
        """Keeps a layer in place of the one below it."""
        name = cost.passage.modality.rpartition(".")[2]
        self.costs[name] = cost
        self.lowest.setdefault(name, cost.passage)

    def law(self, passage: Passage) -> Product:
        """What a layer makes of its target, or of its own value: the target of the layer below."""
        return self.laws.get(passage.name) or passage.p.detach()

    def code(self) -> Tensor:
        """The joint code, with the top encoders' graphs."""
        tops = {name: cost.passage.h for name, cost in self.costs.items()}
        return codes(self.model, self.batch, tops, self.shape)

    @cached_property
    def pleasing(self) -> Tensor:
        """What the codes cost under all that is above them, a label's share taken off."""
        code = self.code()
        cost = self.price(code)
        for label, share in self.blind.items():
            cost = cost - share * self._without(label, code)
        return cost

    def price(self, code: Tensor) -> Tensor:
        """The prior's loss of a code; of a prior that is a model, what its layers make of it.

        These are constant; the prior that is none learns by the same graph.
        """
        if self.above is None:
            return self.model.prior.loss(code, self.seen)
        inner = self.above.model.batch(code, self.seen)
        total = code.new_zeros(())
        for name, passage in self.above.lowest.items():
            log_p = self.above.law(passage).log_prob(inner.x[name], passage.seen)
            total = total - passage.only_present(log_p)
        if self.above.is_met:
            return total
        # a stack without layers lets its part of the code through to the prior above
        tops = {name: cost.passage.h.detach() for name, cost in self.above.costs.items()}
        with constant(self.model.summit):
            through = codes(self.above.model, inner, tops, self.above.shape)
            return total + self.above.price(through)

    def _without(self, label: str, code: Tensor) -> Tensor:
        """Zero, with the gradient of what labelled codes cost without the label."""
        labelled = self.batch.present(label)
        if labelled is not None and not bool(labelled.any()):
            return code.new_zeros(())
        unseen = {label: torch.zeros_like(self.batch.x[label], dtype=torch.bool)}
        shown = self.batch.shown and {**self.batch.shown, **unseen}
        rows = Batch(self.batch.x, {**self.batch.seen, **unseen}, shown)
        blind = _Top(self.model, rows, None, self.shape)
        with constant(self.model.prior):
            cost = blind.drawn(code).price(code)
        cost = cost if labelled is None else torch.where(labelled, cost, 0)
        return cost - cost.detach()

    def drawn(self, code: Tensor) -> "_Top":
        """The same, with the layers above the code drawn, of a prior that is a model."""
        prior, shape = self.model.prior, torch.Size()
        if isinstance(prior, Model):
            rows = prior.batch(code.detach(), self.seen, self.model.code_told(self.batch))
            tops = _tops(prior, rows, shape)
            for cost in (_cost(passage, True) for passage in climb(prior, rows, shape)):
                tops[_height(cost)].add(cost)
            self.above = tops[0]
        return self

    def term(
        self, weights: Tensor | None, bound: dict[str, Tensor] | None = None
    ) -> Iterator[Term]:
        """The top layers' term, whose target is what is above them; yielded once."""
        if self.told or not (self.costs or self.above is None):
            return
        self.told = True
        name = self._name
        pleasing = mean_over_rows(self.pleasing, weights)
        part = "prior" if self.above is None else f"{name}.target"
        account = {**(bound or {}), part: _plain_mean(self.pleasing, pleasing, weights)}
        parts: dict[str, Tensor] = {}
        for cost in self.costs.values():
            _add_layer(parts, account, cost, weights)
        if self.pleasing.requires_grad:
            parts["prior.loss" if self.above is None else part] = pleasing
        yield Term(name, parts, account)

    @property
    def _name(self) -> str:
        if not self.costs:
            return NESTED
        names = [cost.passage.name for cost in self.costs.values()]
        return names[0] if len(names) == 1 else f"{names[0].rpartition(NESTED)[0]}top"


def _check_label(model: Model, label: str) -> None:
    if label not in model.stacks or len(model.stacks) < 2:
        raise ValueError(
            f"label={label!r} must be one of several modalities, but these are {list(model.stacks)}"
        )
    others = {name: stack for name, stack in model.named_stacks() if name != label}
    if not any(len(stack.layers) for stack in others.values()):
        raise ValueError(
            f"label={label!r} influences the encoders of other modalities, but none has a layer; "
            f"give one to {' or '.join(others)} by hidden"
        )


def _tops(model: Model, batch: Batch, shape: torch.Size) -> list[_Top]:
    """One for the model, and one for each prior above that is a model."""
    tops = [_Top(model, batch, None, shape)]
    while isinstance(model.prior, Model):
        model = model.prior
        tops.append(_Top(model, None, tops[-1], torch.Size()))
        tops[-2].above = tops[-1]
    return tops


def _layer_term(cost: Cost, target: Product, weights: Tensor | None) -> Term:
    parts: dict[str, Tensor] = {}
    account: dict[str, Tensor] = {}
    _add_layer(parts, account, cost, weights)
    passage = cost.passage
    loss = -passage.log_q(target)
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


@torch.no_grad()
def _improve(tops: Sequence[_Top], costs: Sequence[Cost], target: str) -> None:
    """Gives decoders the targets ĥ of their layers, which come down from the top."""
    code = _better_code(tops[0]) if target == "difference" else tops[-1].code()
    for top in reversed(tops):
        parts = code.split(list(top.model.sizes.values()), -1)
        better = dict(zip(top.model.stacks, parts, strict=True))
        for cost in reversed([cost for cost in costs if tops[_height(cost)] is top]):
            passage = cost.passage
            if passage.level == 1 and top.below is None:
                continue  # x needs no target
            name = passage.modality.rpartition(".")[2]
            law = top.laws[passage.name] = passage.layer.decoder(better[name])
            long = target == "long"
            better[name] = law.mean if long else passage.below + law.mean - passage.p.mean
        code = torch.cat(list(better.values()), -1) if top.below else code


def _better_code(top: _Top) -> Tensor:
    """The prior's reconstruction of the code, taken as seen through its encoders' noise."""
    passages = {p.modality: p for p in _top_passages(top)}
    tops = {name: p.h for name, p in passages.items()}
    at = summit(top.model, top.batch, tops, top.shape)
    code = at.code if at.seen is None else at.prior.condition(at.code, at.seen).sample()
    # a code that is the data itself was seen without noise
    clean = Batch({n: torch.zeros_like(x) for n, x in top.batch.x.items()}, top.batch.seen)
    spreads = {name: p.q.stddev.expand_as(p.h) for name, p in passages.items()}
    noise = summit(top.model, clean, spreads, top.shape).code
    return at.prior.reconstruct(code, noise)


def _top_passages(top: _Top | None) -> Iterator[Passage]:
    """The top layers of a model's stacks, and of those of the models above it."""
    while top is not None:
        yield from (cost.passage for cost in top.costs.values())
        top = top.above

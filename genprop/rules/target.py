"""Target propagation: every layer learns from a target that the layer above makes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.distributions import Product
from genprop.model import Model
from genprop.rules.rule import (
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
        passages = climb(model, batch, self.samples)
        if self.samples > 1 or self.target != "decoder":
            yield from self._whole(model, batch, list(passages))
        else:
            yield from _streamed(model, batch, passages)

    def _whole(self, model: Model, batch: Batch, path: Sequence[Passage]) -> Iterator[Term]:
        """With the whole path at hand: weights, and targets that come from the top."""
        tops = _Tops(model, batch, self.samples)
        for passage in path:
            tops.add(passage)
        log_w = log_weights(path, tops.loss(local=True).detach()) if self.samples > 1 else None
        weights = None if log_w is None else log_w.softmax(0)
        targets = _targets(model, batch, path, tops, self.target)
        for passage in path:
            if passage.name in targets:
                yield _layer_term(passage, targets[passage.name], weights)
        bound = {} if log_w is None else {"bound": negative_bound(log_w)}
        yield from tops.terms(weights, bound)


def _streamed(model: Model, batch: Batch, passages: Iterator[Passage]) -> Iterator[Term]:
    """One layer after the other: no more than two layers' graphs are ever held."""
    tops = _Tops(model, batch, 1)
    low: Passage | None = None
    for high in passages:
        if low is not None and _same_stack(low, high):
            yield _layer_term(low, high.p.detach(), None)
        tops.add(high)
        low = high
    yield from tops.terms(None, {})


def _same_stack(low: Passage, high: Passage) -> bool:
    return low.modality == high.modality


class _Tops:
    """The top layers of all stacks, which the prior joins."""

    def __init__(self, model: Model, batch: Batch, samples: int) -> None:
        self.model, self.batch, self.samples = model, batch, samples
        self.passages: dict[str, Passage] = {}

    def add(self, passage: Passage) -> None:
        """Keeps a passage if it is higher than the one its modality has."""
        self.passages[passage.modality] = passage

    def loss(self, local: bool = False) -> Tensor:
        """The prior's loss of the joint code, constant in the code if local."""
        seen = self.model.code_seen(self.batch)
        return self.model.prior.loss(self.code(constant=local), seen)

    def code(self, constant: bool) -> Tensor:
        tops = {n: p.h.detach() if constant else p.h for n, p in self.passages.items()}
        return codes(self.model, self.batch, tops, self.samples)

    def terms(self, weights: Tensor | None, bound: dict[str, Tensor]) -> Iterator[Term]:
        """The top layers' term, whose target is the prior, and the prior's own."""
        prior = self.model.prior
        parts: dict[str, Tensor] = {}
        account = dict(bound)
        if self.passages:
            with constant(prior):
                loss = self.loss()
            for passage in self.passages.values():
                _add_layer(parts, account, passage, weights)
            account["prior"] = loss.detach().mean()
            if loss.requires_grad:
                parts["prior.target"] = mean_over_rows(loss, weights)
            name = next(iter(self.passages.values())).name if len(self.passages) == 1 else "top"
            yield Term(name, parts, account)
        if trainable(prior):
            own = self.loss(local=True)
            account = {} if self.passages else {"prior": own.detach().mean()}
            yield Term("prior", {"prior.loss": mean_over_rows(own, weights)}, account)


def _layer_term(passage: Passage, target: Product, weights: Tensor | None) -> Term:
    parts: dict[str, Tensor] = {}
    account: dict[str, Tensor] = {}
    _add_layer(parts, account, passage, weights)
    loss = passage.only_present(-target.log_prob(passage.h))
    account[f"{passage.name}.target"] = loss.detach().mean()
    if passage.q.has_rsample:
        parts[f"{passage.name}.target"] = mean_over_rows(loss, weights)
    return Term(passage.name, parts, account)


def _add_layer(
    parts: dict[str, Tensor], account: dict[str, Tensor], passage: Passage, weights: Tensor | None
) -> None:
    """A layer's reconstruction, and the entropy (or, if discrete, the wake term) of its encoder."""
    reconstruction = passage.reconstruction
    parts[f"{passage.name}.reconstruction"] = mean_over_rows(reconstruction, weights)
    account[f"{passage.name}.reconstruction"] = reconstruction.detach().mean()
    # several samples drop the score of a reparameterised encoder: its density is held constant
    q = passage.q.detach() if passage.q.has_rsample and weights is not None else passage.q
    log_q = passage.only_present(q.log_prob(passage.h))
    account[f"{passage.name}.entropy"] = log_q.detach().mean()
    if passage.q.has_rsample:
        parts[f"{passage.name}.entropy"] = mean_over_rows(log_q, weights)
        if weights is not None:
            _scale_gradient(passage.h, weights)
    else:
        parts[f"{passage.name}.wake"] = -mean_over_rows(log_q, weights)


def _scale_gradient(h: Tensor, weights: Tensor) -> None:
    """Multiplies what comes back to h by w, so that the encoder sees w² where others see w."""
    if h.requires_grad:
        h.register_hook(lambda gradient: gradient * weights[..., None].to(gradient.dtype))


def _targets(
    model: Model, batch: Batch, path: Sequence[Passage], tops: _Tops, target: str
) -> dict[str, Product]:
    """The law that gives each layer below a top its target, by the layer's name."""
    pairs = [(low, high) for low, high in pairwise(path) if _same_stack(low, high)]
    if target == "decoder":
        return {low.name: high.p.detach() for low, high in pairs}
    with torch.no_grad():
        return _from_above(model, batch, pairs, tops, target)


def _from_above(
    model: Model,
    batch: Batch,
    pairs: Sequence[tuple[Passage, Passage]],
    tops: _Tops,
    target: str,
) -> dict[str, Product]:
    """Decoders' laws given the targets ĥ of the layers above, which come down from the top."""
    if target == "long":
        better = {p.name: p.h for p in tops.passages.values()}
    else:
        better = _improved_codes(model, batch, tops)
    laws: dict[str, Product] = {}
    for low, high in reversed(pairs):
        law = laws[low.name] = high.layer.decoder(better[high.name])
        better[low.name] = law.mean if target == "long" else low.h + law.mean - high.p.mean
    return laws


def _improved_codes(model: Model, batch: Batch, tops: _Tops) -> dict[str, Tensor]:
    """The prior's reconstruction of each top code, taken as seen through its encoder's noise."""
    code, seen = tops.code(constant=True), model.code_seen(batch)
    if seen is not None:
        code = model.prior.condition(code, seen).sample()
    # a code that is the data itself was seen without noise
    spreads = {n: torch.zeros_like(x).expand(tops.samples, *x.shape) for n, x in batch.x.items()}
    spreads |= {n: p.q.stddev.expand_as(p.h) for n, p in tops.passages.items()}
    noise = codes(model, batch, spreads, tops.samples)
    better = model.prior.reconstruct(code, noise).split(list(model.sizes.values()), dim=-1)
    by_modality = dict(zip(model.stacks, better, strict=True))
    return {passage.name: by_modality[name] for name, passage in tops.passages.items()}

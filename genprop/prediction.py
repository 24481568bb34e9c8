"""What a modality's labels are, given the others: P(y | x_seen) for every value of y."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.parts import rows_at_once
from genprop.model import Model, joint_code
from genprop.prior import DensityPrior
from genprop.stack import Path


class Labels(NamedTuple):
    """P(y | x_seen) of one label's values.

    Attributes:
        proba: ``(rows, classes)``, each row's sum is 1.
        std_error: its Monte Carlo standard error; too small where few paths have all the weight.
    """

    proba: NDArray[np.float64]
    std_error: NDArray[np.float64]


class Asked(NamedTuple):
    """What is asked for, within the data of all modalities side by side.

    Attributes:
        values: ``(classes, elements)``.
        mask: ``(elements,)``, True at the label's elements.
    """

    values: Tensor
    mask: Tensor


@torch.no_grad()
def label_proba(
    model: Model, batch: Batch, name: str, values: Tensor, samples: int = 200
) -> Labels:
    r"""P(y | x_seen) ≈ Σ_k w_k P(y | h_k) / Σ_k w_k for every value y of a modality.

    The paths h_k ~ Q(h | x_seen), which do not know y, have weights w_k = P(x_seen, h_k) /
    Q(h_k | x_seen). All values share them, so that what is hard about x is the same for each: of a
    ratio of separate estimates of P(y, x_seen) the error would be that of log P(x_seen).

    Args:
        model: with the modality among others.
        batch: the rows; what they say of the modality is not looked at.
        name: of the modality.
        values: each of its values, ``(classes, elements)``.
        samples: paths K of each row.

    Raises:
        ValueError: there is no such modality, or no sample.
        TypeError: the modality's raw values stand under a prior without a density.

    References:
        Owen, 2013, Monte Carlo theory, methods and examples, chapter 9.2 (weighted means and their
        standard error).

    >>> import torch
    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> stacks = {"x": Stack.build(Bernoulli(4), (2,)), "y": Stack.build(Bernoulli(1), (1,))}
    >>> batch = Batch.of({"x": torch.ones(5, 4), "y": torch.ones(5, 1)})
    >>> values = torch.tensor([[0.0], [1.0]])
    >>> label_proba(Model(stacks, GaussianPrior(3)), batch, "y", values).proba.shape
    (5, 2)
    """
    if name not in batch.x:
        raise ValueError(f"there is no modality {name!r}; the data has {list(batch.x)}")
    if samples < 1:
        raise ValueError(f"a probability needs at least one path, but got samples={samples}")
    model.check(batch)
    batch = batch.to(model.like.device, model.like.dtype)
    nothing = torch.zeros_like(batch.x[name], dtype=torch.bool)
    blind = Batch(batch.x, {**batch.seen, name: nothing})
    asked = _placed(model.widths, name, values.to(model.like))
    rows = rows_at_once(model, samples)
    parts = [
        _ratio(*_shared(model, blind.take(slice(start, start + rows)), asked, samples))
        for start in range(0, batch.rows, rows)
    ]
    return Labels(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _ratio(log_w: Tensor, log_p: Tensor) -> Labels:
    """Weighted means over paths, and by the delta method their errors."""
    w, top = log_w.double().softmax(0), log_p.double().amax((0, 1))
    p = (log_p.double() - top).exp()  # (classes, paths, rows)
    p = p / (w * p).sum((0, 1))
    proba = (w * p).sum(1)
    error = (w * (p - proba[:, None] * p.sum(0))).square().sum(1).sqrt()
    return Labels(proba.T.cpu().numpy(), error.T.cpu().numpy())


def _shared(model: Model, batch: Batch, asked: Asked, samples: int) -> tuple[Tensor, Tensor]:
    """Log-weights ``(paths, rows)``, and log P(value | path), ``(classes, paths, rows)``."""
    deep = any(len(stack.layers) for _, stack in model.named_stacks())
    # without a layer all paths are the data itself
    paths = model.encode(batch, samples if deep else 1)
    name, own = _within(model, asked)
    if not dict(model.named_stacks())[name].elementwise:
        return model.log_weights(paths, batch), _by_layers(model, batch, paths, name, own)
    above = _placed(model.sizes, name, own.values[:, own.mask], own.mask)
    return _by_prior(model, batch, paths, above, 1 if deep else samples)


def _by_layers(
    model: Model, batch: Batch, paths: dict[str, Path], name: str, asked: Asked
) -> Tensor:
    """By the law that the modality's decoder sends down: from its code, or from one of the prior's.

    A code is a row's own where the row shows anything else of the modality.
    """
    present = batch.present(name)
    below = model.absent(batch, paths, mean=True)
    mask = asked.mask.expand(batch.x[name].shape)
    law = dict(model.named_stacks())[name][0].decoder(paths[name].h[1])
    found = []
    for value in asked.values:
        x = value.expand(batch.x[name].shape)
        log_p = law.log_prob(x, mask)
        if present is not None and name in below:
            log_p = torch.where(present, log_p, below[name].laws[0].log_prob(x, mask))
        found.append(log_p)
    return torch.stack(found)


def _by_prior(
    model: Model, batch: Batch, paths: dict[str, Path], asked: Asked, samples: int
) -> tuple[Tensor, Tensor]:
    """By the prior of the codes, of which the raw values are some."""
    code, prior = joint_code(paths), model.prior
    seen = model.code_seen(batch)
    assert seen is not None  # the modality is hidden
    seen = seen.expand(code.shape)
    if isinstance(prior, Model):
        inner = prior.batch(code.flatten(0, 1), seen.flatten(0, 1))
        log_w, log_p = _shared(prior, inner, asked, samples)
        own = model.log_weights(paths, batch, lambda *_: code.new_zeros(code.shape[:-1]))
        log_w = (log_w.reshape(-1, *own.shape) + own).flatten(0, 1)
        return log_w, log_p.reshape(len(log_p), *log_w.shape)
    if not isinstance(prior, DensityPrior):
        raise TypeError(
            f"probabilities of raw values need a prior with a density, but {type(prior).__name__} "
            f"has none; give the modality a layer, as hidden=(8,), or use another prior"
        )
    without = prior.log_prob(code, seen)
    told = [
        prior.log_prob(torch.where(asked.mask, value, code), seen | asked.mask) - without
        for value in asked.values
    ]
    return model.log_weights(paths, batch, prior.log_prob), torch.stack(told)


def _within(model: Model, asked: Asked) -> tuple[str, Asked]:
    """The modality that is asked about, and where in it."""
    widths = list(model.widths.values())
    parts = zip(model.widths, asked.values.split(widths, -1), asked.mask.split(widths), strict=True)
    return next((name, Asked(values, mask)) for name, values, mask in parts if mask.any())


def _placed(
    sizes: dict[str, int], name: str, values: Tensor, within: Tensor | None = None
) -> Asked:
    """Values of some elements of a part among those of all parts."""
    total, start = sum(sizes.values()), 0
    for part, size in sizes.items():
        if part == name:
            break
        start += size
    mask = torch.zeros(total, dtype=torch.bool, device=values.device)
    mask[start : start + sizes[name]] = True if within is None else within
    placed = values.new_zeros(len(values), total)
    placed[:, mask] = values
    return Asked(placed, mask)

"""What a modality's labels are, given the others: P(y | x_seen) for every value of y."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genprop.data import Batch
from genprop.likelihood.parts import rows_at_once
from genprop.model import Model
from genprop.prior import DensityPrior
from genprop.stack import joint_code
from genprop.unseen import Law, density, unseen


class Labels(NamedTuple):
    """P(y | x_seen) of one label's values.

    Attributes:
        proba: ``(rows, classes)``, each row's sum is 1.
        std_error: its Monte Carlo standard error; too small where few paths have all the weight.
    """

    proba: NDArray[np.float64]
    std_error: NDArray[np.float64]


@torch.no_grad()
def label_proba(
    model: Model, batch: Batch, name: str, values: Tensor, samples: int = 200
) -> Labels:
    r"""P(y | x_seen) ≈ Σ_k w_k P(y | h_k) / Σ_k w_k for every value y of a modality.

    The paths h_k ~ Q(h | x_seen), which do not know y, have weights w_k = P(x_seen, h_k) /
    Q(h_k | x_seen). All values share them, so that what is hard about x is the same for each: of a
    ratio of separate estimates of P(y, x_seen) the error would be that of log P(x_seen).

    Rows that show nothing but the label share their paths, too: to all of them P(y) is the same.

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
    values, rows = values.to(model.like), rows_at_once(model, samples)
    chosen, place = _worked_on(blind)
    parts = [
        _ratio(*_shared(model, blind.take(part), name, values, samples))
        for part in chosen.split(rows)
    ]
    return Labels(*(np.concatenate(each)[place] for each in zip(*parts, strict=True)))


def _worked_on(batch: Batch) -> tuple[Tensor, NDArray[np.intp]]:
    """The first row that shows nothing, before all that show something; each row's place there."""
    shown = torch.stack([mask.any(-1) for mask in batch.masks().values()]).any(0)
    chosen = torch.cat([(~shown).nonzero()[:1, 0], shown.nonzero()[:, 0]])
    place = torch.where(shown, shown.cumsum(0) + (len(chosen) - shown.sum()) - 1, 0)
    return chosen, place.cpu().numpy()


def _shared(
    model: Model, batch: Batch, name: str, values: Tensor, samples: int
) -> tuple[Tensor, Tensor]:
    """Log-weights ``(paths, rows)``, and log P(value | path), ``(classes, paths, rows)``."""
    stack, prior = dict(model.named_stacks())[name], model.prior
    if stack.elementwise and not isinstance(prior, Model):
        return _by_prior(model, batch, name, values, samples)
    found = unseen(model, batch, samples)

    def log_p(law: Law) -> Tensor:
        return torch.stack([density(name, value, None, law) for value in values], -1)

    return found.log_w, found.apply(name, log_p).movedim(-1, 0)


def _by_prior(
    model: Model, batch: Batch, name: str, values: Tensor, samples: int
) -> tuple[Tensor, Tensor]:
    """The same by the density of the codes, of which the values are some."""
    prior = model.prior
    if not isinstance(prior, DensityPrior):
        raise TypeError(
            f"probabilities of raw values need a prior with a density, but {type(prior).__name__} "
            f"has none; give the modality a layer of its own, as hidden={{{name!r}: (8,)}}"
        )
    paths = model.encode(batch, samples if model.has_layers else 1)
    code, seen = joint_code(paths), model.code_seen(batch)
    assert seen is not None  # the modality is hidden
    places = [torch.full((size,), part == name) for part, size in model.sizes.items()]
    asked = torch.cat(places).to(code.device)
    without = prior.log_prob(code, seen.expand(code.shape))
    told = []
    for value in values:
        whole = code.clone()
        whole[..., asked] = value
        told.append(prior.log_prob(whole, (seen | asked).expand(code.shape)) - without)
    return model.log_weights(paths, batch, prior.log_prob), torch.stack(told)


def _ratio(log_w: Tensor, log_p: Tensor) -> Labels:
    """Weighted means over paths, and by the delta method their errors."""
    w, top = log_w.double().softmax(0), log_p.double().amax((0, 1))
    p = (log_p.double() - top).exp()  # (classes, paths, rows)
    p = p / (w * p).sum((0, 1))
    proba = (w * p).sum(1)
    error = (w * (p - proba[:, None] * p.sum(0))).square().sum(1).sqrt()
    return Labels(proba.T.cpu().numpy(), error.T.cpu().numpy())

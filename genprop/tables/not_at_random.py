"""Whole rows of a model that explains its holes, weighed by why cells are missing."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.model import Model
from genprop.resampling import picked, resampled
from genprop.tables.missingness import DRAWS, Selected, grouped, log_mean, silent
from genprop.unseen import Unseen, unseen

COMPLETIONS = 4  # of each path


@dataclass(frozen=True)
class Weighed:
    """Completed rows and their importance weights.

    Attributes:
        x: for each modality ``(samples, rows, elements)``, the seen cells as they were.
        log_w: log P(x_seen, mask | path) P(path) / Q(path), ``(samples, rows)``, nats.
    """

    x: Mapping[str, Tensor]
    log_w: Tensor

    @property
    def log_path(self) -> Tensor:
        """The weights of the paths, each summed over its completions."""
        summed: Tensor = self.log_w.unflatten(0, (COMPLETIONS, -1)).logsumexp(0)
        return summed

    def draws(self, count: int) -> dict[str, Tensor]:
        """Some of them, drawn by their weights, ``(draws, rows, elements)``."""
        chosen = resampled(self.log_w, count)
        return {name: picked(x, chosen) for name, x in self.x.items()}


def explains_holes(model: Model) -> bool:
    """Whether a modality of the model has a mechanism P(mask | x)."""
    return any(isinstance(part, Selected) for part in model.modules())


@torch.no_grad()
def weigh_whole_rows(model: Model, batch: Batch, samples: int) -> Weighed:
    r"""Paths of Q with draws of what is unseen, weighed as draws of P(h, x_unseen | x_seen, mask).

    ::

        w = P(x_seen, h) / Q(h | x_seen) · ∏_g (1/M) Σ_m P(mask_g | x_seen, x^m),  x^m ~ P(x | h_1)

    Of the M values that a path gives a group g of variables (``Selection``), each completion takes
    one by P(mask_g | x^m).

    Args:
        model: the model.
        batch: rows, any of their cells unseen.
        samples: paths for each row.
    """
    with silent(model):
        found = unseen(model, batch, samples)
        x, log_w = {}, found.log_w
        for name, stack in model.named_stacks():
            family = stack[0].decoder.family if len(stack.layers) else None
            if isinstance(family, Selected):
                x[name], log_mask = _selected(name, batch, found, family)
                log_w = log_w + log_mask
            else:
                x[name] = _completed(name, batch, found, COMPLETIONS).flatten(0, 1)
    return Weighed(x, log_w.repeat(COMPLETIONS, 1))


def _selected(name: str, batch: Batch, found: Unseen, family: Selected) -> tuple[Tensor, Tensor]:
    """Completions of a modality that explains its holes, and log P(mask) of their paths."""
    mechanism, seen = family.mechanism, batch.seen[name]
    x = _completed(name, batch, found, DRAWS)
    shares = grouped(mechanism.shares(x, seen), family.apart)
    present = batch.present(name)
    if present is not None:
        shares = torch.where(present[:, None], shares, 0)
    upto = shares.softmax(0).cumsum(0)
    starts = mechanism.starts if family.apart else [0]
    sizes = torch.tensor(mechanism.sizes if family.apart else [family.elements])
    completions = []
    for _ in range(COMPLETIONS):
        # a number for every element, so that a row's have its own place in any batch
        u = torch.rand_like(x[0])[..., starts]
        chosen = (upto < u).sum(0).clamp(max=DRAWS - 1)
        index = chosen.repeat_interleave(sizes.to(x.device), -1)
        completions.append(x.gather(0, index[None])[0])
    return torch.cat(completions), log_mean(shares).sum(-1)


def _completed(name: str, batch: Batch, found: Unseen, draws: int) -> Tensor:
    """Draws of what is unseen of each path, beside what is seen, ``(draws, paths, rows, …)``."""
    seen, x = batch.seen[name], batch.x[name]
    if seen is None:
        return x.expand(draws, len(found.log_w), *x.shape)
    return torch.where(seen, x, torch.stack([found.draw(name) for _ in range(draws)]))

"""Whole rows of a model that explains its holes, weighed by why cells are missing."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.model import Model
from genprop.resampling import picked, resampled
from genprop.tables.missingness import Selected, silent
from genprop.unseen import Unseen, unseen

COMPLETIONS = 4  # of each path


@dataclass(frozen=True)
class Weighed:
    """Completed rows and their importance weights.

    Attributes:
        x: for each modality ``(samples, rows, elements)``, the seen cells as they were.
        log_w: log P(x_seen, mask | x_unseen's path) P(path) / Q(path), ``(samples, rows)``, nats.
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

        w = P(x_seen, h) / Q(h | x_seen) · P(mask | x_seen, x_unseen),  x_unseen ~ P(x | h_1)

    Each path is completed several times: the mechanism is cheap beside the nets.

    Args:
        model: the model.
        batch: rows, any of their cells unseen.
        samples: paths for each row.
    """
    with silent(model):
        found = unseen(model, batch, samples)
        x = {name: _completed(name, batch, found) for name in batch.x}
    log_w = found.log_w.repeat(COMPLETIONS, 1)
    for name, stack in model.named_stacks():
        family = stack[0].decoder.family if len(stack.layers) else None
        if isinstance(family, Selected):
            log_mask = family.mechanism.log_prob(x[name], batch.seen[name])
            present = batch.present(name)
            log_w = log_w + (log_mask if present is None else torch.where(present, log_mask, 0))
    return Weighed(x, log_w)


def _completed(name: str, batch: Batch, found: Unseen) -> Tensor:
    seen, x = batch.seen[name], batch.x[name]
    if seen is None:
        return x.expand(COMPLETIONS * len(found.log_w), *x.shape)
    return torch.where(seen, x, torch.cat([found.draw(name) for _ in range(COMPLETIONS)]))

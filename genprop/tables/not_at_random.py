"""Whole rows of a model that explains its holes, weighed by why cells are missing."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.model import Model
from genprop.resampling import picked, resampled
from genprop.stack import Path
from genprop.tables.missingness import Selected, silent

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
        paths = model.encode(batch, samples)
        log_w = model.log_weights(paths, batch).repeat(COMPLETIONS, 1)
        below = model.absent(batch, paths, mean=False)
        x = {name: _completed(model, name, batch, paths, below) for name in batch.x}
    for name, stack in model.named_stacks():
        family = stack[0].decoder.family if len(stack.layers) else None
        if isinstance(family, Selected):
            log_mask = family.mechanism.log_prob(x[name], batch.seen[name])
            present = batch.present(name)
            log_w = log_w + (log_mask if present is None else torch.where(present, log_mask, 0))
    return Weighed(x, log_w)


def _completed(
    model: Model,
    name: str,
    batch: Batch,
    paths: Mapping[str, Path],
    below: Mapping[str, Path],
) -> Tensor:
    stack = dict(model.named_stacks())[name]
    seen, x = batch.seen[name], batch.x[name]
    count = COMPLETIONS * len(paths[name].h[0])
    if seen is None:
        return x.expand(count, *x.shape)
    if stack.elementwise:
        drawn = below[name].x.repeat(COMPLETIONS, 1, 1)
    else:
        law = stack[0].decoder(paths[name].h[1])
        drawn = law.sample((COMPLETIONS,)).flatten(0, 1)
        if name in below:
            other = below[name].laws[0].sample((COMPLETIONS,)).flatten(0, 1)
            drawn = torch.where(seen.any(-1, keepdim=True), drawn, other)
    return torch.where(seen, x, drawn)

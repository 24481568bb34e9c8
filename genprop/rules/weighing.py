"""How much each modality's log-likelihood counts in training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from genprop.model import Model
from genprop.passage import Passage

Weights = Mapping[str, Tensor]
"""For each modality a factor for each of its elements."""


def weights_of(model: Model) -> Weights | None:
    """The factors that a model was given, None if all are one."""
    if all(weight == 1 for weight in model.weights.values()):
        return None
    return {
        name: model.like.new_full((width,), model.weights.get(name, 1.0))
        for name, width in model.widths.items()
    }


def weights_above(model: Model, weights: Weights | None) -> Weights | None:
    """Those of what a model's prior stands on, if it is a model: codes, and data without layers."""
    if weights is None or not isinstance(model.prior, Model):
        return None
    parts = [
        weights[name].new_ones(stack.code_elements) if len(stack.layers) else weights[name]
        for name, stack in model.named_stacks()
    ]
    widths = model.prior.widths
    return dict(zip(widths, torch.cat(parts).split(list(widths.values())), strict=True))


def weighed(passage: Passage, weights: Weights | None) -> Passage:
    """The lowest layer's passage with the factors of what it explains; any other as it is."""
    if weights is None or passage.level > 1:
        return passage
    return passage._replace(weight=weights[passage.modality])

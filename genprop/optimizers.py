"""Optimizers and schedules of the learning rate, by name."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Schedule = Callable[[float], float]
Optimizer = Callable[..., torch.optim.Optimizer]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "onecycle": lambda done: (
        0.04 + 0.96 * done / 0.3
        if done < 0.3
        else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
    ),
}
OPTIMIZERS: dict[str, Optimizer] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def make_optimizer(
    kind: str | Optimizer,
    groups: Sequence[dict[str, Any]],
    lr: float,
    weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of these groups of parameters, fused where torch can.

    Args:
        kind: a name of ``OPTIMIZERS``, or a callable ``(groups, lr=…)``, which is also given
            ``weight_decay`` if there is one.
        groups: as torch takes them.
        lr: learning rate.
        weight_decay: None for the optimizer's own.

    >>> weights = [{"params": [torch.nn.Parameter(torch.ones(2))]}]
    >>> make_optimizer("adamw", weights, lr=0.1, weight_decay=2.0).defaults["weight_decay"]
    2.0
    """
    options: dict[str, Any] = {"lr": lr}
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    if not isinstance(kind, str):
        return kind(groups, **options)
    if kind != "rmsprop" and groups[0]["params"][0].device.type != "mps":
        options["fused"] = True
    return OPTIMIZERS[kind](groups, **options)

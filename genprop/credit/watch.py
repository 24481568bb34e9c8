"""Diagnostics of a network and its rule while they train, epoch by epoch."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genprop.credit.inverse import reconstruction_errors
from genprop.credit.measure import agreement, conditions, saturation
from genprop.credit.network import CreditNetwork, named
from genprop.credit.rule import CreditRule
from genprop.credit.target import TargetPropagation
from genprop.train import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "angle": "angle to back-propagation, degrees",
    "ratio": "length over back-propagation's",
    "condition": "condition number of weights",
    "saturation": "share of saturated units",
    "reconstruction": "error of the inverse, relative",
}
LOGARITHMIC = {"ratio", "condition", "reconstruction"}


class Watch:
    """A callback that adds diagnostics of every layer to an epoch's row.

    Keys are ``angle.layer.l`` and ``ratio.layer.l`` (of the update beside back-propagation's),
    ``condition.layer.l``, ``saturation.layer.l``, and for rules with inverses
    ``reconstruction.layer.l``.

    Args:
        x: rows that are looked at, always the same.
        y: their classes or vectors.

    >>> watch = Watch(torch.zeros(2, 4), torch.tensor([0, 1]))
    >>> network = CreditNetwork.build(4, (), 2)
    >>> sorted(watch(network, TargetPropagation(network), {"epoch": 1.0}))[-1]
    'saturation.layer.1'
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __call__(self, network: CreditNetwork, rule: CreditRule, row: Row) -> Row:
        """What is added to the row; training goes on with the draws it would have had."""
        weight = network.layers[0].weight
        x, y = self.x.to(weight), self.y.to(weight.device)
        devices = [weight.device] if weight.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            found = {
                f"{what}.{name}": getattr(each, what)
                for name, each in agreement(network, rule, x, y).items()
                for what in ("angle", "ratio")
            }
            found |= {f"condition.{name}": v for name, v in conditions(network).items()}
            found |= {f"saturation.{name}": v for name, v in saturation(network, x).items()}
            if isinstance(rule, TargetPropagation):
                errors = reconstruction_errors(network, rule.inverses, x)
                found |= {f"reconstruction.{name}": v for name, v in errors.items()}
        return found


def credit_curves(history: Sequence[Row], network: CreditNetwork) -> "Figure":
    """Each diagnostic over epochs, a line a layer, dark ones below.

    Args:
        history: rows of a training run that a ``Watch`` added to.
        network: what was trained.

    Raises:
        ValueError: nothing was watched.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = [name for name, _ in named(network)]
    kinds = [k for k in TITLES if any(f"{k}.{name}" in row for row in history for name in names)]
    if not kinds:
        raise ValueError("these rows hold no diagnostics; give fit callbacks=[Watch(x, y)]")
    figure = Figure(figsize=(4 * len(kinds), 3.2), layout="constrained")
    epochs, lines = [row["epoch"] for row in history], {}
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for number, name in enumerate(names):
            values = [row.get(f"{kind}.{name}", math.nan) for row in history]
            if not all(math.isnan(value) for value in values):
                shade = colormaps["viridis"](number / len(names))
                (lines[name],) = axes.plot(epochs, values, "o-", color=shade, markersize=3)
        axes.set(xlabel="epoch", title=TITLES[kind])
        if kind in LOGARITHMIC:
            axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.legend(
        lines.values(), lines, loc="outside right center", fontsize=7, ncols=-(-len(lines) // 16)
    )
    return figure

"""The contenders of ``benchmarks.credit``: each rule, its network, settings, published row."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genprop.credit.alignment import DirectFeedbackAlignment, FeedbackAlignment
from genprop.credit.associated import AssociatedLearning
from genprop.credit.backprop import BackPropagation
from genprop.credit.block import Block
from genprop.credit.broadcast import ScoreBroadcast
from genprop.credit.covariance import CovarianceGoodness
from genprop.credit.equilibrium import EquilibriumPropagation
from genprop.credit.goodness import ForwardForward
from genprop.credit.network import CreditNetwork
from genprop.credit.predictive import PredictiveCoding
from genprop.credit.reconstruction import Reconstruction
from genprop.credit.rule import CreditRule
from genprop.credit.spikes import SpikeAlignment
from genprop.credit.target import TargetPropagation
from genprop.credit.train import CreditTrainer
from genprop.train import Trainer

DEEP = (256,) * 6
CCL = "Kao and Hariharan, 2024, counter-current learning, table 1: 6 x 256 tanh, SGD, 100 epochs"
HEP = "logs of Laborieux and Zenke, 2022: 2 x 256, EP, beta = 0.1, 50 epochs"


@dataclass(frozen=True)
class Contender:
    """A rule, what it is trained on and how.

    Attributes:
        rule: makes the rule for a network.
        lr: learning rate of the network.
        widths: of the hidden layers.
        channels: of convolutions of 3 x 3, each pooled, in place of hidden layers.
        unit: of these.
        cost: of the output.
        feedback: learning rate of the rule's own weights; None takes ``lr``.
        settings: of the trainer beside these.
        rates: factor on the learning rate of each layer, None for 1.
        warmup: epochs of the rule's own weights alone, first.
        residual: whether hidden layers are residual.
        last: unit of the output.
        published: test accuracy in percent, by data.
        source: of the published row.
    """

    rule: Callable[[CreditNetwork], CreditRule]
    lr: float
    widths: tuple[int, ...] = DEEP
    channels: tuple[int, ...] = ()
    unit: str = "tanh"
    cost: str = "cross-entropy"
    feedback: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] | None = None
    warmup: int = 0
    residual: bool = False
    last: str = "identity"
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""

    def network(self, shape: tuple[int, ...], outputs: int) -> CreditNetwork:
        """A fresh network for rows of this shape."""
        if not self.channels:
            return CreditNetwork.build(
                math.prod(shape), self.widths, outputs, self.unit, self.cost, self.residual,
                self.last,
            )  # fmt: skip
        blocks: list[Block] = []
        for channels in self.channels:
            blocks.append(Block(shape, channels, self.unit, kernel=3, pool="max"))
            shape = blocks[-1].out_shape
        output = Block((math.prod(shape),), outputs, self.last)
        return CreditNetwork([*blocks, output], self.cost)

    def small(self) -> "Contender":
        """The same with few channels, for a run that is only to be seen to work."""
        return replace(self, channels=tuple(max(2, count // 32) for count in self.channels))

    def rows(self, x: Tensor) -> Tensor:
        """Rows as the network takes them: flat, if it has no convolution."""
        return x if self.channels else x.flatten(1)

    def trainer(self, epochs: int, minutes: float, factor: float = 1.0) -> CreditTrainer:
        """How it is trained, the network's learning rate times a factor."""
        common: dict[str, Any] = {"batch_size": 100, "schedule": "cosine", "device": "auto"}
        how = Trainer(epochs=epochs, lr=self.lr * factor, **{**common, **self.settings})
        own = Trainer(lr=self.feedback, **common) if self.feedback else None
        return CreditTrainer(how, own, self.rates, self.warmup, minutes)


def back_propagation(network: CreditNetwork) -> CreditRule:
    """The yardstick, straight through what has no derivative."""
    return BackPropagation(straight_through=True)


def _published(mnist: float, fashion: float) -> dict[str, Any]:
    return {"published": {"MNIST": mnist, "Fashion-MNIST": fashion}, "source": CCL}


def targets(network: CreditNetwork, loss: str, noise: float, **settings: Any) -> CreditRule:
    """Target propagation, its inverses learned by this loss."""
    decay = settings.pop("decay", 0.0)
    return TargetPropagation(network, Reconstruction(loss, noise, decay), **settings)


MOMENTUM: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, momentum=0.9)}
CLIPPED: dict[str, Any] = {"widths": (500,), "unit": "clip", "cost": "squared", "last": "clip"}
PERCEPTRONS: dict[str, Contender] = {
    "BP": Contender(back_propagation, 1e-3, **_published(98.19, 89.58)),
    "FA": Contender(FeedbackAlignment, 1e-3, **_published(96.96, 87.38)),
    "DFA": Contender(DirectFeedbackAlignment, 1e-3, **_published(97.27, 87.35)),
    "DTP": Contender(partial(targets, loss="noise", noise=0.3), 1e-3, feedback=3e-3, warmup=1),
    "DTP, iterated": Contender(
        partial(targets, loss="noise", noise=0.3, iterations=3), 1e-3, feedback=3e-3, warmup=1
    ),
    "TP": Contender(
        partial(targets, loss="noise", noise=0.3, rule="plain"), 1e-3, feedback=3e-3, warmup=1
    ),
    "DRL": Contender(
        partial(targets, loss="output", noise=0.1, decay=1e-4, start="output"),
        1e-3,
        feedback=1e-3,
        warmup=1,
        **_published(93.05, 83.40),
    ),
    "L-DRL": Contender(
        partial(targets, loss="jacobian", noise=0.1, start="output", rounds=2),
        1e-3,
        feedback=1e-3,
        warmup=1,
        **_published(93.29, 83.60),
    ),
    "PC": Contender(lambda network: PredictiveCoding(14, 0.2), 1e-3),
    "PC-ALM": Contender(lambda network: PredictiveCoding(14, 0.25, dual=1.0), 1e-3),
    "SBD": Contender(
        lambda network: ScoreBroadcast(network, 0.9999, start=0.3), 0.05, settings=MOMENTUM
    ),
    "SAL": Contender(
        lambda network: SpikeAlignment(network, chains=50), 1e-3, feedback=3e-3, warmup=1
    ),
    "AL, 3 x 256": Contender(
        lambda network: AssociatedLearning(network, 64), 2e-3, widths=(256,) * 3, unit="relu"
    ),
    "FF": Contender(
        lambda network: ForwardForward(2.0, ink=2.0), 3e-3, widths=(500, 500), unit="relu"
    ),
    "covariance FF": Contender(CovarianceGoodness, 1e-3, widths=(500, 500), unit="relu"),
    "EP, 1 x 500": Contender(
        lambda network: EquilibriumPropagation(
            "one-sided", 0.5, 20, 4, 0.5, persistent=True, random_sign=True
        ),
        0.1,
        settings={"optimizer": "sgd", "batch_size": 20},
        **CLIPPED,
    ),
    "EP, centred, 2 x 256": Contender(
        lambda network: EquilibriumPropagation("centred", 0.1, 30, 10, 0.7, readout=True),
        1e-3,
        widths=(256, 256),
        published={"MNIST": 98.03},
        source=HEP,
    ),
}
DISCRETE: dict[str, Contender] = {
    "sign, DTP": Contender(
        partial(targets, loss="noise", noise=0.5, graded=True),
        3e-3,
        widths=(1000, 1000),
        unit="sign",
        feedback=1e-3,
        settings={"optimizer": "rmsprop"},
    ),
    "sign, straight-through": Contender(back_propagation, 1e-3, widths=(1000, 1000), unit="sign"),
    "bernoulli, DTP": Contender(
        partial(targets, loss="noise", noise=0.3),
        1e-3,
        widths=(200, 200),
        unit="bernoulli",
        feedback=1e-3,
        settings={"optimizer": "rmsprop"},
    ),
    "bernoulli, straight-through": Contender(
        back_propagation, 1e-3, widths=(200, 200), unit="bernoulli"
    ),
}
ALM = "README of lebidan/torch-pc-alm: width 32, depth 32, ReLU, one epoch, seed 0"
RESIDUAL: dict[str, Any] = {
    "lr": 1e-3,  # the authors' 1e-3 times the root of width over depth
    "widths": (32,) * 32,
    "unit": "relu",
    "residual": True,
    "settings": {"batch_size": 64, "schedule": "constant"},
    "source": ALM,
}
THIN: dict[str, Contender] = {
    "32 x 32, BP": Contender(back_propagation, published={"Fashion-MNIST": 78.66}, **RESIDUAL),
    "32 x 32, PC": Contender(
        lambda network: PredictiveCoding(66, 0.25),
        published={"Fashion-MNIST": 68.13},
        **RESIDUAL,
    ),
    "32 x 32, PC-ALM": Contender(
        lambda network: PredictiveCoding(66, 0.25, dual=1.0),
        published={"Fashion-MNIST": 77.75},
        **RESIDUAL,
    ),
}

"""The contenders of ``benchmarks.credit`` on coloured images: CIFAR-10 and its convolutions.

Perceptrons of 4 layers of 1,024 tanh units, as published, and networks of pooled convolutions after
Ernoult and others (2022, five of them) and Laborieux and others (2021, four). Whoever has no GPU
waits for days.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.credit_rules import PERCEPTRONS, Contender, back_propagation, targets
from genprop.credit.alignment import DirectFeedbackAlignment, FeedbackAlignment
from genprop.credit.associated import AssociatedLearning
from genprop.credit.broadcast import ScoreBroadcast
from genprop.credit.covariance import CovarianceGoodness
from genprop.credit.equilibrium import EquilibriumPropagation
from genprop.credit.predictive import PredictiveCoding

CIFAR = "CIFAR-10"
SHAPE = (3, 32, 32)
# of each channel of the training images
MEANS, SCALES = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PUBLISHED = {"BP": 50.03, "FA": 45.76, "DFA": 42.86, "DRL": 42.09, "L-DRL": 42.19}


def descent(decay: float) -> dict[str, Any]:
    """The trainer's settings of both papers, which differ in the weights' decay."""
    optimizer = partial(torch.optim.SGD, momentum=0.9, weight_decay=decay)
    return {"optimizer": optimizer, "batch_size": 128}


NET: dict[str, Any] = {"channels": (128, 128, 256, 256, 512), "unit": "elu"}
DEEP: dict[str, Any] = {**NET, "settings": descent(1e-4)}
WIDE = {
    f"4 x 1024, {name}": replace(
        PERCEPTRONS[name],
        widths=(1024,) * 4,
        published={CIFAR: accuracy},
        source="Kao and Hariharan, 2024, counter-current learning, table 1: 4 x 1024 tanh",
    )
    for name, accuracy in PUBLISHED.items()
}
CONVOLUTIONS: dict[str, Contender] = {
    "conv, BP": Contender(back_propagation, 0.05, **DEEP),
    "conv, FA": Contender(FeedbackAlignment, 0.05, **DEEP),
    "conv, DFA": Contender(DirectFeedbackAlignment, 0.05, **DEEP),
    "conv, DTP": Contender(
        partial(targets, loss="noise", noise=0.3), 0.05, feedback=3e-3, warmup=1, **DEEP
    ),
    "conv, L-DRL": Contender(
        partial(targets, loss="jacobian", noise=0.2, start="output", step=0.7, rounds=20),
        0.05,
        feedback=3e-3,
        warmup=1,
        **DEEP,
    ),
    "conv, SBD": Contender(
        lambda network: ScoreBroadcast(network, 0.9999, start=0.3), 0.05, **DEEP
    ),
    "conv, PC": Contender(lambda network: PredictiveCoding(12, 0.2), 0.05, **DEEP),
    "conv, PC-ALM": Contender(lambda network: PredictiveCoding(12, 0.2, dual=1.0), 0.05, **DEEP),
    "conv, AL": Contender(lambda network: AssociatedLearning(network, 64), 1e-3, **NET),
    "conv, covariance FF": Contender(CovarianceGoodness, 1e-3, **NET),
    "conv, EP, centred": Contender(
        lambda network: EquilibriumPropagation("centred", 1.0, 250, 25, 0.5, readout=True),
        0.25,
        channels=(128, 256, 512, 512),
        unit="clip",
        rates=(1.0, 0.6, 0.4, 0.32, 0.2),
        settings=descent(3e-4),
        published={CIFAR: 88.3},
        source="Laborieux and others, 2021: 4 convolutions, 120 epochs of images moved about",
    ),
}
IMAGES = {**WIDE, **CONVOLUTIONS}


def read(folder: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows and classes to train on and of the test, from CIFAR-10's binary files.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not made of records of a class and 3 x 32 x 32 bytes.
    """
    train = [_records(folder / f"data_batch_{number}.bin") for number in range(1, 6)]
    x, y = (torch.cat(part) for part in zip(*train, strict=True))
    return (x, y), _records(folder / "test_batch.bin")


def _records(path: Path) -> tuple[Tensor, Tensor]:
    """Images of mean 0 and standard deviation 1 in each channel, and classes."""
    record = 1 + math.prod(SHAPE)
    raw = np.fromfile(path, np.uint8)
    if not len(raw) or len(raw) % record:
        raise ValueError(
            f"{path} must hold records of {record} bytes, a class and an image, but has {len(raw)} "
            f"bytes; the binary version of CIFAR-10 is what is read here"
        )
    records = torch.from_numpy(raw.reshape(-1, record))
    means, scales = (torch.tensor(part)[:, None, None] for part in (MEANS, SCALES))
    x = (records[:, 1:].view(-1, *SHAPE).float() / 255 - means) / scales
    return x, records[:, 0].long()

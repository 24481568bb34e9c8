"""Consecutive layers that one process owns, when layers are trained in parallel."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Passing(NamedTuple):
    """What a stage makes of one mini-batch.

    Attributes:
        loss: the mean over rows of its local terms, with their graph.
        up: what the stage above is given, constant.
        top: what of it learns from above, with its graph; None where nothing comes down.
        down: the derivative, by what came up, of the term that the stage below learns from; None
            where that learns by itself.
    """

    loss: Tensor
    up: tuple[Tensor, ...]
    top: Tensor | None = None
    down: Tensor | None = None


class Stage(nn.Module, ABC):
    """Consecutive layers whose update needs what comes up, and at most one message from above."""

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether its update needs the derivative that the stage above sends down."""

    @abstractmethod
    def forward(self, *message: Tensor) -> Passing:
        """Passes one mini-batch; draws are torch's global generator's.

        Args:
            message: what the stage below gives; the data, of the lowest.
        """


def passing_loss(passing: Passing, credit: Tensor | None) -> Tensor:
    """The stage's loss, with what the stage above has to say of its top."""
    if credit is None or passing.top is None:
        return passing.loss
    return passing.loss + (passing.top * credit).sum()

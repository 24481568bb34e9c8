"""What a rule of credit assignment is for feed-forward networks, and what some can do beside."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genprop.credit.block import Block
from genprop.credit.network import CreditNetwork, needs_derivative
from genprop.rules.rule import Term


class CreditRule(nn.Module, ABC):
    """What each block of a network is told to change, given rows x and y.

    The gradient of the terms' parts, means over rows, is the update. A rule is a module: weights of
    its own (feedback, inverses) are its parameters, what is fixed its buffers. The output's term
    has the mean ``loss`` of the rows in its account.
    """

    @abstractmethod
    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """Yields terms one by one; each may be sent backward before the next is asked for."""

    @abstractmethod
    def check(self, network: CreditNetwork) -> None:
        """Raises ValueError, before training, where the rule cannot train the network."""


class PreparedRule(CreditRule, ABC):
    """A rule with weights of its own that are to learn before the network does.

    Attributes:
        rounds: how often they learn before each update of the network.
    """

    rounds: int

    @abstractmethod
    def prepare(self, network: CreditNetwork, x: Tensor) -> Iterator[Term]:
        """Terms that reach the rule's own parameters only."""


class RecallingRule(CreditRule, ABC):
    """A rule that keeps something for every row of the training data."""

    @abstractmethod
    def recall(self, index: Tensor, rows: int) -> None:
        """Tells which of so many rows the next x and y are."""


class PredictingRule(CreditRule, ABC):
    """A rule whose predictions are not the network's feed-forward output."""

    @abstractmethod
    def predict(self, network: CreditNetwork, x: Tensor) -> Tensor:
        """What stands for the output o, the largest element for the class."""


@torch.no_grad()
def predict(network: CreditNetwork, rule: CreditRule, x: Tensor, passes: int = 1) -> Tensor:
    """The output for x, the way the rule would have it: ``(rows, outputs)``.

    Args:
        network: what was trained.
        rule: what trained it.
        x: rows.
        passes: how many times a stochastic network is asked; probabilities are averaged.
    """
    if isinstance(rule, PredictingRule):
        return rule.predict(network, x)
    if passes == 1:
        return torch.as_tensor(network(x))
    outputs = torch.stack([network(x) for _ in range(passes)])
    if network.cost == "squared":
        return outputs.mean(0)
    return outputs.softmax(-1).mean(0).log()


def inner(values: Tensor, signal: Tensor) -> Tensor:
    """The mean over rows of ⟨values, sg signal⟩: what is told to a layer whose credit is known."""
    return (values * signal.detach()).flatten(1).sum(1).mean()


def half_square(difference: Tensor) -> Tensor:
    """The mean over rows of ½‖difference‖²."""
    return 0.5 * difference.flatten(1).square().sum(1).mean()


class Climb(NamedTuple):
    """One pass upwards.

    Attributes:
        path: h_0 to h_L, as constants.
        values: the same h_1 to h_L, each with the graph of its own block and no other.
    """

    path: list[Tensor]
    values: list[Tensor]


def climb(network: CreditNetwork, x: Tensor) -> Climb:
    """Passes x up; no graph crosses a layer."""
    path, values = [x.detach()], []
    for block in network.blocks:
        values.append(block(path[-1]))
        path.append(values[-1].detach())
    return Climb(path, values)


def output_term(network: CreditNetwork, output: Tensor, y: Tensor) -> Term:
    """The output layer, taught by the cost itself."""
    loss, name = network.loss(output, y).mean(), f"layer.{len(network.blocks)}"
    return Term(name, {f"{name}.loss": loss}, {"loss": loss.detach()})


def numbered(blocks: list[Block]) -> Iterator[tuple[str, Block]]:
    """The hidden blocks with their names."""
    for number, block in enumerate(blocks[:-1], 1):
        yield f"layer.{number}", block


def check_smooth(network: CreditNetwork, rule: str, way_out: str) -> None:
    """Raises ValueError where a signal would have to pass signs or samples."""
    cut = needs_derivative(network)
    if cut:
        raise ValueError(
            f"{rule} sends derivatives through what layers receive, but {', '.join(cut)} receive "
            f"signs or samples; {way_out}"
        )

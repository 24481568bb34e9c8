"""Components of associated learning as a stage of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genprop.credit.associated import AssociatedLearning, Component, meet
from genprop.credit.network import CreditNetwork
from genprop.credit.split import split
from genprop.credit.stage import Passing, Stage


class ComponentStage(Stage):
    r"""Consecutive components of associated learning.

    What comes up is s_{i-1} and t_{i-1}, what goes up s_j and t_j; nothing comes down, so that
    every stage updates at once, and a pipeline makes the updates of one process without delay.

    Args:
        components: f, g, h and b of each, from the lowest.

    >>> network = CreditNetwork.build(4, (3, 3), 2)
    >>> low, high = component_stages(network, AssociatedLearning(network, 5))
    >>> s, t = low(torch.zeros(6, 4), torch.zeros(6, 2)).up
    >>> s.shape, t.shape, low.waits
    (torch.Size([6, 3]), torch.Size([6, 5]), False)
    """

    def __init__(self, components: Sequence[Component]) -> None:
        super().__init__()
        self.components = list(components)
        self.parts = nn.ModuleList(nn.ModuleList(component) for component in components)

    @property
    def waits(self) -> bool:
        return False

    def forward(self, *message: Tensor) -> Passing:
        """Passes s and t."""
        s, t = message
        losses: list[Tensor] = []
        for component in self.components:
            meeting = meet(component, s, t)
            losses += meeting.losses.values()
            s, t = meeting.s, meeting.t
        return Passing(torch.stack(losses).sum(), (s, t))


def component_stages(
    network: CreditNetwork, rule: AssociatedLearning, sizes: Sequence[int] | None = None
) -> list[ComponentStage]:
    """Stages that share the weights of a network and its rule.

    The lowest is given x and what the output ought to be, ``network.wanted(y)``.

    Args:
        network: whose hidden layers are the components' forward parts.
        rule: made for it.
        sizes: components of each stage, from the lowest; one each unless given.

    Raises:
        ValueError: the rule is another network's, or sizes do not add up to the components.
    """
    rule.check(network)
    hidden = network.layers[:-1]
    components = [rule.component(number, block) for number, block in enumerate(hidden)]
    return [ComponentStage(components[part]) for part in split(len(components), sizes)]

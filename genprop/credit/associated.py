"""Associated learning: layers meet the label's own path half way, component by component."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genprop.credit.block import UNITS, Block
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import PredictingRule, half_square, numbered
from genprop.rules.rule import Term

# on starting weights: codes of different labels keep their distances through any number of g_i
SPREAD = {"sigmoid": 4.0, "tanh": 2.0}


class AssociatedLearning(PredictingRule):
    r"""A component a layer: forward f, label encoder g, its inverse h, and a bridge b between.

    Formula: s_0 = x, t_0 = y (one-hot for a class); s_i = f_i(sg s_{i-1}) is the network's block,
    t_i = g_i(sg t_{i-1}). Component i descends the associated loss ½‖b_i(s_i) - sg t_i‖², which
    teaches f_i and b_i, and the inverse loss ½‖h_i(t_i) - sg t_{i-1}‖², which teaches g_i and h_i.
    The output is h_1∘…∘h_n∘b_n∘f_n∘…∘f_1(x); the other bridges and all g_i serve training only.

    Local: each term reaches one component. Transported: nothing. Cost: one forward pass of f, b, g
    and h and their local derivatives; components can be trained by pipelined workers. Memory: one
    component's values. The authors' units are sigmoids; their codes start close together, the
    closer the higher, and labels come back from them only after many updates. Source: Kao, Chen,
    2021, Associated learning: decomposing end-to-end backpropagation based on autoencoders and
    target propagation.

    Args:
        network: whose hidden blocks are the f_i; its output layer takes no part.
        width: of every t_i.
        bridge: width of a bridge's hidden layer, in widths.
        unit: of every t_i.
        bridge_unit: of a bridge's hidden layer.

    Raises:
        ValueError: a width that is not positive, or a unit unknown or without a derivative.

    >>> len(AssociatedLearning(CreditNetwork.build(4, (3, 3), 2), width=5).bridges)
    2
    """

    def __init__(
        self,
        network: CreditNetwork,
        width: int = 64,
        bridge: int = 5,
        unit: str = "tanh",
        bridge_unit: str = "relu",
    ) -> None:
        super().__init__()
        self.width, self.bridge = width, bridge
        self.unit, self.bridge_unit = unit, bridge_unit
        _check(self)
        self.bridges, self.encoders, self.decoders = (nn.ModuleList() for _ in range(3))
        below = network.outputs
        for _, block in numbered(network.layers):
            size = torch.Size(block.out_shape).numel()
            two = Block((size,), bridge * width, bridge_unit), Block((bridge * width,), width, unit)
            self.bridges.append(nn.Sequential(nn.Flatten(), *two))
            self.encoders.append(_spread(Block((below,), width, unit)))
            self.decoders.append(_spread(Block((width,), below, self._label_unit(network))))
            below = width

    def _label_unit(self, network: CreditNetwork) -> str:
        """The unit of the next decoder; the lowest rebuilds the label."""
        if len(self.decoders):
            return self.unit
        return "identity" if network.cost == "squared" else "sigmoid"

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a component, from the lowest up."""
        s, t = x.detach(), network.wanted(y)
        total = x.new_zeros(())
        for number, (name, block) in enumerate(numbered(network.layers)):
            meeting = meet(self.component(number, block), s, t)
            parts = {f"{name}.{part}": value for part, value in meeting.losses.items()}
            total = total + sum(part.detach() for part in parts.values())
            yield Term(name, parts, {"loss": total})
            s, t = meeting.s, meeting.t

    def component(self, number: int, block: Block) -> "Component":
        """All that learns from one component's two losses.

        Args:
            number: of the component, from 0.
            block: the network's, on that level.
        """
        parts = self.encoders[number], self.decoders[number], self.bridges[number]
        return Component(block, *parts)

    @torch.no_grad()
    def predict(self, network: CreditNetwork, x: Tensor) -> Tensor:
        """The label that the last bridge and the decoders make of x."""
        for _, block in numbered(network.layers):
            x = block(x)
        t: Tensor = self.bridges[-1](x)
        for decoder in reversed(list(self.decoders)):
            t = decoder(t)
        return t

    def check(self, network: CreditNetwork) -> None:
        if len(network.layers) < 2:
            raise ValueError("associated learning needs a hidden layer")
        if any(block.receives != "value" for block in network.layers):
            raise ValueError("bridges read values, but this network sends signs or samples")
        sizes = [torch.Size(b.out_shape).numel() for b in network.layers[:-1]]
        made = [b[1].shape[0] for b in self.bridges]  # type: ignore[index]
        if made != sizes:
            raise ValueError("this rule was made for another network; make it anew for this one")


class Component(NamedTuple):
    """The modules f, g, h and b of one component."""

    forward: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    bridge: nn.Module


class Meeting(NamedTuple):
    """A component's losses with their graphs, and what goes up from it, constant."""

    losses: dict[str, Tensor]
    s: Tensor
    t: Tensor


def meet(component: Component, s: Tensor, t: Tensor) -> Meeting:
    """What a component makes of s_{i-1} and t_{i-1}, constants."""
    high, code = component.forward(s), component.encoder(t)
    losses = {
        "associated": half_square(component.bridge(high) - code.detach()),
        "inverse": half_square(component.decoder(code) - t),
    }
    return Meeting(losses, high.detach(), code.detach())


@torch.no_grad()
def _spread(block: Block) -> Block:
    block.weight.mul_(SPREAD.get(block.unit, 1.0))
    return block


def _check(rule: AssociatedLearning) -> None:
    if min(rule.width, rule.bridge) < 1:
        raise ValueError(f"width and bridge are positive, got {rule.width} and {rule.bridge}")
    smooth = [name for name, unit in UNITS.items() if unit.sends == "value"]
    for name, unit in (("unit", rule.unit), ("bridge_unit", rule.bridge_unit)):
        if unit not in smooth:
            raise ValueError(f"{name} must be one of {', '.join(smooth)}, but is {unit!r}")

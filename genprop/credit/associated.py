"""Associated learning: layers meet the label's own path half way, component by component."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from genprop.credit.block import Block
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import PredictingRule, half_square, numbered
from genprop.rules.rule import Term


class AssociatedLearning(PredictingRule):
    r"""A component a layer: forward f, label encoder g, its inverse h, and a bridge b between.

    Formula: s_0 = x, t_0 = y (one-hot for a class); s_i = f_i(sg s_{i-1}) is the network's block,
    t_i = g_i(sg t_{i-1}). Component i descends the associated loss ½‖b_i(s_i) - sg t_i‖², which
    teaches f_i and b_i, and the inverse loss ½‖h_i(t_i) - sg t_{i-1}‖², which teaches g_i and h_i.
    The output is h_1∘…∘h_n∘b_n∘f_n∘…∘f_1(x); the other bridges and all g_i serve training only.

    Local: each term reaches one component. Transported: nothing. Cost: one forward pass of f, b, g
    and h and their local derivatives; components can be trained by pipelined workers. Memory: one
    component's values. Source: Kao, Chen, 2021, Associated learning: decomposing end-to-end
    backpropagation based on autoencoders and target propagation.

    Args:
        network: whose hidden blocks are the f_i; its output layer takes no part.
        width: of every t_i.
        bridge: width of a bridge's hidden layer, in widths.

    Raises:
        ValueError: a width that is not positive.

    >>> len(AssociatedLearning(CreditNetwork.build(4, (3, 3), 2), width=5).bridges)
    2
    """

    def __init__(self, network: CreditNetwork, width: int = 64, bridge: int = 5) -> None:
        super().__init__()
        if min(width, bridge) < 1:
            raise ValueError(f"width and bridge are positive, got {width} and {bridge}")
        self.width, self.bridge = width, bridge
        self.bridges, self.encoders, self.decoders = (nn.ModuleList() for _ in range(3))
        below = network.outputs
        for _, block in numbered(network.layers):
            size = torch.Size(block.out_shape).numel()
            two = (
                Block((size,), bridge * width, "sigmoid"),
                Block((bridge * width,), width, "sigmoid"),
            )
            self.bridges.append(nn.Sequential(nn.Flatten(), *two))
            self.encoders.append(Block((below,), width, "sigmoid"))
            # what is to be rebuilt lies in (0, 1), but a vector y may lie anywhere
            last = "identity" if not len(self.decoders) and network.cost == "squared" else "sigmoid"
            self.decoders.append(Block((width,), below, last))
            below = width

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a component, from the lowest up."""
        s, t = x.detach(), network.wanted(y)
        total = x.new_zeros(())
        for number, (name, block) in enumerate(numbered(network.layers)):
            high, code = block(s), self.encoders[number](t)
            parts = {
                f"{name}.associated": half_square(self.bridges[number](high) - code.detach()),
                f"{name}.inverse": half_square(self.decoders[number](code) - t),
            }
            total = total + sum(part.detach() for part in parts.values())
            yield Term(name, parts, {"loss": total})
            s, t = high.detach(), code.detach()

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

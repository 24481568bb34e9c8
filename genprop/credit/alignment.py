"""Feedback alignment: errors come down by weights of their own, fixed and random."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from genprop.credit.network import CreditNetwork, named
from genprop.credit.rule import CreditRule, check_smooth, climb, inner, output_term
from genprop.rules.rule import Term


class FeedbackAlignment(CreditRule):
    r"""Back-propagation with random weights in place of the transposed ones.

    Formula: e_L = ∂C/∂o, e_{l-1} = (∂F_l/∂h_{l-1} with B_l in place of W_l)ᵀ e_l, and
    ΔW_l ∝ -(∂F_l/∂W_l)ᵀ e_l.

    Local: each term reaches one block. Transported: no weight; the derivative of the units is used.
    Cost: one forward and one backward pass, about 3 forward passes. Memory: all layers' values, and
    B as large as W_2 to W_L. Source: Lillicrap, Cownden, Tweed, Akerman, 2016, Random synaptic
    feedback weights support error backpropagation for deep learning.

    Args:
        network: whose shapes B_2 to B_L take, drawn as the weights are.

    >>> rule = FeedbackAlignment(CreditNetwork.build(4, (3,), 2))
    >>> rule.feedback(2).shape
    torch.Size([2, 3])
    """

    def __init__(self, network: CreditNetwork) -> None:
        super().__init__()
        for number, block in enumerate(network.layers[1:], 2):
            self.register_buffer(f"feedback_{number}", block.fresh())

    def feedback(self, layer: int) -> Tensor:
        """B_l, shaped like W_l."""
        return self.get_buffer(f"feedback_{layer}")

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a layer, from the output down."""
        backs = [self.feedback(number) for number in range(2, len(network.layers) + 1)]
        yield from sent_down(network, x, y, backs)

    def check(self, network: CreditNetwork) -> None:
        check_smooth(network, "feedback alignment", "use DirectFeedbackAlignment")
        shapes = [block.weight.shape for block in network.layers[1:]]
        if [b.shape for b in self.buffers()] != shapes:
            raise ValueError("this rule was made for another network; make it anew for this one")


class DirectFeedbackAlignment(CreditRule):
    r"""Every layer hears the output's error by fixed random weights.

    Formula: e_l = B_l ∂C/∂o for hidden layers, and ΔW_l ∝ -(∂F_l/∂W_l)ᵀ e_l.

    Local: each term reaches one block, and no signal passes another layer. Transported: no weight.
    Cost: one forward pass, L products with the error, and the layers' own derivatives, about 2
    forward passes. Memory: one layer's values when layers are visited again, here all of them; B_l
    of outputs × the layer's size. Source: Nøkland, 2016, Direct feedback alignment provides
    learning in deep neural networks.

    Args:
        network: whose shapes B_1 to B_{L-1} take; entries are uniform, of variance 1 / outputs.

    >>> rule = DirectFeedbackAlignment(CreditNetwork.build(4, (3,), 2))
    >>> rule.feedback(1).shape
    torch.Size([2, 3])
    """

    def __init__(self, network: CreditNetwork) -> None:
        super().__init__()
        bound = (3 / network.outputs) ** 0.5
        for number, block in enumerate(network.layers[:-1], 1):
            size = torch.Size(block.out_shape).numel()
            weights = block.weight.new_empty(network.outputs, size).uniform_(-bound, bound)
            self.register_buffer(f"feedback_{number}", weights)

    def feedback(self, layer: int) -> Tensor:
        """B_l, ``(outputs, size of the layer)``."""
        return self.get_buffer(f"feedback_{layer}")

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a layer, the output's first."""
        path, values = climb(network, x)
        yield output_term(network, values[-1], y)
        error = network.score(path[-1], y)
        for number, value in enumerate(values[:-1], 1):
            signal = (error @ self.feedback(number)).view_as(value)
            yield Term(f"layer.{number}", {f"layer.{number}.error": inner(value, signal)}, {})

    def check(self, network: CreditNetwork) -> None:
        sizes = [(network.outputs, torch.Size(b.out_shape).numel()) for b in network.layers[:-1]]
        if [tuple(b.shape) for b in self.buffers()] != sizes:
            raise ValueError("this rule was made for another network; make it anew for this one")


def sent_down(
    network: CreditNetwork, x: Tensor, y: Tensor, backs: Sequence[Tensor]
) -> Iterator[Term]:
    """The error from the output down, by the weights ``backs`` of layers 2 to L."""
    below: list[Tensor] = []
    above: list[Tensor] = []
    h = x.detach()
    for block, back in zip(network.layers, [None, *backs], strict=True):
        below.append(h.requires_grad_(back is not None))
        above.append(block(h, back))
        h = above[-1].detach()
    loss = network.loss(h, y).mean()
    signal = network.score(h, y)
    account = {"loss": loss}
    for (name, _), low, high in reversed(list(zip(named(network), below, above, strict=True))):
        part = {f"{name}.error": inner(high, signal)}
        if low.requires_grad:
            # asked for before the term goes backward, which frees the graph
            (signal,) = torch.autograd.grad(high, low, signal, retain_graph=True)
        yield Term(name, part, account)
        account = {}

"""Spike-based alignment: feedback weights learn from the order of spikes."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from genprop.credit.alignment import sent_down
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import PreparedRule, check_smooth
from genprop.rules.rule import Term


class SpikeAlignment(PreparedRule):
    r"""Feedback weights that noise alone makes symmetric to the forward ones.

    Formula: two neighbouring layers of binary units spike by noise, v(t+1) ~ B(σ(W_l u(t))) and
    u(t+1) ~ B(σ(B_lᵀ v(t))). Such a net is reversible in time if and only if B_l = W_l; in general
    A = E[v(t+1) u(t)ᵀ - v(t) u(t+1)ᵀ], upper spikes after lower ones minus before them, is
    (W_l - B_l) / 16 to first order. So B_l ascends ⟨B_l, A⟩, Hebbian for one order of spikes and
    anti-Hebbian for the other. Errors come down by B as in feedback alignment.

    Local: a feedback weight sees the spikes of its two units. Transported: no weight. Cost: of each
    round 2 · steps passes through every layer for as many chains as there are; then as feedback
    alignment. Memory: as feedback alignment. Source: Gierlich and others, 2026, arXiv 2503.02642,
    of which the abstract was at hand: that noise reveals W_ij - W_ji and a Hebbian and anti-Hebbian
    rule removes it. The rule here is derived from that for layers of stochastic binary units in
    discrete time; the paper's neurons, its microcircuits and its time constants are not modelled.
    Where spikes saturate (large weights) the first order is a poor guide and alignment slow.

    Args:
        network: whose layers 2 to L get feedback weights, matrices only.
        chains: nets that spike side by side.
        steps: of time, after as many of warming up as there are in ``warm``.
        warm: steps until the start is forgotten.
        rounds: updates of the feedback before each update of the network.

    Raises:
        ValueError: a count that is not positive.

    >>> rule = SpikeAlignment(CreditNetwork.build(4, (3,), 2))
    >>> [b.shape for b in rule.parameters()]
    [torch.Size([2, 3])]
    """

    def __init__(
        self,
        network: CreditNetwork,
        chains: int = 100,
        steps: int = 10,
        warm: int = 5,
        rounds: int = 1,
    ) -> None:
        super().__init__()
        if min(chains, steps) < 1 or min(warm, rounds) < 0:
            raise ValueError(
                f"chains and steps are positive, warm and rounds not negative; got {chains}, "
                f"{steps}, {warm} and {rounds}"
            )
        self.chains, self.steps, self.warm, self.rounds = chains, steps, warm, rounds
        self.feedback = nn.ParameterList(block.fresh() for block in network.layers[1:])

    def prepare(self, network: CreditNetwork, x: Tensor) -> Iterator[Term]:
        """A term for each layer's feedback."""
        for number, (block, back) in enumerate(
            zip(network.layers[1:], self.feedback, strict=True), 2
        ):
            order = self.order(block.weight.detach(), back.detach())
            name = f"feedback.{number}"
            yield Term(name, {f"{name}.alignment": -(back * order).sum()}, {})

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a layer, from the output down."""
        yield from sent_down(network, x, y, [back.detach() for back in self.feedback])

    def check(self, network: CreditNetwork) -> None:
        check_smooth(network, "spike-based alignment", "use DirectFeedbackAlignment")
        if any(block.kernel is not None for block in network.layers):
            raise ValueError("spike-based alignment is for matrices, not for convolutions")
        if [b.shape for b in self.feedback] != [b.weight.shape for b in network.layers[1:]]:
            raise ValueError("this rule was made for another network; make it anew for this one")

    @torch.no_grad()
    def order(self, up: Tensor, back: Tensor) -> Tensor:
        """A, estimated from spikes, shaped like the weights.

        Args:
            up: W, ``(upper, lower)``.
            back: B, of the same shape.
        """
        low, high = (torch.bernoulli(up.new_full((self.chains, n), 0.5)) for n in up.shape[::-1])
        total = torch.zeros_like(up)
        for time in range(self.warm + self.steps):
            after = (
                torch.bernoulli((low @ up.mT).sigmoid()),
                torch.bernoulli((high @ back).sigmoid()),
            )
            if time >= self.warm:
                total += after[0].mT @ low - high.mT @ after[1]
            high, low = after
        return total / (self.chains * self.steps)

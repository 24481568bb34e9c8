"""The energy of a network whose layers talk both ways, and how its states settle."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genprop.credit.block import UNITS, Block
from genprop.credit.network import CreditNetwork


class Energy:
    r"""F = Σ_l Ω(h_l) - Σ_l ⟨h_l, W_l h_{l-1} + b_l⟩ + β C, of which h_0 = x is clamped.

    Ω is the integral of the inverse of the unit ρ, so that ∂F/∂h = 0 where every unit does what it
    does in a feed-forward pass, hearing the layers on both sides:
    h_l = ρ(W_l h_{l-1} + b_l + W_{l+1}ᵀ h_{l+1} - β ∂C/∂h_l). The output o is a state like any
    other, with C(o, y); or, with a readout, it is none, and o = W_L h_{L-1} + b_L stands outside.
    States are real, or complex for complex β.

    Args:
        network: whose blocks give W, b and the units ρ, used in both directions.
        x: rows.
        y: a class or vector for each, or None where nothing is nudged.
        readout: whether the output is read out.
    """

    def __init__(
        self, network: CreditNetwork, x: Tensor, y: Tensor | None, readout: bool = False
    ) -> None:
        self.network, self.x, self.y, self.readout = network, x, y, readout

    @property
    def moving(self) -> list[Block]:
        """The blocks whose layers are states."""
        blocks = self.network.layers
        return blocks[:-1] if self.readout else blocks

    def zeros(self) -> list[Tensor]:
        """Where states start."""
        return [self.x.new_zeros(len(self.x), *block.out_shape) for block in self.moving]

    def output(self, states: Sequence[Tensor]) -> Tensor:
        """The output of these states."""
        if not self.readout:
            return states[-1]
        return torch.as_tensor(self.network.layers[-1].affine(states[-1]))

    def meeting(self, states: Sequence[Tensor], layer: int) -> Tensor:
        """⟨h_l, W_l h_{l-1} + b_l⟩ summed over rows, of one moving layer."""
        low = states[layer - 2] if layer > 1 else self.x.to(states[0].dtype)
        return (states[layer - 1] * self.moving[layer - 1].affine(low)).sum()

    def cost(self, states: Sequence[Tensor]) -> Tensor:
        """C summed over rows."""
        if self.y is None:
            raise ValueError("nothing can be nudged without y")
        return self.network.loss(self.output(states), self.y).sum()

    def pull(
        self,
        states: Sequence[Tensor],
        beta: complex | float = 0.0,
        drive: Tensor | None = None,
    ) -> Tensor:
        """Σ Ω - F, summed over rows: its slope in h_l is what reaches the units of layer l.

        ``drive``, W_1 x + b_1, saves it from being computed.
        """
        first = self.meeting(states, 1) if drive is None else (states[0] * drive).sum()
        higher = [self.meeting(states, layer) for layer in range(2, len(states) + 1)]
        total = torch.stack([first, *higher]).sum()
        return total - beta * self.cost(states) if beta else total

    def settle(
        self, states: Sequence[Tensor], steps: int, rate: float, beta: complex | float = 0.0
    ) -> list[Tensor]:
        """States after so many steps h ← h + rate (ρ(what reaches it) - h), all layers at once."""
        states = [h.detach() for h in states]
        with torch.no_grad():
            drive = self.moving[0].affine(self.x)
        for _ in range(steps):
            states = [h.requires_grad_() for h in states]
            with torch.enable_grad():
                slopes = torch.autograd.grad(self.pull(states, beta, drive).real, states)
            # the gradient of the real part of an analytic function is its derivative's conjugate
            states = [
                torch.lerp(h.detach(), UNITS[block.unit].act(slope.conj()), rate)
                for block, h, slope in zip(self.moving, states, slopes, strict=True)
            ]
        return states

    def check(self) -> None:
        """Raises ValueError where a network has no such energy."""
        blocks = self.network.layers
        wrong = [i for i, b in enumerate(blocks, 1) if b.receives != "value" or b.residual]
        if wrong or any(b.scale != 1.0 for b in blocks):
            raise ValueError(
                "an energy needs layers that send values, without residual paths and scales; "
                f"layers {wrong} differ"
            )
        if blocks[-1].unit not in (("identity",) if self.readout else ("identity", "clip")):
            raise ValueError(
                f"an output of {blocks[-1].unit} units has no place in the energy; use the "
                f"identity, or without a readout clip"
            )
        if self.readout and len(blocks) < 2:
            raise ValueError("a readout needs a hidden layer below it")

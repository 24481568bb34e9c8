"""The energy of a network whose layers talk both ways, and how its states settle."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genprop.credit.block import UNITS, Block
from genprop.credit.network import CreditNetwork


class Energy:
    r"""F = Σ_l ½‖h_l‖² - Σ_l ⟨ρ(h_l), W_l ρ(h_{l-1}) + b_l⟩ + β C, of which h_0 = x is clamped.

    The output o is a state like any other, with C(o, y); or, with a readout, it is none, and
    o = W_L ρ(h_{L-1}) + b_L stands outside. States are real, or complex for complex β.

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
        return torch.as_tensor(self.network.layers[-1].affine(self.speaks(states)[-1]))

    def speaks(self, states: Sequence[Tensor]) -> list[Tensor]:
        """x, and ρ of every state: what a layer tells its neighbours."""
        told = [UNITS[b.unit].act(h) for b, h in zip(self.moving, states, strict=True)]
        return [self.x.to(states[0].dtype), *told]

    def meetings(self, states: Sequence[Tensor]) -> list[Tensor]:
        """⟨ρ(h_l), W_l ρ(h_{l-1}) + b_l⟩ summed over rows, of each moving layer."""
        told = self.speaks(states)
        return [
            (high * block.affine(low)).sum()
            for block, low, high in zip(self.moving, told, told[1:], strict=False)
        ]

    def cost(self, states: Sequence[Tensor]) -> Tensor:
        """C summed over rows."""
        if self.y is None:
            raise ValueError("nothing can be nudged without y")
        return self.network.loss(self.output(states), self.y).sum()

    def value(self, states: Sequence[Tensor], beta: complex | float = 0.0) -> Tensor:
        """F summed over rows."""
        own = [0.5 * h.square().sum() for h in states]
        total = torch.as_tensor(sum(own)) - torch.as_tensor(sum(self.meetings(states)))
        return total + beta * self.cost(states) if beta else total

    def settle(
        self, states: Sequence[Tensor], steps: int, rate: float, beta: complex | float = 0.0
    ) -> list[Tensor]:
        """States after so many steps h ← h - rate ∂F/∂h, those of clipped units within [0, 1]."""
        states = [h.detach() for h in states]
        for _ in range(steps):
            states = [h.requires_grad_() for h in states]
            with torch.enable_grad():
                energy = self.value(states, beta)
                slopes = torch.autograd.grad(energy.real, states)
            # the gradient of the real part of an analytic function is its derivative's conjugate
            moved = [h.detach() - rate * s.conj() for h, s in zip(states, slopes, strict=True)]
            states = [_held(b, h) for b, h in zip(self.moving, moved, strict=True)]
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


def _held(block: Block, h: Tensor) -> Tensor:
    return h.clamp(0, 1) if block.unit == "clip" and not h.is_complex() else h

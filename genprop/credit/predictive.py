"""Predictive coding, plain and with the multipliers of an augmented Lagrangian."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from genprop.credit.network import CreditNetwork
from genprop.credit.rule import CreditRule, check_smooth, half_square
from genprop.rules.rule import Term


class PredictiveCoding(CreditRule):
    r"""Layers come to terms with their predictions and with y; the misfits that stay are credit.

    Formula: with r_l = h_l - F_l(h_{l-1}) of the hidden layers, per row::

        L = C(F_L(h_{L-1}), y) + Σ_l λ_lᵀ r_l + (ρ/2) Σ_l ‖r_l‖²

    from h = the forward pass and λ = 0, so many times h ← h - rate · ∂L/∂h (all layers at once),
    λ ← λ + dual · r; then blocks descend L, of which W_l sees (ρ/2)‖r_l + λ_l/ρ‖², λ being that
    before the last dual step. With ``dual`` = 0 it is predictive coding; with multipliers (PC-ALM)
    the fixed point of a network is its own forward pass, λ_l = -∂C/∂h_l, and the gradient that of
    back-propagation.

    Local: each term reaches one block; h_l hears its own misfit and the one above. Transported:
    W_2 to W_L, transposed, at every step. Cost: about 3 forward passes for each step and 3 more.
    Memory: h, and λ, of all layers. Source: Rao, Ballard, 1999, Predictive coding in the visual
    cortex; Whittington, Bogacz, 2017, An approximation of the error backpropagation algorithm in a
    predictive coding network; Seely, Gould, 2026, arXiv 2605.31022 (PC-ALM).

    Args:
        steps: of the states; PC-ALM's authors take twice the number of layers.
        rate: of the states, stable up to about one over the largest curvature of L; it is for a
            row's own L, not for a mean.
        dual: α, the step of the multipliers; 0 is plain predictive coding.
        penalty: ρ.

    Raises:
        ValueError: a number that makes no sense.

    >>> PredictiveCoding(steps=8, dual=1.0).dual
    1.0
    """

    def __init__(
        self, steps: int = 20, rate: float = 0.1, dual: float = 0.0, penalty: float = 1.0
    ) -> None:
        super().__init__()
        self.steps, self.rate, self.dual, self.penalty = steps, rate, dual, penalty
        if steps < 1 or not (rate > 0 and penalty > 0) or dual < 0:
            raise ValueError(
                f"steps, rate and penalty are positive and dual not negative; got {steps}, {rate}, "
                f"{penalty} and {dual}"
            )

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a layer, once the states have settled."""
        path = network.path(x)
        loss = network.loss(path[-1], y).mean()
        states, multipliers = self.relax(network, path[:-1], y)
        last = len(network.layers)
        for layer, block in enumerate(network.layers, 1):
            value, name = block(states[layer - 1]), f"layer.{layer}"
            if layer == last:
                part = {f"{name}.loss": network.loss(value, y).mean()}
                yield Term(name, part, {"loss": loss})
                return
            misfit = states[layer] - value + multipliers[layer - 1] / self.penalty
            yield Term(name, {f"{name}.misfit": self.penalty * half_square(misfit)}, {})

    def relax(
        self, network: CreditNetwork, path: Sequence[Tensor], y: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """h_0 to h_{L-1} after all steps, and λ_1 to λ_{L-1} as before the last dual step.

        Args:
            network: whose layers settle.
            path: where they start, h_0 to h_{L-1}.
            y: of the rows.
        """
        states = [h.detach() for h in path]
        multipliers = [torch.zeros_like(h) for h in states[1:]]
        used = multipliers
        for _ in range(self.steps):
            used = multipliers
            states, misfits = self._step(network, states, used, y)
            if self.dual:
                pairs = zip(used, misfits, strict=True)
                multipliers = [m + self.dual * r for m, r in pairs]
        return states, used

    def check(self, network: CreditNetwork) -> None:
        check_smooth(network, "predictive coding", "use TargetPropagation")

    def _step(
        self, network: CreditNetwork, states: list[Tensor], multipliers: list[Tensor], y: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The states after one step, and what they miss their predictions by."""
        hidden = [h.requires_grad_() for h in states[1:]]
        with torch.enable_grad():
            total = self._lagrangian(network, [states[0], *hidden], multipliers, y)
            slopes = torch.autograd.grad(total, hidden) if hidden else ()
        moved = [h.detach() - self.rate * s for h, s in zip(hidden, slopes, strict=True)]
        states = [states[0], *moved]
        with torch.no_grad():
            below = zip(network.layers, states, moved, strict=False)
            # multipliers follow the misfits of the states as they are now
            misfits = [h - block(low) for block, low, h in below] if self.dual else []
        return states, misfits

    def _lagrangian(
        self, network: CreditNetwork, states: list[Tensor], multipliers: list[Tensor], y: Tensor
    ) -> Tensor:
        total = network.loss(network.layers[-1](states[-1]), y).sum()
        pairs = zip(network.layers[:-1], states[:-1], states[1:], multipliers, strict=True)
        for block, below, h, multiplier in pairs:
            misfit = h - block(below)
            total = total + (multiplier * misfit).sum()
            total = total + 0.5 * self.penalty * misfit.square().sum()
        return total

"""The losses by which inverses are learned; only the inverse has a gradient."""

from typing import NamedTuple

import torch
from torch import Tensor

from genprop.credit.inverse import Inverse, Inverses
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import half_square, inner

LOSSES = ("noise", "output", "jacobian")


class Reconstruction(NamedTuple):
    r"""How inverses learn.

    With F and G one block and its inverse, ε and η standard noise times σ::

        noise     ½‖G(F(h + ε)) - (h + ε)‖²,     the corrupted value being what is asked for
        output    ½‖ĥ(h + ε) - (h + ε)‖² / σ² + ½ λ‖V‖²
        jacobian  ( -εᵀ[G(F(h + ε)) - G(F(h))] + ½‖G(F(h) + η) - G(F(h))‖² ) / σ²

    where ĥ(h + ε) comes down, by differences, from what h + ε makes of the highest layer that has
    an inverse. In linear nets the optima are: the regression of h on F(h); the damped
    pseudo-inverse Jᵀ(J Jᵀ + λI)⁻¹ of all that is above; the transpose Wᵀ.

    Attributes:
        loss: ``"noise"``, ``"output"`` or ``"jacobian"``.
        noise: σ.
        decay: λ, for ``"output"``.

    References:
        Lee, Zhang, Fischer, Bengio, 2015, Difference target propagation. Meulemans, Carzaniga,
        Suykens, Sacramento, Grewe, 2020, A theoretical framework for target propagation. Ernoult
        and others, 2022, Towards scaling difference target propagation by learning backprop
        targets.
    """

    loss: str = "noise"
    noise: float = 0.1
    decay: float = 0.0

    def check(self) -> None:
        """Raises ValueError where the settings make no sense."""
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, but is {self.loss!r}")
        if not self.noise > 0 or self.decay < 0:
            raise ValueError(
                f"noise is positive and decay not negative, got {self.noise} and {self.decay}"
            )

    def parts(
        self, network: CreditNetwork, inverses: Inverses, path: list[Tensor], layer: int
    ) -> dict[str, Tensor]:
        """What teaches G_l, from the constants h_0 to h_L."""
        name, inverse = f"inverse.{layer}", inverses[layer]
        if self.loss == "noise":
            return {f"{name}.reconstruction": self._noise(network, inverse, path, layer)}
        if self.loss == "jacobian":
            return {f"{name}.jacobian": self._jacobian(network, inverse, path, layer)}
        found = {f"{name}.difference": self._output(network, inverses, path, layer)}
        if self.decay:
            found[f"{name}.decay"] = 0.5 * self.decay * inverse.weight.square().sum()
        return found

    def _noise(
        self, network: CreditNetwork, inverse: Inverse, path: list[Tensor], layer: int
    ) -> Tensor:
        noisy = self._noisy(path[layer - 1])
        with torch.no_grad():
            above = network.blocks[layer - 1](noisy)
        return half_square(inverse(above) - noisy)

    def _output(
        self, network: CreditNetwork, inverses: Inverses, path: list[Tensor], layer: int
    ) -> Tensor:
        h = noisy = self._noisy(path[layer - 1])
        with torch.no_grad():
            for block in network.layers[layer - 1 : len(inverses) + 1]:
                h = block(h)
            for high in range(len(inverses) + 1, layer, -1):
                g = inverses[high]
                h = path[high - 1] + g(h) - g(path[high])
        inverse = inverses[layer]
        back = path[layer - 1] + inverse(h) - inverse(path[layer])
        return half_square(back - noisy) / self.noise**2

    def _jacobian(
        self, network: CreditNetwork, inverse: Inverse, path: list[Tensor], layer: int
    ) -> Tensor:
        below, above = path[layer - 1], path[layer]
        noisy = self._noisy(below)
        with torch.no_grad():
            moved = network.blocks[layer - 1](noisy)
        here = inverse(above)
        along = inner(inverse(moved) - here, noisy - below)
        return (half_square(inverse(self._noisy(above)) - here) - along) / self.noise**2

    def _noisy(self, h: Tensor) -> Tensor:
        return h + self.noise * torch.randn_like(h)

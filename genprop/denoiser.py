"""A net that estimates noise, and the exact divergence of what it says."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from genprop.shapes import Elements, PerRow

WAVES = 8
FINEST = 0.1


class Denoiser(nn.Module):
    r"""An estimate of α ε - σ h, u = g(λ) W_3 (c(λ) ∘ a(W_2 a(W_1 z + F m + t_1(λ)) + t_2(λ))).

    z = α h + σ ε is what is seen of h at the log signal-to-noise ratio λ, with α² = sigmoid(λ) and
    σ² = sigmoid(-λ). Where h ~ N(0, I) the estimated velocity α ε - σ h has mean zero given z, so
    that a net which says nothing stands for the Gaussian: W_3 and its bias start at zero. Where not
    all elements are noisy, m tells which are given, which are absent, and the given values.

    a is SiLU; t_1, t_2, c are affine in cos 2kφ and sin 2kφ, k = 1, …, 8, of the noise angle
    φ = atan(σ/α). g(λ) = σ/√(σ² + (α/10)²) lets the net fall silent where the noise is finer than a
    tenth of the spread of N(0, I): below the finest structure of a density u is proportional to σ,
    and a free net would only keep the noise of learning there.

    Two hidden layers and no more, because then the trace of ∂u/∂z is a bilinear form of the slopes
    of both, d_2ᵀ (W_2 ∘ (W_1 W_3)ᵀ) d_1, that costs no more than u itself.

    Args:
        elements: the size of h.
        units: the widths of the two hidden layers.
        masked: whether some elements may be given or absent.

    Raises:
        ValueError: other than two hidden layers, or a size that is not positive.

    References:
        Salimans, Ho, 2022, Progressive distillation for fast sampling of diffusion models
        (arXiv 2202.00512), for the velocity as what is estimated.

    >>> Denoiser(3, units=(8, 8))(torch.ones(5, 3), torch.zeros(5, 1))[0]
    tensor([0., 0., 0.], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self, elements: int, units: Sequence[int] = (128, 128), masked: bool = True
    ) -> None:
        super().__init__()
        if len(units) != 2 or min(elements, *units) < 1:
            raise ValueError(
                f"a denoiser needs at least one element and two positive widths of hidden layers, "
                f"but got elements={elements}, units={tuple(units)}"
            )
        self.elements, self.units, self.masked = elements, tuple(units), masked
        low, high = units
        self.first, self.second = nn.Linear(elements, low), nn.Linear(low, high)
        self.last = nn.Linear(high, elements)
        self.first_time = nn.Linear(2 * WAVES, low, bias=False)
        self.second_time = nn.Linear(2 * WAVES, high, bias=False)
        self.gain = nn.Linear(2 * WAVES, high)
        self.rest = nn.Linear(3 * elements, low, bias=False) if masked else None
        for quiet in (self.last.weight, self.last.bias, self.gain.weight):
            nn.init.zeros_(quiet)
        nn.init.ones_(self.gain.bias)

    def forward(self, z: Elements, level: Tensor, rest: Tensor | None = None) -> Elements:
        """The estimate.

        Args:
            z: noisy elements at that level, and zero elsewhere.
            level: λ, one for all or one a row, ``(…, 1)``.
            rest: m, ``(…, 3 · elements)``: 1.0 where an element is given, beside that 1.0 where
                it is absent, beside that the given values, and zero elsewhere.
        """
        waves = _waves(level)
        hidden = functional.silu(self._first(z, waves, rest))
        hidden = functional.silu(self.second(hidden) + self.second_time(waves))
        u: Tensor = _gate(level) * self.last(hidden * self.gain(waves))
        return u

    def with_trace(
        self, z: Elements, level: Tensor, coupling: Tensor, rest: Tensor | None = None
    ) -> tuple[Elements, PerRow]:
        """The estimate, and tr ∂u/∂z over the elements of the coupling."""
        u, low, high = self._linearised(z, level, rest)
        return u, torch.linalg.vecdot(high @ coupling, low)

    def with_products(
        self, z: Elements, level: Tensor, vectors: Tensor, rest: Tensor | None = None
    ) -> tuple[Elements, PerRow]:
        """The estimate, and eᵀ (∂u/∂z) e for vectors e ``(count, …, elements)``."""
        u, low, high = self._linearised(z, level, rest)
        inner = low * functional.linear(vectors, self.first.weight)
        outer = high * functional.linear(inner, self.second.weight)
        return u, (vectors * functional.linear(outer, self.last.weight)).sum(-1)

    def coupling(self, noisy: Tensor) -> Tensor:
        """W_2 ∘ (W_1 W_3)ᵀ by way of the noisy elements only, ``(units_2, units_1)``."""
        into = torch.where(noisy, self.first.weight, 0)
        return self.second.weight * (into @ self.last.weight).mT

    def _linearised(
        self, z: Tensor, level: Tensor, rest: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The estimate, the slopes of the first hidden layer, and those of the second on to W_3."""
        waves, gate = _waves(level), _gate(level)
        gain = gate * self.gain(waves)
        first, low = _with_slope(self._first(z, waves, rest))
        second, high = _with_slope(self.second(first) + self.second_time(waves))
        u = functional.linear(gain * second, self.last.weight) + gate * self.last.bias
        return u, low, gain * high

    def _first(self, z: Tensor, waves: Tensor, rest: Tensor | None) -> Tensor:
        into: Tensor = self.first(z) + self.first_time(waves)
        return into if rest is None or self.rest is None else into + self.rest(rest)


def _waves(level: Tensor) -> Tensor:
    """The waves cos 2kφ and sin 2kφ, ``(…, 16)``, of levels ``(…, 1)`` or ``()``."""
    k = torch.arange(1, WAVES + 1, dtype=level.dtype, device=level.device)
    turns = 2 * k * torch.atan(torch.exp(-0.5 * level))
    return torch.cat([turns.cos(), turns.sin()], -1)


def _gate(level: Tensor) -> Tensor:
    """Near one where the noise is coarser than FINEST, and falling with it where it is finer."""
    return torch.sigmoid(-2 * math.log(FINEST) - level).sqrt()


def _with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU and its derivative."""
    share = x.sigmoid()
    value = x * share
    return value, share + value * (1 - share)

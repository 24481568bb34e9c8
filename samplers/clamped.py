"""Kernels with some elements held, row by row."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genprop.adaptation import moved
from genprop.bridge import KernelMaker
from genprop.distributions import HALF_LOG_2PI
from genprop.kernel import AdaptiveKernel, Info, Kernel, LogDensity
from genprop.shapes import Elements, Seen


class FreeElements:
    """The elements of each row that are not held, side by side.

    Rows may hold different numbers of them, so that shorter ones are filled up, with elements that
    are N(0, 1) and independent of all others: what is left of the law is the same.

    Args:
        x: the values to hold, ``(*rows, elements)`` or ``(elements,)``.
        seen: True where a value is held, any pattern row by row.

    >>> free = FreeElements(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, False]))
    >>> free.pack(torch.tensor([7.0, 2.0, 9.0]))
    tensor([7., 9.])
    >>> free.unpack(torch.tensor([7.0, 9.0]))
    tensor([7., 2., 9.])
    """

    def __init__(self, x: Elements, seen: Seen) -> None:
        self.x, self.seen = torch.broadcast_tensors(x, seen)
        most = int((~self.seen).sum(-1).max())
        first = self.seen.to(torch.uint8).argsort(dim=-1, stable=True)
        self._places = first[..., : max(1, most)]
        self._filled = self.seen.gather(-1, self._places)

    def pack(self, whole: Elements) -> Tensor:
        """The free elements of positions ``(…, *rows, elements)``."""
        places = self._places.expand(*whole.shape[:-1], -1)
        return torch.where(self._filled, 0.0, whole.gather(-1, places))

    def unpack(self, free: Tensor) -> Elements:
        """Whole positions, the held elements as they are."""
        x = self.x.to(free.dtype)
        values = torch.where(self._filled, x.gather(-1, self._places), free)
        whole = x.expand(*free.shape[:-1], x.shape[-1])
        filled: Tensor = whole.scatter(-1, self._places.expand_as(free), values)
        return filled

    def density(self, log_prob: LogDensity) -> LogDensity:
        """The log-density of the free elements, where that of whole positions is this."""

        def log_density(free: Tensor) -> Tensor:
            filling = torch.where(self._filled, -HALF_LOG_2PI - 0.5 * free.square(), 0)
            return log_prob(self.unpack(free)) + filling.sum(-1)

        return log_density


class ClampedState(NamedTuple):
    """Whole positions ``(chains, *rows, elements)``, and the state of the kernel of the free."""

    position: Tensor
    inner: Any


class Clamped(AdaptiveKernel[ClampedState]):
    """Any kernel of a log-density, with any elements held: P(x_free | x_held).

    The kernel is made for the law of the free elements and sees no others, so it costs and
    accepts as one of fewer dimensions, whatever it is.

    Args:
        make: a log-density to a kernel, such as ``HMC``; what it proposes with must be over the
            free elements, as ``FreeElements`` packs them.
        log_prob: of whole positions.
        x: the values to hold, ``(*rows, elements)`` or ``(elements,)``.
        seen: True where a value is held, any pattern row by row.

    >>> from genprop.samplers.langevin import MALA
    >>> normal = lambda x: -0.5 * x.square().sum(-1)
    >>> kernel = Clamped(MALA, normal, torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
    >>> kernel.init(torch.zeros(3, 2)).position[0]
    tensor([1., 0.])
    """

    def __init__(self, make: KernelMaker, log_prob: LogDensity, x: Elements, seen: Seen) -> None:
        self.make, self.log_prob, self.x, self.seen = make, log_prob, x, seen
        self._free = FreeElements(x, seen)
        self._kernel = make(self._free.density(log_prob))

    def init(self, position: Elements) -> ClampedState:
        return self._whole(self._kernel.init(self._free.pack(position)))

    def step(self, state: ClampedState) -> tuple[ClampedState, Info]:
        inner, info = self._kernel.step(state.inner)
        return self._whole(inner), info

    def adapt(self, state: ClampedState, info: Info, share: float) -> ClampedState:
        if not isinstance(self._kernel, AdaptiveKernel):
            return state
        return state._replace(inner=self._kernel.adapt(state.inner, info, share))

    def _whole(self, inner: Any) -> ClampedState:
        return ClampedState(self._free.unpack(inner.position), inner)


class PutBack(Kernel[Any]):
    """A transition after each step of which the held elements are put back.

    For kernels that see no density, such as the chain of a denoising auto-encoder. With z what the
    transition goes through, it keeps P(x_free | x_held) if it is x → z ~ P(z | x) → x' ~ P(x | z)
    and the free elements do not depend on the held ones given z. It does *not* for a transition
    that accepts or rejects all elements together: use ``Clamped`` there.

    Args:
        kernel: the transition.
        x: the values to hold, ``(*rows, elements)`` or ``(elements,)``.
        seen: True where a value is held, any pattern row by row.
    """

    def __init__(self, kernel: Kernel[Any], x: Elements, seen: Seen) -> None:
        self.kernel, self.x, self.seen = kernel, x, seen

    def init(self, position: Elements) -> Any:
        return self.kernel.init(self._put_back(position))

    def step(self, state: Any) -> tuple[Any, Info]:
        state, info = self.kernel.step(state)
        return moved(self.kernel, state, self._put_back(state.position)), info

    def _put_back(self, position: Tensor) -> Tensor:
        return torch.where(self.seen, self.x, position)

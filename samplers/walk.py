"""Chains without a density: corrupt and reconstruct, encode and decode."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.distributions import Product
from genprop.kernel import Kernel
from genprop.model import Model
from genprop.shapes import Elements, Seen
from genprop.stack import Stack

Transition = Callable[[Elements], Elements]
"""Draws for each position a next one."""


class WalkState(NamedTuple):
    """Where chains are.

    Attributes:
        position: ``(chains, *rows, elements)``.
    """

    position: Tensor


class WalkInfo(NamedTuple):
    """What a transition tells: that every proposal is taken.

    Attributes:
        acceptance: ones, ``(chains, *rows)``.
        accepted: True.
    """

    acceptance: Tensor
    accepted: Tensor


class Walk(Kernel[WalkState]):
    r"""The chain of a denoising auto-encoder, h̃ ~ C(· | h), h ~ P(· | h̃), or of any transition.

    It rests at the law π where P(h | h̃) ∝ π(h) C(h̃ | h), the reverse of the corruption: if that is
    learned from codes, at the law of the codes. A P that is only near leaves the chain at another
    law, of which no density is known, so that nothing can be corrected. Draws that follow each
    other are alike: thin them (``run(…, thin=…)``).

    Args:
        transitions: applied in turn; as ``corrupt`` and ``reconstruct``, each of which draws.

    Raises:
        ValueError: no transition.

    References:
        Bengio, Yao, Alain, Vincent, 2013, Generalized denoising auto-encoders as generative models
        (arXiv 1305.6663). Bengio, Thibodeau-Laufer, Alain, Yosinski, 2014, Deep generative
        stochastic networks trainable by backprop (arXiv 1306.1091).

    >>> from genprop.kernel import run
    >>> walk = Walk(lambda h: h + 1, lambda h: 2 * h)
    >>> run(walk, torch.zeros(1, 1), draws=3).draws.flatten()
    tensor([ 2.,  6., 14.])
    """

    def __init__(self, *transitions: Transition) -> None:
        if not transitions:
            raise ValueError("a walk needs a transition, as Walk(corrupt, reconstruct)")
        self.transitions = transitions

    def init(self, position: Elements) -> WalkState:
        return WalkState(position)

    def step(self, state: WalkState) -> tuple[WalkState, WalkInfo]:
        position = state.position
        for transition in self.transitions:
            position = transition(position)
        return WalkState(position), _taken(position)


class EncodeDecode(Kernel[WalkState]):
    r"""The chain on (x, h) that draws levels anew from below by Q or from above by P.

    Of each modality, for turning points m and n that every chain and row draws for itself::

        down   h_{l-1} ~ P(h_{l-1} | h_l)  for l = m, …, 1,   m uniform among 1, …, L
        up     h_l ~ Q(h_l | h_{l-1})      for l = n+1, …, L, n uniform among 0, …, L-1

    with h_0 = x. Where there are several modalities, m may also be L+1: the code is then drawn from
    the prior given the codes of the others. Cells that are seen are held; a modality of which a
    row shows something has m = 1, so that only its unseen cells are drawn from above.

    Each of the two draws a block given all else if encoders and decoders are exact conditionals of
    one law Q(x, h); then the chain rests at it, or, where cells are held, at what it says of the
    rest. With several modalities that takes codes of which their own data tells all, and the
    prior's conditionals exact as well. Else it rests at no law that has a name;
    ``genprop.samplers.gibbs.Gibbs`` is the chain that corrects such moves.

    A position holds x and all levels of a modality, h_1 first, and then those of the next one.

    Args:
        model: the model; of a prior that is a model, it uses the conditionals only.
        batch: rows whose seen cells are held; None holds nothing.

    Attributes:
        sizes: elements of each level by name, ``modality.0`` that of x.

    Raises:
        ValueError: data that does not fit the model, or no layer.

    References:
        Rezende, Mohamed, Wierstra, 2014, Stochastic backpropagation and approximate inference in
        deep generative models (arXiv 1401.4082; imputation). Bengio, Lee, Bornschein, Lin, 2015,
        Towards biologically plausible deep learning (arXiv 1502.04156).

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.kernel import run
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> chain = EncodeDecode(model, Batch.of(torch.ones(5, 6)))
    >>> run(chain, chain.start(3), draws=2).draws.shape, chain.sizes
    (torch.Size([3, 2, 5, 12]), {'x.0': 6, 'x.1': 4, 'x.2': 2})
    """

    def __init__(self, model: Model, batch: Batch | None = None) -> None:
        if not any(len(stack.layers) for _, stack in model.named_stacks()):
            raise ValueError("no stack has a layer to encode and decode with; give the model one")
        self.model = model
        if batch is not None:
            model.check(batch)
            batch = batch.to(model.like.device, model.like.dtype)
        self.batch = batch
        self.sizes = {
            f"{name}.{number}": width
            for name, stack in model.named_stacks()
            for number, width in enumerate(_widths(stack))
        }

    def split(self, position: Elements) -> dict[str, Tensor]:
        """The levels of positions ``(…, elements)``, by name."""
        total = sum(self.sizes.values())
        if position.shape[-1] != total:
            raise ValueError(
                f"x and its levels have {total} elements, but positions have {position.shape[-1]}"
            )
        return dict(zip(self.sizes, position.split(list(self.sizes.values()), -1), strict=True))

    @torch.no_grad()
    def start(self, chains: int) -> Elements:
        """Paths of the rows from Q, with their unseen cells decoded; without rows, of the model.

        Returns:
            ``(chains, rows, elements)``, without rows ``(chains, elements)``.
        """
        if self.batch is None:
            paths = self.model.decode(self.model.prior.sample((chains,)))
        else:
            paths = self.model.encode(self.batch, chains)
        levels = {
            f"{name}.{number}": h for name, path in paths.items() for number, h in enumerate(path.h)
        }
        for name, stack in self.model.named_stacks():
            seen = self._seen(name)
            if seen is not None and len(stack.layers):
                law = stack[0].decoder(levels[f"{name}.1"])
                levels[f"{name}.0"] = law.given(levels[f"{name}.0"], seen).sample()
        return torch.cat([levels[name] for name in self.sizes], -1)

    def init(self, position: Elements) -> WalkState:
        levels = self.split(position)
        for name, x in (self.batch.x if self.batch is not None else {}).items():
            seen = self._seen(name)
            held = x.expand_as(levels[f"{name}.0"])
            drawn = levels[f"{name}.0"]
            levels[f"{name}.0"] = held if seen is None else torch.where(seen, held, drawn)
        return WalkState(torch.cat(list(levels.values()), -1))

    def step(self, state: WalkState) -> tuple[WalkState, WalkInfo]:
        levels = self.split(state.position)
        for name, stack in self.model.named_stacks():
            path = [levels[f"{name}.{number}"] for number in range(len(stack.layers) + 1)]
            path = self._down(name, stack, path, levels)
            path = self._up(stack, path) if len(stack.layers) else path
            levels |= {f"{name}.{number}": h for number, h in enumerate(path)}
        position = torch.cat(list(levels.values()), -1)
        return WalkState(position), _taken(position)

    def _down(
        self, name: str, stack: Stack, path: list[Tensor], levels: dict[str, Tensor]
    ) -> list[Tensor]:
        """From a turning point down, each level from the one above it."""
        depth, several = len(stack.layers), len(self.model.stacks) > 1
        turn = _turns(1, depth + several, path[0])
        if depth:
            # levels drawn from above alone would not know of what is held below them
            turn = torch.where(self._holds(name, path[0]), 1, turn)
        path = list(path)
        if several:
            path[-1] = torch.where(turn > depth, self._code(name, levels), path[-1])
        for number in reversed(range(depth)):
            law = stack[number].decoder(path[number + 1])
            new = law.sample() if number else self._x(name, law, path[0])
            path[number] = torch.where(turn > number, new, path[number])
        return path

    def _up(self, stack: Stack, path: list[Tensor]) -> list[Tensor]:
        """From a turning point up, each level from the one below it."""
        depth, path = len(stack.layers), list(path)
        turn = _turns(0, depth - 1, path[0])
        for number in range(1, depth + 1):
            new = stack[number - 1].encoder(path[number - 1]).sample()
            path[number] = torch.where(number > turn, new, path[number])
        return path

    def _x(self, name: str, law: Product, x: Tensor) -> Tensor:
        """The data given h_1, what is seen of it as it was."""
        if self.batch is None:
            return law.sample()
        seen = self._seen(name)
        drawn: Tensor = x if seen is None else law.given(x, seen).sample()
        return drawn

    def _code(self, name: str, levels: dict[str, Tensor]) -> Tensor:
        """A modality's code from the prior given those of the others."""
        stacks = self.model.named_stacks()
        codes = [levels[f"{other}.{len(stack.layers)}"] for other, stack in stacks]
        kept = [
            self._kept(other, code) if other == name else torch.ones_like(code, dtype=torch.bool)
            for (other, _), code in zip(stacks, codes, strict=True)
        ]
        whole = self.model.prior.condition(torch.cat(codes, -1), torch.cat(kept, -1)).sample()
        parts: list[Tensor] = whole.split([code.shape[-1] for code in codes], -1)
        return parts[list(self.model.stacks).index(name)]

    def _kept(self, name: str, code: Tensor) -> Tensor:
        """What of a code stays: nothing, or the seen cells of an x that is its own code."""
        raw = not len(dict(self.model.named_stacks())[name].layers)
        if not raw or self.batch is None:
            return torch.zeros_like(code, dtype=torch.bool)
        seen = self._seen(name)
        return torch.ones_like(code, dtype=torch.bool) if seen is None else seen.expand_as(code)

    def _holds(self, name: str, x: Tensor) -> Tensor:
        """Whether anything of a modality is seen, ``(…, 1)``."""
        present = None if self.batch is None else self.batch.present(name)
        if present is None:
            return torch.full_like(x[..., :1], self.batch is not None, dtype=torch.bool)
        return present[:, None]

    def _seen(self, name: str) -> Seen | None:
        return None if self.batch is None else self.batch.seen[name]


def _widths(stack: Stack) -> list[int]:
    """Elements of x and of each level."""
    return [stack.elements or 0, *(stack[n].above for n in range(len(stack.layers)))]


def _turns(low: int, high: int, like: Tensor) -> Tensor:
    """A turning point from low to high for each chain and row, ``(…, 1)``."""
    return torch.randint(low, high + 1, (*like.shape[:-1], 1), device=like.device)


def _taken(position: Tensor) -> WalkInfo:
    accepted = torch.ones(position.shape[:-1], dtype=torch.bool, device=position.device)
    return WalkInfo(accepted.to(position.dtype), accepted)

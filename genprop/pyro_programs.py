"""A model as two programs of Pyro: P(x, h), and Q(h | x) as its guide."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from genprop.data import Batch
from genprop.distributions import SAMPLE_SHAPE, Continuous, Product
from genprop.prior import DensityPrior
from genprop.stack import Stack
from genprop.tables.columns import SideBySide

ROWS, CODE = "rows", "code"
Laws = dict[str, Product]


@dataclass(frozen=True)
class OfLaw:
    """A product for each row, of which only what is seen counts: what Pyro has to be told of it."""

    law: Product
    seen: Tensor | None = None

    @property
    def rows(self) -> torch.Size:
        return self.law.batch_shape

    @property
    def elements(self) -> int:
        return self.law.event_shape[0]

    @property
    def smooth(self) -> bool:
        parts = self.law.parts if isinstance(self.law, SideBySide) else (self.law,)
        return all(isinstance(part, Continuous) for part in parts)

    def draw(self, shape: torch.Size) -> Tensor:
        return self.law.draw(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.law.log_prob(value, self.seen)

    def expand(self, rows: torch.Size) -> "OfLaw":
        if rows == self.rows:
            return self
        wide = [p.expand(*rows, *p.shape[-1:]) for p in self.law.parameters]
        return OfLaw(self.law.with_parameters(*wide), self.seen)


@dataclass(frozen=True)
class OfPrior:
    """The same of a prior's density."""

    prior: DensityPrior
    rows: torch.Size
    smooth = False

    @property
    def elements(self) -> int:
        return self.prior.elements

    def draw(self, shape: torch.Size) -> Tensor:
        return self.prior.sample((*shape, *self.rows))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.prior.log_prob(value)

    def expand(self, rows: torch.Size) -> "OfPrior":
        return OfPrior(self.prior, rows)


OfRows = OfLaw | OfPrior


@cache
def _wrapper() -> Callable[[OfRows], Any]:
    """Pyro's class of such laws, made where it is used: to import Pyro changes torch's settings."""
    from pyro.distributions import TorchDistribution

    class Wrapped(TorchDistribution):
        arg_constraints = {}
        support = constraints.independent(constraints.real, 1)

        def __init__(self, of: OfRows) -> None:
            self.of, self.has_rsample = of, of.smooth
            super().__init__(of.rows, torch.Size([of.elements]), validate_args=False)

        @torch.no_grad()
        def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Tensor:
            return self.of.draw(torch.Size(sample_shape))

        def rsample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Tensor:
            return self.of.draw(torch.Size(sample_shape))

        def log_prob(self, value: Tensor) -> Tensor:
            return self.of.log_prob(value)

        def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Wrapped":
            return Wrapped(self.of.expand(torch.Size(batch_shape)))

    return Wrapped


def _site(name: str, of: OfRows, **more: Any) -> Tensor:
    import pyro

    value: Tensor = pyro.sample(name, _wrapper()(of), **more)
    return value


@contextmanager
def _plate(rows: int, module: nn.Module | None = None) -> Iterator[None]:
    """Rows that are independent; Pyro is told of the module's parameters."""
    import pyro

    if module is not None:
        pyro.module("genprop", module)
    with pyro.plate(ROWS, rows, dim=-1):
        yield


class Programs:
    """P(x, h) and Q(h | x) of a model, for Pyro's SVI, Predictive and MCMC.

    Sites are ``code``, the top codes of all modalities side by side; ``x.h1``, ``x.h2``, … below
    it; and ``x``, by the modality's name. Of a model that is a prior, ``prior.`` comes first. What
    a batch does not show has no part in the likelihood.

    Args:
        module: the model, whose parameters Pyro is to learn.
        stacks: by modality, each with a layer.
        prior: of the codes, where it is no model.
        above: the prior's own programs, where it is one.

    Raises:
        ValueError: a stack without a layer.
        TypeError: a prior without a density.

    References:
        Bingham and others, 2019, Pyro: deep universal probabilistic programming.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.model import Model
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from pyro.infer import Predictive
    >>> programs = Model(Stack.build(Bernoulli(4), hidden=(2,)), GaussianPrior(2)).as_pyro()
    >>> Predictive(programs.generate, num_samples=5)(3)["x"].shape
    torch.Size([5, 3, 4])
    """

    def __init__(
        self,
        module: nn.Module,
        stacks: Mapping[str, Stack],
        prior: nn.Module,
        above: "Programs | None" = None,
    ) -> None:
        bare = [name for name, stack in stacks.items() if not len(stack.layers)]
        if bare:
            raise ValueError(
                f"Pyro's programs need a layer in every stack, but {', '.join(bare)} has none; "
                f"give it one, or take the programs of the model above, model.prior.as_pyro()"
            )
        if above is None and not isinstance(prior, DensityPrior):
            raise TypeError(
                f"Pyro's programs need a prior with a density, but {type(prior).__name__} has none"
            )
        self.module, self.stacks, self.prior, self.above = module, dict(stacks), prior, above

    def model(self, batch: Batch) -> Tensor:
        """P(x, h): draws every h from the top down, and observes what is seen of the rows."""
        with _plate(batch.rows, self.module):
            laws = self._down(torch.Size([batch.rows]), "")
            for name, law in laws.items():
                _site(name, OfLaw(law, batch.seen[name]), obs=batch.x[name])
        return torch.cat([law.mean for law in laws.values()], -1)

    def guide(self, batch: Batch) -> None:
        """Q(h | x_seen): draws every h from the rows upward."""
        with _plate(batch.rows, self.module):
            self._up(batch.x, batch.seen, "")

    def generate(self, rows: int) -> None:
        """P(x, h) with x drawn as well, at its modalities' sites."""
        with _plate(rows):
            for name, law in self._down(torch.Size([rows]), "").items():
                _site(name, OfLaw(law))

    def _down(self, rows: torch.Size, head: str) -> Laws:
        """The laws of the lowest values, those above drawn."""
        if self.above is None:
            assert isinstance(self.prior, DensityPrior)
            code = _site(f"{head}{CODE}", OfPrior(self.prior, rows))
        else:
            law = _joined(self.above._down(rows, f"{head}prior."))
            code = _site(f"{head}{CODE}", OfLaw(law))
        parts = code.split([stack.code_elements for stack in self.stacks.values()], -1)
        laws: Laws = {}
        for (name, stack), h in zip(self.stacks.items(), parts, strict=True):
            for level in reversed(range(len(stack.layers))):
                laws[name] = stack[level].decoder(h)
                if level:
                    h = _site(f"{head}{name}.h{level}", OfLaw(laws[name]))
        return laws

    def _up(self, x: Mapping[str, Tensor], seen: Mapping[str, Tensor | None], head: str) -> None:
        tops: Laws = {}
        for name, stack in self.stacks.items():
            h, known = x[name], stack.seen_below(seen[name])
            for level in range(len(stack.layers)):
                tops[name] = stack[level].encoder(h, known[level])
                if level + 1 < len(stack.layers):
                    h = _site(f"{head}{name}.h{level + 1}", OfLaw(tops[name]))
        code = _site(f"{head}{CODE}", OfLaw(_joined(tops)))
        if self.above is not None:
            widths = [stack.elements or 0 for stack in self.above.stacks.values()]
            below = dict(zip(self.above.stacks, code.split(widths, -1), strict=True))
            self.above._up(below, dict.fromkeys(below), f"{head}prior.")


def _is_smooth(law: Product) -> bool:
    parts = law.parts if isinstance(law, SideBySide) else (law,)
    return all(isinstance(part, Continuous) for part in parts)


def _joined(laws: Laws) -> Product:
    """The laws of all modalities as one of their values side by side."""
    return next(iter(laws.values())) if len(laws) == 1 else SideBySide([*laws.values()])

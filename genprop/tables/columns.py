"""Columns: families side by side, as a table's columns need them."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from genprop.conditional import Categorical, Family
from genprop.distributions import SAMPLE_SHAPE, Product, Scale
from genprop.ordinal import Ordinal
from genprop.shapes import Elements, PerRow
from genprop.tables.missingness import CENSORED, MISSING, NetMasking, Selected, SelfMasking, drawn


class SideBySide(Product):
    """P(x) = ∏_i P_i(x_i), the parts x_i being blocks of elements next to each other.

    Args:
        parts: the blocks' laws, of the same rows.

    >>> from genprop.distributions import IndependentBernoulli, IndependentNormal
    >>> law = SideBySide(
    ...     [IndependentBernoulli(torch.zeros(1)), IndependentNormal(torch.zeros(2), torch.ones(2))]
    ... )
    >>> law.mean
    tensor([0.5000, 0.0000, 0.0000])
    """

    def __init__(self, parts: Sequence[Product]) -> None:
        self.parts = tuple(parts)
        self.sizes = [part.event_shape[0] for part in parts]
        self._setup(self.mean)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(p for part in self.parts for p in part.parameters)

    def with_parameters(self, *parameters: Tensor) -> "SideBySide":
        ends = list(accumulate(len(part.parameters) for part in self.parts))
        blocks = [parameters[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return SideBySide(
            [part.with_parameters(*p) for part, p in zip(self.parts, blocks, strict=True)]
        )

    @property
    def mean(self) -> Tensor:
        return torch.cat([part.mean for part in self.parts], -1)

    @property
    def mode(self) -> Tensor:
        return torch.cat([part.mode for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        return torch.cat([part.variance for part in self.parts], -1)

    def elements(self, x: Elements) -> Elements:
        return torch.cat(
            [part.elements(block) for part, block in zip(self.parts, self.blocks(x), strict=True)],
            -1,
        )

    def total(self, x: Elements) -> PerRow:
        blocks = zip(self.parts, self.blocks(x), strict=True)
        return torch.stack([part.total(block) for part, block in blocks]).sum(0)

    def draw(self, shape: torch.Size) -> Elements:
        return torch.cat([part.draw(shape) for part in self.parts], -1)

    def straight_through(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Draws that carry the gradient, those of discrete parts that of their mean."""
        return torch.cat([drawn(part, sample_shape) for part in self.parts], -1)

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        noise = torch.as_tensor(scale, dtype=y.dtype, device=y.device).expand_as(y)
        triples = zip(self.parts, self.blocks(y), self.blocks(noise), strict=True)
        return torch.cat([part.denoise(block, s) for part, block, s in triples], -1)

    def entropy(self) -> PerRow:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def holding(self, element: int) -> tuple[Product, int]:
        """The part that has an element, and its place there."""
        for part, size in zip(self.parts, self.sizes, strict=True):
            if element < size:
                return part, element
            element -= size
        raise IndexError(f"there are {sum(self.sizes)} elements, not {sum(self.sizes) + element}")

    def blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        """The values of each part."""
        found: tuple[Tensor, ...] = x.split(self.sizes, -1)
        return found


class Columns(Family):
    """P(x) = ∏_i P_i(x_i), each block of columns in a family of its own.

    Args:
        families: of the blocks, in their order.

    Raises:
        ValueError: no family.

    >>> from genprop.conditional import Bernoulli, Gaussian
    >>> columns = Columns([Gaussian(2, scale="net"), Bernoulli(1), Categorical((3, 4))])
    >>> columns.elements, columns.outputs
    (10, 12)
    """

    def __init__(self, families: Sequence[Family]) -> None:
        super().__init__()
        if not len(families):
            raise ValueError("Columns needs at least one family, but got none")
        self.families = nn.ModuleList(families)
        self.elements = sum(family.elements for family in families)
        self.outputs = sum(family.outputs for family in families)

    @property
    def blocks(self) -> list[Family]:
        """The families, in order."""
        return [family for family in self.families if isinstance(family, Family)]

    def forward(self, outputs: Elements) -> SideBySide:
        parts = outputs.split([family.outputs for family in self.blocks], -1)
        return SideBySide([f(part) for f, part in zip(self.blocks, parts, strict=True)])


def variable_sizes(family: Family) -> tuple[int, ...]:
    """How many elements each variable has, in order: those of a one-hot group are one variable.

    >>> from genprop.conditional import Gaussian
    >>> variable_sizes(Columns([Gaussian(2), Categorical((3, 4))]))
    (1, 1, 3, 4)
    """
    if isinstance(family, Categorical | Ordinal):
        return family.sizes
    if isinstance(family, Selected):
        return variable_sizes(family.family)
    if isinstance(family, Columns):
        return tuple(size for block in family.blocks for size in variable_sizes(block))
    return (1,) * family.elements


def explaining(family: Family, missing: str) -> Family:
    """The family, and with it the reason of its holes.

    Args:
        family: of the values.
        missing: ``"mar"`` (at random: no reason is modelled), ``"mnar"`` (by a cell's own value),
            ``"mnar-above"`` (the larger the likelier), ``"mnar-below"``, ``"mnar-net"`` (by all
            values), ``"censored-above"`` (all beyond a limit), or ``"censored-below"``.

    Raises:
        ValueError: an unknown word.
    """
    if missing not in MISSING:
        raise ValueError(f"missing must be one of {', '.join(MISSING)}, but is {missing!r}")
    if missing == "mar":
        return family
    sizes = variable_sizes(family)
    if missing == "mnar-net":
        return Selected(family, NetMasking(sizes))
    side = missing.partition("-")[2] or "either"
    return Selected(family, SelfMasking(sizes, side, missing in CENSORED))

"""Why cells are missing: P(mask | x), and families of data that explain their own holes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from genprop.conditional import Family
from genprop.distributions import Product, Scale
from genprop.nets import MLP, constant
from genprop.shapes import Elements, PerRow, Seen

MISSING = ("mar", "mnar", "mnar-above", "mnar-below", "mnar-net")
UNITS = (32,)


class Mechanism(nn.Module, ABC):
    """P(mask | x), a logistic of each variable's cell; elements of a one-hot group are one cell.

    Attributes:
        sizes: how many elements each variable has, in order.
    """

    sizes: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Elements) -> Tensor:
        """The log-odds that each variable is seen, ``(…, variables)``."""

    def log_prob(self, x: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(mask | x) of whole rows, nats; without a mask, that all is seen."""
        odds = self(x)
        if seen is None:
            return functional.logsigmoid(odds).sum(-1)
        starts = [0, *accumulate(self.sizes)][:-1]
        return functional.logsigmoid(torch.where(seen[..., starts], odds, -odds)).sum(-1)


class SelfMasking(Mechanism):
    r"""P(variable v is seen | x) = sigmoid(b_v - Σ_{j in v} w_j x_j): by its own value alone.

    At first w is 0 (where its sign is not known): what is missing is missing at random until data
    says otherwise.

    Args:
        sizes: how many elements each variable has, in order.
        side: which values go missing: ``"above"`` (large ones, all w > 0), ``"below"``, or
            ``"either"``, as data says.

    Raises:
        ValueError: an unknown side.

    References:
        Ipsen, Mattei, Frellsen, 2021, not-MIWAE: deep generative modelling with missing not at
        random data.

    >>> law = SelfMasking((1, 1), side="above")
    >>> (law(torch.zeros(2)) > law(torch.ones(2))).tolist()
    [True, True]
    """

    def __init__(self, sizes: Sequence[int], side: str = "either") -> None:
        super().__init__()
        if side not in ("either", "above", "below"):
            raise ValueError(f"side must be 'either', 'above' or 'below', but is {side!r}")
        self.sizes, self.side = tuple(sizes), side
        self.weight = nn.Parameter(torch.zeros(sum(self.sizes)))
        self.bias = nn.Parameter(torch.zeros(len(self.sizes)))

    def forward(self, x: Elements) -> Tensor:
        weight: Tensor = self.weight
        if self.side != "either":
            weight = functional.softplus(weight) * (1 if self.side == "above" else -1)
        pull = x * weight
        if len(self.sizes) < len(weight):
            pull = torch.stack([part.sum(-1) for part in pull.split(self.sizes, -1)], -1)
        return self.bias - pull


class NetMasking(Mechanism):
    r"""P(variable v is seen | x) = sigmoid(net_v(x)), the net reading all values.

    Args:
        sizes: how many elements each variable has, in order.
        units: hidden units of the net; none makes it affine.

    >>> NetMasking((1, 3))(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """

    def __init__(self, sizes: Sequence[int], units: Sequence[int] = UNITS) -> None:
        super().__init__()
        self.sizes, self.units = tuple(sizes), tuple(units)
        self.net = MLP(sum(self.sizes), len(self.sizes), units)

    def forward(self, x: Elements) -> Tensor:
        odds: Tensor = self.net(x)
        return odds


class Selection(Product):
    r"""The law of seen values together with that of their mask.

    ::

        log P(x_seen) + log P(mask | x_seen, x_unseen),  x_unseen ~ P drawn anew

    whose exponential is an unbiased estimate of P(x_seen, mask). All else is as of the values' law.

    Args:
        values: the law of x.
        mechanism: P(mask | x).
        held: whether the mechanism is constant.

    >>> from genprop.distributions import IndependentNormal
    >>> law = Selection(IndependentNormal(torch.zeros(2), torch.ones(2)), SelfMasking((1, 1)))
    >>> seen = torch.tensor([True, False])
    >>> x, other = torch.tensor([0.0, 5.0]), torch.tensor([0.0, -7.0])
    >>> law.log_prob(x, seen).allclose(law.log_prob(other, seen))
    True
    """

    def __init__(self, values: Product, mechanism: Mechanism, held: bool = False) -> None:
        self.values, self.mechanism, self.held = values, mechanism, held
        self._setup(values.mean)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.values.parameters

    def with_parameters(self, *parameters: Tensor) -> "Selection":
        return Selection(self.values.with_parameters(*parameters), self.mechanism, self.held)

    def detach(self) -> "Selection":
        return Selection(self.values.detach(), self.mechanism, held=True)

    @property
    def mean(self) -> Tensor:
        return self.values.mean

    @property
    def mode(self) -> Tensor:
        return self.values.mode

    @property
    def variance(self) -> Tensor:
        return self.values.variance

    def elements(self, x: Elements) -> Elements:
        return self.values.elements(x)

    def total(self, x: Elements) -> PerRow:
        return self.values.total(x) + self._log_mask(x, None)

    def draw(self, shape: torch.Size) -> Elements:
        return self.values.draw(shape)

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        return self.values.denoise(y, scale)

    def entropy(self) -> PerRow:
        return self.values.entropy()

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        if seen is None:
            return self.total(value)
        whole = torch.where(seen, value, drawn(self.values))
        return self.values.log_prob(value, seen) + self._log_mask(whole, seen)

    def _log_mask(self, x: Tensor, seen: Tensor | None) -> Tensor:
        if not self.held:
            return self.mechanism.log_prob(x, seen)
        with constant(self.mechanism):
            return self.mechanism.log_prob(x, seen)


class Selected(Family):
    """A family of values whose laws explain their mask, too.

    Whatever counts what is seen of a row (a rule, a weight of importance sampling, a bound) so
    counts P(mask | x) as well, and learns it.

    Args:
        family: of the values.
        mechanism: P(mask | x), of the same elements.

    Raises:
        ValueError: the two have other sizes.

    >>> from genprop.conditional import Gaussian
    >>> Selected(Gaussian(3), SelfMasking((1, 1, 1)))(torch.zeros(5, 3)).mean.shape
    torch.Size([5, 3])
    """

    def __init__(self, family: Family, mechanism: Mechanism) -> None:
        super().__init__()
        if sum(mechanism.sizes) != family.elements:
            raise ValueError(
                f"the family has {family.elements} elements, but the mechanism reads "
                f"{sum(mechanism.sizes)}; they must be the same"
            )
        self.family, self.mechanism = family, mechanism
        self.elements, self.outputs = family.elements, family.outputs
        self.silent = False

    def forward(self, outputs: Elements) -> Product:
        """The law; within ``silent`` that of the values alone."""
        values: Product = self.family(outputs)
        return values if self.silent else Selection(values, self.mechanism)


@contextmanager
def silent(module: nn.Module) -> Iterator[None]:
    """Within it the families of a module give laws of values alone."""
    found = [part for part in module.modules() if isinstance(part, Selected)]
    for part in found:
        part.silent = True
    try:
        yield
    finally:
        for part in found:
            part.silent = False


def drawn(law: Product, shape: Sequence[int] = ()) -> Elements:
    """Draws that carry the gradient: of continuous values, and of discrete ones the mean's."""
    through = getattr(law, "straight_through", law.draw)
    x: Tensor = through(torch.Size(shape))
    return x

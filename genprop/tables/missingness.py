"""Why cells are missing: P(mask | x), and families of data that explain their own holes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from genprop.conditional import Family
from genprop.correlated import CorrelatedGaussian
from genprop.distributions import Product, Scale
from genprop.nets import MLP, constant
from genprop.shapes import Elements, PerRow, Seen

CENSORED = ("censored-above", "censored-below")
MISSING = ("mar", "mnar", "mnar-above", "mnar-below", "mnar-net", *CENSORED)
UNITS = (32,)
CLIFF = 10.0  # the slope that log-odds start with at a limit, for each standard deviation
DRAWS = 10  # of what is unseen, over which P(mask | x) is averaged


class Mechanism(nn.Module, ABC):
    """P(mask | x), a logistic of each variable's cell; elements of a one-hot group are one cell.

    Attributes:
        sizes: how many elements each variable has, in order.
        alone: whether each variable's mask depends on that variable alone.
    """

    sizes: tuple[int, ...]
    alone = False

    @abstractmethod
    def forward(self, x: Elements) -> Tensor:
        """The log-odds that each variable is seen, ``(…, variables)``."""

    def log_prob(self, x: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(mask | x) of whole rows, nats; without a mask, that all is seen."""
        return self.shares(x, seen).sum(-1)

    def shares(self, x: Elements, seen: Seen | None = None) -> Tensor:
        """The same by variable, ``(…, variables)``."""
        odds = self(x)
        if seen is not None:
            odds = torch.where(seen[..., self.starts], odds, -odds)
        return functional.logsigmoid(odds)

    def learn(self, x: Elements, seen: Seen) -> None:
        """Starts where rows of data say, unless it starts the same for all."""

    @property
    def starts(self) -> list[int]:
        """The first element of each variable."""
        return [0, *accumulate(self.sizes)][:-1]


class SelfMasking(Mechanism):
    r"""P(variable v is seen | x) = sigmoid(b_v - Σ_{j in v} w_j x_j): by its own value alone.

    At first w is 0 (where its sign is not known): what is missing is missing at random until data
    says otherwise. Of what is censored, where all beyond a limit is missing and nothing else, it
    starts as a cliff at the outermost value seen: from a gentle slope training settles for "at
    random" where seen values are crowded and the limit is far from most of the others.

    Args:
        sizes: how many elements each variable has, in order.
        side: which values go missing: ``"above"`` (large ones, all w > 0), ``"below"``, or
            ``"either"``, as data says.
        censored: whether values beyond a limit go missing.

    Raises:
        ValueError: an unknown side, or either of what is censored.

    References:
        Ipsen, Mattei, Frellsen, 2021, not-MIWAE: deep generative modelling with missing not at
        random data.

    >>> law = SelfMasking((1, 1), side="above")
    >>> (law(torch.zeros(2)) > law(torch.ones(2))).tolist()
    [True, True]
    """

    alone = True

    def __init__(self, sizes: Sequence[int], side: str = "either", censored: bool = False) -> None:
        super().__init__()
        if side not in ("either", "above", "below"):
            raise ValueError(f"side must be 'either', 'above' or 'below', but is {side!r}")
        if censored and side == "either":
            raise ValueError("of what is censored side must be 'above' or 'below', not 'either'")
        self.sizes, self.side, self.censored = tuple(sizes), side, censored
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

    @torch.no_grad()
    def learn(self, x: Elements, seen: Seen) -> None:
        if not self.censored:
            return
        known = x.masked_fill(~seen, math.nan).flatten(0, -2)
        spread = (known - known.nanmean(0)).square().nanmean(0).sqrt()
        outwards = known if self.side == "above" else -known
        edge = outwards.nan_to_num(-math.inf).amax(0)
        for variable, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            if size == 1 and spread[start] > 0:
                slope = CLIFF / spread[start]
                self.weight[start] = slope + (-(-slope).expm1()).log()  # softplus of it is slope
                self.bias[variable] = slope * edge[start]


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

        log P(x_seen) + Σ_g log (1/M) Σ_m P(mask_g | x_seen, x_unseen^m),  x_unseen^m ~ P

    whose exponential is an unbiased estimate of P(x_seen, mask). The groups g of variables are
    averaged apart, since they are independent: each is a variable where its mask depends on it
    alone, else there is one of all. One draw in place of M would have every one of them be missing
    for sure, which no steep mechanism can say of a wide law. All else is as of the values' law.

    Args:
        values: the law of x.
        mechanism: P(mask | x).
        apart: whether variables can be averaged apart.
        held: whether the mechanism is constant.

    >>> from genprop.distributions import IndependentNormal
    >>> law = Selection(IndependentNormal(torch.zeros(2), torch.ones(2)), SelfMasking((1, 1)))
    >>> seen = torch.tensor([True, False])
    >>> x, other = torch.tensor([0.0, 5.0]), torch.tensor([0.0, -7.0])
    >>> law.log_prob(x, seen).allclose(law.log_prob(other, seen))
    True
    """

    def __init__(
        self, values: Product, mechanism: Mechanism, apart: bool = False, held: bool = False
    ) -> None:
        self.values, self.mechanism, self.apart, self.held = values, mechanism, apart, held
        self._setup(values.mean)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.values.parameters

    def with_parameters(self, *parameters: Tensor) -> "Selection":
        values = self.values.with_parameters(*parameters)
        return Selection(values, self.mechanism, self.apart, self.held)

    def detach(self) -> "Selection":
        return Selection(self.values.detach(), self.mechanism, self.apart, held=True)

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
        return self.values.total(x) + self._log_mask(x[None], None)

    def draw(self, shape: torch.Size) -> Elements:
        return self.values.draw(shape)

    def denoise(self, y: Elements, scale: Scale) -> Elements:
        return self.values.denoise(y, scale)

    def entropy(self) -> PerRow:
        return self.values.entropy()

    def log_prob(self, value: Elements, seen: Seen | None = None) -> PerRow:
        if seen is None:
            return self.total(value)
        draws = drawn(self.values, (DRAWS,))
        shape = (DRAWS, *[1] * (value.ndim - draws.ndim + 1), *draws.shape[1:])
        whole = torch.where(seen, value, draws.reshape(shape))
        return self.values.log_prob(value, seen) + self._log_mask(whole, seen)

    def _log_mask(self, x: Tensor, seen: Tensor | None) -> Tensor:
        with constant(self.mechanism) if self.held else nullcontext():
            return log_mean(grouped(self.mechanism.shares(x, seen), self.apart)).sum(-1)


def grouped(shares: Tensor, apart: bool) -> Tensor:
    """Variables' log P(mask | x) of the groups that can be averaged apart, ``(…, groups)``."""
    return shares if apart else shares.sum(-1, keepdim=True)


def log_mean(log_p: Tensor) -> Tensor:
    """The logarithm of the mean over draws, which come first."""
    mean: Tensor = log_p.logsumexp(0) - math.log(len(log_p))
    return mean


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
        # what is drawn together is missing together
        self.apart = mechanism.alone and not isinstance(family, CorrelatedGaussian)
        self.silent = False

    def forward(self, outputs: Elements) -> Product:
        """The law; within ``silent`` that of the values alone."""
        values: Product = self.family(outputs)
        return values if self.silent else Selection(values, self.mechanism, self.apart)


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

"""Normalizing flows by name, built from the transforms of Zuko."""

import importlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution

from genprop.distributions import IndependentNormal
from genprop.logistic import IndependentLogistic
from genprop.nets import ACTIVATIONS

# how many transforms each has unless told otherwise
TRANSFORMS = {"nice": 4, "realnvp": 4, "nsf": 3, "maf": 3, "cnf": 1}
BASES: dict[str, Callable[[Tensor, Tensor], Distribution]] = {
    "gaussian": IndependentNormal,
    "logistic": IndependentLogistic,
}
LOG_STRETCH_LIMIT = 10.0


class Base(nn.Module):
    """The law at the far end of a flow, of independent elements about zero.

    Args:
        elements: how many.
        kind: ``"gaussian"``, N(0, 1), or ``"logistic"``, of density sigmoid'.

    >>> Base(2, "logistic")().log_prob(torch.zeros(2)).exp()
    tensor(0.0625)
    """

    def __init__(self, elements: int, kind: str) -> None:
        super().__init__()
        self.elements, self.kind = elements, kind
        self.register_buffer("loc", torch.zeros(elements))
        self.register_buffer("scale", torch.ones(elements))

    def forward(self, context: None = None) -> Distribution:
        return BASES[self.kind](self.get_buffer("loc"), self.get_buffer("scale"))


class Stretch(nn.Module):
    """y_j = exp(c·tanh(s_j / c)) x_j with c = 10: near exp(s_j) x_j, never zero or infinite.

    Args:
        elements: how many.

    >>> Stretch(2)()(torch.ones(2))
    tensor([1., 1.], grad_fn=<AddBackward0>)
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.log_scale = nn.Parameter(torch.zeros(elements))

    def forward(self, context: None = None) -> AffineTransform:
        raw = self.log_scale / LOG_STRETCH_LIMIT
        return AffineTransform(0.0, (LOG_STRETCH_LIMIT * raw.tanh()).exp(), event_dim=1)


def build_flow(
    name: str,
    elements: int,
    transforms: int | None = None,
    units: Sequence[int] = (64, 64),
    activation: str = "silu",
    base: str = "gaussian",
) -> nn.Module:
    """A flow that starts as the identity, so that its law is the base's.

    Called, it gives its law: h = f⁻¹(z), z from the base, and log P(h) by change of variables::

        nice     x_a, x_b + m(x_a), odd and even elements in turn, and a last diagonal exp(s)
        realnvp  x_a, exp(s(x_a)) x_b + m(x_a), odd and even elements in turn
        nsf      rational-quadratic splines, those of one half of the elements given by the other,
                 the halves in turn; identity beyond ±5
        maf      exp(s(x_<j)) x_j + m(x_<j), ascending and descending; drawing is as slow as there
                 are elements
        cnf      an ODE dx/dt = m(x, t), solved to 1e-6 with the exact trace of its Jacobian

    Args:
        name: one of these.
        elements: the size of h.
        transforms: how many follow each other; 4, 4, 3, 3 and 1 unless given.
        units: hidden units of each net m, s.
        activation: of the nets, as for ``MLP``.
        base: ``"gaussian"`` or ``"logistic"``.

    Raises:
        ValueError: an unknown name, no element, or no transform.

    References:
        Dinh, Krueger, Bengio, 2015, NICE (arXiv 1410.8516). Dinh, Sohl-Dickstein, Bengio, 2017,
        Real NVP. Durkan, Bekasov, Murray, Papamakarios, 2019, Neural spline flows. Papamakarios,
        Pavlakou, Murray, 2017, Masked autoregressive flow. Grathwohl, Chen, Bettencourt, Sutskever,
        Duvenaud, 2019, FFJORD.

    >>> build_flow("nice", 2)().log_prob(torch.zeros(2)).exp()
    tensor(0.1592, grad_fn=<ExpBackward0>)
    """
    count = _checked(name, elements, transforms, activation, base)
    net = {"hidden_features": tuple(units), "activation": ACTIVATIONS[activation]}
    steps = [_transform(name, elements, number, net) for number in range(count)]
    last = [Stretch(elements)] if name == "nice" else []
    _make_identity(steps)
    flow: nn.Module = zuko().lazy.Flow([*steps, *last], Base(elements, base))
    return flow


def zuko() -> ModuleType:
    """Zuko, loaded where first used; torch's check of arguments, which it turns off, stays."""
    before = Distribution._validate_args
    package = importlib.import_module("zuko")
    Distribution.set_default_validate_args(before)
    return package


def _transform(name: str, elements: int, number: int, net: dict[str, object]) -> nn.Module:
    """The transform of that number, from 0; even and odd ones take turns."""
    flows, transforms = zuko().flows, zuko().transforms
    order, turn = torch.arange(elements), number % 2
    coupling = partial(flows.coupling.GeneralCouplingTransform, mask=order % 2 == turn)
    masked = partial(
        flows.autoregressive.MaskedAutoregressiveTransform, order=order.flip(0) if turn else order
    )
    spline = partial(
        masked, passes=2, univariate=transforms.MonotonicRQSTransform, shapes=[(8,), (8,), (7,)]
    )
    makers = {
        "nice": partial(coupling, univariate=transforms.AdditiveTransform, shapes=[()]),
        "realnvp": coupling,
        "nsf": spline,
        "maf": masked,
        "cnf": flows.continuous.FFJTransform,
    }
    made: nn.Module = makers[name](elements, **net)
    return made


@torch.no_grad()
def _make_identity(steps: Sequence[nn.Module]) -> None:
    """Zeroes the last layer of every net, and parameters that no net gives."""
    for step in steps:
        nets = [m for m in step.modules() if isinstance(m, nn.Sequential)]
        lasts = [net[-1] for net in nets] or [step]
        for p in (p for last in lasts for p in last.parameters()):
            p.zero_()


def _checked(name: str, elements: int, transforms: int | None, activation: str, base: str) -> int:
    """How many transforms, if all of it makes sense."""
    choices: list[tuple[str, str, Collection[str]]] = [
        ("flow", name, TRANSFORMS),
        ("activation", activation, ACTIVATIONS),
        ("base", base, BASES),
    ]
    for what, value, known in choices:
        if value not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, but is {value!r}")
    count = TRANSFORMS[name] if transforms is None else transforms
    if elements < 1 or count < 1:
        raise ValueError(
            f"a flow needs at least one element and one transform, but got {elements} and {count}"
        )
    return count

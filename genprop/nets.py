"""Deterministic nets that turn what is given into a distribution's parameters."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from torch import Tensor, nn

from genprop.shapes import Elements, Outputs

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


class MLP(nn.Module):
    r"""A multi-layer perceptron, net(x) = W_n a(… a(W_1 x + V m + b_1) …) + b_n [+ S x].

    m is 1 where an element is missing and 0 where it was seen; V starts at zero and takes no
    part, nor any time, where nothing is missing.

    Args:
        inputs: elements of x.
        outputs: numbers returned for each row.
        units: width of each hidden layer; ``()`` is an affine map.
        activation: ``tanh``, ``relu``, ``elu``, ``gelu``, ``silu`` or ``softplus``.
        skip: adds the affine path S x beside the hidden layers.
        masked: whether the net may be told what is missing.
        dropout: probability that training leaves out a hidden unit, at its start; ``fade``.

    Raises:
        ValueError: a size is not positive, the activation is unknown, or dropout no probability.

    >>> import torch
    >>> MLP(3, 2, units=(5,))(torch.zeros(7, 3)).shape
    torch.Size([7, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        units: Sequence[int] = (128,),
        activation: str = "tanh",
        skip: bool = False,
        masked: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(inputs, outputs, *units, 1) < 1:
            raise ValueError(
                f"an MLP needs positive sizes, but got inputs={inputs}, units={tuple(units)}, "
                f"outputs={outputs}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, but is {activation!r}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability from 0 to below 1, but is {dropout!r}")
        self.inputs, self.outputs, self.units = inputs, outputs, tuple(units)
        self.activation, self.skip, self.masked = activation, skip, masked
        self.dropout = dropout
        widths = (inputs, *units, outputs)
        self.first = nn.Linear(widths[0], widths[1])
        self.missing = nn.Linear(widths[0], widths[1], bias=False) if masked else None
        if self.missing is not None:
            nn.init.zeros_(self.missing.weight)
        rest: list[nn.Module] = []
        for below, above in pairwise(widths[1:]):
            rest.append(ACTIVATIONS[activation]())
            if dropout:
                rest.append(nn.Dropout(dropout))
            rest.append(nn.Linear(below, above))
        self.rest = nn.Sequential(*rest)
        self.straight = nn.Linear(inputs, outputs, bias=False) if skip else None

    def forward(self, x: Elements, missing: Elements | None = None) -> Outputs:
        """The outputs for x; ``missing`` is 1.0 where an element of x was not observed."""
        first = self.first(x)
        if missing is not None:
            first = first + told(self.missing)(missing)
        y: Tensor = self.rest(first)
        return y if self.straight is None else y + self.straight(x)


class Identity(nn.Module):
    """net(x) = x, element by element, whatever is missing.

    >>> import torch
    >>> Identity()(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """

    def forward(self, x: Elements, missing: Elements | None = None) -> Outputs:
        """The values themselves."""
        return x


def told(missing: nn.Module | None) -> nn.Module:
    """What reads the mask of a net that may be told what is missing; a net without it refuses."""
    if missing is None:
        raise ValueError(
            "this net was built without masked=True, so it cannot be told what is missing; build "
            "it with masked=True"
        )
    return missing


def fade(module: nn.Module, done: float) -> None:
    """Lowers the dropout of every perceptron within to (1 - done) of what it was built with.

    A decoder's scale learns to cover what dropout does to its mean. Where none is left at the end,
    scales and means fit each other, and the encoders fit both.

    Args:
        module: what is trained.
        done: the share of training that is done, between 0 and 1.

    References:
        Rennie, Goel, Thomas, 2014, Annealed dropout training of deep networks.

    >>> net = MLP(2, 2, dropout=0.2)
    >>> fade(net, 0.75)
    >>> net.rest[1]
    Dropout(p=0.05, inplace=False)
    """
    for net in module.modules():
        if isinstance(net, MLP):
            for part in net.rest:
                if isinstance(part, nn.Dropout):
                    part.p = net.dropout * (1 - done)


def frozen(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them learns.

    >>> frozen(nn.Linear(1, 1).requires_grad_(False))
    True
    """
    learns = [p.requires_grad for p in module.parameters()]
    return bool(learns) and not any(learns)


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Within it, graphs treat the module's parameters as constants.

    >>> net = nn.Linear(1, 1)
    >>> with constant(net):
    ...     net.weight.requires_grad
    False
    """
    learned = [p for p in module.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)

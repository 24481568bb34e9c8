"""Target propagation: layers learn from targets that learned inverses bring down."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from genprop.credit.inverse import Inverse, Inverses
from genprop.credit.network import CreditNetwork
from genprop.credit.reconstruction import Reconstruction
from genprop.credit.rule import PreparedRule, climb, half_square, output_term
from genprop.rules.rule import Term

STARTS = ("hidden", "output")
RULES = ("plain", "difference")


class TargetPropagation(PreparedRule):
    r"""Every layer is told a target in its own space.

    Formula: ĥ_{L-1} = h_{L-1} - η ∂C/∂h_{L-1} (or, from the output, ô = o - η ∂C/∂o); then down by
    ``difference`` ĥ_{l-1} = h_{l-1} + G_l(ĥ_l) - G_l(h_l), or ``plain`` ĥ_{l-1} = G_l(ĥ_l); blocks
    descend ½‖F_l(sg h_{l-1}) - sg ĥ_l‖² / η, the output the cost itself. Inverses learn by a
    ``Reconstruction``. With several iterations the difference is repeated on its own outcome,
    h ← h + G_l(ĥ_l) - G_l(F_l(h)) from h_{l-1}, which contracts to an exact inverse where
    Lip(id - G_l∘F_l) < 1.

    Local: each term reaches one block or one inverse. Transported: from the hidden start W_L alone,
    from the output nothing. Cost: per update about 3 forward passes (one up, one down, the local
    derivatives) for targets, and for each round of the inverses 3 (``noise``), 4 (``jacobian``) or
    L + 3 (``output``). Memory: all layers' values, one local graph a layer, inverses as large as
    the network. Source: Lee, Zhang, Fischer, Bengio, 2015; Meulemans and others, 2020; Ernoult and
    others, 2022 (see ``Reconstruction``); Bengio, 2020, Deriving differential target propagation
    from iterating approximate inverses.

    Args:
        network: whose blocks are inverted.
        reconstruction: how the inverses learn.
        rule: ``"difference"`` or ``"plain"``.
        start: ``"hidden"``, from the derivative at the layer below the output, or ``"output"``.
        step: η, on each row's own cost.
        rounds: updates of the inverses before each update of the network.
        iterations: steps towards the inverse, of ``"difference"`` only.
        graded: whether targets of sign units come down as values, which small steps move, in place
            of signs, which they hardly turn.

    Raises:
        ValueError: an unknown name, or a number that makes no sense.

    >>> rule = TargetPropagation(CreditNetwork.build(4, (3, 3), 2), step=0.5)
    >>> rule.step, len(rule.inverses)
    (0.5, 1)
    """

    def __init__(
        self,
        network: CreditNetwork,
        reconstruction: Reconstruction | None = None,
        rule: str = "difference",
        start: str = "hidden",
        step: float = 0.1,
        rounds: int = 1,
        iterations: int = 1,
        graded: bool = False,
    ) -> None:
        super().__init__()
        self.reconstruction = reconstruction or Reconstruction()
        self.reconstruction.check()
        self.rule, self.start, self.step = rule, start, step
        self.rounds, self.iterations = rounds, iterations
        _check(self)
        self.inverses = Inverses(network, start == "output", graded)

    def check(self, network: CreditNetwork) -> None:
        self.inverses.check(network)

    def prepare(self, network: CreditNetwork, x: Tensor) -> Iterator[Term]:
        """A term for each inverse."""
        path = network.path(x)
        for layer, _ in self.inverses.numbered():
            parts = self.reconstruction.parts(network, self.inverses, path, layer)
            account = {name: part.detach() for name, part in parts.items()}
            yield Term(f"inverse.{layer}", parts, account)

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term for each block, the output's first."""
        path, values = climb(network, x)
        yield output_term(network, values[-1], y)
        targets = self.targets(network, path, y)
        for layer in range(len(path) - 2, 0, -1):
            name = f"layer.{layer}"
            miss = half_square(values[layer - 1] - targets[layer]) / self.step
            yield Term(name, {f"{name}.target": miss}, {})

    @torch.no_grad()
    def targets(self, network: CreditNetwork, path: list[Tensor], y: Tensor) -> dict[int, Tensor]:
        """Each ĥ_l that is brought down, by l, from the values h_0 to h_L."""
        top = len(path) - 1 if self.start == "output" else len(path) - 2
        score = network.score(path[-1], y)
        if self.start == "hidden":
            score = _through_the_last(network, path[-2], score)
        targets = {top: path[top] - self.step * score}
        for layer in range(top, 1, -1):
            block = network.layers[layer - 1]
            below, inverse = path[layer - 1 : layer + 1], self.inverses[layer]
            if self.rule == "plain":
                targets[layer - 1] = inverse(targets[layer])
                continue
            h, above = below
            shift = inverse(targets[layer])
            for turn in range(self.iterations):
                h = h + shift - inverse(block(h) if turn else above)
            targets[layer - 1] = h
        return targets


@torch.enable_grad()
def _through_the_last(network: CreditNetwork, below: Tensor, score: Tensor) -> Tensor:
    """The cost's derivative by the layer below the output, or by the signs or samples it sends."""
    below = below.detach().requires_grad_()
    output = network.layers[-1](below, straight=True)
    (slope,) = torch.autograd.grad(output, below, score)
    return slope


def contraction(network: CreditNetwork, inverse: Inverse, layer: int, h: Tensor) -> float:
    """The largest singular value of id - J_G J_F over rows: below 1, iterated inverses converge.

    Args:
        network: the block's network.
        inverse: G_l.
        layer: l, from 2.
        h: values of layer l - 1, ``(rows, *shape)``.
    """
    block = network.layers[layer - 1]

    def there_and_back(row: Tensor) -> Tensor:
        back: Tensor = inverse(block(row[None]))[0]
        return (row - back).flatten()

    norms = [torch.linalg.matrix_norm(_jacobian(there_and_back, row), 2) for row in h.detach()]
    return float(torch.stack(norms).max())


def _jacobian(function: Callable[[Tensor], Tensor], row: Tensor) -> Tensor:
    slope = torch.autograd.functional.jacobian(function, row)
    return torch.as_tensor(slope).flatten(1)


def _check(rule: TargetPropagation) -> None:
    for name, value, known in (("rule", rule.rule, RULES), ("start", rule.start, STARTS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, but is {value!r}")
    if not rule.step > 0 or rule.rounds < 0 or rule.iterations < 1:
        raise ValueError(
            f"step is positive, rounds not negative and iterations at least 1; got {rule.step}, "
            f"{rule.rounds} and {rule.iterations}"
        )
    if rule.rule == "plain" and rule.iterations > 1:
        raise ValueError("plain targets are no difference that could be iterated; iterations=1")

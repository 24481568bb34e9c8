"""Small networks and every rule of credit assignment, and what they tell one another."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from genprop.credit.alignment import DirectFeedbackAlignment, FeedbackAlignment
from genprop.credit.associated import AssociatedLearning
from genprop.credit.backprop import BackPropagation
from genprop.credit.block import Block
from genprop.credit.broadcast import ScoreBroadcast
from genprop.credit.covariance import CovarianceGoodness
from genprop.credit.equilibrium import EquilibriumPropagation
from genprop.credit.goodness import ForwardForward
from genprop.credit.measure import updates
from genprop.credit.network import CreditNetwork
from genprop.credit.predictive import PredictiveCoding
from genprop.credit.reconstruction import Reconstruction
from genprop.credit.rule import CreditRule
from genprop.credit.spikes import SpikeAlignment
from genprop.credit.target import TargetPropagation
from genprop.rules.rule import Term

ROWS, CLASSES = 4, 3


def _build(
    unit: str, cost: str = "cross-entropy", residual: bool = False
) -> Callable[[], CreditNetwork]:
    return lambda: CreditNetwork.build(7, (6, 6, 5), CLASSES, unit, cost, residual)


def convolutional(unit: str = "tanh", pool: str = "mean") -> CreditNetwork:
    """Two convolutions, one pooled, and a matrix."""
    first = Block((1, 4, 4), 2, unit, kernel=3)
    second = Block((2, 4, 4), 3, unit, kernel=3, pool=pool)
    return CreditNetwork([first, second, Block((12,), CLASSES, "identity")])


NETWORKS: dict[str, Callable[[], CreditNetwork]] = {
    "tanh": _build("tanh"),
    "linear-squared": _build("identity", "squared"),
    "residual-relu": lambda: CreditNetwork.build(7, (6, 6, 6), CLASSES, "relu", residual=True),
    "convolutional": convolutional,
    "sign": _build("sign"),
    "bernoulli": _build("bernoulli"),
}
SMOOTH = ("tanh", "linear-squared", "residual-relu", "convolutional")

RULES: dict[str, Callable[[CreditNetwork], CreditRule]] = {
    "BP": lambda network: BackPropagation(),
    "BP, straight-through": lambda network: BackPropagation(straight_through=True),
    "FA": FeedbackAlignment,
    "DFA": DirectFeedbackAlignment,
    "TP": lambda network: TargetPropagation(network, rule="plain"),
    "DTP": TargetPropagation,
    "DTP, iterated": lambda network: TargetPropagation(network, iterations=3),
    "DRL": lambda network: TargetPropagation(
        network, Reconstruction("output", decay=0.1), start="output"
    ),
    "L-DRL": lambda network: TargetPropagation(
        network, Reconstruction("jacobian"), start="output", rounds=2
    ),
    "EP": lambda network: EquilibriumPropagation(),
    "EP, one-sided": lambda network: EquilibriumPropagation("one-sided"),
    "EP, holomorphic": lambda network: EquilibriumPropagation("holomorphic", readout=True),
    "PC": lambda network: PredictiveCoding(),
    "PC-ALM": lambda network: PredictiveCoding(dual=0.5),
    "FF": lambda network: ForwardForward(),
    "covariance FF": lambda network: CovarianceGoodness(network, projections=4),
    "SBD": lambda network: ScoreBroadcast(network, power=0.1, entropy=0.01),
    "AL": lambda network: AssociatedLearning(network, width=4),
    "SAL": SpikeAlignment,
}


def network(name: str, seed: int = 0) -> CreditNetwork:
    """A network of the zoo in double precision, its biases off zero."""
    torch.manual_seed(seed)
    made = NETWORKS[name]().double()
    with torch.no_grad():
        for block in made.layers:
            block.bias.normal_(0, 0.1)
    return made


def rule(name: str, made: CreditNetwork, seed: int = 0) -> CreditRule:
    """A rule of the zoo for a network, in double precision."""
    torch.manual_seed(seed + 1)
    return RULES[name](made).double()


def data(made: CreditNetwork, rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of standard noise (positive ones for stochastic units) with classes."""
    generator = torch.Generator().manual_seed(seed + 2)
    shape = (rows, *made.layers[0].shape)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(made.outputs, (rows,), generator=generator)


def fits(rule_name: str, network_name: str) -> bool:
    """Whether a rule says it can train a network."""
    made = network(network_name)
    try:
        rule(rule_name, made).check(made)
    except ValueError:
        return False
    return True


def pairs(names: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """Every network with every rule that can train it."""
    return [(n, r) for n in names or NETWORKS for r in RULES if fits(r, n)]


def told(made: CreditNetwork, how: CreditRule, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Each block's gradient by a rule, with the same draws every time."""
    torch.manual_seed(3)
    return updates(made, how, x, y)


def assert_same(
    one: dict[str, Tensor], other: dict[str, Tensor], rtol: float = 1e-9, atol: float = 1e-12
) -> None:
    """Both tell every block the same, up to rounding unless more is allowed."""
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=atol, msg=name)


def reached(made: CreditNetwork, how: CreditRule, terms: Iterable[Term]) -> dict[str, set[str]]:
    """For each term the blocks it reaches, and ``rule`` where it reaches the rule's own weights."""
    owners: dict[str, list[Tensor]] = {
        f"layer.{i}": list(block.parameters()) for i, block in enumerate(made.layers, 1)
    }
    owners["rule"] = list(how.parameters())
    every = [p for parameters in owners.values() for p in parameters]
    found: dict[str, set[str]] = {}
    for term in terms:
        slopes = torch.autograd.grad(term.value, every, allow_unused=True, retain_graph=True)
        gets = {id(p) for p, s in zip(every, slopes, strict=True) if s is not None and s.any()}
        found[term.name] = {n for n, ps in owners.items() if any(id(p) in gets for p in ps)}
    return found


def transported(made: CreditNetwork, how: CreditRule, x: Tensor, y: Tensor) -> set[str]:
    """The layers whose weights a rule uses on the way down to lower layers.

    A layer's weights are changed where no row's input has a share, so that every value of every
    layer stays what it was. If the update of a layer below changes all the same, the weights were
    used in another way than by passing values up.
    """
    before = told(made, how, x, y)
    path = made.path(x)
    found = set()
    for number, block in enumerate(made.layers[1:], 2):
        kept = block.weight.detach().clone()
        block.weight.data += _unseen(block, path[number - 1])
        after = told(made, how, x, y)
        torch.testing.assert_close(made.path(x)[-1], path[-1])
        block.weight.data = kept
        below = [f"layer.{i}" for i in range(1, number)]
        if any(not torch.allclose(before[n], after[n], rtol=1e-6, atol=1e-9) for n in below):
            found.add(f"layer.{number}")
    return found


def _unseen(block: Block, below: Tensor) -> Tensor:
    """A change of weights that the block's inputs of all rows do not notice."""
    inputs = below.flatten(1)
    change = torch.randn(block.outputs, inputs.shape[1], dtype=inputs.dtype)
    return change - change @ torch.linalg.pinv(inputs) @ inputs

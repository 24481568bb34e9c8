"""One small instance of everything, by name; the tests state their laws over all of them.

All numbers are double, so that what is equal on paper is equal to ten digits.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from genprop.conditional import (
    Autoregressive,
    Bernoulli,
    Categorical,
    Conditional,
    Family,
    Gaussian,
    Logistic,
    StudentT,
    unbounded_scale,
)
from genprop.convolutional import Convolutions
from genprop.correlated import CorrelatedGaussian
from genprop.counting import NegativeBinomial, Poisson
from genprop.data import Batch
from genprop.distributions import (
    Continuous,
    Discrete,
    IndependentBernoulli,
    IndependentCategorical,
    IndependentNormal,
    Product,
)
from genprop.hurdle import Hurdle
from genprop.kernel import Kernel, LogDensity
from genprop.logistic import IndependentLogistic
from genprop.model import Model
from genprop.nets import MLP
from genprop.ordinal import Ordinal
from genprop.prior import Prior
from genprop.priors.autoregressive import AutoregressivePrior
from genprop.priors.denoising import DenoisingPrior
from genprop.priors.factorial import FactorialPrior
from genprop.priors.flow import FlowPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.priors.gsn import GSNPrior, NeighbourPrior
from genprop.priors.mixture import MixturePrior
from genprop.priors.parzen import ParzenPrior
from genprop.priors.vamp import VampPrior
from genprop.quantised import dequantising
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.samplers.clamped import Clamped
from genprop.samplers.hamiltonian import HMC
from genprop.samplers.langevin import MALA
from genprop.samplers.metropolis import Independence, MetropolisHastings
from genprop.samplers.tempering import Tempering
from genprop.stack import Layer, Stack
from genprop.tables.columns import Columns

Module = TypeVar("Module", bound=nn.Module)

ROWS = 3
SEED = 7


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def widths(*shape: int) -> Tensor:
    """Random scales between 0.5 and 1.5."""
    return torch.rand(*shape, dtype=torch.float64) + 0.5


def perturbed(module: Module, by: float = 0.5) -> Module:
    """The module in double precision, every parameter moved at random."""
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p += by * torch.randn_like(p)
    return module


def continuous_laws() -> dict[str, Callable[[], Continuous]]:
    """Laws of two real elements, ROWS of each."""
    return {
        "normal": lambda: IndependentNormal(randn(ROWS, 2), widths(ROWS, 2)),
        "normal-shared": lambda: IndependentNormal(randn(ROWS, 2), widths(2)),
        "logistic": lambda: IndependentLogistic(randn(ROWS, 2), widths(ROWS, 2)),
        "logistic-shared": lambda: IndependentLogistic(randn(ROWS, 2), widths(2)),
    }


def discrete_laws() -> dict[str, Callable[[], Discrete]]:
    """Laws of at most six zeros and ones, ROWS of each."""
    return {
        "bernoulli": lambda: IndependentBernoulli(2 * randn(ROWS, 4)),
        "categorical-even": lambda: IndependentCategorical(randn(ROWS, 6), (3, 3)),
        "categorical-uneven": lambda: IndependentCategorical(randn(ROWS, 6), (2, 3, 1)),
    }


def laws() -> dict[str, Callable[[], Product]]:
    return {**continuous_laws(), **discrete_laws()}


def support(law: Product) -> Tensor:
    """All values of a discrete law, ``(values, elements)``."""
    if isinstance(law, IndependentCategorical):
        groups = [torch.eye(n, dtype=torch.float64) for n in law.sizes]
        return torch.stack([torch.cat(parts) for parts in product(*groups)])
    return torch.tensor(list(product((0.0, 1.0), repeat=law.event_shape[0])), dtype=torch.float64)


def patterns(law: Product | None = None, elements: int = 2) -> Tensor:
    """All masks of whole variables, ``(masks, elements)``; a categorical group is one variable."""
    sizes = (1,) * elements if law is None else (1,) * law.event_shape[0]
    if isinstance(law, IndependentCategorical):
        sizes = law.sizes
    repeats = torch.tensor(sizes)
    masks = torch.tensor(list(product((False, True), repeat=len(sizes))))
    return masks.repeat_interleave(repeats, dim=-1)


def families() -> dict[str, Callable[[], Family]]:
    return {
        "gaussian-learned": lambda: Gaussian(3),
        "gaussian-net": lambda: Gaussian(3, scale="net"),
        "gaussian-fixed": lambda: Gaussian(3, scale=0.3),
        "logistic-learned": lambda: Logistic(3),
        "logistic-net": lambda: Logistic(3, scale="net"),
        "logistic-fixed": lambda: Logistic(3, scale=0.3),
        "bernoulli": lambda: Bernoulli(3),
        "categorical": lambda: Categorical((2, 3)),
        "autoregressive": lambda: Autoregressive(3, units=4),
        "student-learned": lambda: StudentT(3),
        "student-net": lambda: StudentT(3, scale="net"),
        "poisson": lambda: Poisson((2.0, 0.5, 30.0), (1.0, 0.5, 6.0)),
        "negative-binomial": lambda: NegativeBinomial((2.0, 0.5, 30.0), (1.0, 0.5, 6.0)),
        "ordinal": lambda: Ordinal((3, 4)),
        "correlated": lambda: CorrelatedGaussian(3),
        "hurdle-learned": lambda: Hurdle(3),
        "hurdle-net": lambda: Hurdle(3, scale="net"),
        "columns": lambda: Columns([Gaussian(2), Poisson((2.0,)), Categorical((2, 3))]),
    }


def priors() -> dict[str, Callable[[], Prior]]:
    """Priors of at most two real or six binary elements, not at their starting point."""
    return {
        "standard": lambda: perturbed(GaussianPrior(2)),
        "diagonal": lambda: perturbed(GaussianPrior(2, "diagonal")),
        "full": lambda: perturbed(GaussianPrior(2, "full")),
        "factorial-gaussian": lambda: perturbed(FactorialPrior(Gaussian(2))),
        "factorial-gaussian-net": lambda: perturbed(FactorialPrior(Gaussian(2, scale="net"))),
        "factorial-logistic": lambda: perturbed(FactorialPrior(Logistic(2)), 0.2),
        "factorial-bernoulli": lambda: perturbed(FactorialPrior(Bernoulli(4))),
        "factorial-categorical": lambda: perturbed(FactorialPrior(Categorical((2, 3)))),
        "autoregressive": lambda: perturbed(AutoregressivePrior(4, units=5)),
        "gsn-gaussian": lambda: perturbed(GSNPrior(Gaussian(2), 0.5, 2, (6,), 5), 0.2),
        "gsn-bernoulli": lambda: perturbed(GSNPrior(Bernoulli(4), 0.5, 2, (6,), 5)),
        "gsn-neighbour": neighbours,
        "mixture-diagonal": lambda: perturbed(MixturePrior(2, components=3)),
        "mixture-full": lambda: perturbed(MixturePrior(2, components=3, covariance="full")),
        "vamp": vamp,
        "parzen": parzen,
        "denoising": lambda: perturbed(DenoisingPrior(2, units=(8, 8)), 0.2),
        "flow-nice": lambda: flow("nice"),
        "flow-maf": lambda: flow("maf"),
    }


def vamp() -> VampPrior:
    """Over the codes of two encoders, one of which reads zeros and ones."""
    bits = Conditional(MLP(3, 2, units=(4,)), Gaussian(1, scale="net"))
    reals = Conditional(MLP(2, 1, units=(4,)), Gaussian(1))
    return perturbed(VampPrior([bits, reals], components=3, binary=(True, False)))


def parzen() -> ParzenPrior:
    """Two clusters of 30 kernels, so far apart that the 40 nearest are all that count."""
    prior = ParzenPrior(2, bank=60, nearest=40).double()
    side = torch.arange(60)[:, None] % 2 * 2.0 - 1
    prior.refit(8 * side + randn(60, 2))
    return prior


def flow(name: str) -> FlowPrior:
    """A flow of its own shape, whose guide has its moments."""
    prior = FlowPrior(2, name, units=(5,), draws=16, warmup=10, transitions=3)
    perturbed(prior, 0.3).follow(prior.sample((500,)))
    return prior


def kernels() -> dict[str, Callable[[LogDensity], Kernel[Any]]]:
    """Kernels of a log-density, their settings good for targets of unit size."""
    wide = IndependentNormal(torch.zeros(2).double(), torch.full((2,), 2.5).double())
    nothing = torch.zeros(2, dtype=torch.bool)

    def mala(log_prob: LogDensity) -> MALA:
        return MALA(log_prob, step_size=0.8)

    return {
        "hmc": lambda log_prob: HMC(log_prob, steps=5, step_size=0.5),
        "hmc-dense": lambda log_prob: HMC(log_prob, steps=5, step_size=0.5, dense=True),
        "mala": mala,
        "random-walk": lambda log_prob: MetropolisHastings(log_prob, step_size=1.5),
        "independence": lambda log_prob: MetropolisHastings(log_prob, Independence.of(wide)),
        # with one temperature besides the base's there is none to come to its own law first
        "tempering": lambda log_prob: Tempering(mala, wide, log_prob, ladder=(0.0, 1.0)),
        "clamped": lambda log_prob: Clamped(mala, log_prob, torch.zeros(2).double(), nothing),
    }


def layers() -> dict[str, Callable[[], Layer]]:
    """Layers that nothing is learned in."""
    return {"dequantising": lambda: dequantising(3, levels=4)}


def neighbours() -> NeighbourPrior:
    """A chain that is to lead to one of three codes."""
    prior = perturbed(NeighbourPrior(Gaussian(2, 0.5), 0.5, 2, (6,), 5, bank=5), 0.2)
    prior.follow(torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -2.0]]))
    return prior


def stack(
    visible: Family, hidden: tuple[int, ...], latent: str | tuple[str, ...] = "gaussian"
) -> Stack:
    return Stack.build(visible, hidden, latent, units=(6,))


def gaussian(depth: int = 3, prior: str = "full") -> Model:
    """Real data, real codes; layers get narrower towards the top."""
    hidden = tuple(range(depth + 1, 1, -1))
    return perturbed(Model(stack(Gaussian(4), hidden), GaussianPrior(2, prior)), 0.1)


def bernoulli(hidden: tuple[int, ...] = (4, 3, 2)) -> Model:
    """Binary data, binary codes."""
    prior = FactorialPrior(Bernoulli(hidden[-1]))
    return perturbed(Model(stack(Bernoulli(5), hidden, "bernoulli"), prior), 0.1)


def mixed() -> Model:
    """Real, binary and real layers in turn."""
    latent = ("gaussian", "bernoulli", "gaussian")
    prior = GaussianPrior(2, "diagonal")
    return perturbed(Model(stack(Bernoulli(5), (4, 3, 2), latent), prior), 0.1)


def mixed_below_categories() -> Model:
    """A real layer under a categorical code."""
    layers = stack(Bernoulli(5), (3, 10), ("gaussian", "categorical"))
    return perturbed(Model(layers, FactorialPrior(Categorical((10,)))), 0.1)


def autoregressive() -> Model:
    """Binary data and codes, in every layer each element depends on those before it."""
    layers = stack(Autoregressive(5, units=4), (4, 3), "autoregressive")
    return perturbed(Model(layers, AutoregressivePrior(3, units=4)), 0.1)


def two_modalities() -> Model:
    """An image under two layers and a label under one."""
    stacks = {"image": stack(Bernoulli(5), (3, 2)), "label": stack(Categorical((3,)), (2,))}
    return perturbed(Model(stacks, GaussianPrior(4, "full")), 0.1)


def with_raw_modality() -> Model:
    """A modality that is its own code, beside one under two layers."""
    stacks = {"image": stack(Bernoulli(5), (3, 2)), "raw": Stack(elements=2)}
    return perturbed(Model(stacks, GaussianPrior(4, "full")), 0.3)


def nested(latent: str = "gaussian") -> Model:
    """Four layers, of which the upper two are a model over the codes of the lower ones."""
    discrete = latent == "bernoulli"
    prior = FactorialPrior(Bernoulli(2)) if discrete else GaussianPrior(2, "full")
    below, code = stack(Bernoulli(6), (5, 4), latent), Bernoulli(4) if discrete else Gaussian(4)
    return perturbed(Model(below, Model(stack(code, (3, 2), latent), prior)), 0.1)


def flattened(model: Model) -> Model:
    """The same layers, those of a prior that is a model put on top of the model's own stack."""
    above = model.prior
    assert isinstance(above, Model)
    layers = [*only_stack(model).layers, *only_stack(above).layers]
    return Model(Stack(layers), above.prior)


def nested_over_two_modalities() -> Model:
    """A model over the joint code of two modalities, and one more above it."""
    stacks = {"image": stack(Bernoulli(5), (3, 2)), "label": stack(Categorical((3,)), (2,))}
    top = Model(stack(Gaussian(3), (2,)), GaussianPrior(2, "diagonal"))
    return perturbed(Model(stacks, Model(stack(Gaussian(4), (3,)), top)), 0.1)


def nested_with_raw_part() -> Model:
    """A model over the codes of two modalities, one of which it takes as it is."""
    stacks = {"image": stack(Bernoulli(5), (3, 2)), "label": stack(Categorical((3,)), (2,))}
    over = {"image": stack(Gaussian(2), (2,)), "label": Stack(elements=2)}
    return perturbed(Model(stacks, Model(over, GaussianPrior(4, "full"))), 0.1)


def convolutional() -> Model:
    """Images of a size that halves unevenly, under two layers of which one is convolutional."""
    nets = Convolutions((3, 2), channels=(2, 3), units=(4,), above=(4,))
    layers = Stack.build(Bernoulli(6), (3, 2), units=nets)
    return perturbed(Model(layers, GaussianPrior(2, "full")), 0.1)


def continuous_models() -> dict[str, Callable[[], Model]]:
    """Models all of whose layers are real-valued."""
    return {
        "one-layer": lambda: gaussian(1),
        "three-layers": gaussian,
        "standard-prior": lambda: gaussian(2, "standard"),
        "two-modalities": two_modalities,
        "raw-modality": with_raw_modality,
        "convolutional": convolutional,
    }


def discrete_models() -> dict[str, Callable[[], Model]]:
    """Models with at least one layer of zeros and ones."""
    return {
        "bernoulli": bernoulli,
        "mixed": mixed,
        "categorical-code": mixed_below_categories,
        "autoregressive": autoregressive,
    }


def nested_models() -> dict[str, Callable[[], Model]]:
    """Models whose prior is a model."""
    return {
        "nested": nested,
        "nested-bernoulli": lambda: nested("bernoulli"),
        "nested-two-modalities": nested_over_two_modalities,
        "nested-raw-part": nested_with_raw_part,
    }


def plain_models() -> dict[str, Callable[[], Model]]:
    return {**continuous_models(), **discrete_models()}


def models() -> dict[str, Callable[[], Model]]:
    return {**plain_models(), **nested_models()}


def rules() -> dict[str, Callable[[], Rule]]:
    return {
        **{
            f"target-{k}-{target}": lambda k=k, target=target: TargetPropagation(k, target)
            for target in ("decoder", "difference", "long")
            for k in (1, 5)
        },
        "wake-sleep-5": lambda: ReweightedWakeSleep(5),
        "wake-5": lambda: ReweightedWakeSleep(5, sleep=False),
        "elbo": Backprop,
        "elbo-5": lambda: Backprop(5),
        "iwae-5": lambda: Backprop(5, "iwae"),
        "dreg-5": lambda: Backprop(5, "dreg"),
    }


def fits(rule: Rule, model: Model) -> bool:
    """Whether the rule can train the model."""
    try:
        rule.check(model)
    except ValueError:
        return False
    return True


def trainings(*names: str) -> Iterator[tuple[str, str]]:
    """The names of all models (or of these) with those of the rules that can train them."""
    for model, rule in product(names or models(), rules()):
        if fits(rules()[rule](), models()[model]()):
            yield model, rule


def batch(model: Model, rows: int = 6, holes: bool = False) -> Batch:
    """Draws of the model; with holes a third of the variables are unseen, and the row's whole
    modality in some rows, though never all of them.
    """
    x = {name: path.x for name, path in model.decode(model.prior.sample((rows,))).items()}
    if not holes:
        return Batch.of(x)
    seen = {name: torch.rand(v.shape) < 0.7 for name, v in x.items()}
    if "label" in seen:
        seen["label"] = seen["label"][:, :1].expand(-1, 3)
    first = next(iter(seen))
    seen[first][0] = len(seen) == 1
    seen[first][1:, 0] = True
    for name in set(seen) - {first}:
        seen[name] = torch.cat([torch.ones_like(seen[name][:1]), seen[name][1:]])
        seen[name][1] = False
    return Batch.of(x, seen)


def groups(model: Model) -> dict[str, list[nn.Parameter]]:
    """The parameters of each encoder, each decoder and the prior, if they have any."""
    found = {"prior": list(model.summit.parameters())}
    for name, layers in model.all_stacks():
        for level in range(len(layers.layers)):
            layer = layers[level]
            found[f"{name}.{level + 1}.encoder"] = list(layer.encoder.parameters())
            found[f"{name}.{level + 1}.decoder"] = list(layer.decoder.parameters())
    return {name: parameters for name, parameters in found.items() if parameters}


def gradients(model: Model, batch: Batch, rule: Rule, seed: int = SEED) -> dict[str, Tensor]:
    """What a rule tells every parameter, each term sent backward as it is yielded."""
    torch.manual_seed(seed)
    model.zero_grad()
    for term in rule(model, batch):
        if term.parts and term.value.requires_grad:
            term.value.backward()
    return told(model)


def told(model: Model) -> dict[str, Tensor]:
    """The gradient of every parameter, zero where it got none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], only: str = "") -> None:
    """The same gradients, of the parameters whose names contain ``only``."""
    names = [name for name in a if only in name]
    assert names
    assert a.keys() == b.keys()
    for name in names:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-11, msg=name)


def linear_gaussian(
    sizes: tuple[int, ...] = (3, 2, 2), scale: str | float = "learned", prior: str = "full"
) -> Model:
    """Affine nets and Gaussian families throughout: everything is known in closed form.

    Encoders have the mean of P(h_l | h_{l-1}) and, independent, scales 1.3 times as wide.
    """
    layers = []
    for low, high in pairwise(sizes):
        up, down = Gaussian(high, scale="net"), Gaussian(low, scale)
        encoder = Conditional(MLP(low, up.outputs, units=(), masked=low == sizes[0]), up)
        layers.append(Layer(encoder, Conditional(MLP(high, low, units=()), down)))
    model = perturbed(Model(Stack(layers), GaussianPrior(sizes[-1], prior)), 0.2)
    for level, layer in enumerate(layers, start=1):
        invert(layer, exact_marginal(model, level), width=1.3)
    return model


def affine(conditional: Conditional) -> tuple[Tensor, Tensor, Tensor]:
    """A, b and σ of a linear-Gaussian conditional N(A h + b, σ²)."""
    law = conditional.family(conditional.net.first.bias)
    assert isinstance(law, IndependentNormal)
    return conditional.net.first.weight, law.loc, law.scale


def only_stack(model: Model) -> Stack:
    """The stack of a model of one modality."""
    ((_, layers),) = model.named_stacks()
    return layers


def exact_marginal(model: Model, level: int = 0) -> MultivariateNormal:
    """P(h_level) of a linear-Gaussian model of one modality, by algebra."""
    law, layers = model.prior.law, only_stack(model)
    mean = law.mean
    covariance = law.covariance if hasattr(law, "covariance") else torch.diag(law.variance)
    for at in reversed(range(level, len(layers.layers))):
        A, b, scale = affine(layers[at].decoder)
        mean = A @ mean + b
        covariance = A @ covariance @ A.mT + torch.diag(scale**2)
    return MultivariateNormal(mean, covariance)


@torch.no_grad()
def invert(layer: Layer, above: MultivariateNormal, width: float = 1.0) -> None:
    """Sets an affine encoder to P(h_l | h_{l-1}) under the law of h_l, its covariance diagonal.

    What is missing is taken to be at its mean.
    """
    A, b, scale = affine(layer.decoder)
    precision = above.precision_matrix + A.mT @ torch.diag(scale**-2) @ A
    gain = torch.linalg.solve(precision, A.mT / scale**2)
    offset = torch.linalg.solve(precision, above.precision_matrix @ above.mean) - gain @ b
    scales = width * torch.linalg.inv(precision).diagonal().sqrt()
    net = layer.encoder.net
    net.first.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
    net.first.bias.copy_(torch.cat([offset, unbounded_scale(scales)]))
    if net.missing is not None:
        net.missing.weight.copy_(net.first.weight * (A @ above.mean + b))


def with_exact_upper_encoders(depth: int) -> Model:
    """A linear-Gaussian model, Q(h_l | h_{l-1}) = P(h_l | h_{l-1}) for all layers but the first.

    Upper decoders are diagonal and so is the prior, so that these posteriors factorise.
    """
    model = linear_gaussian((3, *[2] * depth), prior="diagonal")
    layers = only_stack(model)
    for level in reversed(range(1, depth)):
        with torch.no_grad():
            layers[level].decoder.net.first.weight.copy_(torch.diag(widths(2)))
        invert(layers[level], exact_marginal(model, level + 1))
    return model

"""Models and rules from the words and numbers of GenProp's arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genprop.conditional import Autoregressive, Bernoulli, Categorical, Family, Gaussian, Logistic
from genprop.convolutional import Convolutions
from genprop.correlated import CorrelatedGaussian
from genprop.data import Batch, Share
from genprop.model import Model
from genprop.nets import frozen
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
from genprop.regressed import Regressed
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule, climb
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.stack import Layer, Stack, Units, is_discrete
from genprop.tables.columns import Columns, variable_sizes
from genprop.tables.missingness import Selected

RULES = ("target", "difference", "long", "rws", "elbo", "iwae", "dreg")
JOINT = "joint"  # the modality of a model of codes
COMPONENTS, PSEUDO_INPUTS, NOISE = 20, 50, 0.5
ROWS, ROUNDS, MOST = 500, 3, 5000  # encoded at once; how often; in all, to see what codes leave
TOP, UNITS = "top", (128,)  # of units by modality: those above all codes, and those not named
NETS = ("activation", "skip", "dropout")
PARTS = ("hidden", "latent", "top", "prior", "units", *NETS, "regress", "weights")  # of GenProp's

Stacks = Mapping[str, Stack]


class Tops(NamedTuple):
    """What a prior stands on: the families of all codes, and the layers that give them."""

    families: list[Family]
    layers: list[Layer]

    @property
    def elements(self) -> int:
        """The size of the joint code."""
        return sum(family.elements for family in self.families)


def build_model(parts: Mapping[str, Any], visible: Mapping[str, Family]) -> Model:
    """A model with a stack for each visible family.

    Args:
        parts: ``PARTS``, as GenProp's; a stack given in ``hidden`` is put in as it is.
        visible: the family of each modality.

    Raises:
        ValueError: a part that fits none of them.
    """
    nets = {name: parts[name] for name in NETS}
    below = {**nets, "regress": parts["regress"]}
    units = _units_by_name(parts["units"], visible)
    stacks = {
        name: _stack(name, parts, family, {**below, "units": units[name]})
        for name, family in visible.items()
    }
    _check_explained(stacks, visible)
    weights = parts.get("weights")
    if not parts["top"]:
        return Model(stacks, build_prior(parts["prior"], stacks, visible), weights=weights)
    # codes are not there to be regressed before training
    above = nets if any(len(stack.layers) for stack in stacks.values()) else below
    family = _joint(_tops(stacks, visible))
    joint = Stack.build(family, parts["top"], parts["latent"], units[TOP], **above)
    top = Model({JOINT: joint}, build_prior(parts["prior"], {JOINT: joint}, {}))
    return Model(stacks, top, weights=weights)


def learn_beforehand(model: Model, batch: Batch) -> None:
    """Fits to rows of data what does not wait for training.

    Args:
        model: whose bottom encoders, or those above data without layers, may be ``Regressed``, and
            whose data may explain their holes (``Selected``).
        batch: rows, any of their cells unseen.
    """
    masks = batch.masks()
    for name, stack in model.named_stacks():
        if not len(stack.layers):
            continue
        net, family = stack[0].encoder.net, stack[0].decoder.family
        if isinstance(net, Regressed) and not frozen(net):
            net.learn(batch.x[name], masks[name])
        if isinstance(family, Selected) and not frozen(family):
            family.mechanism.learn(batch.x[name], masks[name])
    lifted = model.lifted(batch) if _regresses(model) else None
    if lifted is not None:
        learn_beforehand(*lifted)


def _regresses(model: Model) -> bool:
    return any(isinstance(module, Regressed) for module in model.modules())


@torch.no_grad()
def learn_correlations(model: Model, batch: Batch, hide: Share) -> None:
    """Fits the covariances of what codes left of rows, which are encoded as in training.

    Args:
        model: a trained one, of whose decoders some may be ``CorrelatedGaussian``.
        batch: rows, any of their cells unseen; of more than 5,000 every n-th is read.
        hide: of which rows encoders are told less (``Batch.hide``).
    """
    if not any(isinstance(module, CorrelatedGaussian) for module in model.modules()):
        return
    model.eval()
    batch = batch.take(slice(None, None, max(1, batch.rows // MOST)))
    batch = batch.to(model.like.device, model.like.dtype)
    found: dict[CorrelatedGaussian, list[tuple[Tensor, Tensor]]] = {}
    for start in range(0, batch.rows, ROWS):
        part = batch.take(slice(start, start + ROWS))
        for _ in range(ROUNDS):
            for passage in climb(model, part.hide(hide, explain=True), torch.Size()):
                family, seen = passage.layer.decoder.family, passage.seen
                if isinstance(family, CorrelatedGaussian) and not frozen(family):
                    error = passage.below - passage.p.mean
                    mask = torch.ones_like(error, dtype=torch.bool) if seen is None else seen
                    found.setdefault(family, []).append((error, mask))
    for family, made in found.items():
        errors, masks = zip(*made, strict=True)
        family.learn(_by_round(errors), _by_round(masks))


def _by_round(parts: tuple[Tensor, ...]) -> Tensor:
    """All rows of each round, ``(rounds, rows, …)``, of parts that had their rounds in turn."""
    return torch.stack([torch.cat(parts[number::ROUNDS]) for number in range(ROUNDS)])


def build_prior(prior: str | Prior, stacks: Stacks, visible: Mapping[str, Family]) -> Prior:
    """The prior of that name for the stacks' codes; a prior is returned as it is.

    Args:
        prior: a name of ``PRIORS``, or a prior.
        stacks: a stack for each modality.
        visible: the families of the data, which are the codes of stacks without layers.
    """
    raw = {n: visible[n] for n, stack in stacks.items() if not len(stack.layers)}
    if isinstance(prior, Prior):
        return _of_kind(prior, raw)
    tops = _tops(stacks, visible)
    if prior == "auto":
        prior = _own_prior(tops)
    if prior not in PRIORS:
        raise ValueError(f"prior must be a Prior or one of {', '.join(PRIORS)}, but is {prior!r}")
    return _of_kind(BUILDERS[prior](tops), raw)


def build_rule(rule: str | Rule, samples: int) -> Rule:
    """The rule of that name with so many samples; a rule is returned as it is."""
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise ValueError(f"rule must be a Rule or one of {', '.join(RULES)}, but is {rule!r}")
    if rule == "rws":
        return ReweightedWakeSleep(samples)
    if rule in ("elbo", "iwae", "dreg"):
        return Backprop(samples, rule)
    return TargetPropagation(samples, "decoder" if rule == "target" else rule)


def _check_explained(stacks: Stacks, visible: Mapping[str, Family]) -> None:
    for name, stack in stacks.items():
        if isinstance(visible[name], Selected) and not len(stack.layers):
            raise ValueError(
                f"to explain why cells are missing, modality {name!r} needs a layer; give hidden "
                f"a size, or use missing='mar'"
            )


def _tops(stacks: Stacks, visible: Mapping[str, Family]) -> Tops:
    return Tops(
        [s[-1].encoder.family if len(s.layers) else visible[n] for n, s in stacks.items()],
        [s[-1] for s in stacks.values() if len(s.layers)],
    )


def _joint(tops: Tops) -> Family:
    """The family of all codes together, each in its own."""
    families = tops.families
    if all(isinstance(family, CorrelatedGaussian) for family in families):
        sizes = [family.elements for family in families]
        return CorrelatedGaussian(sum(sizes), sizes)
    families = [Gaussian(f.elements) if isinstance(f, Gaussian) else f for f in families]
    return families[0] if len(families) == 1 else Columns(families)


def _stack(name: str, parts: Mapping[str, Any], visible: Family, nets: Mapping[str, Any]) -> Stack:
    """The stack of a modality: a new one of these sizes, or the one that is given."""
    hidden = _hidden(parts["hidden"], name)
    if not isinstance(hidden, Stack):
        return Stack.build(visible, hidden, parts["latent"], **nets)
    own = hidden[0].decoder.family if len(hidden.layers) else visible
    if hidden.elements != visible.elements or _values(own) != _values(visible):
        raise ValueError(
            f"the stack given for modality {name!r} is of {hidden.elements} elements in the family "
            f"{type(own).__name__}, but the data is of {visible.elements} in the family "
            f"{type(visible).__name__}; say what it is with visible= and missing=, or give another"
        )
    return hidden.cpu()  # where data is, until training moves both


def _values(family: Family) -> list[Any]:
    """What values a family's laws are of: the kind and the sizes of variables, by block."""
    if isinstance(family, Selected):
        return [Selected, *_values(family.family)]
    if isinstance(family, Columns):
        return [(type(block), variable_sizes(block)) for block in family.blocks]
    return [is_discrete(family), variable_sizes(family)]


def _units_by_name(units: Any, names: Iterable[str]) -> dict[str, Units]:
    """The units of every modality's nets, and of those above all codes."""
    found = dict.fromkeys((*names, TOP), UNITS if isinstance(units, Mapping) else units)
    if isinstance(units, Mapping):
        unknown = [name for name in units if name not in found]
        if unknown:
            raise ValueError(f"units names {unknown[0]!r}, but there are {', '.join(found)}")
        found |= units
    nets = {n: Convolutions.read(u) if isinstance(u, str) else u for n, u in found.items()}
    top = nets[TOP]
    return nets | {TOP: top.above if isinstance(top, Convolutions) else top}


def _hidden(hidden: Any, name: str) -> Sequence[int] | Stack:
    if isinstance(hidden, Mapping):
        if name not in hidden:
            raise ValueError(f"hidden names {list(hidden)}, but the data has modality {name!r}")
        hidden = hidden[name]
        if isinstance(hidden, Stack):
            return hidden
    if isinstance(hidden, nn.Module):
        raise ValueError(
            f"hidden gives the sizes of layers, or by modality a Stack, but modality {name!r} got "
            f"a bare {type(hidden).__name__}; give hidden={{{name!r}: stack}}, where a stack of "
            f"your own nets is Stack([Layer(encoder, decoder)]), each a Conditional(net, family)"
        )
    if min(hidden, default=1) < 1:
        raise ValueError(f"hidden gives the size of each layer, all positive, but is {hidden!r}")
    sizes: Sequence[int] = hidden
    return sizes


def _units(tops: Sequence[Family]) -> Family:
    """The units of a factorial prior over several codes of one kind."""
    elements = sum(top.elements for top in tops)
    if all(isinstance(top, Bernoulli | Autoregressive) for top in tops):
        return Bernoulli(elements)
    if all(isinstance(top, Gaussian) for top in tops):
        return Gaussian(elements)
    return Categorical([n for top in tops for n in _sizes(top)])


def _sizes(top: Family) -> Sequence[int]:
    if isinstance(top, Categorical):
        return top.sizes
    raise ValueError(
        f"a factorial prior needs codes of one kind, but one is {type(top).__name__}; give a Prior"
    )


def _of_kind(prior: Prior, raw: Mapping[str, Family]) -> Prior:
    """The prior, if it is one of what the stacks without layers hold; a Model checks the others."""
    kinds = ("real-valued", "discrete")
    for name, family in raw.items():
        if is_discrete(family) != prior.discrete:
            raise ValueError(
                f"modality {name!r} is {kinds[is_discrete(family)]} and has no layers, but "
                f"{type(prior).__name__} is a law of {kinds[prior.discrete]} values; use "
                f"prior='auto', give it layers, or give layers above all modalities with top="
            )
    return prior


def _own_prior(tops: Tops) -> str:
    """The simplest prior that can hold the codes, and of several what tells most of each other."""
    if any(isinstance(family, Autoregressive) for family in tops.families):
        return "autoregressive"
    if any(is_discrete(family) for family in tops.families):
        return "factorial"
    if not tops.layers:
        return "full"
    return "mixture" if len(tops.families) > 1 else "gaussian"


def _vamp(tops: Tops) -> Prior:
    """Its components are codes of what the top encoders read, which may be zeros and ones."""
    if len(tops.layers) < len(tops.families):
        raise ValueError("prior='vamp' is made of encoders, but a stack has no layer; give it one")
    binary = [is_discrete(layer.decoder.family) for layer in tops.layers]
    widths = [layer.below for layer in tops.layers]
    encoders = [layer.encoder for layer in tops.layers]
    return VampPrior(encoders, PSEUDO_INPUTS, binary=binary, inputs=widths)


def _reconstruction(tops: Tops) -> Family:
    """What a chain's step draws from: of real codes a Gaussian whose width depends on where."""
    if any(is_discrete(family) for family in tops.families):
        return _units(tops.families)
    return Gaussian(tops.elements, scale="net")


def _neighbour(tops: Tops) -> Prior:
    """Of real codes the Parzen density of the noise's width, which is what its chain draws from."""
    if any(is_discrete(family) for family in tops.families):
        return NeighbourPrior(_units(tops.families), NOISE)
    return NeighbourPrior(Gaussian(tops.elements, scale=NOISE), NOISE)


def _denoising(tops: Tops) -> Prior:
    """Modalities are given and asked for whole, and so is what it practises."""
    sizes = [family.elements for family in tops.families]
    return DenoisingPrior(tops.elements, parts=sizes if len(sizes) > 1 else None)


def _mixture(tops: Tops) -> Prior:
    """Which of K diagonal Gaussians it is tells log K nats of one modality to another, no more."""
    covariance = "full" if len(tops.families) > 1 else "diagonal"
    return MixturePrior(tops.elements, COMPONENTS, covariance)


def _flow(name: str, tops: Tops) -> Prior:
    return FlowPrior(tops.elements, name)


BUILDERS: dict[str, Callable[[Tops], Prior]] = {
    "gaussian": lambda tops: GaussianPrior(tops.elements),
    "diagonal": lambda tops: GaussianPrior(tops.elements, "diagonal"),
    "full": lambda tops: GaussianPrior(tops.elements, "full"),
    "factorial": lambda tops: FactorialPrior(_units(tops.families)),
    "logistic": lambda tops: FactorialPrior(Logistic(tops.elements)),
    "autoregressive": lambda tops: AutoregressivePrior(tops.elements),
    "mixture": _mixture,
    "vamp": _vamp,
    "parzen": lambda tops: ParzenPrior(tops.elements),
    "denoising": _denoising,
    "gsn": lambda tops: GSNPrior(_reconstruction(tops)),
    "neighbour": _neighbour,
    **{name: partial(_flow, name) for name in ("nice", "realnvp", "nsf", "maf", "cnf")},
}
PRIORS = ("auto", *BUILDERS)

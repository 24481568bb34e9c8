"""Models and rules from the words and numbers of GenProp's arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

from genprop.conditional import Bernoulli, Categorical, Family, Gaussian, Logistic
from genprop.model import Model
from genprop.prior import Prior
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.stack import Stack, is_discrete

PRIORS = ("auto", "gaussian", "diagonal", "full", "factorial", "logistic")
RULES = ("target", "difference", "long", "rws", "elbo", "iwae", "dreg")
COVARIANCES = {"gaussian": "standard", "diagonal": "diagonal", "full": "full"}


def build_model(parts: Mapping[str, Any], visible: Mapping[str, Family]) -> Model:
    """A model with a stack for each visible family.

    Args:
        parts: ``hidden``, ``latent``, ``prior``, ``units``, ``activation``, ``skip``, as GenProp's.
        visible: the family of each modality.

    Raises:
        ValueError: a part that fits none of them.
    """
    nets = {name: parts[name] for name in ("units", "activation", "skip")}
    stacks = {
        name: Stack.build(family, _hidden(parts["hidden"], name), parts["latent"], **nets)
        for name, family in visible.items()
    }
    return Model(stacks, build_prior(parts["prior"], stacks))


def build_prior(prior: str | Prior, stacks: Mapping[str, Stack]) -> Prior:
    """The prior of that name for the stacks' codes; a prior is returned as it is."""
    if isinstance(prior, Prior):
        return prior
    tops = [stack[-1].encoder.family for stack in stacks.values()]
    elements = sum(top.elements for top in tops)
    if prior == "auto":
        discrete = any(is_discrete(top) for top in tops)
        prior = "factorial" if discrete else "full" if len(stacks) > 1 else "gaussian"
    if prior in COVARIANCES:
        return GaussianPrior(elements, COVARIANCES[prior])
    if prior == "logistic":
        return FactorialPrior(Logistic(elements))
    if prior == "factorial":
        return FactorialPrior(_units(tops))
    raise ValueError(f"prior must be a Prior or one of {', '.join(PRIORS)}, but is {prior!r}")


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


def _hidden(hidden: Sequence[int] | Mapping[str, Sequence[int]], name: str) -> Sequence[int]:
    if isinstance(hidden, Mapping):
        if name not in hidden:
            raise ValueError(f"hidden names {list(hidden)}, but the data has modality {name!r}")
        hidden = hidden[name]
    if not len(hidden) or min(hidden) < 1:
        raise ValueError(
            f"hidden must give the size of at least one layer, all positive, but is {hidden!r}"
        )
    return hidden


def _units(tops: Sequence[Family]) -> Family:
    """The units of a factorial prior over several codes of one kind."""
    elements = sum(top.elements for top in tops)
    if all(isinstance(top, Bernoulli) for top in tops):
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

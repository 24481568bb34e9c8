"""No credit crosses a layer: which parameters each part of each rule reaches, and what it holds."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

from genprop.conditional import Gaussian
from genprop.data import Batch
from genprop.model import Model
from genprop.prior import Prior
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule, trainable
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.stack import Stack, is_discrete

BOTH = {"encoder", "decoder"}

# The table: for a rule and a kind of layer, the parts of its term and what of the layer's own
# parameters each part reaches. A part reaches nothing of any other layer.
LAYERS: dict[tuple[type[Rule], str], dict[str, set[str]]] = {
    (TargetPropagation, "real"): {
        "reconstruction": BOTH,
        "entropy": {"encoder"},
        "target": {"encoder"},
    },
    (TargetPropagation, "top, real"): {"reconstruction": BOTH, "entropy": {"encoder"}},
    (TargetPropagation, "below a model, real"): {"reconstruction": BOTH, "entropy": {"encoder"}},
    (TargetPropagation, "below a model, discrete"): {
        "reconstruction": {"decoder"},
        "wake": {"encoder"},
    },
    (TargetPropagation, "discrete"): {"reconstruction": {"decoder"}, "wake": {"encoder"}},
    (TargetPropagation, "top, discrete"): {"reconstruction": {"decoder"}, "wake": {"encoder"}},
    **{
        (ReweightedWakeSleep, kind): {
            "reconstruction": {"decoder"},
            "wake": {"encoder"},
            "sleep": {"encoder"},
        }
        for place in ("", "top, ", "below a model, ")
        for kind in (f"{place}real", f"{place}discrete")
    },
}


def kinds(model: Model) -> Iterator[tuple[str, str]]:
    """Each layer's name and kind."""
    heights = [name.split(".").count("prior") for name, _ in model.all_stacks()]
    for height, (modality, stack) in zip(heights, model.all_stacks(), strict=True):
        for level in range(len(stack.layers)):
            at_top = "top, " if height == max(heights) else "below a model, "
            place = at_top if level == len(stack.layers) - 1 else ""
            sort = "discrete" if is_discrete(stack[level].encoder.family) else "real"
            yield f"{modality}.{level + 1}", f"{place}{sort}"


def table(rule: Rule, model: Model) -> dict[str, set[str]]:
    """Every part a rule yields for a model, and the groups of parameters it reaches."""
    if isinstance(rule, Backprop):
        return {"model.bound": set(zoo.groups(model))}
    expected = {
        f"{name}.{part}": {f"{name}.{side}" for side in sides}
        for name, kind in kinds(model)
        for part, sides in LAYERS[type(rule), kind].items()
        if part != "sleep" or rule.sleep
    }
    tops = {f"{name}.encoder" for name, kind in kinds(model) if kind == "top, real"}
    pleases = tops if isinstance(rule, TargetPropagation) else set()
    if isinstance(rule, TargetPropagation):
        expected |= boundaries(model)
    reaches = pleases | ({"prior"} if trainable(model.summit) else set())
    if reaches:
        expected["prior.loss"] = reaches
    return expected


def boundaries(model: Model) -> dict[str, set[str]]:
    """What the layers of a model that is a prior tell the real layers right below them."""
    found: dict[str, set[str]] = {}
    for prefix, each in chain(model):
        if isinstance(each.prior, Model):
            tops = {n: s for n, s in each.named_stacks() if len(s.layers)}
            names = [f"{prefix}{n}.{len(s.layers)}" for n, s in tops.items()]
            real = [
                n
                for s, n in zip(tops.values(), names, strict=True)
                if not is_discrete(s[-1].encoder.family)
            ]
            name = names[0] if len(names) == 1 else f"{prefix}top"
            if real:
                found[f"{name}.target"] = {f"{n}.encoder" for n in real}
    return found


def chain(model: Prior, prefix: str = "") -> Iterator[tuple[str, Model]]:
    """A model, the model that is its prior, and so on, with the prefix of their layers' names."""
    if isinstance(model, Model):
        yield prefix, model
        yield from chain(model.prior, f"{prefix}prior.")


def reached(part: Tensor, groups: dict[str, list[nn.Parameter]]) -> set[str]:
    """The groups of which at least one parameter gets a gradient."""
    every = [p for parameters in groups.values() for p in parameters]
    slopes = torch.autograd.grad(part, every, allow_unused=True, retain_graph=True)
    of = {id(p): slope for p, slope in zip(every, slopes, strict=True)}
    gets = {n: [of[id(p)] for p in parameters] for n, parameters in groups.items()}
    return {n for n, found in gets.items() if any(s is not None and s.any() for s in found)}


every_training = pytest.mark.parametrize(("model_name", "rule_name"), list(zoo.trainings()))
some_trainings = pytest.mark.parametrize(
    ("model_name", "rule_name"), list(zoo.trainings("three-layers", "two-modalities", "mixed"))
)


@every_training
@pytest.mark.parametrize("holes", [False, True])
def test_every_part_reaches_what_the_table_says(
    model_name: str, rule_name: str, holes: bool
) -> None:
    model, rule = zoo.models()[model_name](), zoo.rules()[rule_name]()
    groups = zoo.groups(model)
    found = {
        name: reached(part, groups)
        for term in rule(model, zoo.batch(model, holes=holes))
        for name, part in term.parts.items()
    }
    assert found == table(rule, model)


@every_training
def test_together_the_terms_reach_every_parameter(model_name: str, rule_name: str) -> None:
    model, rule = zoo.models()[model_name](), zoo.rules()[rule_name]()
    found = zoo.gradients(model, zoo.batch(model, holes=True), rule)
    untold = {name for name, slope in found.items() if not slope.any()}
    # a label and a modality's code are seen or not: no encoder meets a row that is seen in part
    whole = ("stacks.label.layers.0", "prior.stacks", "prior.prior.stacks")
    assert all(n.startswith(whole) and n.endswith("encoder.net.missing.weight") for n in untold)


@some_trainings
def test_terms_may_go_backward_one_by_one_or_all_at_once(model_name: str, rule_name: str) -> None:
    model, rule = zoo.models()[model_name](), zoo.rules()[rule_name]()
    batch = zoo.batch(model, holes=True)
    one_by_one = zoo.gradients(model, batch, rule)
    torch.manual_seed(zoo.SEED)
    model.zero_grad()
    terms = [term for term in list(rule(model, batch)) if term.parts]
    torch.stack([term.value for term in terms]).sum().backward()
    zoo.assert_same(one_by_one, zoo.told(model))


@some_trainings
def test_accounts_and_values_are_finite_and_plain(model_name: str, rule_name: str) -> None:
    model, rule = zoo.models()[model_name](), zoo.rules()[rule_name]()
    for term in rule(model, zoo.batch(model, holes=True)):
        for value in (*term.parts.values(), *term.account.values()):
            assert value.shape == ()
            assert torch.isfinite(value)
        assert not any(value.requires_grad for value in term.account.values())


@some_trainings
def test_a_rule_leaves_the_model_as_it_was(model_name: str, rule_name: str) -> None:
    model, rule = zoo.models()[model_name](), zoo.rules()[rule_name]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    zoo.gradients(model, zoo.batch(model), rule)
    assert all(p.requires_grad for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def terms_of(model: Model, batch: Batch, rule: Rule) -> dict[str, Tensor]:
    torch.manual_seed(zoo.SEED)
    return {n: p.detach() for term in rule(model, batch) for n, p in term.parts.items()}


@some_trainings
def test_what_is_not_seen_changes_no_term_and_no_gradient(model_name: str, rule_name: str) -> None:
    model, rule = zoo.models()[model_name](), zoo.rules()[rule_name]()
    batch = zoo.batch(model, holes=True)
    x = {n: torch.where(batch.seen[n], v, 1e30) for n, v in batch.x.items()}
    outcomes = []
    for filled in (batch, Batch.of(x, batch.seen)):
        slopes = zoo.gradients(model, filled, rule)
        outcomes.append({**slopes, **terms_of(model, filled, rule)})
    assert outcomes[0].keys() == outcomes[1].keys()
    assert all(torch.equal(outcomes[0][name], outcomes[1][name]) for name in outcomes[0])


@pytest.mark.parametrize("rule_name", zoo.rules())
@pytest.mark.parametrize(("hidden", "shown"), [("image", "label"), ("label", "image")])
def test_rows_that_show_nothing_of_a_modality_teach_its_layers_nothing(
    rule_name: str, hidden: str, shown: str
) -> None:
    model, rule = zoo.two_modalities(), zoo.rules()[rule_name]()
    x = zoo.batch(model).x
    batch = Batch.of(x, {hidden: torch.zeros(x[hidden].shape, dtype=torch.bool)})
    found = zoo.gradients(model, batch, rule)
    assert not any(slope.any() for name, slope in found.items() if f".{hidden}." in name)
    assert all(slope.any() for n, slope in found.items() if f".{shown}.layers.0.decoder" in n)


@some_trainings
def test_a_frozen_layer_stays_and_the_others_learn_the_same(
    model_name: str, rule_name: str
) -> None:
    model, rule = zoo.models()[model_name](), zoo.rules()[rule_name]()
    batch = zoo.batch(model)
    free = zoo.gradients(model, batch, rule)
    name, stack = model.named_stacks()[0]
    stack[0].requires_grad_(False)
    frozen = zoo.gradients(model, batch, rule)
    inside = f"stacks.{name}.layers.0."
    assert not any(slope.any() for n, slope in frozen.items() if n.startswith(inside))
    zoo.assert_same(
        {n: g for n, g in free.items() if not n.startswith(inside)},
        {n: g for n, g in frozen.items() if not n.startswith(inside)},
    )


class _Saved:
    """A tensor that a graph keeps, counted as long as the graph does."""

    def __init__(self, tensor: Tensor, counter: dict[str, int]) -> None:
        self.tensor, self.counter = tensor, counter
        self.bytes = tensor.numel() * tensor.element_size()
        counter["now"] += self.bytes
        counter["most"] = max(counter["most"], counter["now"])

    def __del__(self) -> None:
        self.counter["now"] -= self.bytes


def most_bytes(depth: int, rule: Rule, width: int = 16) -> int:
    """The most bytes that graphs keep at once while a rule's terms go backward one by one."""
    stack = Stack.build(Gaussian(width), (width,) * depth, units=(width,))
    model = Model(stack, GaussianPrior(width, "diagonal"))
    counter = {"now": 0, "most": 0}

    def pack(tensor: Tensor) -> Any:
        # parameters are not activations: they are there in any case
        return tensor if isinstance(tensor, nn.Parameter) else _Saved(tensor, counter)

    def unpack(saved: Any) -> Tensor:
        return saved.tensor if isinstance(saved, _Saved) else saved

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        for term in rule(model, Batch.of(torch.randn(64, width))):
            term.value.backward()
    return counter["most"]


def test_graphs_of_target_propagation_do_not_grow_with_depth() -> None:
    rule = TargetPropagation()
    assert most_bytes(12, rule) == most_bytes(3, rule) > 0


def test_graphs_of_back_propagation_grow_with_depth() -> None:
    rule = Backprop()
    assert most_bytes(12, rule) > 3 * most_bytes(3, rule)

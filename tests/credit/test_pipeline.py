"""Pipelines make the updates of one process, at once or one update late, in any number of them."""

import multiprocessing
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import credit_processes as processes
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import SGD, Adam

from genprop.conditional import Bernoulli, Gaussian
from genprop.credit import pipeline
from genprop.credit.component_stage import component_stages
from genprop.credit.generative_stage import generative_stages
from genprop.credit.link import Wire
from genprop.credit.network import CreditNetwork
from genprop.credit.pipeline import train_in_turns, train_together
from genprop.credit.split import split
from genprop.credit.stage import Passing, Stage, passing_loss
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.target import TargetPropagation
from genprop.seeds import seeded
from genprop.stack import Stack
from genprop.validation import mean_bound

PATIENCE = 240  # seconds for two processes that import torch on a busy machine
every_split = pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1), (1, 2), (3,)])
both_kinds = pytest.mark.parametrize("kind", processes.KINDS)


def in_turns(kind: str, sizes: tuple[int, ...]) -> list[dict[str, Tensor]]:
    stages = processes.KINDS[kind](sizes)
    steps = processes.optimizers(stages)
    train_in_turns(stages, steps, processes.UPDATES, processes.batches(kind), processes.SEED)
    return [processes.weights(stage) for stage in stages]


@every_split
def test_components_make_the_very_updates_of_the_rule(sizes: tuple[int, ...]) -> None:
    network, rule = processes.al_network()
    optimizer = Adam([*network.parameters(), *rule.parameters()], 0.01)
    for x, wanted in processes.batches("components"):
        optimizer.zero_grad()
        for term in rule(network, x, wanted.argmax(1)):
            term.value.backward()
        optimizer.step()
    own_network, own_rule = processes.al_network()
    stages = component_stages(own_network, own_rule, sizes)
    data = processes.batches("components")
    train_in_turns(stages, processes.optimizers(stages), processes.UPDATES, data)
    for one, other in ((network, own_network), (rule, own_rule)):
        for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q), name


@every_split
def test_without_delay_generative_stages_make_the_updates_of_the_rule(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the order in which gradients are added; the draws follow one another as the rule's."""
    monkeypatch.setattr(pipeline, "seeded", lambda seed: nullcontext())
    model, own = processes.generative_model(), processes.generative_model()
    optimizer = SGD(model.parameters(), 0.1)
    torch.manual_seed(0)
    for (x,) in processes.batches("generative"):
        optimizer.zero_grad()
        for term in TargetPropagation()(model, Batch.of(x)):
            term.value.backward()
        optimizer.step()
    stages = generative_stages(own, sizes)
    torch.manual_seed(0)
    steps = [SGD(stage.parameters(), 0.1) for stage in stages]
    train_together(stages, steps, processes.batches("generative"))
    for (name, p), q in zip(model.named_parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=name)


class Delayed:
    """One process that has every stage's weights of every update at hand: the delay spelt out."""

    def __init__(self, stages: list[Stage]) -> None:
        self.now = stages
        self.steps = processes.optimizers(stages)
        self.versions = [[deepcopy(stage)] for stage in stages]

    def pass_(self, stage: Stage, place: int, number: int, h: Tensor) -> Passing:
        with seeded(processes.SEED + number * pipeline.STAGES + place):
            return stage(h)

    def update(self, number: int, h: Tensor) -> None:
        heard, credits = [], []
        for place, versions in enumerate(self.versions):
            late = 1 if self.now[place].waits else 0
            old = versions[max(number - late, 0)]
            passing = self.pass_(old, place, number, h)
            heard.append(h)
            credits.append(passing.down)
            (h,) = passing.up
        for place, stage in enumerate(self.now):
            passing = self.pass_(stage, place, number, heard[place])
            loss = passing_loss(passing, [*credits[1:], None][place])
            self.steps[place].zero_grad()
            loss.backward()
            self.steps[place].step()
            self.versions[place].append(deepcopy(stage))


@every_split
def test_a_stage_that_waits_is_one_update_late(sizes: tuple[int, ...]) -> None:
    reference = Delayed(processes.generative(sizes))
    for number, (x,) in enumerate(processes.batches("generative")):
        reference.update(number, x)
    for stage, found in zip(reference.now, in_turns("generative", sizes), strict=True):
        for name, p in stage.named_parameters():
            assert torch.equal(p, found[name]), name


def test_a_delay_changes_updates() -> None:
    """Else the test above would show nothing."""
    stages = processes.generative((1, 1, 1))
    steps = processes.optimizers(stages)
    train_together(stages, steps, processes.batches("generative"), processes.SEED)
    late = in_turns("generative", (1, 1, 1))[0]
    assert any(not torch.allclose(p, late[name]) for name, p in stages[0].named_parameters())


def test_one_update_late_learns_as_well() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 2) @ torch.randn(2, 7) + 0.1 * torch.randn(200, 7)
    data = [(x[torch.randint(200, (50,))],) for _ in range(100)]
    ends = []
    for late in (False, True):
        torch.manual_seed(0)
        model = Model(Stack.build(Gaussian(7), (4, 2), units=(16,)), GaussianPrior(2))
        stages = generative_stages(model)
        steps = [Adam(stage.parameters(), 0.01) for stage in stages]
        if late:
            train_in_turns(stages, steps, 100, data)
        else:
            train_together(stages, steps, data)
        ends.append(-mean_bound(model, Batch.of(x), 20))
    start = -mean_bound(Model(Stack.build(Gaussian(7), (4, 2)), GaussianPrior(2)), Batch.of(x), 20)
    assert max(ends) < start - 1
    assert abs(ends[0] - ends[1]) < 0.3


def test_two_processes_make_the_updates_of_one(tmp_path: Path) -> None:
    sizes = (2, 1)
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=processes.run, args=(rank, tmp_path, sizes), daemon=True)
        for rank in range(len(sizes))
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0, 0]
    for kind in processes.KINDS:
        for rank, expected in enumerate(in_turns(kind, sizes)):
            found = load_file(tmp_path / f"{kind}-{rank}.safetensors")
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_wire_tells_shapes_once_and_refuses_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Tensor] = []
    monkeypatch.setattr(torch.distributed, "isend", lambda tensor, peer: sent.append(tensor))
    wire = Wire(1, torch.device("cpu"))
    for _ in range(20):
        wire.send((torch.zeros(3, 2), torch.zeros(3)))
    assert len(sent) == 3 + 2 * 20
    monkeypatch.setattr(torch.distributed, "recv", lambda into, peer: into.copy_(sent.pop(0)))
    for _ in range(20):
        assert [part.shape for part in wire.take()] == [(3, 2), (3,)]
    with pytest.raises(ValueError, match="the same number of rows"):
        wire.send((torch.zeros(2, 2), torch.zeros(2)))
    wire.close()
    with pytest.raises(ValueError, match="real tensors"):
        Wire(1, torch.device("cpu")).send((torch.zeros(2, dtype=torch.int64),))


def test_what_no_pipeline_can_train_is_refused() -> None:
    network, rule = processes.al_network()
    with pytest.raises(ValueError, match="made for another network"):
        component_stages(CreditNetwork.build(7, (9,), 3), rule)
    with pytest.raises(ValueError, match="sizes are"):
        component_stages(network, rule, (1, 1))
    for sizes in ((3, 0), (2, 2), ()):
        with pytest.raises(ValueError, match="sizes are"):
            split(3, sizes)
    stack = Stack.build(Gaussian(4), (3,))
    two = Model({"a": stack, "b": Stack.build(Bernoulli(4), (3,))}, GaussianPrior(6))
    with pytest.raises(ValueError, match="2 stacks"):
        generative_stages(two)
    discrete = Model(Stack.build(Bernoulli(4), (3,), "bernoulli"), FactorialPrior(Bernoulli(3)))
    with pytest.raises(ValueError, match="discrete"):
        generative_stages(discrete)
    low = generative_stages(processes.generative_model())[:1]
    with pytest.raises(ValueError, match="above it"):
        train_in_turns(low, processes.optimizers(low), 1, [])

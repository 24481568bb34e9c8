"""The training loop: what it promises of bounds, best weights, trouble and interruption."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from genprop.conditional import Bernoulli, Gaussian
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Term
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.stack import Stack
from genprop.train import Trainer
from genprop.validation import mean_bound


def bits(rows=64, columns=6):
    """Rows in which all columns agree but for noise: something to learn."""
    common = torch.rand(rows, 1) < 0.5
    flipped = torch.rand(rows, columns) < 0.1
    return Batch.of((common ^ flipped).float())


def model(columns=6, hidden=(4, 2)):
    return Model(Stack.build(Bernoulli(columns), hidden, units=(16,)), GaussianPrior(hidden[-1]))


RULES = [
    TargetPropagation(1),
    TargetPropagation(5),
    TargetPropagation(1, "long"),
    TargetPropagation(1, "difference"),
    ReweightedWakeSleep(5),
    Backprop(1),
    Backprop(5, "iwae"),
    Backprop(5, "dreg"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{type(r).__name__}{list(vars(r).values())}")
def test_every_rule_learns(rule):
    net, data = model(), bits()
    before = mean_bound(net, data, 20)
    history = Trainer(epochs=60, lr=1e-2, verbose=0).fit(net, rule, data)
    assert mean_bound(net, data, 20) > before + 0.5
    assert len(history) == 60


def test_the_account_adds_up_to_the_bound():
    net, data = model(), bits()
    history = Trainer(epochs=2, verbose=0).fit(net, Backprop(1), data)
    row = history[-1]
    layers = [v for k, v in row.items() if k.endswith((".reconstruction", ".entropy"))]
    assert row["train"] == pytest.approx(sum(layers) + row["prior"], rel=1e-9)
    assert row["kl"] == pytest.approx(row["train"] - data.entropy(), rel=1e-9)
    assert row["data"] == pytest.approx(-data.entropy())


def test_local_and_global_rules_keep_the_same_account():
    rows = []
    for rule in (TargetPropagation(1), Backprop(1)):
        torch.manual_seed(3)
        rows.append(Trainer(epochs=1, batch_size=64, verbose=0).fit(model(), rule, bits())[0])
    # one records the mean of log Q, the other that of the draws: the rest is the same noise's
    shared = [k for k in rows[1] if k.endswith(".reconstruction") or k in ("prior", "data")]
    assert len(shared) == 4
    for key in shared:
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-5, nan_ok=True), key
    for key in ("x.1.entropy", "x.2.entropy"):
        # 64 rows of at most 4 units: log Q of a draw has a variance of 1/2 for each
        assert abs(rows[0][key] - rows[1][key]) < 5 * (4 / 2 / 64) ** 0.5


def test_best_weights_come_back():
    net, data, held = model(), bits(16), bits(64)
    torch.manual_seed(1)
    history = Trainer(epochs=150, lr=3e-2, patience=None, verbose=0).fit(
        net, TargetPropagation(1), data, held
    )
    bounds = [row["validation"] for row in history]
    assert min(bounds) < bounds[-1], "it did overfit"
    assert -mean_bound(net, held, 50) < bounds[-1]


def test_patience_stops_early():
    history = Trainer(epochs=500, lr=3e-2, patience=5, verbose=0).fit(
        model(), TargetPropagation(1), bits(16), bits(64)
    )
    best = int(np.argmin([row["validation"] for row in history])) + 1
    assert len(history) == best + 5 < 500


@pytest.mark.parametrize(
    ("schedule", "last"), [("constant", 1.0), ("cosine", 0.01), ("onecycle", 0.01)]
)
def test_schedules_end_where_they_say(schedule, last):
    history = Trainer(epochs=20, lr=1e-3, schedule=schedule, verbose=0).fit(
        model(), TargetPropagation(1), bits()
    )
    assert history[-1]["lr"] == pytest.approx(1e-3 * last, abs=1.2e-5)


def test_a_schedule_may_be_a_function():
    history = Trainer(epochs=2, lr=1.0, schedule=lambda done: 1e-3, verbose=0).fit(
        model(), TargetPropagation(1), bits()
    )
    assert history[-1]["lr"] == 1e-3


class Poisoned(TargetPropagation):
    """Yields a loss that is not finite from a given update on, for so many updates."""

    def __init__(self, first, times):
        super().__init__(1)
        self.first, self.times, self.calls = first, times, 0

    def __call__(self, model, batch):
        self.calls += 1
        bad = self.first <= self.calls < self.first + self.times
        for term in super().__call__(model, batch):
            factor = math.nan if bad and term.name == "x.1" else 1.0
            parts = {name: part * factor for name, part in term.parts.items()}
            account = {name: value * factor for name, value in term.account.items()}
            yield Term(term.name, parts, account)


def test_a_non_finite_loss_goes_back_and_lowers_the_step():
    net = model()
    with pytest.warns(
        UserWarning, match=r"reconstruction of layer x\.1 was nan in batch 3 of epoch 2"
    ):
        history = Trainer(epochs=3, batch_size=16, lr=1e-3, verbose=0).fit(
            net, Poisoned(first=7, times=1), bits()
        )
    assert [row["lr"] for row in history] == [1e-3, 5e-4, 5e-4]
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_a_loss_that_stays_non_finite_is_an_error_and_the_last_good_weights_stay():
    net = model()
    with (
        pytest.warns(UserWarning, match="halved the learning rate"),
        pytest.raises(FloatingPointError, match="Scale the data, lower lr"),
    ):
        Trainer(epochs=3, batch_size=16, verbose=0).fit(net, Poisoned(7, 10**6), bits())
    assert all(torch.isfinite(p).all() for p in net.parameters())


class Interrupted(TargetPropagation):
    def __init__(self, after):
        super().__init__(1)
        self.left = after

    def __call__(self, model, batch):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        yield from super().__call__(model, batch)


def test_an_interrupt_keeps_the_model():
    net, data = model(), bits()
    with pytest.warns(UserWarning, match="interrupted in epoch 4"):
        history = Trainer(epochs=50, batch_size=64, lr=1e-2, verbose=0).fit(
            net, Interrupted(3), data, bits(20)
        )
    assert len(history) == 3
    assert -mean_bound(net, data, 1) < history[0]["train"]


def test_clipping_bounds_each_layers_gradient():
    net, data = model(), bits()
    Trainer(epochs=1, batch_size=64, clip=1e-3, optimizer="sgd", lr=1e-9, verbose=0).fit(
        net, TargetPropagation(1), data
    )
    for layer in net.stacks["x"].layers:
        squares = [p.grad.square().sum() for p in layer.parameters() if p.grad is not None]
        assert torch.stack(squares).sum().sqrt() <= 1e-3 * 1.001


def test_weight_decay_is_the_optimizers() -> None:
    """One update of AdamW takes lr · λ of every parameter more away."""
    begun, data = model(), bits()
    plain, decayed = deepcopy(begun), deepcopy(begun)
    for each, rate in ((plain, 0.0), (decayed, 3.0)):
        how = {"epochs": 1, "batch_size": 64, "optimizer": "adamw", "lr": 0.01, "verbose": 0}
        torch.manual_seed(0)
        Trainer(**how, weight_decay=rate).fit(each, TargetPropagation(1), data)
    for start, a, b in zip(*(m.parameters() for m in (begun, plain, decayed)), strict=True):
        assert torch.allclose(a - b, 0.03 * start, atol=1e-6)


def test_weight_decay_reaches_optimizers_of_the_user_only_if_asked_for() -> None:
    told = []

    def make(parameters, **how):
        told.append(how)
        return torch.optim.SGD(parameters, **how)

    for rate in (None, 0.5):
        how = Trainer(epochs=1, optimizer=make, weight_decay=rate, verbose=0)
        how.fit(model(), TargetPropagation(1), bits())
    assert told == [{"lr": 1e-3}, {"lr": 1e-3, "weight_decay": 0.5}]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", torch.optim.NAdam])
def test_optimizers_by_name_or_class(optimizer):
    Trainer(epochs=1, optimizer=optimizer, verbose=0).fit(model(), TargetPropagation(1), bits())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("64", torch.float64), ("bf16-mixed", torch.float32)]
)
def test_precisions(precision, dtype):
    net = model()
    Trainer(epochs=1, precision=precision, verbose=0).fit(net, TargetPropagation(1), bits())
    assert next(net.parameters()).dtype == dtype


def test_hiding_teaches_encoders_to_do_without():
    data = bits(400)
    half = Batch.of(data.x["x"], torch.arange(6).expand(400, 6) < 3)
    bounds = []
    for hide in (0.0, 0.7):
        torch.manual_seed(0)
        net = model()
        Trainer(epochs=30, lr=1e-2, hide=hide, verbose=0).fit(net, TargetPropagation(1), data)
        bounds.append(mean_bound(net, half, 1))
    assert bounds[1] > bounds[0]


def test_gaussian_data_of_any_scale_trains_without_trouble():
    x = torch.randn(64, 3) * torch.tensor([1e-8, 1.0, 1e4])
    net = Model(Stack.build(Gaussian(3), (2,), units=(8,)), GaussianPrior(2))
    history = Trainer(epochs=5, lr=1e-2, clip=1.0, verbose=0).fit(
        net, TargetPropagation(1), Batch.of(x)
    )
    assert all(math.isfinite(row["train"]) for row in history)


def test_training_twice_with_a_seed_gives_the_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        net = model()
        Trainer(epochs=3, verbose=0).fit(net, TargetPropagation(5), bits())
        states.append(net.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_data_that_do_not_fit_are_refused_before_training():
    with pytest.raises(ValueError, match="its stack expects 6"):
        Trainer(verbose=0).fit(model(), TargetPropagation(1), bits(columns=5))

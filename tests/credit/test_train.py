"""The loop: what it learns, what it keeps apart, and what it refuses."""

import credit_zoo as zoo
import pytest
import torch
from torch import Tensor

from genprop.credit.alignment import DirectFeedbackAlignment, FeedbackAlignment
from genprop.credit.backprop import BackPropagation
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import CreditRule
from genprop.credit.train import CreditTrainer, evaluate
from genprop.train import Trainer


def quick(epochs: int = 1, lr: float = 0.1, optimizer: str = "sgd", **settings: object) -> Trainer:
    return Trainer(
        epochs=epochs,
        lr=lr,
        batch_size=10,
        optimizer=optimizer,
        device="cpu",
        **settings,  # type: ignore[arg-type]
    )


def blobs(rows: int = 90) -> tuple[Tensor, Tensor]:
    """Three classes around three points."""
    y = torch.arange(rows) % 3
    return 2 * torch.eye(3, 7)[y] + 0.4 * torch.randn(rows, 7), y


def test_one_step_is_the_optimizers_step_along_the_gradient() -> None:
    network = zoo.network("tanh")
    x, y = zoo.data(network, rows=10)
    before = [p.detach().clone() for p in network.parameters()]
    slopes = torch.autograd.grad(network.loss(network(x), y).mean(), list(network.parameters()))
    trainer = CreditTrainer(quick(precision="64"), rates=(1.0, 2.0, 3.0, 0.0))
    (row,) = trainer.fit(network, BackPropagation(), x, y)
    factors = [0.1 * rate for rate in (1, 1, 2, 2, 3, 3, 0, 0)]
    for p, old, slope, factor in zip(network.parameters(), before, slopes, factors, strict=True):
        torch.testing.assert_close(p.detach(), old - factor * slope)
    assert row["updates"] == 1


@pytest.mark.parametrize(
    "make", [lambda n: BackPropagation(), FeedbackAlignment, DirectFeedbackAlignment]
)
def test_rules_learn_three_blobs(make: object) -> None:
    network = CreditNetwork.build(7, (12, 12), 3)
    rule: CreditRule = make(network)  # type: ignore[operator]
    history = CreditTrainer(quick(20)).fit(network, rule, *blobs(), validation=blobs())
    assert history[-1]["accuracy"] > 0.95
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_callbacks_see_every_epoch_and_add_to_its_row() -> None:
    network = CreditNetwork.build(7, (4,), 3)
    rows = CreditTrainer(quick(3)).fit(
        network,
        BackPropagation(),
        *blobs(),
        callbacks=[lambda n, r, row: {"twice": 2 * row["epoch"]}],
    )
    assert [row["twice"] for row in rows] == [2.0, 4.0, 6.0]


def test_minutes_end_training() -> None:
    network = CreditNetwork.build(7, (4,), 3)
    trainer = CreditTrainer(quick(1000), minutes=1e-9)
    assert len(trainer.fit(network, BackPropagation(), *blobs())) == 1


def test_a_loss_that_is_not_finite_is_told() -> None:
    network = CreditNetwork.build(7, (4,), 3, "relu", cost="squared")
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        CreditTrainer(quick(20, lr=1e6)).fit(network, BackPropagation(), *blobs())


def test_what_does_not_fit_is_refused() -> None:
    network = CreditNetwork.build(7, (4,), 3)
    with pytest.raises(ValueError, match="one factor for each of 2 blocks"):
        CreditTrainer(rates=(1.0,)).fit(network, BackPropagation(), *blobs())
    with pytest.raises(ValueError, match="minutes are positive"):
        CreditTrainer(minutes=0.0)
    sign = CreditNetwork.build(7, (4,), 3, "sign")
    with pytest.raises(ValueError, match="straight_through"):
        CreditTrainer(quick()).fit(sign, BackPropagation(), *blobs())


def test_stochastic_networks_are_judged_by_the_mean_of_passes() -> None:
    network = zoo.network("bernoulli")
    x, y = zoo.data(network)
    found, _ = evaluate(network, BackPropagation(True), x, y, passes=500)
    with torch.no_grad():
        mean = torch.stack([network(x).softmax(-1) for _ in range(500)]).mean(0)
    exact = -mean[torch.arange(len(y)), y].log().mean()
    assert found == pytest.approx(float(exact), abs=0.1)

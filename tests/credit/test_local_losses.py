"""Rules whose layers have losses of their own: goodness, correlation with the score, components."""

import credit_zoo as zoo
import pytest
import torch
from torch import Tensor

from genprop.credit.alignment import DirectFeedbackAlignment
from genprop.credit.associated import AssociatedLearning
from genprop.credit.broadcast import ScoreBroadcast
from genprop.credit.covariance import CovarianceGoodness, features
from genprop.credit.goodness import ForwardForward, goodness, levelled
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import CreditRule, predict
from genprop.credit.train import CreditTrainer
from genprop.train import Trainer


def blobs(rows: int = 90, inputs: int = 7) -> tuple[Tensor, Tensor]:
    """Three classes around three points of the last inputs; the first ones are free for labels."""
    y = torch.arange(rows) % 3
    x = torch.cat([torch.zeros(rows, 3), 1.5 * torch.eye(3, inputs - 3)[y]], 1)
    return x + 0.2 * torch.randn(rows, inputs), y


@pytest.mark.parametrize(
    ("make", "lr"),
    [
        (lambda network: ForwardForward(2.0, ink=2.0), 0.02),
        (lambda network: CovarianceGoodness(network, 8), 0.03),
        (lambda network: AssociatedLearning(network, 16), 0.02),
    ],
)
def test_they_learn_three_blobs(make: object, lr: float) -> None:
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (32, 32), 3, "relu")
    rule: CreditRule = make(network)  # type: ignore[operator]
    how = Trainer(epochs=20, batch_size=15, lr=lr, device="cpu")
    rows = CreditTrainer(how).fit(network, rule, *blobs(), validation=blobs())
    assert rows[-1]["accuracy"] > 0.95
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_score_broadcast_makes_layers_uncorrelated_with_the_score() -> None:
    """The output held still, what the hidden layers descend is the squared correlation."""
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (16, 16), 3)
    x, y = blobs()

    def correlations() -> list[float]:
        path = network.path(x)
        score = network.score(path[-1], y)
        return [float((h.mT @ score / len(x)).square().sum()) for h in path[1:-1]]

    before = correlations()
    how = Trainer(epochs=40, batch_size=90, lr=0.5, optimizer="sgd", device="cpu")
    rule = ScoreBroadcast(network, memory=0.0)
    CreditTrainer(how, rates=(0.0, 1.0, 0.0)).fit(network, rule, x, y)
    assert correlations()[1] < 0.2 * before[1]


def test_layers_see_directions_of_mean_square_one() -> None:
    h = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(goodness(levelled(h)), torch.ones(5))
    torch.testing.assert_close(levelled(7 * h), levelled(h))


def test_a_label_is_told_in_place_of_the_first_elements_and_judged_by_goodness() -> None:
    network = zoo.network("tanh")
    rule = ForwardForward(ink=2.0)
    x, y = zoo.data(network)
    told = rule._with(network, x, y)
    assert torch.equal(told[:, :3], 2.0 * network.wanted(y))
    assert torch.equal(told[:, 3:], x[:, 3:])
    scores = rule.predict(network, x)
    h = rule._with(network, x, torch.full((len(x),), 1))
    total = torch.zeros(len(x), dtype=x.dtype)
    for level, block in enumerate(network.layers[:-1]):
        h = block(h)
        total = total + (goodness(h) if level else 0)
        h = levelled(h)
    torch.testing.assert_close(scores[:, 1], total.detach())


def test_squares_of_projections_are_quadratic_forms_of_the_second_moments() -> None:
    h, directions = torch.randn(6, 5), torch.randn(4, 5)
    found = features(h, directions)[:, 5:]
    moments = h[:, :, None] * h[:, None, :]
    torch.testing.assert_close(
        found, torch.einsum("pc,rcd,pd->rp", directions, moments, directions)
    )


def test_image_features_are_means_over_the_whole_and_its_quarters() -> None:
    h, directions = torch.randn(2, 3, 4, 4), torch.zeros(0, 3)
    found = features(h, directions)
    assert found.shape == (2, 3 * 5)
    torch.testing.assert_close(found[:, :3], h.square().mean((2, 3)))
    torch.testing.assert_close(found[:, 3:].view(2, 3, 4).mean(2), found[:, :3])


@pytest.mark.parametrize("cost", ["squared", "cross-entropy"])
def test_what_predicts_the_conditional_law_is_told_nothing(cost: str) -> None:
    """A score of mean zero given x correlates with no function of x."""
    torch.manual_seed(0)
    network = CreditNetwork.build(4, (5, 5), 2, cost=cost).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    if cost == "squared":
        noise = torch.randn(6, 2, dtype=torch.float64)
        y = torch.cat([network(x).detach() + noise, network(x).detach() - noise])
    else:
        network.layers[-1].weight.data.zero_()
        network.layers[-1].bias.data.zero_()
        y = torch.cat([torch.zeros(6), torch.ones(6)]).long()
    x = torch.cat([x, x])
    rule = ScoreBroadcast(network, memory=0.0).double()
    slopes = zoo.told(network, rule, x, y)
    assert all(slope.abs().max() < 1e-12 for slope in slopes.values())
    assert (
        zoo.told(network, rule, x, y.flip(0) + 1 if cost == "squared" else y * 0)["layer.1"]
        .abs()
        .max()
        > 1e-4
    )


def test_score_broadcast_descends_the_squared_correlation_and_the_entropy() -> None:
    network = zoo.network("tanh")
    x, y = zoo.data(network, rows=9)
    rule = ScoreBroadcast(network, memory=0.0, power=0.7, entropy=0.3, ridge=0.1).double()
    found = zoo.told(network, rule, x, y)
    score = network.score(network.path(x)[-1], y)
    for layer in (1, 2, 3):
        h = network.layers[layer - 1](network.path(x)[layer - 1])
        covariance = h.mT @ h / len(h) + 0.1 * torch.eye(h.shape[1])
        value = 0.5 * (h.mT @ score / len(h)).square().sum()
        value = value + 0.5 * 0.7 * (h.square().mean(0) - 0.3).square().sum()
        value = value - 0.3 * 0.5 * torch.logdet(covariance)
        slopes = torch.autograd.grad(value, list(network.layers[layer - 1].parameters()))
        expected = torch.cat([s.flatten() for s in slopes])
        torch.testing.assert_close(found[f"layer.{layer}"], expected)


def test_averages_remember_batches() -> None:
    network = zoo.network("tanh")
    rule = ScoreBroadcast(network, memory=0.75).double()
    x, y = zoo.data(network)
    path = network.path(x)
    now = path[1].mT @ network.score(path[-1], y) / len(x)
    for turns in (1, 2):
        list(rule(network, x, y))
        torch.testing.assert_close(rule.correlation(1), (1 - 0.75**turns) * now)


def test_a_long_memory_of_noise_is_direct_feedback_alignment() -> None:
    network = zoo.network("tanh")
    rule = ScoreBroadcast(network, memory=1 - 1e-12, start=1.0).double()
    other = DirectFeedbackAlignment(network)
    for layer in (1, 2, 3):
        other.feedback(layer).copy_(rule.correlation(layer).mT)
    x, y = zoo.data(network)
    expected = zoo.told(network, other, x, y)
    zoo.assert_same(zoo.told(network, rule, x, y), expected, rtol=1e-6, atol=1e-9)


def test_components_depend_on_nothing_above_them() -> None:
    network = zoo.network("tanh")
    rule = zoo.rule("AL", network)
    x, y = zoo.data(network)
    before = zoo.told(network, rule, x, y)
    with torch.no_grad():
        for p in (*network.layers[2].parameters(), *network.layers[3].parameters()):
            p.normal_()
    after = zoo.told(network, rule, x, y)
    assert torch.equal(before["layer.1"], after["layer.1"])
    assert torch.equal(before["layer.2"], after["layer.2"])
    assert not torch.equal(before["layer.3"], after["layer.3"])


def test_the_label_comes_back_by_one_bridge_and_all_decoders() -> None:
    network = zoo.network("tanh")
    rule = zoo.rule("AL", network)
    assert isinstance(rule, AssociatedLearning)
    x, _ = zoo.data(network)
    t = rule.bridges[2](network.path(x)[3])
    for decoder in (rule.decoders[2], rule.decoders[1], rule.decoders[0]):
        t = decoder(t)
    found = predict(network, rule, x)
    torch.testing.assert_close(found, t.detach())
    with torch.no_grad():
        for module in (rule.bridges[0], rule.bridges[1], rule.encoders):
            for p in module.parameters():
                p.normal_()
    assert torch.equal(predict(network, rule, x), found)


def code_distances(rule: AssociatedLearning) -> list[float]:
    """The mean squared distance of labels' codes from their mean, of t_0 and every t_i."""
    t, found = torch.eye(10), []
    for encoder in (None, *rule.encoders):
        t = t if encoder is None else encoder(t).detach()
        found.append(float((t - t.mean(0)).square().sum(1).mean()))
    return found


@pytest.mark.parametrize("unit", ["tanh", "sigmoid"])
def test_codes_of_different_labels_start_apart_at_any_depth(unit: str) -> None:
    """Under Glorot's weights as they are, tanh keeps 1.1, and sigmoids bring the tenth to 1e-12."""
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (4,) * 10, 10, "relu")
    found = code_distances(AssociatedLearning(network, 64, unit=unit))
    assert min(found[1:]) > (5 * found[0] if unit == "tanh" else 5e-4)


def test_a_deep_one_learns() -> None:
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (32,) * 6, 3, "relu")
    how = Trainer(epochs=20, batch_size=15, lr=0.02, device="cpu")
    rows = CreditTrainer(how).fit(
        network, AssociatedLearning(network, 16), *blobs(), validation=blobs()
    )
    assert rows[-1]["accuracy"] > 0.95


def test_a_component_learns_alone_above_one_that_has_learned() -> None:
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (32, 32), 3, "relu")
    rule = AssociatedLearning(network, 16)
    x, y = blobs()

    def train(number: int) -> tuple[float, float]:
        own = [p for m in rule.component(number, network.layers[number]) for p in m.parameters()]
        optimizer = torch.optim.Adam(own, 0.01)
        losses = []
        for _ in range(100):
            optimizer.zero_grad()
            term = list(rule(network, x, y))[number]
            term.value.backward()
            optimizer.step()
            losses.append(float(term.value.detach()))
        return losses[0], losses[-1]

    ends = [train(0)]
    below = [
        p.detach().clone() for m in rule.component(0, network.layers[0]) for p in m.parameters()
    ]
    ends.append(train(1))
    now = [p for m in rule.component(0, network.layers[0]) for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(below, now, strict=True))
    assert all(end < 0.1 * start for start, end in ends)
    assert (rule.predict(network, x).argmax(1) == y).double().mean() > 0.95


def test_what_does_not_fit_is_refused() -> None:
    network = zoo.network("tanh")
    other = CreditNetwork.build(7, (9,), 3)
    for name in ("covariance FF", "SBD", "AL"):
        with pytest.raises(ValueError, match="made for another network"):
            zoo.rule(name, network).check(other)
    for make in (
        lambda: CovarianceGoodness(network, -1),
        lambda: ScoreBroadcast(network, memory=1.0),
        lambda: AssociatedLearning(network, 0),
        lambda: AssociatedLearning(network, unit="sign"),
    ):
        with pytest.raises(ValueError, match=r"got|is -1|is 'sign'"):
            make()
    flat = CreditNetwork.build(7, (), 3)
    for rule in (ForwardForward(), CovarianceGoodness(flat), AssociatedLearning(flat)):
        with pytest.raises(ValueError, match="hidden layer"):
            rule.check(flat)
    with pytest.raises(ValueError, match="too small"):
        ForwardForward().check(CreditNetwork.build(2, (4,), 3))
    with pytest.raises(ValueError, match="no label is wrong"):
        ForwardForward().check(CreditNetwork.build(2, (4,), 1))

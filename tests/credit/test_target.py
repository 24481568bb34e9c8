"""Target propagation: what exact inverses, transposes and the optima of each loss come to."""

import credit_zoo as zoo
import pytest
import torch
from torch import Tensor

from genprop.credit.backprop import BackPropagation
from genprop.credit.block import Block
from genprop.credit.inverse import Inverse, reconstruction_errors
from genprop.credit.measure import agreement
from genprop.credit.network import CreditNetwork
from genprop.credit.reconstruction import Reconstruction
from genprop.credit.target import TargetPropagation, contraction
from genprop.credit.train import CreditTrainer, evaluate
from genprop.train import Trainer

STARTS = pytest.mark.parametrize("start", ["hidden", "output"])


def square(width: int = 4, depth: int = 4) -> CreditNetwork:
    """A linear network of one width, its weights well conditioned."""
    torch.manual_seed(0)
    network = CreditNetwork.build(width, (width,) * (depth - 1), width, "identity", "squared")
    for block in network.layers:
        block.weight.data = torch.eye(width) + 0.3 * torch.randn(width, width)
        block.bias.data.normal_()
    return network.double()


def plug(rule: TargetPropagation, network: CreditNetwork, how: str) -> None:
    """Gives every inverse the inverse or the transpose of its block."""
    for layer, inverse in rule.inverses.numbered():
        block = network.layers[layer - 1]
        weight = block.weight.detach()
        back = torch.linalg.inv(weight) if how == "inverse" else weight.mT
        inverse.weight.data = back.clone()
        inverse.bias.data = -back @ block.bias.detach()


def noise(network: CreditNetwork, rows: int = 5) -> tuple[Tensor, Tensor]:
    width = network.layers[0].shape[0]
    return torch.randn(rows, width, dtype=torch.float64), torch.randn(
        rows, network.outputs, dtype=torch.float64
    )


@STARTS
@pytest.mark.parametrize("kind", ["plain", "difference"])
def test_exact_inverses_bring_gauss_newton_targets_down(start: str, kind: str) -> None:
    network = square()
    rule = TargetPropagation(network, rule=kind, start=start, step=0.3).double()
    plug(rule, network, "inverse")
    x, y = noise(network)
    path = network.path(x)
    targets = rule.targets(network, path, y)
    top = max(targets)
    change = -0.3 * network.score(path[-1], y)
    if start == "hidden":
        change = change @ network.layers[-1].weight.detach()
    for layer in range(top, 0, -1):
        torch.testing.assert_close(targets[layer] - path[layer], change)
        change = change @ torch.linalg.inv(network.layers[layer - 1].weight.detach()).mT


@STARTS
@pytest.mark.parametrize("step", [0.01, 1.0])
def test_transposes_make_linear_difference_targets_back_propagation(
    start: str, step: float
) -> None:
    network = square()
    rule = TargetPropagation(network, start=start, step=step).double()
    plug(rule, network, "transpose")
    x, y = noise(network)
    expected = zoo.told(network, BackPropagation(), x, y)
    zoo.assert_same(zoo.told(network, rule, x, y), expected, rtol=1e-7)


def test_what_is_as_wanted_has_itself_as_target_by_differences_only() -> None:
    network = zoo.network("linear-squared")
    x, _ = zoo.data(network)
    y = network(x).detach()
    for kind, still in (("difference", True), ("plain", False)):
        rule = TargetPropagation(network, rule=kind).double()
        slopes = zoo.told(network, rule, x, y)
        found = {name for name, slope in slopes.items() if slope.abs().max() > 1e-12}
        assert found == (set() if still else {"layer.1", "layer.2"})


def optimum(network: CreditNetwork, rule: TargetPropagation, x: Tensor, layer: int) -> Tensor:
    """The weights of G_l where its loss is least, for one large draw of the noise."""
    inverse = rule.inverses[layer]
    solver = torch.optim.LBFGS(inverse.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        torch.manual_seed(5)
        solver.zero_grad()
        term = next(t for t in rule.prepare(network, x) if t.name == f"inverse.{layer}")
        value = term.value
        value.backward()
        return value

    solver.step(loss)
    return inverse.weight.detach()


def narrowing() -> CreditNetwork:
    torch.manual_seed(1)
    return CreditNetwork.build(4, (4, 3), 2, "identity", "squared").double()


# The noise has an error of 1 / √rows; over the entries of a matrix four times that.
ROWS = 20_000
CHANCE = 4 / ROWS**0.5


def test_local_difference_reconstruction_learns_the_transpose() -> None:
    network = narrowing()
    x = torch.randn(ROWS, 4, dtype=torch.float64)
    rule = TargetPropagation(network, Reconstruction("jacobian", 0.3), start="output").double()
    for layer in (2, 3):
        weight = network.layers[layer - 1].weight.detach()
        found = optimum(network, rule, x, layer)
        torch.testing.assert_close(found, weight.mT, rtol=0, atol=CHANCE)


@pytest.mark.parametrize("decay", [0.01, 0.5])
def test_difference_reconstruction_learns_the_damped_pseudo_inverse(decay: float) -> None:
    network = narrowing()
    x = torch.randn(ROWS, 4, dtype=torch.float64)
    how = Reconstruction("output", 0.3, decay)
    rule = TargetPropagation(network, how, start="output").double()
    w = network.layers[-1].weight.detach()
    expected = w.mT @ torch.linalg.inv(w @ w.mT + decay * torch.eye(2))
    torch.testing.assert_close(optimum(network, rule, x, 3), expected, rtol=0, atol=2 * CHANCE)


def test_plain_reconstruction_learns_the_regression_and_no_pseudo_inverse() -> None:
    network = narrowing()
    mixing = torch.tensor([1.0, 0.2, 2.0, 0.5], dtype=torch.float64)
    x = mixing * torch.randn(ROWS, 4, dtype=torch.float64)
    rule = TargetPropagation(network, Reconstruction("noise", 0.3)).double()
    found = optimum(network, rule, x, 2)
    w = network.layers[1].weight.detach()
    second = torch.cov(network.path(x)[1].mT) + 0.3**2 * torch.eye(4)
    expected = second @ w.mT @ torch.linalg.inv(w @ second @ w.mT)
    torch.testing.assert_close(found, expected, rtol=0, atol=2 * CHANCE)
    assert (found - torch.linalg.pinv(w)).abs().max() > 10 * CHANCE


def test_iterated_differences_converge_to_the_inverse_at_the_rate_of_contraction() -> None:
    network = square(depth=3)
    rule = TargetPropagation(network, start="output", step=0.5).double()
    plug(rule, network, "inverse")
    for _, inverse in rule.inverses.numbered():
        inverse.weight.data += 0.1 * torch.randn_like(inverse.weight)
    x, y = noise(network)
    path = network.path(x)
    rate = contraction(network, rule.inverses[3], 3, path[2])
    assert rate < 0.9
    last = network.layers[-1]
    wanted = path[-1] - 0.5 * network.score(path[-1], y)
    exact = (wanted - last.bias.detach()) @ torch.linalg.inv(last.weight.detach()).mT
    errors = []
    for iterations in (1, 2, 3, 6, 40):
        rule.iterations = iterations
        errors.append(float((rule.targets(network, path, y)[2] - exact).norm()))
    first = float((path[2] - exact).norm())
    for error, power in zip(errors, (1, 2, 3, 6, 40), strict=True):
        assert error <= 1.0001 * first * rate**power + 1e-12
    assert errors[0] > 1e-3


def test_the_first_iteration_is_the_difference_target() -> None:
    network = zoo.network("tanh")
    x, y = zoo.data(network)
    one, two = (zoo.rule("DTP", network), zoo.rule("DTP, iterated", network))
    two.load_state_dict(one.state_dict())
    assert isinstance(two, TargetPropagation)
    two.iterations = 1
    zoo.assert_same(zoo.told(network, one, x, y), zoo.told(network, two, x, y))


def test_learned_jacobians_bring_updates_close_to_back_propagation() -> None:
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (10, 10), 3)
    x, y = torch.randn(200, 7), torch.randint(3, (200,))
    how = Reconstruction("jacobian", 0.1)
    rule = TargetPropagation(network, how, start="output", step=0.05)
    before = agreement(network, rule, x, y)["layer.1"].angle
    adam = torch.optim.Adam(rule.parameters(), 0.015)
    for _ in range(250):
        adam.zero_grad()
        for term in rule.prepare(network, x):
            term.value.backward()
        adam.step()
    after = agreement(network, rule, x, y)["layer.1"].angle
    assert before > 60
    assert after < 20


def test_inverses_learn_to_reconstruct() -> None:
    network = zoo.network("tanh")
    x, _ = zoo.data(network, rows=60)
    rule = zoo.rule("DTP", network)
    assert isinstance(rule, TargetPropagation)
    before = reconstruction_errors(network, rule.inverses, x)
    trainer = CreditTrainer(
        Trainer(epochs=1, batch_size=20, lr=1e-9, optimizer="sgd", device="cpu", precision="64"),
        feedback=Trainer(lr=0.03, device="cpu"),
        warmup=80,
    )
    trainer.fit(network, rule, x, torch.zeros(60, dtype=torch.long))
    after = reconstruction_errors(network, rule.inverses, x)
    assert set(after) == {"layer.2", "layer.3"}
    assert all(after[name] < 0.5 * before[name] for name in after)


@pytest.mark.parametrize(
    "block",
    [
        Block((2, 4, 4), 3, "relu", kernel=3, pool="max"),
        Block((2, 4, 4), 3, "relu", kernel=3, pool="mean"),
        Block((2, 4, 4), 2, "tanh", kernel=5, residual=True),
        Block((2, 4, 4), 7, "tanh"),
    ],
)
def test_inverses_give_the_shape_below(block: Block) -> None:
    h = block(torch.randn(3, 2, 4, 4))
    assert Inverse(block, "tanh")(h).shape == (3, 2, 4, 4)


@pytest.mark.parametrize("pool", ["none", "mean"])
def test_an_inverse_of_the_same_weights_is_the_transpose(pool: str) -> None:
    """⟨W h, v⟩ = ⟨h, V v⟩ where V takes over the weights, of convolutions too."""
    block = Block((2, 4, 4), 3, "identity", kernel=3, pool=pool).double()
    inverse = Inverse(block, "identity").double()
    inverse.weight.data = block.weight.detach().clone()
    h = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    v = torch.randn_like(block(h))
    torch.testing.assert_close((block(h) * v).sum(), (inverse(v) * h).sum())


@pytest.mark.parametrize("graded", [False, True])
def test_small_steps_move_graded_targets_and_turn_no_sign(graded: bool) -> None:
    """As η → 0, (ĥ_1 - h_1) / η is J_G times the derivative at h_2, or 0 where signs come down."""
    network = zoo.network("sign")
    x, y = zoo.data(network, rows=20)
    step = 1e-6
    rule = TargetPropagation(network, step=step, graded=graded).double()
    path = network.path(x)
    targets = rule.targets(network, path, y)
    top = len(path) - 2
    slope = (targets[top] - path[top]) / step
    wanted = slope
    for layer in range(top, 1, -1):
        wanted = torch.autograd.functional.jvp(rule.inverses[layer], path[layer], wanted)[1]
    found = (targets[1] - path[1]) / step
    assert slope.abs().max() > 0.01
    torch.testing.assert_close(found, wanted if graded else 0 * wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unit", ["sign", "bernoulli"])
def test_discrete_networks_learn_three_blobs(unit: str) -> None:
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (20, 20), 3, unit)
    y = torch.arange(90) % 3
    x = 2 * torch.eye(3, 7)[y] + 0.3 * torch.randn(90, 7)
    rule = TargetPropagation(network, Reconstruction("noise", 0.2), step=0.3)
    how = Trainer(epochs=15, batch_size=10, lr=0.01, optimizer="rmsprop", device="cpu")
    CreditTrainer(how).fit(network, rule, x, y)
    assert evaluate(network, rule, x, y, passes=1 if unit == "sign" else 20)[1] > 0.95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "long"}, "rule must be one of"),
        ({"start": "x"}, "start must be one of"),
        ({"step": 0.0}, "step is positive"),
        ({"iterations": 0}, "iterations at least 1"),
        ({"rule": "plain", "iterations": 2}, "no difference"),
        ({"reconstruction": Reconstruction("mse")}, "loss must be one of"),
        ({"reconstruction": Reconstruction(noise=0.0)}, "noise is positive"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetPropagation(square(), **settings)  # type: ignore[arg-type]


def test_another_networks_inverses_are_refused() -> None:
    rule = TargetPropagation(square())
    with pytest.raises(ValueError, match="made for another network"):
        rule.check(CreditNetwork.build(3, (4, 5), 2))

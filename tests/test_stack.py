import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Bernoulli, Categorical, Conditional, Family, Gaussian
from genprop.distributions import Product
from genprop.nets import MLP
from genprop.stack import Layer, Stack, is_discrete


def stacks() -> dict[str, Callable[[], Stack]]:
    """A stack of each kind, in double precision."""
    kinds = {
        "gaussian": lambda: zoo.stack(Gaussian(5), (4, 3, 2)),
        "bernoulli": lambda: zoo.stack(Bernoulli(5), (4, 3, 2), "bernoulli"),
        "mixed": lambda: zoo.stack(Categorical((2, 3)), (4, 3), ("bernoulli", "gaussian")),
        "categorical": lambda: zoo.stack(Gaussian(5), (3, 10), ("gaussian", "categorical")),
        "no-layer": lambda: Stack(elements=5),
    }
    return {name: lambda make=make: zoo.perturbed(make(), 0.1) for name, make in kinds.items()}


every_stack = pytest.mark.parametrize("name", stacks())


def make(name: str) -> Stack:
    return stacks()[name]()


def data(stack: Stack, rows: int = 6) -> Tensor:
    """Values of x that the stack can have made."""
    return stack.decode(torch.ones(rows, stack.code_elements, dtype=torch.float64)).x


def sizes(stack: Stack) -> list[int]:
    return [5, *(stack[level].above for level in range(len(stack.layers)))]


@every_stack
@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("point", [False, True])
def test_paths_upward_put_draws_first(name: str, draws: int, point: bool) -> None:
    stack = make(name)
    path = stack.encode(data(stack), draws=draws, point=point)
    assert [h.shape for h in path.h] == [(draws, 6, size) for size in sizes(stack)]
    assert path.code.shape[-1] == stack.code_elements
    assert stack.log_q(path).shape == stack.log_p(path).shape == (draws, 6)
    assert not any(h.requires_grad for h in path.h)


@every_stack
@pytest.mark.parametrize("shape", [(6,), (4, 6)])
def test_paths_downward_keep_the_shape_of_the_code(name: str, shape: tuple[int, ...]) -> None:
    stack = make(name)
    path = stack.decode(torch.ones(*shape, stack.code_elements, dtype=torch.float64))
    assert [h.shape for h in path.h] == [(*shape, size) for size in sizes(stack)]
    assert not any(h.requires_grad for h in path.h)


@every_stack
def test_all_draws_start_from_the_same_data(name: str) -> None:
    stack = make(name)
    x = data(stack)
    path = stack.encode(x, draws=3)
    assert torch.equal(path.x, x.expand(3, *x.shape))
    if len(stack.layers):
        assert not torch.equal(path.h[1][0], path.h[1][1])


@every_stack
def test_log_q_and_log_p_are_sums_over_layers(name: str) -> None:
    stack = make(name)
    path = stack.encode(data(stack), draws=2)
    log_q = log_p = torch.zeros(2, 6, dtype=torch.float64)
    for level in range(len(stack.layers)):
        below, above = path.h[level], path.h[level + 1]
        log_q = log_q + stack[level].encoder(below).log_prob(above)
        log_p = log_p + stack[level].decoder(above).log_prob(below)
    torch.testing.assert_close(stack.log_q(path), log_q)
    torch.testing.assert_close(stack.log_p(path), log_p)


@every_stack
def test_points_are_modes_upward(name: str) -> None:
    stack = make(name)
    path = stack.encode(data(stack), point=True)
    for level, law in enumerate(path.laws):
        assert torch.equal(law.mode.expand_as(path.h[level + 1]), path.h[level + 1])


@every_stack
@pytest.mark.parametrize("how", ["mean", "point"])
def test_paths_downward_may_end_at_the_mean(name: str, how: str) -> None:
    stack = make(name)
    code = zoo.randn(6, stack.code_elements)
    path = stack.decode(code, **{how: True})
    if len(stack.layers):
        torch.testing.assert_close(path.x, path.laws[0].mean)
    if how == "point":
        again = stack.decode(code, point=True)
        assert all(torch.equal(a, b) for a, b in zip(path.h, again.h, strict=True))


def law_of_path(laws: tuple[Product, ...]) -> list[Tensor]:
    return [p for law in laws for p in law.parameters]


@every_stack
def test_laws_upward_are_those_of_the_path(name: str) -> None:
    stack = make(name)
    path = stack.encode(data(stack))
    again = tuple(stack[level].encoder(path.h[level]) for level in range(len(stack.layers)))
    for a, b in zip(law_of_path(path.laws), law_of_path(again), strict=True):
        torch.testing.assert_close(a.expand_as(b), b)


def test_bottom_encoder_is_told_what_is_missing() -> None:
    stack = make("gaussian")
    x, seen = data(stack), torch.rand(6, 5) < 0.5
    x = torch.where(seen, x, 0.0)
    law = stack.encode(x, seen).laws[0]
    torch.testing.assert_close(law.mean, stack[0].encoder(x, seen).mean)
    assert not torch.equal(law.mean, stack[0].encoder(x).mean)


def test_log_p_counts_only_what_is_seen_of_the_data() -> None:
    stack = make("gaussian")
    x, seen = data(stack), torch.rand(6, 5) < 0.5
    path = stack.encode(x, draws=2)
    left_out = stack[0].decoder(path.h[1]).log_prob(x, ~seen)
    torch.testing.assert_close(stack.log_p(path, seen), stack.log_p(path) - left_out)
    garbage = path._replace(h=(torch.where(seen, path.x, 1e30), *path.h[1:]))
    assert torch.equal(stack.log_p(path, seen), stack.log_p(garbage, seen))


def test_a_stack_of_bernoullis_is_a_law_over_all_paths() -> None:
    stack = zoo.perturbed(zoo.stack(Bernoulli(2), (3, 2), "bernoulli"))
    hidden = [torch.tensor(v, dtype=torch.float64) for v in product((0.0, 1.0), repeat=7)]
    whole = torch.stack(hidden).split((2, 3, 2), dim=-1)
    x = whole[0][:1].expand_as(whole[0])
    q = stack.encode(x)
    laws = (q.laws[0], stack[1].encoder(whole[1]))
    agrees = (whole[0] == x).all(-1)
    log_q = stack.log_q(q._replace(h=(x, *whole[1:]), laws=laws))
    assert log_q[agrees].exp().sum().item() == pytest.approx(1)
    same_code = (whole[2] == whole[2][0]).all(-1)
    log_p = stack.log_p(q._replace(h=whole))
    assert log_p[same_code].exp().sum().item() == pytest.approx(1)


def test_draws_downward_follow_the_decoders() -> None:
    model = zoo.linear_gaussian((3, 2, 2), prior="standard")
    ((_, stack),) = model.named_stacks()
    x = stack.decode(zoo.randn(20_000, 2)).x
    law = zoo.exact_marginal(model)
    error = 5 * x.std(0) / math.sqrt(len(x))
    assert ((x.mean(0) - law.mean).abs() < error).all()
    away = x - law.mean
    squares = away[:, :, None] * away[:, None, :]
    error = 5 * squares.std(0) / math.sqrt(len(x))
    assert ((squares.mean(0) - law.covariance_matrix).abs() < error).all()


@pytest.mark.parametrize(
    ("family", "discrete"),
    [(Gaussian(2), False), (Bernoulli(2), True), (Categorical((2, 3)), True)],
)
def test_families_of_zeros_and_ones_are_discrete(family: Family, discrete: bool) -> None:
    assert is_discrete(family) is discrete


def layer(below: int, above: int) -> Layer:
    up, down = Gaussian(above), Gaussian(below)
    return Layer(Conditional(MLP(below, above), up), Conditional(MLP(above, below), down))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stack(), "needs `elements`"),
        (lambda: Stack([layer(5, 3), layer(4, 2)]), "layer 1 gives 3 .* layer 2 has 4"),
        (
            lambda: Stack([layer(5, 3), layer(3, 3), layer(4, 2)]),
            "layer 2 gives 3 .* layer 3 has 4",
        ),
        (lambda: Stack([layer(5, 3)], elements=6), "layer 1 decodes to 5 elements, not 6"),
        (lambda: Stack.build(Gaussian(5), (4,), "poisson"), "bernoulli, .* but is 'poisson'"),
        (
            lambda: Stack.build(Gaussian(5), (4, 3), ("gaussian",)),
            "names 1 families, but there are 2 hidden layers",
        ),
        (lambda: Stack.build(Gaussian(5), (12,), "categorical"), "groups of 10 .* has 12"),
        (lambda: Stack.build(Gaussian(5), (0,)), "at least one element, but got 0"),
    ],
)
def test_impossible_stacks_are_refused(make: Callable[[], Stack], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

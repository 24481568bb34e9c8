from collections.abc import Callable

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st

from genprop.conditional import (
    Bernoulli,
    Categorical,
    Conditional,
    Family,
    Gaussian,
    Logistic,
    bounded_scale,
    unbounded_scale,
)
from genprop.distributions import Continuous
from genprop.nets import MLP

every_family = pytest.mark.parametrize("name", zoo.families())


def make(name: str) -> Family:
    return zoo.families()[name]()


@given(st.floats(-1e30, 1e30))
def test_no_scale_is_zero_or_infinite(raw: float) -> None:
    number = torch.tensor([raw], requires_grad=True)
    scale = bounded_scale(number)
    (slope,) = torch.autograd.grad(scale.sum(), number)
    assert 0.002 < scale.item() < 404
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("raw", [-1e30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scale_is_bounded_in_every_precision(raw: float, dtype: torch.dtype) -> None:
    scale = bounded_scale(torch.tensor(raw, dtype=dtype))
    assert 0.002 < scale.item() < 406


def test_scale_rises_with_its_parameter_and_is_near_exp_about_one() -> None:
    raw = torch.linspace(-20, 20, 401, dtype=torch.float64)
    scale = bounded_scale(raw)
    assert (scale.diff() > 0).all()
    near = raw.abs() < 0.5
    torch.testing.assert_close(scale[near], raw[near].exp(), rtol=2e-3, atol=0)


@given(st.floats(-10, 10))
def test_unbounded_scale_inverts_bounded_scale(raw: float) -> None:
    number = torch.tensor([raw], dtype=torch.float64)
    torch.testing.assert_close(unbounded_scale(bounded_scale(number)), number)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e20, float("inf")])
def test_scales_out_of_reach_go_to_the_ends(scale: float) -> None:
    raw = unbounded_scale(torch.tensor(scale))
    assert torch.isfinite(raw)
    end = 0.0025 if scale < 1 else 401.0
    assert bounded_scale(raw).item() == pytest.approx(end, rel=0.02)


@every_family
@pytest.mark.parametrize("shape", [(), (7,), (4, 7)])
def test_a_family_turns_outputs_into_a_law_of_its_elements(
    name: str, shape: tuple[int, ...]
) -> None:
    family = make(name)
    law = family(torch.randn(*shape, family.outputs))
    assert law.batch_shape == shape
    assert law.event_shape == (family.elements,)
    assert law.sample((2,)).shape == (2, *shape, family.elements)
    assert law.log_prob(law.sample()).shape == shape
    assert isinstance(law, Continuous) == name.startswith(
        ("gaussian", "correlated", "logistic", "student")
    )


@every_family
def test_gradient_reaches_outputs_and_every_parameter(name: str) -> None:
    family = make(name)
    outputs = torch.randn(7, family.outputs, requires_grad=True)
    law = family(outputs)
    law.log_prob(law.sample()).sum().backward()
    for p in (outputs, *family.parameters()):
        assert p.grad is not None
        assert (p.grad.abs().sum(0) > 0).all()


@every_family
@pytest.mark.parametrize("size", [1e3, 1e6, 1e12])
def test_log_prob_and_its_gradient_are_finite_at_extreme_outputs(name: str, size: float) -> None:
    family = make(name)
    outputs = (size * torch.randn(50, family.outputs)).requires_grad_()
    law = family(outputs)
    log_prob = law.log_prob(family(torch.zeros(50, family.outputs)).sample())
    log_prob.sum().backward()
    assert outputs.grad is not None
    for values in (log_prob, law.entropy(), law.sample(), outputs.grad):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("make", [Gaussian, Logistic])
@pytest.mark.parametrize("size", [-1e30, 1e30])
def test_an_extreme_scale_parameter_gives_a_finite_log_prob(
    make: Callable[..., Family], size: float
) -> None:
    raw = torch.full((3,), size)
    outputs = torch.cat([torch.zeros(3), raw])
    assert torch.isfinite(make(3, scale="net")(outputs).log_prob(torch.ones(3)))
    family = make(3)
    with torch.no_grad():
        for p in family.parameters():
            p.fill_(size)
    assert torch.isfinite(family(torch.zeros(3)).log_prob(torch.ones(3)))


def test_a_scale_is_learned_or_given_by_the_net_or_fixed() -> None:
    learned, net, fixed = (Gaussian(3, scale) for scale in ("learned", "net", 0.3))
    assert (learned.outputs, net.outputs, fixed.outputs) == (3, 6, 3)
    assert [len(list(f.parameters())) for f in (learned, net, fixed)] == [1, 0, 0]
    torch.testing.assert_close(fixed(torch.zeros(2, 3)).stddev, torch.full((2, 3), 0.3))
    stddev = net(torch.tensor([0.0, 0.0, 0.0, -1.0, 0.0, 1.0])).stddev
    torch.testing.assert_close(stddev, torch.tensor([-1.0, 0.0, 1.0]).exp(), rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0), "at least one element, but got 0"),
        (lambda: Logistic(-1), "at least one element, but got -1"),
        (lambda: Bernoulli(0), "at least one element, but got 0"),
        (lambda: Categorical(()), "at least one group"),
        (lambda: Categorical((3, 0)), r"sizes \(3, 0\)"),
        (lambda: Gaussian(2, "big"), "'learned' .* but is 'big'"),
        (lambda: Gaussian(2, 0.0), r"positive number, but is 0\.0"),
        (lambda: Logistic(2, -1.0), r"positive number, but is -1\.0"),
        (lambda: Gaussian(2, float("nan")), "positive number, but is nan"),
        (lambda: Gaussian(2, float("inf")), "positive number, but is inf"),
    ],
)
def test_impossible_families_are_refused(make: Callable[[], Family], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_conditional_is_the_family_of_the_nets_outputs() -> None:
    family = Gaussian(2, scale="net")
    net = MLP(3, family.outputs)
    x = torch.randn(4, 7, 3)
    law = Conditional(net, family)(x)
    torch.testing.assert_close(torch.cat(law.parameters, -1)[..., :2], net(x)[..., :2])
    assert law.batch_shape == (4, 7)


def test_a_conditional_tells_its_net_what_is_missing() -> None:
    net = zoo.perturbed(MLP(3, 2, masked=True))
    x, seen = zoo.randn(7, 3), torch.rand(7, 3) < 0.5
    law = Conditional(net, Bernoulli(2))(x, seen)
    torch.testing.assert_close(law.parameters[0], net(x, 1.0 - seen.double()))


def test_any_module_is_a_net() -> None:
    conditional = Conditional(torch.nn.Linear(3, 2), Bernoulli(2))
    assert conditional(torch.zeros(7, 3)).sample().shape == (7, 2)

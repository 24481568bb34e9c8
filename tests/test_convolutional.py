"""Convolutional nets: shapes, what is missing, and what a stack with them learns."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from torch import Tensor, nn

from genprop import Convolutions, GenProp, Layer, Stack
from genprop.conditional import Autoregressive, Bernoulli, Conditional, Family, Gaussian
from genprop.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from genprop.description import describe, rebuild
from genprop.hurdle import Hurdle

SIDES = st.integers(1, 11)
SHAPES = st.tuples(SIDES, SIDES) | st.tuples(st.integers(1, 3), SIDES, SIDES)
CHANNELS = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
small = settings(deadline=None, max_examples=40)


def encoder(shape: tuple[int, ...] = (5, 4)) -> ConvolutionalEncoder:
    """A net that has learned what a missing value means."""
    net = ConvolutionalEncoder(Convolutions(shape, (3, 2), (6,)), 2, masked=True)
    assert net.missing is not None
    nn.init.normal_(net.missing.weight)
    return net


@small
@given(SHAPES, CHANNELS, st.lists(st.integers(0, 3), max_size=2).map(tuple), st.integers(1, 3))
def test_draws_and_rows_stand_in_front_of_any_image(
    shape: tuple[int, ...], channels: tuple[int, ...], lead: tuple[int, ...], planes: int
) -> None:
    images = Convolutions(shape, channels)
    x, h = torch.zeros(*lead, images.elements), torch.zeros(*lead, 2)
    up = ConvolutionalEncoder(images, 5, masked=True)
    down = ConvolutionalDecoder(2, images, planes * images.elements)
    assert up(x).shape == up(x, torch.ones_like(x)).shape == (*lead, 5)
    assert down(h).shape == (*lead, planes * images.elements)


@small
@given(SHAPES, CHANNELS, st.sampled_from([(), (3,)]))
def test_gradient_reaches_every_parameter_and_description_keeps_all(
    shape: tuple[int, ...], channels: tuple[int, ...], units: tuple[int, ...]
) -> None:
    images = Convolutions(shape, channels, units)
    for net in (
        ConvolutionalEncoder(images, 3, "elu", skip=True, masked=True, dropout=0.1),
        ConvolutionalDecoder(3, images, 2 * images.elements, "elu", skip=True, dropout=0.1),
    ):
        x = torch.randn(4, net.inputs)
        missing = (torch.ones_like(x),) if isinstance(net, ConvolutionalEncoder) else ()
        net.eval()(x, *missing).square().sum().backward()
        assert all(p.grad is not None for p in net.parameters())
        assert describe(rebuild(describe(net))) == describe(net)


def test_each_row_is_read_by_itself_however_many_draws_stand_in_front() -> None:
    net, x = encoder().double(), torch.randn(3, 7, 20, dtype=torch.float64)
    missing = (torch.rand(7, 20) < 0.5).double()
    alone = torch.stack(
        [torch.stack([net(v, m) for v, m in zip(d, missing, strict=True)]) for d in x]
    )
    torch.testing.assert_close(net(x, missing), alone)


def test_an_encoder_is_its_formula() -> None:
    net, x = encoder((1, 5, 4)).double(), torch.randn(7, 20, dtype=torch.float64)
    missing = (torch.rand(7, 20) < 0.5).double()
    image, m = x.view(7, 1, 5, 4), missing.view(7, 1, 5, 4)
    second = net.rest[1]
    features = second(torch.tanh(net.first(image) + net.missing(m))).tanh()
    torch.testing.assert_close(net(x, missing), net.head(features.flatten(1)))


def test_a_decoder_reaches_each_value_from_as_many_places() -> None:
    """Windows overlap evenly: a constant field gives a constant image, away from its edges."""
    net = ConvolutionalDecoder(1, Convolutions((16, 16), (1, 1)), 256)
    for step in net.steps:
        nn.init.ones_(step.weight)
    nn.init.zeros_(net.head.first.weight)
    nn.init.ones_(net.head.first.bias)
    inner = net(torch.zeros(1)).view(16, 16)[4:-4, 4:-4]
    torch.testing.assert_close(inner, inner[:1, :1].expand_as(inner))


def test_nothing_missing_is_the_same_as_not_being_told_and_at_first_so_is_anything() -> None:
    net, x = encoder(), torch.randn(7, 20)
    assert torch.equal(net(x), net(x, torch.zeros_like(x)))
    new = ConvolutionalEncoder(Convolutions((5, 4)), 2, masked=True)
    assert torch.equal(new(x, torch.ones_like(x)), new(x))
    assert not torch.equal(net(x, torch.ones_like(x)), net(x))


@pytest.mark.parametrize("family", [Bernoulli(20), Gaussian(20), Gaussian(20, "net"), Hurdle(20)])
@pytest.mark.parametrize("regress", [False, True])
def test_families_with_planes_of_parameters_stand_on_convolutions(
    family: Family, regress: bool
) -> None:
    stack = Stack.build(family, (3, 2), units=Convolutions((5, 4), (3,)), regress=regress)
    x, seen = stack.decode(torch.zeros(6, 2)).x, torch.rand(6, 20) < 0.5
    path = stack.eval().encode(torch.where(seen, x, 0.0), seen, draws=3)
    assert [h.shape for h in path.h] == [(3, 6, 20), (3, 6, 3), (3, 6, 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Convolutions((28,)), r"\(height, width\) .* shape=\(28,\)"),
        (lambda: Convolutions((28, 0)), r"positive sizes, but got shape=\(28, 0\)"),
        (lambda: Convolutions((8, 8), units=(0,)), r"units=\(0,\)"),
        (lambda: Convolutions((8, 8), ()), "at least one positive number of channels"),
        (lambda: Convolutions.read("28x:3"), "'28x28:32,64', but this is '28x:3'"),
        (
            lambda: Stack.build(Bernoulli(9), (2,), units=Convolutions((8, 8))),
            r"shape \(8, 8\) read 64 values, but a row has 9",
        ),
        (lambda: Stack.build(Bernoulli(64), (), units=Convolutions((8, 8))), "has no layer"),
        (
            lambda: Stack.build(Autoregressive(64, 5), (2,), units=Convolutions((8, 8))),
            "give 64 numbers or a multiple, but the family takes 69",
        ),
        (
            lambda: ConvolutionalEncoder(Convolutions((1, 1)), 2)(torch.zeros(1), torch.ones(1)),
            "build it with masked=True",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def bars(rows: int) -> tuple[Tensor, Tensor]:
    """Images of 8 x 8, nearly all dark but for a bar, upright or lying, and which of the two."""
    upright, place = (
        torch.randint(2, (rows,)),
        torch.randint(8, (rows,)),
    )
    image = torch.zeros(rows, 8, 8)
    image[torch.arange(rows), :, place] = 1
    image = torch.where(upright[:, None, None] == 1, image, image.mT)
    return (image - (torch.rand_like(image) < 0.02).float()).abs(), upright


def test_convolutions_tell_shapes_apart_wherever_they_are() -> None:
    torch.manual_seed(0)
    images, upright = bars(300)
    net = ConvolutionalEncoder(Convolutions((8, 8), (8, 8)), 2, "relu")
    search = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        search.zero_grad()
        nn.functional.cross_entropy(net(images.flatten(1)), upright).backward()
        search.step()
    images, upright = bars(300)
    assert (net(images.flatten(1)).argmax(-1) == upright).float().mean() > 0.8


def rows_of(seed: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    images, upright = bars(rows)
    return images.double().numpy(), np.array(["lying", "upright"])[upright.numpy()]


@pytest.fixture(scope="module")
def fitted() -> GenProp:
    images, names = rows_of(0)
    return GenProp(
        hidden={"image": (6,), "label": (2,)},
        units={"image": Convolutions((8, 8), (8, 16))},
        batch_size=16,
        lr=5e-3,
        epochs=25,
        samples=1,
        hide=0.1,
        random_state=0,
        verbose=0,
    ).fit({"image": images, "label": names})


def test_a_stack_tells_where_in_an_image_a_bar_is(fitted: GenProp) -> None:
    images, names = rows_of(1)
    back = fitted.reconstruct({"image": images, "label": names})["image"]
    assert np.square(back - images).mean() < 0.7 * images.var()


def test_draws_and_completions_have_the_shape_of_images(fitted: GenProp) -> None:
    assert fitted.sample(3)["image"].shape == (3, 8, 8)
    images, names = rows_of(2, 5)
    images[:, 4:] = np.nan
    drawn = fitted.impute({"image": images, "label": names}, draws=2)["image"]
    assert drawn.shape == (2, 5, 8, 8)
    assert np.array_equal(drawn[:, :, :4], np.stack([images[:, :4]] * 2))


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(n == m and torch.equal(v, w) for (n, v), (m, w) in pairs)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: v.clone() for name, v in module.state_dict().items()}


def test_an_estimator_with_convolutions_is_cloned_saved_and_loaded(
    fitted: GenProp, tmp_path: Any
) -> None:
    assert clone(fitted).units == fitted.units
    fitted.save(tmp_path)
    back = GenProp.load(tmp_path)
    assert back.units == fitted.units
    assert same(back.model_, fitted.model_)
    bare = GenProp((2,), units=Convolutions((2, 2)), epochs=1, verbose=0)
    bare.fit(np.random.default_rng(0).normal(size=(30, 2, 2))).save(tmp_path)
    assert GenProp.load(tmp_path).units == Convolutions((2, 2))


def test_words_and_objects_build_the_same_nets() -> None:
    X = {"a": rows_of(0, 40)[0], "b": np.random.default_rng(0).normal(size=(40, 3))}
    how = {"hidden": {"a": (3,), "b": (2,)}, "top": (2,), "epochs": 1, "verbose": 0}
    models = [
        GenProp(units={"a": a, "top": (7,)}, random_state=0, **how).fit(X).model_
        for a in ("8x8:4", Convolutions((8, 8), (4,)))
    ]
    assert same(*models)
    assert models[0].stacks["b"][0].encoder.net.units == (128,)
    assert models[0].prior.stacks["joint"][0].encoder.net.units == (7,)
    with pytest.raises(ValueError, match="units names 'c', but there are a, b, top"):
        GenProp(units={"c": (3,)}, **how).fit(X)


def put_in(stack: Stack, **how: Any) -> GenProp:
    hidden = {"image": stack, "label": (2,)}
    return GenProp(hidden, epochs=2, samples=2, validation=0.0, random_state=1, verbose=0, **how)


@pytest.mark.parametrize("rule", ["target", "difference", "rws", "iwae"])
def test_a_frozen_stack_stays_to_the_bit_while_the_others_learn(fitted: GenProp, rule: str) -> None:
    images, names = rows_of(3, 60)
    stack = rebuild(describe(fitted.model_.stacks["image"])).requires_grad_(False)
    model = put_in(stack, rule=rule, dropout=0.1, regress=True)
    model.fit({"image": images, "label": names})
    assert same(model.model_.stacks["image"], stack)
    less = clone(model).set_params(epochs=1).fit({"image": images, "label": names})
    for learned in ("label", "prior"):
        pair = [{**m.model_.stacks, "prior": m.model_.prior}[learned] for m in (model, less)]
        assert not same(*pair)


def test_what_a_frozen_part_averages_stays_too() -> None:
    up = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    encoder = Conditional(up, Gaussian(2, "net")).requires_grad_(False)
    decoder = Conditional(nn.Linear(2, 3), Gaussian(3))
    stack = Stack([Layer(encoder, decoder)])
    X = np.random.default_rng(0).normal(3.0, 2.0, (50, 3))
    how = {"hide": 0.0, "samples": 1, "rule": "elbo", "epochs": 2, "verbose": 0}
    model = GenProp({"x": stack}, **how).fit(X)
    assert same(model.model_.stacks["x"][0].encoder, encoder)
    assert not same(model.model_.stacks["x"][0].decoder, decoder)


def test_a_stack_that_is_put_in_is_trained_as_a_copy(fitted: GenProp, tmp_path: Any) -> None:
    images, names = rows_of(3, 60)
    stack = fitted.model_.stacks["image"]
    before = weights(stack)
    model = clone(put_in(stack)).fit({"image": images, "label": names})
    assert all(torch.equal(before[n], v) for n, v in stack.state_dict().items())
    assert same(model.hidden["image"], stack)
    assert not same(model.model_.stacks["image"], stack)
    model.hidden["image"][0].encoder.requires_grad_(False)
    model.save(tmp_path)
    back = GenProp.load(tmp_path)
    assert same(back.model_, model.model_)
    assert same(back.hidden["image"], stack)
    learns = {n for n, p in back.hidden["image"].named_parameters() if p.requires_grad}
    assert learns == {n for n, p in model.hidden["image"].named_parameters() if p.requires_grad}
    assert all(p.requires_grad for p in back.model_.parameters())


@pytest.mark.parametrize(
    ("hidden", "visible", "message"),
    [
        (nn.Linear(4, 2), "auto", "modality 'x' got a bare Linear; .* Conditional"),
        (Stack.build(Gaussian(5), (2,)), "auto", "of 5 elements .* but the data is of 4"),
        (Stack.build(Bernoulli(4), (2,)), "gaussian", "family Bernoulli, .* the family Gaussian"),
        (Stack(elements=3), "auto", "of 3 elements"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(hidden: Any, visible: str, message: str) -> None:
    X = np.random.default_rng(0).normal(size=(20, 2, 2))
    with pytest.raises(ValueError, match=message):
        GenProp({"x": hidden}, visible=visible, verbose=0).fit(X)


def test_nets_of_a_user_are_passed_once_for_the_model_and_the_argument(tmp_path: Any) -> None:
    def nets() -> tuple[nn.Linear, nn.Linear]:
        return nn.Linear(3, 4), nn.Linear(2, 3)

    up, down = nets()
    stack = Stack([Layer(Conditional(up, Gaussian(2, "net")), Conditional(down, Gaussian(3)))])
    X = np.random.default_rng(0).normal(size=(50, 3))
    model = GenProp({"x": stack}, hide=0.0, epochs=1, verbose=0).fit(X)
    model.save(tmp_path)
    layer = "stacks.x.layers.0"
    with pytest.raises(ValueError, match=rf"holds .*Linear at {layer}.encoder.net, .* pass it"):
        GenProp.load(tmp_path)
    places = (f"{layer}.encoder.net", f"{layer}.decoder.net")
    back = GenProp.load(tmp_path, modules=dict(zip(places, nets(), strict=True)))
    assert same(back.model_, model.model_)
    assert same(back.hidden["x"], stack)

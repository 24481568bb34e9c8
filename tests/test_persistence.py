import hashlib
import importlib
import inspect
import json
import math
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import genprop.priors
import genprop.rules
from genprop import persistence
from genprop.conditional import Bernoulli, Conditional, Gaussian
from genprop.data import Batch
from genprop.description import describe, rebuild
from genprop.model import Model
from genprop.nets import MLP
from genprop.persistence import fill, load, load_model, save, save_model
from genprop.priors.factorial import FactorialPrior
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.rule import Rule
from genprop.samplers.ancestral import ancestral
from genprop.stack import Layer, Stack

CONFIG, WEIGHTS = "config.json", "model.safetensors"
NET = "stacks.x.layers.0.encoder.net"

every_model = pytest.mark.parametrize("name", zoo.models())
fuzzed = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class MyNet(nn.Module):
    """A user's net, with what nets may hold: a tied weight, a counter, a transposed buffer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up, self.again = nn.Linear(inputs, inputs), nn.Linear(inputs, inputs)
        self.again.weight = self.up.weight
        self.out = nn.Linear(inputs, outputs)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("turned", torch.randn(inputs, outputs).mT)

    def forward(self, x: Tensor, missing: Tensor | None = None) -> Tensor:
        y: Tensor = self.out(torch.tanh(self.again(torch.tanh(self.up(x))))) + x @ self.turned.mT
        return y


class MyRule(zoo.TargetPropagation):
    """A user's rule."""


def model_with(net: nn.Module) -> Model:
    up, down = Gaussian(2, "net"), Gaussian(3)
    layer = Layer(Conditional(net, up), Conditional(MLP(2, 3, (4,)), down))
    return Model(Stack([layer]), GaussianPrior(2))


def small() -> Model:
    return Model(Stack.build(Bernoulli(3), (2,), units=(4,)), GaussianPrior(2, "full"))


def draws(model: Model) -> tuple[dict[str, Tensor], Tensor]:
    """Draws of the data and, of these, the importance weights of codes."""
    torch.manual_seed(5)
    x = ancestral(model, 7)
    batch = Batch.of(x)
    return x, model.log_weights(model.encode(batch, draws=3), batch)


def assert_same_model(a: Model, b: Model) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        assert tensor.dtype == b.state_dict()[name].dtype
        assert torch.equal(tensor, b.state_dict()[name]), name
    torch.testing.assert_close(draws(a), draws(b))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(small(), tmp_path / "model")
    return tmp_path / "model"


def sign(header: dict[str, Any], folder: Path) -> None:
    """Writes a header over the folder's, with the checksums of what is there."""
    content = json.dumps(header.get("content")).encode()
    header["content_sha256"] = hashlib.sha256(content).hexdigest()
    header["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / CONFIG).write_text(json.dumps(header))


def header_of(folder: Path) -> dict[str, Any]:
    header: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return header


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_comes_back_as_it_was(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = zoo.models()[name]().to(dtype)
    save_model(model, tmp_path / "model")
    assert {path.name for path in tmp_path.rglob("*")} == {"model", CONFIG, WEIGHTS}
    assert_same_model(model, load_model(tmp_path / "model"))


@pytest.mark.parametrize("name", zoo.priors())
def test_a_stack_without_layers_and_every_prior_come_back(name: str, tmp_path: Path) -> None:
    prior = zoo.priors()[name]()
    model = Model(Stack(elements=prior.elements), prior)
    save_model(model, tmp_path)
    assert_same_model(model, load_model(tmp_path))


@pytest.mark.parametrize("name", zoo.families())
def test_every_family_is_a_decoder_that_comes_back(name: str, tmp_path: Path) -> None:
    model = Model(Stack.build(zoo.families()[name](), (2,)), GaussianPrior(2)).double()
    save_model(model, tmp_path)
    assert_same_model(model, load_model(tmp_path))


def own_classes() -> set[str]:
    rooms = ["nets", "convolutional", "conditional", "prior", "stack", "model"]
    for package in (genprop.priors, genprop.rules):
        found = pkgutil.iter_modules(package.__path__)
        rooms += [f"{package.__name__.partition('.')[2]}.{module.name}" for module in found]
    classes = set()
    for room in rooms:
        module = importlib.import_module(f"genprop.{room}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and issubclass(kind, (nn.Module, Rule)):
                classes |= set() if inspect.isabstract(kind) else {f"{room}.{kind.__name__}"}
    return {f"genprop.{name}" for name in classes}


def named_classes(description: Any) -> Iterator[str]:
    if isinstance(description, list):
        for part in description:
            yield from named_classes(part)
    if isinstance(description, dict):
        if "class" in description:
            yield description["class"]
        for part in description.values():
            yield from named_classes(part)


def everything() -> list[object]:
    tables: list[dict[str, Callable[[], Any]]] = [
        zoo.families(),
        zoo.priors(),
        zoo.models(),
        zoo.rules(),
        zoo.layers(),
    ]
    return [make() for table in tables for make in table.values()]


def test_every_class_keeps_its_arguments() -> None:
    """A class missing here needs an instance in the zoo."""
    descriptions = [describe(thing) for thing in everything()]
    assert {name for each in descriptions for name in named_classes(each)} >= own_classes()
    for description in descriptions:
        again = rebuild(json.loads(json.dumps(description)))
        assert describe(again) == description


def test_arguments_that_differ_from_their_defaults_are_kept() -> None:
    net = MLP(3, 2, units=(5, 4), activation="elu", skip=True, masked=True)
    again = rebuild(describe(net))
    assert (again.units, again.activation, again.skip, again.masked) == ((5, 4), "elu", True, True)


def test_loading_moves_no_generator(saved: Path) -> None:
    before = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_model_moves_between_devices(tmp_path: Path) -> None:
    model = small()
    save_model(model.to("cuda"), tmp_path)
    assert {p.device.type for p in load_model(tmp_path, device="cuda").parameters()} == {"cuda"}
    assert_same_model(model.to("cpu"), load_model(tmp_path))


def test_a_module_at_two_places_stays_one(tmp_path: Path) -> None:
    shared = Stack.build(Bernoulli(3), (2,))
    model = Model({"left": shared, "right": shared}, GaussianPrior(4))
    save_model(model, tmp_path)
    back = load_model(tmp_path)
    assert back.stacks["left"] is back.stacks["right"]
    assert_same_model(model, back)


@pytest.mark.parametrize("name", ["class", "args", "dict", "same", "tuple", "foreign"])
def test_a_modality_may_be_called_as_the_format_calls_things(name: str, tmp_path: Path) -> None:
    model = Model({name: Stack.build(Gaussian(2), (2,))}, GaussianPrior(2)).double()
    save_model(model, tmp_path)
    assert_same_model(model, load_model(tmp_path))


def test_a_net_of_a_user_must_be_passed(tmp_path: Path) -> None:
    model = model_with(MyNet(3, 4)).double()
    save_model(model, tmp_path)
    with pytest.raises(ValueError, match=rf"holds .*MyNet at {NET}, .* modules={{'{NET}': MyNet"):
        load_model(tmp_path)
    mine = MyNet(3, 4)
    back = load_model(tmp_path, modules={NET: mine})
    assert_same_model(model, back)
    assert mine.again.weight is mine.up.weight
    assert mine.steps.dtype == torch.int64
    with pytest.raises(
        ValueError, match=r"do not fit .*net.up.weight is \(3, 3\) and not \(2, 2\)"
    ):
        load_model(tmp_path, modules={NET: MyNet(2, 4)})
    with pytest.raises(ValueError, match=r"unknown.*and \d+ more"):
        load_model(tmp_path, modules={NET: nn.Identity()})


def test_a_net_of_torch_must_be_passed(tmp_path: Path) -> None:
    save_model(model_with(nn.Linear(3, 4)), tmp_path)
    with pytest.raises(ValueError, match=r"torch.nn.modules.linear.Linear at stacks"):
        load_model(tmp_path)
    load_model(tmp_path, modules={NET: nn.Linear(3, 4)})


def test_a_shared_net_of_a_user_is_passed_once(tmp_path: Path) -> None:
    net = MyNet(2, 2)
    layer = Layer(Conditional(net, Gaussian(2)), Conditional(net, Gaussian(2)))
    save_model(Model(Stack([layer]), GaussianPrior(2)), tmp_path)
    back = load_model(tmp_path, modules={NET: MyNet(2, 2)})
    assert back.stacks["x"][0].encoder.net is back.stacks["x"][0].decoder.net


def test_a_rule_of_a_user_is_named_and_can_be_passed() -> None:
    described = describe({"rule": MyRule(3), "epochs": 2})
    with pytest.raises(ValueError, match="MyRule at rule"):
        rebuild(described)
    rule = MyRule(3)
    assert rebuild(described, {"rule": rule}) == {"rule": rule, "epochs": 2}


@pytest.mark.parametrize(
    "thing", [torch.zeros(1), np.zeros(1), object(), len, Path("x"), {1, 2}, torch.float32, 1j]
)
def test_other_things_cannot_be_described(thing: object) -> None:
    with pytest.raises(TypeError, match=r"given\.0 is a .*only plain values"):
        describe({"given": [thing]})


def test_a_class_that_forgets_an_argument_cannot_be_described() -> None:
    prior = FactorialPrior(Gaussian(2))
    del prior.family
    with pytest.raises(TypeError, match="FactorialPrior cannot be saved: it does not keep its fam"):
        describe(prior)


def plain(*scalars: st.SearchStrategy[Any], tuples: bool = False) -> st.SearchStrategy[Any]:
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), *scalars)

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        lists = st.lists(inner)
        both = lists | lists.map(tuple) if tuples else lists
        keys = st.text().filter(lambda key: key != "float")  # {"float": "nan"} reads as a number
        return both | st.dictionaries(keys, inner)

    return st.recursive(leaves, nested, max_leaves=12)


@fuzzed
@given(plain(st.floats(allow_nan=False), tuples=True))
def test_plain_things_are_described_without_loss(thing: Any) -> None:
    again = rebuild(json.loads(json.dumps(describe(thing))))
    assert again == thing
    assert repr(again) == repr(thing)


@fuzzed
@given(config=st.dictionaries(st.text(min_size=6), plain(st.floats())))
def test_any_config_comes_back(config: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path, config, {})
    back, tensors = load(tmp_path)
    assert repr(back) == repr(config)
    assert tensors == {}
    json.loads((tmp_path / CONFIG).read_text(), parse_constant=pytest.fail)


def test_numbers_of_numpy_and_tuples_are_written(tmp_path: Path) -> None:
    numbers = (np.float32(0.5), np.int64(3), np.bool_(True), np.float64("nan"), np.str_("a"))
    save(tmp_path, {"numbers": numbers}, {})
    *known, text = load(tmp_path)[0]["numbers"]
    assert known[:3] == [0.5, 3, True]
    assert math.isnan(known[3])
    assert text == "a"
    assert rebuild(describe(list(numbers[:3]))) == [0.5, 3, True]


@pytest.mark.parametrize("value", [object(), torch.zeros(2), np.zeros(2), {1: 2}, b"bytes"])
def test_a_config_that_is_not_json_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a\.0 is .*only JSON"):
        save(tmp_path / "model", {"a": [value]}, {})
    assert not list(tmp_path.iterdir())


def test_tensors_of_every_layout_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "base": base,
        "same": base,
        "turned": base.mT,
        "part": base[1:, ::2],
        "one": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "wide": base[:1].expand(5, 4),
        **{str(t): base.to(t) for t in (torch.bfloat16, torch.float64, torch.int32, torch.bool)},
        "learned": nn.Parameter(base),
    }
    save(tmp_path, {}, tensors)
    back = load(tmp_path)[1]
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    back["base"].add_(1)
    assert torch.equal(back["same"], base)


class WithNotes(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 3}


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_model(model_with(WithNotes(3, 4)), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_fill_wants_the_same_names_shapes_and_kinds() -> None:
    line = nn.Linear(2, 1)
    good = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
    with pytest.raises(ValueError, match="bias is missing"):
        fill(line, {"weight": good["weight"]})
    with pytest.raises(ValueError, match="extra is unknown"):
        fill(line, {**good, "extra": torch.ones(1)})
    with pytest.raises(ValueError, match=r"weight is \(2, 1\) and not \(1, 2\)"):
        fill(line, {**good, "weight": torch.ones(2, 1)})
    with pytest.raises(ValueError, match=r"bias is torch.int64 and not torch.float32"):
        fill(line, {**good, "bias": torch.zeros(1, dtype=torch.int64)})
    before = line.weight
    fill(line, {name: tensor.to(torch.float16) for name, tensor in good.items()})
    assert line.weight is before
    assert line.weight.dtype == torch.float16


def test_missing_pieces_are_named(saved: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is none at .*elsewhere"):
        load(saved / "elsewhere")
    with pytest.raises(FileNotFoundError, match="is a directory, but there is none"):
        load(saved / CONFIG)
    weights = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=f"no whole model: it has no {WEIGHTS}"):
        load(saved)
    (saved / WEIGHTS).write_bytes(weights)
    (saved / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=f"no saved model: it has no {CONFIG}"):
        load(saved)


def test_a_newer_file_says_so(saved: Path) -> None:
    sign({**header_of(saved), "version": 3, "novelty": []}, saved)
    with pytest.raises(ValueError, match=r"by a newer genprop \(version 3\); install a newer one"):
        load(saved)


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '"genprop"', '{"format": "pt"}'])
def test_a_foreign_config_says_so(text: str, saved: Path) -> None:
    (saved / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=r"config.json was not written by genprop"):
        load(saved)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"\x80", b"[" * 100_000, b'{"a": NaN', b"9" * 5000]
)
def test_a_config_that_is_not_json_says_so(data: bytes, saved: Path) -> None:
    (saved / CONFIG).write_bytes(data)
    with pytest.raises(ValueError, match=r"config.json is damaged and cannot be read"):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": "1"},
        {"version": None},
        {"novelty": 1},
        {"content": []},
        {"content": None},
    ],
    ids=str,
)
def test_a_header_of_another_layout_is_damaged(change: dict[str, Any], saved: Path) -> None:
    sign({**header_of(saved), **change}, saved)
    with pytest.raises(ValueError, match="damaged"):
        load(saved)


@pytest.mark.parametrize("key", ["version", "content", "genprop", "weights_sha256"])
def test_a_header_without_a_key_is_damaged(key: str, saved: Path) -> None:
    header = header_of(saved)
    del header[key]
    (saved / CONFIG).write_text(json.dumps(header))
    with pytest.raises(ValueError, match="damaged"):
        load(saved)


def test_one_changed_number_is_noticed(saved: Path) -> None:
    text = (saved / CONFIG).read_text()
    (saved / CONFIG).write_text(text.replace('"covariance": "full"', '"covariance": "diagonal"'))
    with pytest.raises(ValueError, match="it was changed after it was written"):
        load(saved)


def test_the_config_of_another_model_is_noticed(saved: Path, tmp_path: Path) -> None:
    save_model(small(), tmp_path / "other")
    os.replace(tmp_path / "other" / CONFIG, saved / CONFIG)
    with pytest.raises(ValueError, match="damaged or of another model"):
        load(saved)


def test_a_directory_without_a_model_in_it_says_so(tmp_path: Path) -> None:
    save(tmp_path, {"other": 1}, {})
    with pytest.raises(ValueError, match="holds no model, but a NoneType"):
        load_model(tmp_path)
    save(tmp_path, {"model": describe(MLP(2, 2))}, {})
    with pytest.raises(ValueError, match="holds no model, but a MLP"):
        load_model(tmp_path)


def outcome(folder: Path) -> Model | None:
    """The model, or None where an error of the promised kind says what is wrong with it."""
    try:
        return load_model(folder)
    except (ValueError, FileNotFoundError):
        return None


@fuzzed
@given(st.sampled_from([CONFIG, WEIGHTS]), st.floats(0, 1), st.binary(max_size=3), st.booleans())
def test_damaged_bytes_never_pass(
    tmp_path: Path, name: str, where: float, data: bytes, truncated: bool
) -> None:
    model = small()
    save_model(model, tmp_path)
    good = (tmp_path / name).read_bytes()
    at = int(where * len(good))
    (tmp_path / name).write_bytes(good[:at] + data + (b"" if truncated else good[at + 1 :]))
    back = outcome(tmp_path)
    (tmp_path / name).write_bytes(good)
    if back is not None:
        assert_same_model(model.double(), back.double())


@fuzzed
@given(st.floats(0, 1), st.binary(max_size=3), st.booleans())
def test_weights_that_were_forged_with_their_checksum_never_surprise(
    tmp_path: Path, where: float, data: bytes, truncated: bool
) -> None:
    save_model(small(), tmp_path)
    good = (tmp_path / WEIGHTS).read_bytes()
    at = int(where * min(len(good), 500))
    (tmp_path / WEIGHTS).write_bytes(good[:at] + data + (b"" if truncated else good[at + 1 :]))
    sign(header_of(tmp_path), tmp_path)
    outcome(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(good)
    sign(header_of(tmp_path), tmp_path)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a JSON tree as its holder and its key."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from places(node[key])


@fuzzed
@given(st.data())
def test_a_description_that_was_forged_never_surprises(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / CONFIG).unlink(missing_ok=True)
    (tmp_path / WEIGHTS).unlink(missing_ok=True)
    save_model(small(), tmp_path)
    header = header_of(tmp_path)
    texts = st.sampled_from(
        ["class", "args", "genprop.nets.MLP", "genprop.model.LogPrior", "", "x"]
    )
    part = plain(texts, st.floats()).filter(lambda value: not is_large(value))
    holder, key = data.draw(st.sampled_from(list(places(header["content"]))))
    if isinstance(holder, dict) and data.draw(st.booleans()):
        holder[data.draw(texts)] = data.draw(part)
    else:
        elsewhere = [holder[key] for holder, key in places(deepcopy(header["content"]))]
        holder[key] = data.draw(part | st.sampled_from(elsewhere))
    sign(header, tmp_path)
    outcome(tmp_path)


def is_large(value: Any) -> bool:
    """Whether it could ask for much memory."""
    parts = [holder[key] for holder, key in places([value])]
    return any(isinstance(part, int) and abs(part) > 100 for part in parts)


@pytest.mark.parametrize("depth", [100, 300, 450, 600, 950])
@pytest.mark.parametrize("tag", ["list", "tuple", "dict"])
def test_deep_nesting_is_an_error_of_the_file(tag: str, depth: int, saved: Path) -> None:
    left, right = {"list": ("[", "]"), "tuple": ('{"tuple": [', "]}"), "dict": ('{"a": ', "}")}[tag]
    header = header_of(saved)
    header["content"] = {"model": "?"}
    deep = left * depth + "1" + right * depth
    digest = hashlib.sha256(b'{"model": %s}' % deep.encode()).hexdigest()
    text = json.dumps({**header, "content_sha256": digest}).replace('"?"', deep)
    (saved / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=r"damaged|no model|nothing"):
        load_model(saved)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "torch.nn.Linear",
        "torch.nn.modules.linear.Linear",
        "subprocess.Popen",
        "antigravity.Model",
        "genprop_evil.nets.MLP",
        "genprop",
        "genprop.Model",
        "genprop.cli.main",
        "genprop.__main__.Model",
        "genprop.model.__builtins__",
        "genprop.model.joint_code",
        "genprop.model.torch",
        "genprop.model.Tensor",
        "genprop.model.nn.Linear",
        "genprop.model.Model.sample",
        "genprop.persistence.Path",
        "genprop.prior.DensityPrior",
        "genprop.nowhere.Thing",
        "genprop..model.Model",
        "genprop.model.",
        "",
        ".",
    ],
)
@pytest.mark.parametrize("form", ["args", "foreign"])
def test_nothing_but_classes_of_genprop_is_called(name: str, form: str, saved: Path) -> None:
    header = header_of(saved)
    described: dict[str, Any] = {"class": name, "args": {"elements": 3}}
    if form == "foreign":
        described = {"class": name, "foreign": True}
    header["content"]["model"]["args"]["prior"] = described
    sign(header, saved)
    with pytest.raises(ValueError, match=r" at prior"):
        load_model(saved)
    assert "antigravity" not in sys.modules
    assert "genprop.__main__" not in sys.modules


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"class": 3},
        {"class": "genprop.nets.MLP", "args": []},
        {"same": "nowhere"},
        {"tuple": 3},
        {"dict": []},
        {"foreign": True},
        {"class": "genprop.nets.MLP", "args": {}},
        {"class": "genprop.nets.MLP", "args": {"inputs": 1, "outputs": 1, "more": 1}},
        {"class": "genprop.nets.MLP", "args": {"inputs": -1, "outputs": 1}},
        {"class": "genprop.stack.Stack", "args": {"layers": [1, 2]}},
        {"class": "genprop.prior.Prior", "args": {}},
    ],
    ids=str,
)
def test_a_description_that_makes_no_sense_is_refused(description: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at its top|cannot be made|does not load by itself"):
        rebuild(description)


class Cut(BaseException):
    """A process that ends in the midst of it."""


def cut_at(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets the process end at the count-th touch of the disk."""
    left = [count]

    def cutting(touch: Callable[..., Any]) -> Callable[..., Any]:
        def cut(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise Cut
            return touch(*args, **options)

        return cut

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "fsync"):
            patch.setattr(os, name, cutting(getattr(os, name)))
        patch.setattr(Path, "unlink", cutting(Path.unlink))
        patch.setattr(Path, "open", cutting(Path.open))
        yield


def interrupted(count: int, monkeypatch: pytest.MonkeyPatch, model: Model, folder: Path) -> bool:
    """Whether the save was cut off."""
    for _ in cut_at(count, monkeypatch):
        try:
            save_model(model, folder)
        except Cut:
            return True
    return False


def is_saved(model: Model, folder: Path) -> bool:
    back = load_model(folder).state_dict()
    return all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("second", range(1, 9))
@pytest.mark.parametrize("first", range(1, 9))
def test_a_save_that_is_cut_off_leaves_a_model(
    first: int, second: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [small() for _ in range(4)]
    save_model(models[0], tmp_path)
    ended = not interrupted(first, monkeypatch, models[1], tmp_path)
    now = models[1] if is_saved(models[1], tmp_path) else models[0]
    assert is_saved(now, tmp_path)
    assert now is models[1] or not ended
    ended = not interrupted(second, monkeypatch, models[2], tmp_path)
    assert is_saved(models[2], tmp_path) or (is_saved(now, tmp_path) and not ended)
    save_model(models[3], tmp_path)
    assert is_saved(models[3], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, WEIGHTS}


@pytest.mark.parametrize("count", range(1, 9))
def test_a_first_save_is_whole_or_nothing(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = small(), tmp_path / "new" / "model"
    if interrupted(count, monkeypatch, model, folder):
        assert not folder.exists()
        assert not list(tmp_path.rglob("*.*"))
    else:
        assert count > 5
        assert is_saved(model, folder)


def test_renaming_that_always_fails_loses_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_model(saved)

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        patch.setattr(os, "rename", fail)
        with pytest.raises(OSError, match="no space"):
            save_model(small(), saved)
    assert is_saved(before, saved)


def test_other_files_stay(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    model = small()
    save_model(model, str(saved))
    assert is_saved(model, saved)
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_files_of_another_program_are_not_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="nothing is overwritten, save to another directory"):
        save_model(small(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"into a directory, but .* is a file"):
        save_model(small(), tmp_path / "file")


def test_a_link_to_a_directory_stays_a_link(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("model")
    model = small()
    save_model(model, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert is_saved(model, saved)


def test_other_programs_can_read_the_files(saved: Path) -> None:
    header = header_of(saved)
    assert (header["format"], header["version"]) == ("genprop", persistence.VERSION)
    assert hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest() == header["weights_sha256"]
    tensors = safetensors.torch.load_file(saved / WEIGHTS)
    assert set(tensors) == set(load_model(saved).state_dict())

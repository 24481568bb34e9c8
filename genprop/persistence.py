"""Models on disk: settings as JSON and weights as safetensors, never a pickle."""

import hashlib
import importlib
import importlib.metadata
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from genprop.description import describe, place_of, rebuild
from genprop.folders import whole_folder
from genprop.model import Model

FORMAT, VERSION = "genprop", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
NEW_CONFIG, NEW_WEIGHTS = "config.json.new", "model.safetensors.new"
KEYS = ("format", "version", "genprop", "weights_sha256", "content_sha256", "content")
NOT_FINITE = ({"float": "nan"}, {"float": "inf"}, {"float": "-inf"})

Directory = str | os.PathLike[str]


def save_model(model: Model, directory: Directory) -> None:
    """Writes a model; see ``save``.

    Args:
        model: on any device, of any dtype. A module that stands at several places stays one.
        directory: where to.

    >>> import tempfile
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save_model(Model(Stack(elements=2), GaussianPrior(2)), directory)
    ...     load_model(directory).sizes
    {'x': 2}
    """
    config = {"model": describe(model), "frozen": frozen_names(model)}
    save(directory, config, model.state_dict())


def load_model(
    directory: Directory,
    modules: Mapping[str, object] | None = None,
    device: torch.device | str = "cpu",
) -> Model:
    """Reads a model, its dtype kept; raises what ``load``, ``rebuild`` and ``fill`` raise.

    Args:
        directory: where from.
        modules: as for ``rebuild``; they take on the saved weights.
        device: where the model goes.
    """
    config, tensors = load(directory)
    model = rebuild(config.get("model"), modules)
    if not isinstance(model, Model):
        raise ValueError(f"{directory} holds no model, but a {type(model).__name__}")
    fill(model, tensors)
    freeze(model, config.get("frozen", []))
    return model.to(device).eval()


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives a module saved weights; it takes on their dtypes and keeps its device.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape or kind.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> fill(line, {"weight": torch.ones(1, 1, dtype=torch.float64)})
    >>> line.weight.dtype
    torch.float64
    """
    own = module.state_dict(keep_vars=True)
    wrong = [f"{name} is unknown" for name in tensors if name not in own]
    wrong += [misfit for name in own if (misfit := _misfit(name, own[name], tensors.get(name)))]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ValueError(f"the weights do not fit the model: {', '.join(wrong[:3])}{more}")
    for name, value in own.items():
        value.data = value.data.to(tensors[name].dtype)
    module.load_state_dict(dict(tensors))


def frozen_names(module: nn.Module) -> list[str]:
    """The parameters that ``requires_grad_(False)`` keeps from learning.

    >>> frozen_names(nn.Linear(1, 1).requires_grad_(False))
    ['weight', 'bias']
    """
    return [name for name, p in module.named_parameters() if not p.requires_grad]


def freeze(module: nn.Module, names: object) -> None:
    """Keeps the parameters of these names from learning.

    Raises:
        ValueError: it is no list of names, or has no such parameter.
    """
    own = dict(module.named_parameters())
    if not isinstance(names, list) or not all(isinstance(n, str) and n in own for n in names):
        raise ValueError("what the file calls frozen is no list of parameters of its model")
    for name in names:
        own[name].requires_grad_(False)


def save(directory: Directory, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes ``config.json`` and ``model.safetensors``, whole or not at all.

    A new directory appears once it is complete; in an old one other files stay. ``config.json`` is
    strict JSON: NaN, inf and -inf stand, and are read, as ``{"float": "nan"}`` and the like.

    Args:
        directory: made, with its parents, if it is not there.
        config: None, booleans, numbers (numpy's too), texts, lists, tuples (which come back as
            lists) and mappings from texts to these.
        tensors: on any device, of any layout; those that share memory become equal copies.

    Raises:
        TypeError: the config or the tensors hold something else.
        ValueError: the directory holds files of these names that are not genprop's.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(directory, {"best": float("inf")}, {"ones": torch.ones(2)})
    ...     load(directory)
    ({'best': inf}, {'ones': tensor([1., 1.])})
    """
    weights, content = _serialised(tensors), _encoded(config, "")
    checks = (_digest(weights), _digest(json.dumps(content).encode()))
    header = dict(zip(KEYS, (FORMAT, VERSION, _own_version(), *checks, content), strict=True))
    text = json.dumps(header, indent=2, allow_nan=False).encode() + b"\n"
    folder = Path(os.path.realpath(directory))
    write = _replace if folder.exists() else _create
    write(folder, text, weights)


def load(directory: Directory) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads the config and the tensors that ``save`` wrote.

    Raises:
        FileNotFoundError: the directory or a file in it is missing.
        ValueError: a file is damaged, foreign, or was written by a newer genprop.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"a saved model is a directory, but there is none at {folder}")
    header = _read_header(folder / CONFIG)
    return header["content"], _read_weights(folder, header["weights_sha256"])


def _encoded(value: Any, place: str) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_encoded(part, place_of(place, i)) for i, part in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _encoded(part, place_of(place, key)) for key, part in value.items()}
    raise TypeError(
        f"{place or 'this'} is {value!r:.40}; only JSON with texts as keys can be saved"
    )


def _number(parsed: dict[str, Any]) -> Any:
    return float(parsed["float"]) if parsed in NOT_FINITE else parsed


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; only tensors can be weights")
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return safetensors.torch.save(own, metadata={"format": "pt"})


def _misfit(name: str, own: Tensor, saved: Tensor | None) -> str:
    if saved is None:
        return f"{name} is missing"
    if own.shape != saved.shape:
        return f"{name} is {tuple(saved.shape)} and not {tuple(own.shape)}"
    alike = own.dtype == saved.dtype or (own.is_floating_point() and saved.is_floating_point())
    return "" if alike else f"{name} is {saved.dtype} and not {own.dtype}"


def _create(folder: Path, text: bytes, weights: bytes) -> None:
    with whole_folder(folder) as fresh:
        _write(fresh / WEIGHTS, weights)
        _write(fresh / CONFIG, text)


def _replace(folder: Path, text: bytes, weights: bytes) -> None:
    """Replaces a model at one stroke: when the new config takes the old one's place.

    Before it the old pair is untouched, after it ``load`` knows the new weights by their checksum.
    """
    _settle(folder)
    _write(folder / NEW_WEIGHTS, weights)
    _write(folder / NEW_CONFIG, text)
    os.replace(folder / NEW_CONFIG, folder / CONFIG)
    os.replace(folder / NEW_WEIGHTS, folder / WEIGHTS)


def _settle(folder: Path) -> None:
    """Completes a save that was cut off after its stroke; refuses a place that is not ours."""
    if not folder.is_dir():
        raise ValueError(f"a model is saved into a directory, but {folder} is a file")
    if not (folder / CONFIG).exists() and not (folder / WEIGHTS).exists():
        return
    try:
        digest = _read_header(folder / CONFIG)["weights_sha256"]
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{error}; nothing is overwritten, save to another directory") from error
    new = folder / NEW_WEIGHTS
    if new.is_file() and _digest(new.read_bytes()) == digest:
        os.replace(new, folder / WEIGHTS)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no saved model: it has no {path.name}")
    data = path.read_bytes()
    with _parsing(path):
        header = json.loads(data, object_hook=_number)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by genprop")
    version = header.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ValueError(
            f"{path} was written by a newer genprop (version {version}); install a newer one"
        )
    with _parsing(path):
        digest = _digest(json.dumps(_encoded(header.get("content"), "")).encode())
    whole = set(header) == set(KEYS) and isinstance(header["content"], dict)
    if version != VERSION or not whole or header["content_sha256"] != digest:
        raise ValueError(f"{path} is damaged: it was changed after it was written")
    return header


def _read_weights(folder: Path, digest: str) -> dict[str, Tensor]:
    paths = [path for path in (folder / WEIGHTS, folder / NEW_WEIGHTS) if path.is_file()]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no whole model: it has no {WEIGHTS}")
    for path in paths:
        data = path.read_bytes()
        if _digest(data) == digest:
            with _parsing(path):
                return safetensors.torch.load(data)
    raise ValueError(f"{paths[0]} is damaged or of another model: {CONFIG} has another checksum")


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # on damaged bytes parsers raise nearly anything
        raise ValueError(f"{path} is damaged and cannot be read: {error}") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _own_version() -> str:
    found = importlib.metadata.distributions(name="genprop")
    return next((each.version for each in found), "not installed")

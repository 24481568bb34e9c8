"""Modules, priors and rules as JSON, and back: no code comes from a file but genprop's own."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from genprop.rules.rule import Rule


def describe(thing: object) -> Any:
    """What ``rebuild`` needs to make a thing anew, in terms of JSON.

    None, booleans, numbers (numpy's too), texts and lists (``nn.ModuleList``) stay; the rest is::

        {"class": "genprop.nets.MLP", "args": {…}}   attributes of the same names as the arguments
        {"class": "package.Net", "foreign": true}    a module or rule that is not genprop's
        {"same": "stacks.x"}                         the module described at that place
        {"tuple": […]}, {"dict": {…}}                also ``nn.ModuleDict``

    Raises:
        TypeError: there is something else in it.

    >>> from genprop.conditional import Categorical
    >>> describe(Categorical((2, 3)))
    {'class': 'genprop.conditional.Categorical', 'args': {'sizes': {'tuple': [2, 3]}}}
    """
    return _described(thing, "", {})


def rebuild(description: Any, modules: Mapping[str, object] | None = None) -> Any:
    """The thing described, its weights new; calls genprop's classes only, and no generator moves.

    Args:
        description: from ``describe``.
        modules: objects to take in place of what is described, by where it stands, as
            ``"stacks.x.layers.0.encoder.net"``; needed for all that is not genprop's.

    Raises:
        ValueError: a foreign object is not given, or the description makes no sense.

    >>> rebuild({"class": "genprop.conditional.Bernoulli", "args": {"elements": 3}}).elements
    3
    """
    with torch.random.fork_rng(devices=[]):
        return _rebuilt(description, "", dict(modules or {}))


def _described(thing: Any, place: str, known: dict[int, str]) -> Any:
    thing = thing.item() if isinstance(thing, np.generic) else thing
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, list) or type(thing) in (tuple, torch.Size, nn.ModuleList):
        parts = [_described(part, place_of(place, i), known) for i, part in enumerate(thing)]
        return {"tuple": parts} if isinstance(thing, tuple) else parts
    if isinstance(thing, Mapping) or type(thing) is nn.ModuleDict:
        return {"dict": {k: _described(v, place_of(place, k), known) for k, v in thing.items()}}
    if isinstance(thing, nn.Module) and known.setdefault(id(thing), place) != place:
        return {"same": known[id(thing)]}
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if _is_own(name):
        args = _arguments(thing).items()
        return {
            "class": name,
            "args": {k: _described(v, place_of(place, k), known) for k, v in args},
        }
    if isinstance(thing, (nn.Module, Rule)):
        return {"class": name, "foreign": True}
    raise TypeError(
        f"{place or 'this'} is a {name}; only plain values, modules, rules can be saved"
    )


def _arguments(thing: object) -> dict[str, Any]:
    """A constructor's arguments, which the attributes of the same names keep."""
    plain = type(thing).__init__ is nn.Module.__init__
    names = [] if plain else list(inspect.signature(type(thing)).parameters)
    lost = [name for name in names if not hasattr(thing, name)]
    if lost:
        raise TypeError(f"a {type(thing).__name__} cannot be saved: it does not keep its {lost[0]}")
    return {name: getattr(thing, name) for name in names}


def _rebuilt(description: Any, place: str, known: dict[str, object]) -> Any:
    if place in known:
        return known[place]
    match description:
        case list(parts):
            return [_rebuilt(part, place_of(place, i), known) for i, part in enumerate(parts)]
        case {"tuple": list(parts)}:
            return tuple(_rebuilt(parts, place, known))
        case {"dict": dict(parts)}:
            return {key: _rebuilt(part, place_of(place, key), known) for key, part in parts.items()}
        case {"same": str(first)} if first in known:
            return known[first]
        case {"class": str(name), "args": dict(args)}:
            values = {
                key: _rebuilt(part, place_of(place, key), known) for key, part in args.items()
            }
            return known.setdefault(place, _made(_own_class(name, place), values, place))
        case {"class": str(name)}:
            _refuse(name, place)
        case dict():
            raise ValueError(f"the model holds at {place or 'its top'} what describes nothing")
    return description


def _made(kind: type, values: dict[str, Any], place: str) -> object:
    try:
        return kind(**values)
    except Exception as error:  # given anything, a constructor may raise anything
        raise ValueError(
            f"{kind.__name__} at {place or 'the top'} cannot be made: {error}"
        ) from error


def _own_class(name: str, place: str) -> type:
    """The class of that name if it is genprop's; nothing else is even imported."""
    if not _is_own(name):
        _refuse(name, place)
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        found = None
    if not isinstance(found, type) or found.__module__ != module:
        raise ValueError(f"the model holds {name} at {place}, which is no class of this genprop")
    return found


def _is_own(name: str) -> bool:
    """Whether it reads as genprop.module.Class; importing genprop.__main__ would run it."""
    package, *parts = name.split(".")
    plain = all(part.isidentifier() and not part.startswith("_") for part in parts)
    return package == "genprop" and len(parts) > 1 and plain


def _refuse(name: str, place: str) -> NoReturn:
    raise ValueError(
        f"the model holds {name} at {place}, which genprop does not load by itself; pass it: "
        f"load(directory, modules={{{place!r}: {name.rpartition('.')[2]}(...)}})"
    )


def place_of(place: str, key: str | int) -> str:
    """Where a part stands in what stands at a place: the two joined by a dot."""
    return f"{place}.{key}" if place else str(key)

"""GenProp's arguments as they are written: words on a command line, values in a TOML file."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Called = Callable[[str], str]


@dataclass(frozen=True)
class Kind:
    """What is written for an argument, and how it is read.

    Attributes:
        metavar: the kind in one word.
        expected: the kind in a sentence.
        read: the value of what was written; it raises TypeError or ValueError.
    """

    metavar: str
    expected: str
    read: Callable[[Any], Any]


@dataclass(frozen=True)
class Argument:
    """One of GenProp's arguments.

    Attributes:
        kind: how it is written.
        default: GenProp's default, as it would be written.
        help: what it is.
    """

    kind: Kind
    default: str
    help: str


def read_settings(written: Mapping[str, Any], called: Called = str) -> dict[str, Any]:
    """GenProp's arguments from what was written for them.

    Args:
        written: by the argument's name; what is None was not written.
        called: how a message calls the argument of a name.

    Raises:
        ValueError: one of the wrong kind.

    >>> read_settings({"hidden": "64,32", "patience": "none", "lr": None})
    {'hidden': (64, 32), 'patience': None}
    """
    given = {name: value for name, value in written.items() if value is not None}
    return {name: _setting(name, value, called) for name, value in given.items()}


def read_toml(path: Path) -> dict[str, Any]:
    """GenProp's arguments from a TOML file, whose keys are their names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, or holds an unknown key or a value of the wrong kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a TOML file at {path}, but there is none.")
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of what is no text at all
        raise ValueError(f"{path} is not TOML: {error}.") from error
    unknown = [name for name in written if name not in ARGUMENTS]
    if unknown:
        raise ValueError(
            f"{path} sets {', '.join(unknown)}, but GenProp's arguments are {', '.join(ARGUMENTS)}."
        )
    return read_settings(written, lambda name: f"{name} in {path}")


def _setting(name: str, value: Any, called: Called) -> Any:
    kind = ARGUMENTS[name].kind
    try:
        return kind.read(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{called(name)} must be {kind.expected}, but is {value!r}.") from error


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    return float(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if value == "none":
        return ()
    return tuple(_whole(part) for part in _parts(value))


def _nets(value: Any) -> str | tuple[int, ...]:
    """Hidden units, or the shape of an image, which has an x in it."""
    return value if isinstance(value, str) and "x" in value else _sizes(value)


def _words(value: Any) -> str | tuple[str, ...]:
    words = tuple(_word(part) for part in _parts(value))
    return words[0] if len(words) == 1 else words


def _weights(value: Any) -> dict[str, float]:
    parts = dict(part.split("=") for part in value.split()) if isinstance(value, str) else value
    return {_word(name): _number(part) for name, part in dict(parts).items()}


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value if isinstance(value, list) else [value]


def _or(word: str, meaning: Any, kind: Kind) -> Kind:
    """The same kind, or one word."""

    def read(value: Any) -> Any:
        return meaning if value == word else kind.read(value)

    return Kind(kind.metavar, f"{kind.expected} or {word}", read)


def _by_modality(kind: Kind, example: str) -> Kind:
    """The same kind for all modalities, or one for each, as in ``image=64,32 label=8``."""

    def read(value: Any) -> Any:
        if isinstance(value, str) and "=" in value:
            value = dict(part.split("=") for part in value.split())
        if isinstance(value, dict):
            return {name: kind.read(part) for name, part in value.items()}
        return kind.read(value)

    return Kind(kind.metavar, f"{kind.expected}, or {example}", read)


NAME = Kind("NAME", "a word", _word)
N = Kind("N", "a whole number", _whole)
NUMBER = Kind("NUMBER", "a number", _number)
YES = Kind("", "true or false", _switch)
WEIGHTS = Kind("WEIGHTS", "numbers such as 'image=0.1 label=1'", _weights)
SIZES = Kind("SIZES", "sizes such as 64,32, or none", _sizes)
NETS = Kind("SIZES", "sizes such as 64,32, an image's shape such as 28x28:32,64, or none", _nets)
FAMILIES = Kind("FAMILY", "a word, or words such as bernoulli,gaussian", _words)

MODEL = {
    "hidden": Argument(
        _by_modality(SIZES, "'image=64,32 label=8'"),
        "64,32",
        "Sizes of the layers from the data upward, or none.",
    ),
    "visible": Argument(
        _by_modality(Kind("FAMILY", "a word", _word), "'image=bernoulli label=categorical'"),
        "auto",
        "auto, gaussian, bernoulli, categorical, logistic, correlated or columns; or 'age=count' "
        "for a column.",
    ),
    "latent": Argument(
        FAMILIES,
        "gaussian",
        "gaussian, bernoulli, categorical or autoregressive, or one for each layer.",
    ),
    "top": Argument(SIZES, "none", "Sizes of layers above the codes of all modalities together."),
    "prior": Argument(
        NAME,
        "auto",
        "auto, gaussian, diagonal, full, factorial, logistic, autoregressive, mixture, vamp, "
        "parzen, denoising, gsn, neighbour, nice, realnvp, nsf, maf or cnf.",
    ),
    "rule": Argument(NAME, "target", "target, difference, long, rws, elbo, iwae or dreg."),
    "samples": Argument(N, "5", "Paths drawn for each row in training."),
    "units": Argument(
        _by_modality(NETS, "'image=28x28:32,64 label=64'"),
        "128",
        "Hidden units of every net, or of images HxW or CxHxW, and :channels of convolutions.",
    ),
    "activation": Argument(NAME, "tanh", "tanh, relu, elu, gelu, silu or softplus."),
    "skip": Argument(YES, "no", "An affine path beside every net's hidden layers."),
    "dropout": Argument(NUMBER, "0", "Probability that a hidden unit is left out, falling to 0."),
    "regress": Argument(
        YES, "no", "Whether encoders read, in place of what is missing, a regression of it."
    ),
    "weights": Argument(
        _or("none", None, WEIGHTS),
        "none",
        "Factors of the modalities' log-likelihoods in training.",
    ),
}
TRAINING = {
    "hide": Argument(
        _by_modality(NUMBER, "'label=0.5' for modalities hidden whole"),
        "0.25",
        "Share of the rows that show only some cells; or 'label=0.5', that hide it whole.",
    ),
    "explain": Argument(YES, "no", "Whether decoders explain what was hidden, too."),
    "practise": Argument(YES, "no", "Whether rows with hidden cells teach encoders alone."),
    "balance": Argument(NUMBER, "0", "Least share of visits to rows that show each modality."),
    "missing": Argument(
        NAME,
        "mar",
        "Why cells are missing: mar, mnar, mnar-above, mnar-below, mnar-net, "
        "censored-above or censored-below.",
    ),
    "epochs": Argument(N, "200", "Most visits of the data."),
    "batch_size": Argument(_or("auto", "auto", N), "auto", "Rows of a mini-batch."),
    "lr": Argument(NUMBER, "0.001", "Learning rate."),
    "optimizer": Argument(NAME, "adam", "adam, adamw, sgd or rmsprop."),
    "weight_decay": Argument(
        _or("none", None, NUMBER), "none", "Of the optimizer, such as 2 of adamw for few rows."
    ),
    "schedule": Argument(NAME, "constant", "constant, cosine or onecycle."),
    "clip": Argument(_or("none", None, NUMBER), "none", "Largest norm of each layer's gradient."),
    "validation": Argument(NUMBER, "0.1", "The share held out, which decides when to stop."),
    "held_out": Argument(NAME, "rows", "What that is a share of: rows or cells."),
    "patience": Argument(
        _or("none", None, N), "20", "Epochs without progress before it stops, or none."
    ),
    "device": Argument(NAME, "auto", "auto, cpu, cuda, cuda:1 or mps."),
    "precision": Argument(NAME, "32", "32, 64 or bf16-mixed."),
    "compile": Argument(YES, "no", "Nets go through torch.compile."),
    "random_state": Argument(
        _or("none", None, N), "none", "Seed of fit and of every draw after it."
    ),
    "verbose": Argument(N, "1", "0 is silent; 1 shows progress on a terminal."),
}
ARGUMENTS = MODEL | TRAINING

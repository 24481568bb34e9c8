"""The encodings of all modalities together: raw rows to a batch, a model's tensors back."""

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genprop.data import Batch
from genprop.encoding import Encoding
from genprop.names import check_names
from genprop.table import Raw, frame
from genprop.tables.column_choice import come_again
from genprop.tables.encoding import FAMILY, TableEncoding

AnyEncoding = Encoding | TableEncoding
Encodings = Mapping[str, AnyEncoding]


def learned(name: str, raw: Raw, visible: Any) -> AnyEncoding:
    """The encoding of a modality's rows.

    By itself (``"auto"``) one column of an array is a label, of categories, if it holds words,
    truth values, or whole numbers of which few differ (``come_again``). Floats are such numbers
    only where some are missing, as NaN is no integer: without a hole they are measurements.

    Args:
        name: the modality.
        raw: its rows.
        visible: a family's name, or one for each modality; families of columns are in ``raw``.
    """
    if raw.choices is not None:
        return TableEncoding.learn(raw.values, raw.choices, name, raw.columns is not None)
    family = visible.get(name, "auto") if isinstance(visible, Mapping) else visible
    if family == "auto" and _is_column(name, raw) and _holds_labels(raw):
        family = "categorical"
    return Encoding.learn(raw.values, family, raw.columns, name)


def _is_column(name: str, raw: Raw) -> bool:
    """Whether labels may stand there: not in a table, nor in an array alone, whose name is x."""
    # np.shape asks the thing itself, which need not answer
    shape = raw.given.shape if hasattr(raw.given, "shape") else np.asarray(raw.given).shape
    return raw.columns is None and (len(shape) == 1 or (tuple(shape[1:]) == (1,) and name != "x"))


def _holds_labels(raw: Raw) -> bool:
    """Whether what is known of one column is written as labels are."""
    known = np.asarray(raw.values[raw.seen].tolist())  # of objects the type that they have
    if known.dtype.kind not in "iuf":
        return True
    if known.dtype.kind == "f" and (raw.seen.all() or bool((known % 1).any())):
        return False
    return come_again(len(np.unique(known)), len(known))


def of_config(config: dict[str, Any]) -> AnyEncoding:
    """The encoding that a file describes."""
    kind = TableEncoding if config["family"] == FAMILY else Encoding
    return kind.of_config(config)


def encoded(
    encodings: Encodings, raws: Mapping[str, Raw], like: torch.Tensor | None = None
) -> Batch:
    """The rows as numbers with masks, in the data's precision, or in that and the place of like."""
    values, seen = {}, {}
    for name, encoding in encodings.items():
        numbers, mask = encoding.encode(raws[name].values)
        values[name] = torch.as_tensor(numbers)
        seen[name] = torch.as_tensor(mask)
    batch = Batch.of(values, seen)
    return batch if like is None else batch.to(like.device, like.dtype)


def decoded(encoding: AnyEncoding, x: torch.Tensor, exact: bool = False) -> Any:
    """Raw values ``(…, *event)`` of a modality's elements ``(…, elements)``.

    Of a table of columns in families of their own a DataFrame, or a list of them, one for each
    draw; ``exact`` says that they are means, which need not be whole.
    """
    numbers = x.cpu().double().numpy()
    if not isinstance(encoding, TableEncoding):
        return encoding.decode(numbers)
    if numbers.ndim == 3:
        return [encoding.decode(draw, exact) for draw in numbers]
    return encoding.decode(numbers, exact)


def drawn(encodings: Encodings, x: Mapping[str, torch.Tensor]) -> Any:
    """New rows as users hold them: a dict by modality, or the only one's array or DataFrame."""
    out: dict[str, Any] = {}
    for name, elements in x.items():
        values, columns = decoded(encodings[name], elements), encodings[name].columns
        plain = columns is None or isinstance(encodings[name], TableEncoding)
        out[name] = values if plain else frame(values, columns or ())
    return out["x"] if list(out) == ["x"] else out


def log_jacobian(encodings: Encodings, raws: Mapping[str, Raw]) -> NDArray[np.float64]:
    """What turns each row's log-density in the model's units into the data's, nats."""
    total = np.zeros(next(iter(raws.values())).rows)
    for name, raw in raws.items():
        encoding = encodings[name]
        if isinstance(encoding, TableEncoding):
            total += encoding.log_jacobian(raw.values)
        else:
            total += encoding.log_jacobian(raw.seen.reshape(raw.rows, -1))
    return total


def is_label(encoding: AnyEncoding) -> bool:
    """Whether a modality is one column of categories, or of zeros and ones."""
    return _classes(encoding) is not None


def labels_of(encoding: AnyEncoding) -> NDArray[Any]:
    """The values of a modality that is one label, in the order of its classes.

    Raises:
        ValueError: it is none.
    """
    values = _classes(encoding)
    if values is not None:
        return values
    raise ValueError(
        f"modality {encoding.modality!r} is no label, but has {encoding.event} cells of family "
        f"{encoding.family}; a label is one column of categories, or of zeros and ones"
    )


def class_rows(encoding: AnyEncoding) -> torch.Tensor:
    """A row of numbers for each class of a label, ``(classes, elements)``."""
    classes = labels_of(encoding)
    return torch.as_tensor(encoding.encode(classes.reshape(-1, *encoding.event))[0])


def label_among(encodings: Encodings, name: str | None) -> str:
    """The modality of that name, or the only one that is a label.

    Raises:
        TypeError: what is no name.
        ValueError: there is no such modality, or not one label.
    """
    if name is not None:
        if not isinstance(name, str):
            raise TypeError(
                f"modality is the name of one label, but is {name!r}; ask for one after the other"
            )
        check_names("modality", [name], encodings)
        return name
    found = labels_among(encodings)
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"of the modalities {list(encodings)}, {len(found)} are labels; say which to predict with "
        f"modality=…"
    )


def labels_among(encodings: Encodings) -> list[str]:
    """The modalities that are labels of others."""
    if len(encodings) < 2:
        return []
    classes = {name: _classes(encoding) for name, encoding in encodings.items()}
    return [name for name, values in classes.items() if values is not None and len(values) > 1]


class OfLabels:
    """A method of estimators fitted to a label beside other data; of others ``hasattr`` is False.

    Args:
        method: of the estimator.

    Raises:
        AttributeError: it is asked of another estimator.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    def __get__(self, estimator: Any, owner: type | None = None) -> Callable[..., Any]:
        if estimator is None:
            return self.method
        encodings = getattr(estimator, "encodings_", {})
        if labels_among(encodings):
            return MethodType(self.method, estimator)
        state = f"was fitted to {', '.join(encodings)}" if encodings else "is not fitted yet"
        raise AttributeError(
            f"{self.method.__name__} needs a model of several modalities, one of them a label, as "
            f"of fit({{'x': X, 'label': y}}), but this one {state}"
        )


def _classes(encoding: AnyEncoding) -> NDArray[Any] | None:
    """The values of one column of categories, or of zeros and ones; None of anything else."""
    if isinstance(encoding, Encoding) and encoding.cells == 1:
        if encoding.family == "categorical":
            return np.asarray(encoding.categories[0])
        if encoding.family == "bernoulli":
            return np.array([0.0, 1.0])
    return None

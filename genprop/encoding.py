"""Encoding: how one modality's raw array becomes numbers for a model, and back."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genprop.conditional import Bernoulli, Categorical, Family, Gaussian, Logistic
from genprop.correlated import CorrelatedGaussian
from genprop.holes import missing_cells

Array = NDArray[Any]
FAMILIES = ("gaussian", "bernoulli", "categorical", "logistic", "correlated")
SHOWN = 5


@dataclass(frozen=True)
class Encoding:
    """What was learned of a modality's columns: family, scaling or categories, shape, names.

    Real columns are standardised by the mean and standard deviation of what was seen of them;
    categories become one-hot groups. ``decode`` is the exact inverse up to rounding.

    Attributes:
        modality: its name.
        family: one of ``FAMILIES``.
        event: the shape of one row's event in the raw data.
        columns: the names of a table's columns, or None of an array.
        loc: what is taken from each real column.
        scale: what it is then divided by.
        categories: each categorical column's values, in the order of their elements.
    """

    modality: str
    family: str
    event: tuple[int, ...]
    columns: tuple[str, ...] | None = None
    loc: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    categories: tuple[tuple[Any, ...], ...] = ()

    @classmethod
    def learn(
        cls, raw: Array, visible: str, columns: tuple[str, ...] | None = None, modality: str = "x"
    ) -> "Encoding":
        """The encoding of raw data ``(rows, *event)``, in which NaN or None is missing.

        Args:
            raw: the data.
            visible: a family's name, or ``"auto"``: Bernoulli where all values are 0 or 1,
                otherwise Gaussian.
            columns: the names of a table's columns.
            modality: its name, for messages.

        Raises:
            ValueError: an unknown family, a column without a value, infinities, or values outside
                the family's support.

        >>> Encoding.learn(np.array([[1.0], [3.0]]), "auto").scale
        (1.0,)
        """
        if visible not in (*FAMILIES, "auto"):
            raise ValueError(
                f"visible must be 'auto', or one of {', '.join(FAMILIES)}, but is {visible!r}"
            )
        flat = raw.reshape(len(raw), -1)
        blank = cls(modality, visible, raw.shape[1:], columns)
        blank._refuse_empty_columns(flat)
        if visible == "categorical":
            values = tuple(_categories(column) for column in _integers(flat).T)
            return cls(modality, visible, raw.shape[1:], columns, categories=values)
        numbers = blank._numbers(flat)
        family = _guess(numbers) if visible == "auto" else visible
        if family == "bernoulli":
            learned = cls(modality, family, raw.shape[1:], columns)
            learned._check_binary(numbers)
            return learned
        loc = np.nanmean(numbers, 0)
        scale = np.nanstd(numbers, 0)
        # a constant column has no spread to divide by, nor one that only rounding made
        scale[scale <= 1e-12 * np.maximum(1, np.abs(loc))] = 1.0
        return cls(
            modality, family, raw.shape[1:], columns, tuple(loc.tolist()), tuple(scale.tolist())
        )

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> "Encoding":
        """The encoding that ``config`` describes."""
        tuples = {k: tuple(config[k]) for k in ("event", "loc", "scale")}
        categories = tuple(tuple(values) for values in config["categories"])
        columns = None if config["columns"] is None else tuple(config["columns"])
        return cls(
            config["modality"], config["family"], columns=columns, categories=categories, **tuples
        )

    def config(self) -> dict[str, Any]:
        """What a file needs to know."""
        return asdict(self)

    @property
    def cells(self) -> int:
        """Cells of one row in the raw data."""
        return int(np.prod(self.event, dtype=int))

    def visible(self) -> Family:
        """The decoder's family for this modality."""
        if self.family == "categorical":
            return Categorical([len(values) for values in self.categories])
        made: dict[str, type[Gaussian | Logistic | Bernoulli]] = {
            "gaussian": Gaussian,
            "logistic": Logistic,
            "correlated": CorrelatedGaussian,
            "bernoulli": Bernoulli,
        }
        return made[self.family](self.cells)

    def encode(self, raw: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values ``(rows, elements)``, zero where missing, and which of them are seen.

        Raises:
            ValueError: another shape of event, infinities, or values outside the support.
        """
        if raw.shape[1:] != self.event:
            raise ValueError(
                f"modality {self.modality!r} was fitted on rows of shape {self.event}, but these "
                f"have shape {raw.shape[1:]}"
            )
        flat = raw.reshape(len(raw), -1)
        if self.family == "categorical":
            return self._one_hot(flat)
        numbers = self._numbers(flat)
        if self.family == "bernoulli":
            self._check_binary(numbers)
        else:
            numbers = (numbers - np.asarray(self.loc)) / np.asarray(self.scale)
        seen = ~np.isnan(numbers)
        return np.where(seen, numbers, 0.0), seen

    def decode(self, values: NDArray[Any]) -> Array:
        """Raw data ``(…, *event)`` of values ``(…, elements)``."""
        lead = values.shape[:-1]
        if self.family == "categorical":
            return self._from_one_hot(values).reshape(*lead, *self.event)
        if self.loc:
            values = values * np.asarray(self.scale) + np.asarray(self.loc)
        return values.reshape(*lead, *self.event)

    def log_jacobian(self, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What turns a row's log-density in the model's units into the data's: -Σ log scale."""
        if not self.scale:
            return np.zeros(len(seen))
        jacobian: NDArray[np.float64] = -(seen * np.log(self.scale)).sum(1)
        return jacobian

    def _name(self, column: int) -> str:
        if self.columns is not None:
            return f"column {self.columns[column]!r}"
        where = f" of modality {self.modality!r}" if self.modality != "x" else ""
        return f"column {column}{where}"

    def _refuse_empty_columns(self, flat: Array) -> None:
        empty = np.flatnonzero(missing_cells(flat).all(0))
        if len(empty):
            names = ", ".join(self._name(int(c)) for c in empty[:SHOWN])
            more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
            raise ValueError(
                f"{names}{more} holds no value at all and so cannot be learned; leave it out"
            )

    def _numbers(self, flat: Array) -> NDArray[np.float64]:
        try:
            numbers = flat.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"modality {self.modality!r} holds values that are no numbers ({error}); give "
                f"visible='categorical' if its columns are categories"
            ) from error
        infinite = np.isinf(numbers).any(0)
        if infinite.any():
            raise ValueError(
                f"{self._name(int(infinite.argmax()))} holds infinity; replace it by a number, or "
                f"by NaN where it is missing"
            )
        return numbers

    def _check_binary(self, numbers: NDArray[np.float64]) -> None:
        bad = ~np.isnan(numbers) & (numbers != 0) & (numbers != 1)
        if bad.any():
            row, column = np.argwhere(bad)[0].tolist()
            raise ValueError(
                f"{self._name(column)} holds {numbers[row, column]:g} in row {row}, but the family "
                f"is Bernoulli, of 0 and 1 only; binarise it, or fit with visible='gaussian'"
            )

    def _one_hot(self, flat: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        blocks, masks = [], []
        for number, (column, values) in enumerate(zip(flat.T, self.categories, strict=True)):
            missing = missing_cells(column)
            codes = self._codes(number, column, values, missing)
            block = np.zeros((len(flat), len(values)))
            block[np.flatnonzero(~missing), codes[~missing]] = 1.0
            blocks.append(block)
            masks.append(np.repeat(~missing[:, None], len(values), axis=1))
        return np.hstack(blocks), np.hstack(masks)

    def _codes(
        self, number: int, column: Array, values: tuple[Any, ...], missing: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        place = {value: code for code, value in enumerate(values)}
        plain = [_plain(value) for value in column]
        codes = np.array([place.get(value, -1) for value in plain], dtype=np.int64)
        new = np.flatnonzero((codes < 0) & ~missing)
        if len(new):
            known = ", ".join(repr(v) for v in values[:SHOWN])
            known += ", …" if len(values) > SHOWN else ""
            raise ValueError(
                f"{self._name(number)} holds a new category {plain[new[0]]!r} in row {new[0]}; the "
                f"model knows {known}. Leave it missing, or fit anew with it"
            )
        return codes

    def _from_one_hot(self, values: NDArray[Any]) -> Array:
        ends = np.cumsum([len(v) for v in self.categories])[:-1]
        columns = []
        for block, known in zip(np.split(values, ends, axis=-1), self.categories, strict=True):
            columns.append(np.asarray(known)[block.argmax(-1)])
        same = len({column.dtype.kind for column in columns}) == 1
        return np.stack(columns if same else [c.astype(object) for c in columns], axis=-1)


def _guess(numbers: NDArray[np.float64]) -> str:
    return "bernoulli" if bool(np.isin(numbers[~np.isnan(numbers)], (0, 1)).all()) else "gaussian"


def _integers(flat: Array) -> Array:
    """Floats as integers and None where only holes made floats of them; all else as it is."""
    missing = missing_cells(flat)
    if flat.dtype.kind != "f" or not missing.any() or (flat[~missing] % 1).any():
        return flat
    nothing: Any = None
    return np.where(missing, nothing, np.where(missing, 0, flat).astype(np.int64))


def _categories(column: Array) -> tuple[Any, ...]:
    return tuple(sorted({_plain(value) for value in column[~missing_cells(column)]}))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value

"""How a table of columns of many kinds becomes numbers for a model, and back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from genprop.conditional import Bernoulli, Categorical, Family, Gaussian, StudentT
from genprop.counting import NegativeBinomial, Poisson
from genprop.distributions import Product
from genprop.hurdle import Hurdle, IndependentHurdle
from genprop.names import check_names
from genprop.ordinal import Ordinal
from genprop.tables.column_choice import KINDS, NUMBERS, Choice, choose
from genprop.tables.column_code import ColumnCode
from genprop.tables.columns import Columns, SideBySide

FAMILY = "columns"
# how columns lie in the model: those of one family side by side
ORDER = (
    "real", "positive", "proportion", "student", "hurdle", "poisson", "count", "boolean", "ordered",
    "category", "constant",
)  # fmt: skip
BLOCKS: tuple[tuple[tuple[str, ...], Callable[[list[ColumnCode]], Family]], ...] = (
    (("real", "positive", "proportion"), lambda codes: Gaussian(len(codes))),
    (("student",), lambda codes: StudentT(len(codes))),
    (("hurdle",), lambda codes: Hurdle(len(codes))),
    (("poisson",), lambda codes: Poisson([c.loc for c in codes], [c.scale for c in codes])),
    (("count",), lambda codes: NegativeBinomial([c.loc for c in codes], [c.scale for c in codes])),
    (("boolean",), lambda codes: Bernoulli(len(codes))),
    (("ordered",), lambda codes: Ordinal([c.elements for c in codes])),
    (("category",), lambda codes: Categorical([c.elements for c in codes])),
)


@dataclass(frozen=True)
class TableEncoding:
    """A table's columns, each with its family, its scaling or categories, and its type.

    In the model, columns of one family lie side by side. Constant columns have no element there:
    nothing about them is uncertain.

    Attributes:
        modality: its name.
        codes: one a column, in the table's order.
        named: whether the columns have names of their own, as a DataFrame's.
    """

    modality: str
    codes: tuple[ColumnCode, ...]
    named: bool = True

    @classmethod
    def learn(
        cls, table: Any, choices: Mapping[str, str], modality: str = "x", named: bool = True
    ) -> "TableEncoding":
        """The encoding of a DataFrame in which NaN, None, NA or NaT is missing.

        Args:
            table: the DataFrame.
            choices: the kinds of some columns, by name; those of the others are chosen by what
                they hold.
            modality: its name, for messages.
            named: whether its columns have names of their own.

        Raises:
            ValueError: a choice for no column or of no kind, a column without a value or of a type
                without a family, or values outside the family's support.

        >>> import pandas as pd
        >>> table = pd.DataFrame({"n": [0, 2, 1, 7], "who": ["a", "b", "b", None]})
        >>> encoding = TableEncoding.learn(table, {"n": "count"})
        >>> encoding.visible().elements, encoding.report()["family"].tolist()
        (3, ['count', 'category'])
        """
        _check(table, choices)
        codes = [
            ColumnCode.learn(table.iloc[:, number], _choice(table.iloc[:, number], choices))
            for number in range(table.shape[1])
        ]
        if not any(code.elements for code in codes):
            raise ValueError(
                f"all columns of modality {modality!r} are constant, so that there is nothing to "
                f"learn"
            )
        return cls(modality, tuple(codes), named)

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> "TableEncoding":
        """The encoding that ``config`` describes."""
        codes = tuple(ColumnCode.of_config(code) for code in config["codes"])
        return cls(config["modality"], codes, config["named"])

    def config(self) -> dict[str, Any]:
        """What a file needs to know."""
        return {**asdict(self), "family": FAMILY}

    @property
    def family(self) -> str:
        """``"columns"``."""
        return FAMILY

    @property
    def event(self) -> tuple[int, ...]:
        """The number of columns."""
        return (len(self.codes),)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns' names, if they have any."""
        return tuple(code.name for code in self.codes) if self.named else None

    @property
    def scale(self) -> tuple[float, ...]:
        """What real columns are divided by."""
        return tuple(code.scale for code in self.codes if code.kind in NUMBERS)

    def visible(self) -> Family:
        """The decoder's family."""
        made = []
        for kinds, make in BLOCKS:
            codes = [code for code in self.ordered() if code.kind in kinds]
            if codes:
                made.append(make(codes))
        return Columns(made)

    def report(self) -> Any:
        """A DataFrame with a line for each column: its family, and why."""
        import pandas as pd

        return pd.DataFrame(
            [(c.name, c.kind, c.why) for c in self.codes], columns=["column", "family", "why"]
        )

    def encode(self, table: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values ``(rows, elements)``, zero where missing, and which of them are seen.

        Raises:
            ValueError: an unseen category, or a value outside a column's support, by name.
        """
        blocks = [code.encode(table.iloc[:, place]) for place, code in enumerate(self.codes)]
        parts = [blocks[place] for place in self._places()]
        return np.hstack([x for x, _ in parts]), np.hstack([seen for _, seen in parts])

    def decode(self, values: NDArray[Any], exact: bool = False) -> Any:
        """A DataFrame of values ``(rows, elements)``, each column of the type it had in fit.

        Args:
            values: in the model's units.
            exact: whether means are meant, which are not rounded where a type need not be whole.
        """
        import pandas as pd

        ends = np.cumsum([code.elements for code in self.ordered()])[:-1]
        parts = dict(zip(self._places(), np.split(values, ends, axis=-1), strict=True))
        series = [code.decode(parts[place], exact) for place, code in enumerate(self.codes)]
        if not self.named:
            return np.stack([np.asarray(column) for column in series], -1)
        return pd.DataFrame({c.name: s for c, s in zip(self.codes, series, strict=True)})

    def log_jacobian(self, table: Any) -> NDArray[np.float64]:
        """What turns a row's log-density in the model's units into the data's."""
        parts = [code.log_jacobian(table.iloc[:, place]) for place, code in enumerate(self.codes)]
        total: NDArray[np.float64] = np.sum(parts, axis=0)
        return total

    def features(self, law: Product) -> Tensor:
        """Expected values ``(…, elements)`` that may be averaged: of bent columns in their units.

        The mean of a column that was standardised as its logarithm is no function of the mean of
        that, so that it has to be taken before draws are averaged.
        """
        found = law.mean.clone()
        for place, code in self._bent():
            assert isinstance(law, SideBySide)
            part, at = law.holding(place)
            normal, above = part, None
            if isinstance(part, IndependentHurdle):
                normal, above = part.value, part.above.mean[..., at]
            expected = code.expected(normal.mean[..., at], normal.stddev[..., at])
            found[..., place] = expected if above is None else above * expected
        return found

    def features_at(self, x: Tensor) -> Tensor:
        """The same of values."""
        found = x.clone()
        for place, code in self._bent():
            found[..., place] = code.unbend(found[..., place])
        return found

    def elements_of(self, features: Tensor) -> Tensor:
        """The model's units of averaged ``features``."""
        found = features.clone()
        for place, code in self._bent():
            found[..., place] = code.bend(found[..., place])
        return found

    def ordered(self) -> list[ColumnCode]:
        """The columns as they lie in the model."""
        return [self.codes[place] for place in self._places()]

    def _places(self) -> list[int]:
        return sorted(range(len(self.codes)), key=lambda at: ORDER.index(self.codes[at].kind))

    def _bent(self) -> Iterator[tuple[int, ColumnCode]]:
        """Columns whose logarithm or logit is what is standardised, with their elements."""
        for place, code in enumerate(self.ordered()):
            if code.kind in ("positive", "proportion", "hurdle"):
                yield place, code


def is_mixed(table: Any) -> bool:
    """Whether a DataFrame holds what no float can stand for.

    That is more than numbers, or truth values or pandas' own whole numbers, unless all of it is 0
    or 1.

    >>> import pandas as pd
    >>> numbers = pd.DataFrame({"a": [1.5, 2.0], "b": [True, False]})
    >>> is_mixed(numbers), is_mixed(numbers[["a"]]), is_mixed(numbers[["b"]])
    (True, False, False)
    """
    import pandas as pd

    types = pd.api.types
    columns = [table.iloc[:, number] for number in range(table.shape[1])]
    if not all(types.is_numeric_dtype(c) or types.is_bool_dtype(c) for c in columns):
        return True
    typed = any(
        types.is_bool_dtype(c) or (types.is_integer_dtype(c) and types.is_extension_array_dtype(c))
        for c in columns
    )
    return typed and not all(c.dropna().isin((0, 1)).all() for c in columns)


def _choice(series: Any, choices: Mapping[str, str]) -> Choice:
    kind = choices.get(str(series.name), "auto")
    if not series.notna().any():
        raise ValueError(
            f"column {series.name!r} holds no value at all and so cannot be learned; leave it out"
        )
    return choose(series) if kind == "auto" else Choice(kind, "as you said")


def _check(table: Any, choices: Mapping[str, str]) -> None:
    names = [str(name) for name in table.columns]
    if len(set(names)) < len(names):
        raise ValueError(f"columns need names that differ, but are {', '.join(names)}")
    check_names("visible", choices, names, "columns")
    for name, kind in choices.items():
        if kind not in (*KINDS, "auto"):
            raise ValueError(
                f"visible of column {name!r} must be 'auto' or one of {', '.join(KINDS)}, but is "
                f"{kind!r}"
            )


def features_of(encoding: object, law: Distribution | Tensor) -> Tensor:
    """Expected values that may be averaged, of a modality in any encoding, or such of draws."""
    if isinstance(law, Tensor):
        return encoding.features_at(law) if isinstance(encoding, TableEncoding) else law
    if isinstance(encoding, TableEncoding) and isinstance(law, Product):
        return encoding.features(law)
    return law.mean


def averaged(encoding: object, features: Tensor) -> Tensor:
    """The model's units of averaged features."""
    return encoding.elements_of(features) if isinstance(encoding, TableEncoding) else features

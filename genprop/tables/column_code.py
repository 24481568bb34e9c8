"""One column of a table as numbers for a model, and back in the type that it had."""

import math
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genprop.hurdle import ZERO, is_zero
from genprop.tables.column_choice import NUMBERS, Choice, is_whole, logit

SHOWN = 5
DAY = 86_400.0  # seconds
NODES = 16  # of the quadrature of a bent mean
PLAIN = (bool, int, float, str)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class ColumnCode:
    """How one column is encoded.

    Attributes:
        name: the column's.
        kind: of its family, one of ``column_choice.KINDS``.
        why: the reason for it.
        dtype: pandas's name of its type.
        loc: what is taken from its numbers (of the logarithm, if they are positive or zero; of the
            logit, if they are proportions).
        scale: what they are then divided by.
        whole: what draws are rounded to a multiple of; 0 says that they are not.
        categories: its values, in the order of their elements.
    """

    name: str
    kind: str
    why: str
    dtype: str
    loc: float = 0.0
    scale: float = 1.0
    whole: float = 0.0
    categories: tuple[Any, ...] = ()

    @classmethod
    def learn(cls, series: Any, choice: Choice) -> "ColumnCode":
        """The code of a column of this kind.

        Raises:
            ValueError: values outside the kind's support, or that no file can hold.
        """
        blank = cls(str(series.name), choice.kind, choice.why, str(series.dtype))
        if choice.kind in ("boolean", "category", "ordered", "constant"):
            return blank._with(categories=blank._learned_categories(series))
        numbers = blank._numbers(series)
        seen = numbers[~np.isnan(numbers)]
        blank._check_support(numbers)
        loc, scale = blank._moments(blank._bent(seen))
        return blank._with(loc=loc, scale=scale, whole=blank._grain(seen))

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> "ColumnCode":
        """The code that ``config`` describes."""
        return cls(**{**config, "categories": tuple(config["categories"])})

    @property
    def elements(self) -> int:
        """How many it has in the model."""
        return {
            "constant": 0,
            "category": len(self.categories),
            "ordered": len(self.categories),
        }.get(self.kind, 1)

    def encode(self, series: Any) -> tuple[Values, NDArray[np.bool_]]:
        """Its elements ``(rows, elements)``, zero where missing, and which are seen."""
        seen = series.notna().to_numpy()
        if self.kind in NUMBERS:
            numbers = self._numbers(series)
            self._check_support(numbers)
            bent = self._bent(np.where(seen, numbers, 0.5))  # which every support holds
            values = np.where(np.isneginf(bent), ZERO, (bent - self.loc) / self.scale)[:, None]
        else:
            values = self._places(series, seen)
        mask = np.repeat(seen[:, None], self.elements, axis=1)
        return np.where(mask, values, 0.0), mask

    def decode(self, values: NDArray[Any], exact: bool = False) -> Any:
        """The column, in its type, of elements ``(rows, elements)``."""
        import pandas as pd

        if self.kind not in NUMBERS:
            return self._typed(self._picked(values))
        element = torch.as_tensor(values[:, 0], dtype=torch.float64)
        numbers = np.asarray(self.unbend(element))
        must = pd.api.types.is_integer_dtype(self._pandas_type) or self._is_time
        if self.whole and (must or not exact):
            numbers = np.round(numbers / self.whole) * self.whole
        if self.kind in ("count", "poisson"):
            numbers = np.maximum(numbers, 0)
        return self._time(numbers) if self._is_time else self._typed(numbers)

    def log_jacobian(self, series: Any) -> Values:
        """For each row log |dz / dx|, z being the element of a value x that is seen."""
        if self.kind not in ("real", "student", "hurdle", "positive", "proportion"):
            return np.zeros(len(series))
        x = self._numbers(series)
        seen = ~np.isnan(x)
        x = np.where(seen, x, 0.5)
        if self.kind == "hurdle":
            seen &= x > 0  # of what has a density
        slope = {
            "hurdle": -np.log(np.where(x > 0, x, 1.0)),
            "positive": -np.log(np.where(x > 0, x, 1.0)),
            "proportion": -np.log(np.clip(x * (1 - x), 1e-300, None)),
        }.get(self.kind, np.zeros(len(x)))
        return np.where(seen, slope - np.log(self.scale), 0.0)

    def expected(self, loc: Tensor, width: Tensor) -> Tensor:
        """E[x] of a number above zero or a proportion whose element is N(loc, width²)."""
        t, w = np.polynomial.hermite_e.hermegauss(NODES)
        total = torch.zeros_like(loc)
        for node, weight in zip(t.tolist(), (w / w.sum()).tolist(), strict=True):
            total = total + weight * self.unbend(loc + width * node)
        return total

    def unbend(self, element: Tensor) -> Tensor:
        """The number of an element."""
        z = element * self.scale + self.loc
        if self.kind == "proportion":
            return z.sigmoid()
        if self.kind not in ("positive", "hurdle"):
            return z
        # so far below the largest number that many can be added
        x = z.clamp(max=math.log(torch.finfo(z.dtype).max) - 8).exp()
        return x.masked_fill(is_zero(element), 0) if self.kind == "hurdle" else x

    def bend(self, x: Tensor) -> Tensor:
        """The element of a number from zero on, or of a proportion."""
        tiny = torch.finfo(x.dtype).tiny
        z = x.clamp_min(tiny).log()
        if self.kind == "proportion":
            z = torch.logit(x, eps=torch.finfo(x.dtype).eps)
        element = (z - self.loc) / self.scale
        return element.masked_fill(x <= 0, ZERO) if self.kind == "hurdle" else element

    def _with(self, **changes: Any) -> "ColumnCode":
        return ColumnCode(**{**asdict(self), **changes})

    @property
    def _pandas_type(self) -> Any:
        import pandas as pd

        if self.dtype == "category":
            return pd.CategoricalDtype(list(self.categories), ordered=self.kind == "ordered")
        return pd.api.types.pandas_dtype(self.dtype)

    @property
    def _is_time(self) -> bool:
        return self.dtype.startswith("datetime64")

    def _numbers(self, series: Any) -> Values:
        """Its values as numbers, NaN where missing; times as seconds since 1970."""
        import pandas as pd

        if pd.api.types.is_datetime64_any_dtype(series):
            zone = "UTC" if series.dt.tz is not None else None
            seconds = (series - pd.Timestamp(0, tz=zone)) / pd.Timedelta(seconds=1)
            numbers: Values = seconds.to_numpy(dtype=np.float64, na_value=np.nan)
            return numbers
        try:
            numbers = pd.to_numeric(series).to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"column {self.name!r} is {self.kind}, but holds values that are no numbers "
                f"({error}); choose 'category' for it, or leave them missing"
            ) from error
        if np.isinf(numbers).any():
            raise ValueError(
                f"column {self.name!r} holds infinity; replace it by a number, or by NaN where it "
                f"is missing"
            )
        return numbers

    def _check_support(self, numbers: Values) -> None:
        inside, expected = {
            "positive": (numbers > 0, "above 0"),
            "hurdle": (numbers >= 0, "from 0 on"),
            "proportion": ((numbers > 0) & (numbers < 1), "between 0 and 1"),
        }.get(self.kind, (np.isfinite(numbers), "numbers"))
        if self.kind in ("count", "poisson"):
            inside = (numbers >= 0) & (numbers == np.round(numbers))
            expected = "0, 1, 2, …"
        bad = np.flatnonzero(~inside & ~np.isnan(numbers))
        if len(bad):
            raise ValueError(
                f"column {self.name!r} is {self.kind}, its values are {expected}, but row {bad[0]} "
                f"holds {numbers[bad[0]]:g}; choose another family for it, as "
                f"visible={{{self.name!r}: 'real'}}, or leave it missing"
            )

    def _bent(self, x: Values) -> Values:
        """What is standardised; of zero minus infinity."""
        if self.kind in ("positive", "hurdle"):
            return np.log(x, out=np.full(len(x), -np.inf), where=x > 0)
        return logit(x) if self.kind == "proportion" else x

    def _moments(self, z: Values) -> tuple[float, float]:
        z = z[np.isfinite(z)]
        if not len(z):
            raise ValueError(
                f"column {self.name!r} is {self.kind}, but holds nothing but zeros; choose "
                f"'constant' for it, or leave it out"
            )
        loc, scale = float(z.mean()), float(z.std())
        if self.kind in ("count", "poisson"):
            return max(loc, 1e-3), max(scale, 1.0)
        if self.kind == "student":
            quarters = np.quantile(z, (0.25, 0.5, 0.75))
            spread = float(quarters[2] - quarters[0]) / 1.349
            loc, scale = float(quarters[1]), spread if spread > 0 else scale
        # a column that is constant up to rounding has no spread to divide by
        return loc, scale if scale > 1e-12 * max(1.0, abs(loc)) else 1.0

    def _grain(self, x: Values) -> float:
        if self._is_time:
            return DAY if is_whole(x / DAY) else 1e-6
        return 1.0 if is_whole(x) else 0.0

    def _learned_categories(self, series: Any) -> tuple[Any, ...]:
        import pandas as pd

        if isinstance(series.dtype, pd.CategoricalDtype):
            values = [_plain(value) for value in series.dtype.categories]
        else:
            values = list({_plain(value): None for value in series.dropna()})
            values = sorted(values, key=lambda v: (isinstance(v, str), v))
        strange = [value for value in values if not isinstance(value, PLAIN)]
        if strange and self.kind != "constant":
            raise ValueError(
                f"column {self.name!r} has categories such as {strange[0]!r}, which no file can "
                f"hold; turn them into texts"
            )
        if self.kind == "boolean" and len(values) != 2:
            raise ValueError(
                f"column {self.name!r} is boolean, but holds {_listed(values)}; it needs two values"
            )
        if self.kind == "constant":
            present = series.dropna()
            if present.nunique() != 1:
                raise ValueError(
                    f"column {self.name!r} is not constant: it holds {_listed(values)}"
                )
            values = [_written(present.iloc[0])]
        return tuple(values)

    def _places(self, series: Any, seen: NDArray[np.bool_]) -> Values:
        """One-hot rows, or 0 and 1 of two values."""
        import pandas as pd

        known = pd.Index(list(self.categories), dtype=object)
        plainly = _written if self.kind == "constant" else _plain
        plain = pd.Index([plainly(value) for value in series], dtype=object)
        codes = known.get_indexer(plain)
        new = np.flatnonzero((codes < 0) & seen)
        if len(new):
            self._refuse(int(new[0]), plain[new[0]])
        if self.kind == "boolean":
            return np.asarray(codes[:, None], dtype=np.float64)
        if self.kind == "constant":
            return np.zeros((len(codes), 0))
        one_hot: Values = np.eye(self.elements)[np.maximum(codes, 0)]
        return one_hot

    def _refuse(self, row: int, value: Any) -> NoReturn:
        if self.kind == "constant":
            raise ValueError(
                f"column {self.name!r} was always {self.categories[0]!r} in fit, but holds "
                f"{value!r} in row {row}; leave it missing, or fit anew with it"
            )
        raise ValueError(
            f"column {self.name!r} holds a new category {value!r} in row {row}; the model knows "
            f"{_listed(list(self.categories))}. Leave it missing, or fit anew with it"
        )

    def _picked(self, values: NDArray[Any]) -> list[Any]:
        """The most probable category, of ordered ones the median, which is nearest on average."""
        if self.kind == "constant":
            return [self.categories[0]] * len(values)
        if self.kind == "boolean":
            best = values[:, 0] > 0.5
        elif self.kind == "ordered":
            best = (values.cumsum(-1) >= 0.5 * values.sum(-1, keepdims=True)).argmax(-1)
        else:
            best = values.argmax(-1)
        return [self.categories[int(k)] for k in best]

    def _typed(self, values: Any) -> Any:
        import pandas as pd

        return pd.Series(values, dtype=None).astype(self._pandas_type)

    def _time(self, seconds: Values) -> Any:
        import pandas as pd

        kind = self._pandas_type
        moments = pd.to_datetime(pd.Series(seconds), unit="s", utc=True)
        zone = getattr(kind, "tz", None)
        local = moments.dt.tz_convert(zone) if zone is not None else moments.dt.tz_localize(None)
        return local.astype(kind)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _written(value: Any) -> Any:
    """A plain value that stands for any."""
    value = _plain(value)
    return value if isinstance(value, PLAIN) else str(value)


def _listed(values: list[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:SHOWN])
    return f"{shown}, …" if len(values) > SHOWN else shown

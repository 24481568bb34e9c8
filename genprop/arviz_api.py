"""ArviZ as this package calls it: the one place where its two lines of versions meet.

ArviZ 0.23, all that Python 3.11 gets, holds draws in an ``InferenceData``; ArviZ 1 in xarray's
``DataTree``. Both keep named groups of xarray's labelled arrays, which is what is built here.
"""

import importlib.metadata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Labelled:
    """An array with a name for each of its dimensions.

    Attributes:
        dims: the names, in order.
        values: the array.
    """

    dims: tuple[str, ...]
    values: NDArray[Any]


def inference_data(
    groups: Mapping[str, Mapping[str, Labelled]], coords: Mapping[str, Sequence[Any]]
) -> Any:
    """ArviZ's container of the installed version.

    Args:
        groups: by ArviZ's name of a group, such as ``posterior``, its variables.
        coords: labels along dimensions; one that has none is numbered.

    Returns:
        An ``arviz.InferenceData``, or of ArviZ 1 an ``xarray.DataTree``; every group is an
        attribute of either.

    >>> draws = Labelled(("chain", "draw", "row"), np.zeros((4, 10, 2)))
    >>> data = inference_data({"posterior": {"h": draws}}, {"row": ["one", "two"]})
    >>> data.posterior["h"].sel(row="two").dims
    ('chain', 'draw')
    """
    arviz = _arviz()
    datasets = {name: _dataset(variables, coords) for name, variables in groups.items()}
    if _is_first_line(arviz):
        return arviz.InferenceData(**datasets)
    import xarray

    return xarray.DataTree.from_dict(datasets)


def psislw(log_w: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pareto-smoothed importance weights, and Pareto's shape k of each row's largest ones.

    Args:
        log_w: log-weights ``(rows, samples)``, not all equal in a row.

    Returns:
        Log-weights ``(rows, samples)``, those of a row up to a constant; and a k for each row.
    """
    arviz = _arviz()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a large k is the result, not an accident
        if _is_first_line(arviz):
            smoothed, shape = arviz.psislw(log_w.copy())
        else:
            smoothed, shape = _psislw_of_second_line(log_w)
    return np.asarray(smoothed), np.atleast_1d(shape)


def _psislw_of_second_line(log_w: NDArray[np.float64]) -> tuple[Any, Any]:
    from arviz_stats.base import array_stats

    # ArviZ 1 takes log-likelihoods, whose importance weights leave a row out: the reverse of ours;
    # and it refuses rows whose largest weights are all equal, in which nothing is to be smoothed
    smoothed, shapes = log_w.copy(), np.full(len(log_w), -np.inf)
    for number, row in enumerate(log_w):
        try:
            smoothed[number], shapes[number] = array_stats.psislw(-row)
        except ValueError as error:
            if "tail values are the same" not in str(error):
                raise
    return smoothed, shapes


def _dataset(variables: Mapping[str, Labelled], coords: Mapping[str, Sequence[Any]]) -> Any:
    import xarray

    sizes: dict[str, int] = {}
    for variable in variables.values():
        sizes |= dict(zip(variable.dims, variable.values.shape, strict=True))
    return xarray.Dataset(
        {name: (variable.dims, variable.values) for name, variable in variables.items()},
        coords={dim: list(coords.get(dim, range(size))) for dim, size in sizes.items()},
        attrs={
            "inference_library": "genprop",
            "inference_library_version": importlib.metadata.version("genprop"),
        },
    )


def _is_first_line(arviz: Any) -> bool:
    # not by hasattr, which ArviZ 1 answers with a warning
    return "InferenceData" in vars(arviz)


def _arviz() -> Any:
    with warnings.catch_warnings():
        # ArviZ announces its own refactoring at import, which is no news to our user
        warnings.simplefilter("ignore")
        import arviz
    return arviz

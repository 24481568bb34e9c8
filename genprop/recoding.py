"""Rows to codes and back, by the mode of every law on the way."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genprop.data import Batch
from genprop.encodings import Encodings, decoded, drawn, encoded
from genprop.model import Model
from genprop.stack import joint_code
from genprop.table import Raw, like


def codes_of(model: Model, batch: Batch) -> NDArray[np.float32]:
    """The codes h_L of rows, ``(rows, code)``."""
    codes: NDArray[np.float32] = joint_code(model.encode(batch, point=True))[0].cpu().numpy()
    return codes


def rows_of(model: Model, encodings: Encodings, codes: NDArray[Any]) -> Any:
    """E[x | h_1] of codes ``(rows, code)``, as users hold rows.

    Raises:
        ValueError: codes of another size.
    """
    h = torch.as_tensor(np.asarray(codes)).to(model.like)
    width = model.prior.elements
    if h.ndim != 2 or h.shape[1] != width:
        raise ValueError(f"codes must be (rows, {width}), but have shape {tuple(h.shape)}")
    paths = model.decode(h, point=True)
    return drawn(encodings, {name: path.x for name, path in paths.items()})


def rebuilt(model: Model, encodings: Encodings, raws: Mapping[str, Raw]) -> dict[str, Any]:
    """E[x | h_1] of the rows' own codes, each modality in the form that its rows had."""
    batch = encoded(encodings, raws, model.like)
    back = model.decode(joint_code(model.encode(batch, point=True))[0], point=True)
    return {n: like(decoded(encodings[n], path.x), raws[n]) for n, path in back.items()}

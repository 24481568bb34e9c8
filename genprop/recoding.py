"""Rows to their uppermost codes and back, by the mode of every law on the way.

Of a model whose prior is a model these are codes of the prior, and so on to the very top.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genprop.data import Batch
from genprop.encodings import Encodings, decoded, drawn, encoded
from genprop.model import Model
from genprop.seeds import seeded
from genprop.shapes import Elements
from genprop.stack import Path, joint_x
from genprop.table import Raw, like
from genprop.tables.donors import expected


def codes_of(model: Model, batch: Batch) -> NDArray[Any]:
    """The uppermost codes of rows, ``(rows, code)``.

    What is unseen of a code, as where a modality is missing, is E[h_unseen | h_seen] under the
    prior, by draws that are always the same where that is not known; a prior that is a model has
    an encoder that reads what is there.
    """
    codes: NDArray[Any] = _uppermost(model, batch).cpu().numpy()
    return codes


def rows_of(model: Model, encodings: Encodings, codes: NDArray[Any]) -> Any:
    """E[x | h_1] of uppermost codes ``(rows, code)``, as users hold rows.

    Raises:
        ValueError: codes of another size.
    """
    h = torch.as_tensor(np.asarray(codes)).to(model.like)
    width = model.summit.elements
    if h.ndim != 2 or h.shape[1] != width:
        raise ValueError(f"codes must be (rows, {width}), but have shape {tuple(h.shape)}")
    return drawn(encodings, {name: path.x for name, path in descent(model, h).items()})


def rebuilt(model: Model, encodings: Encodings, raws: Mapping[str, Raw]) -> dict[str, Any]:
    """E[x | h_1] of the rows' own uppermost codes, each modality in the form that its rows had."""
    back = descent(model, _uppermost(model, encoded(encodings, raws, model.like)))
    return {n: like(decoded(encodings[n], path.x), raws[n]) for n, path in back.items()}


@torch.no_grad()
def descent(model: Model, code: Elements) -> dict[str, Path]:
    """Paths from uppermost codes down to E[x | h_1], by the mode of every law before it.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> above = Model(Stack([], elements=3), GaussianPrior(3))
    >>> descent(Model(Stack.build(Bernoulli(4), (3,)), above), torch.zeros(2, 3))["x"].x.shape
    torch.Size([2, 4])
    """
    if isinstance(model.prior, Model):
        paths = descent(model.prior, code)
        modes = torch.cat([p.laws[0].mode if p.laws else p.x for p in paths.values()], -1)
        # the code of a modality without layers is its data, of which the mean is wanted
        ends = [torch.full((s.code_elements,), not len(s.layers)) for _, s in model.named_stacks()]
        code = torch.where(torch.cat(ends).to(code.device), joint_x(paths), modes)
    return model.decode(code, point=True)


def _uppermost(model: Model, batch: Batch) -> Elements:
    # a code has no random_state: what a prior must draw for it, it draws alike every time
    with seeded(0):
        return expected(model, batch).code

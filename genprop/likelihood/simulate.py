"""Draws of P(x, h), all levels kept."""

from collections.abc import Sequence

import torch

from genprop.levels import Levels, joined
from genprop.model import NESTED, Model
from genprop.shapes import Elements


@torch.no_grad()
def simulated(model: Model, shape: Sequence[int]) -> tuple[Elements, Levels]:
    """Draws of P(h, x): h as ``Posterior`` orders it, and x of each modality.

    Given its own x, the h of a draw is an exact draw of the posterior P(h | x).

    Args:
        model: the model.
        shape: of the draws.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> h, x = simulated(model, (3,))
    >>> h.shape, x["x"].shape
    (torch.Size([3, 6]), torch.Size([3, 6]))
    """
    hidden, x = _simulated(model, shape, "")
    return (joined(hidden) if hidden else next(iter(x.values()))[..., :0]), x


def _simulated(model: Model, shape: Sequence[int], prefix: str) -> tuple[Levels, Levels]:
    above: Levels = {}
    if isinstance(model.prior, Model):
        above, codes = _simulated(model.prior, shape, f"{prefix}{NESTED}.")
        code = joined(codes)
    else:
        code = model.prior.sample(shape)
    paths = model.decode(code)
    own = {f"{prefix}{n}.{k}": h for n, path in paths.items() for k, h in enumerate(path.h) if k}
    return own | above, {name: path.x for name, path in paths.items()}

"""Ancestral sampling."""

from torch import Tensor

from genprop.model import Model


def ancestral(model: Model, n: int, mean: bool = False) -> dict[str, Tensor]:
    """Independent draws of x: h_L ~ P(h_L), then h_{l-1} ~ P(h_{l-1} | h_l) down to the data.

    Args:
        model: the model.
        n: how many draws.
        mean: ends at E[x | h_1] in place of a draw, as pictures in papers often do.

    Returns:
        For each modality ``(n, elements)``.

    Raises:
        ValueError: n is less than one.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> ancestral(model, 3)["x"].shape
    torch.Size([3, 6])
    """
    if n < 1:
        raise ValueError(f"n is how many samples to draw, at least 1, but is {n}")
    paths = model.decode(model.prior.sample((n,)), mean)
    return {name: path.x for name, path in paths.items()}

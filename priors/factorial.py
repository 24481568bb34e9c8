"""The factorial prior."""

import torch
from torch import nn

from genprop.conditional import Family
from genprop.distributions import Discrete, Product
from genprop.prior import LawPrior
from genprop.shapes import Elements


class FactorialPrior(LawPrior):
    """P(h) = ∏_j P_j(h_j) with units of any family, their parameters learned.

    Args:
        family: the units: ``Gaussian``, ``Bernoulli``, ``Categorical`` or ``Logistic``.

    >>> from genprop.conditional import Bernoulli
    >>> FactorialPrior(Bernoulli(3)).log_prob(torch.ones(3)).exp()
    tensor(0.1250, grad_fn=<ExpBackward0>)
    """

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family
        self.elements = family.elements
        self.outputs = nn.Parameter(torch.zeros(family.outputs))
        self.discrete = isinstance(self.law, Discrete)

    @property
    def law(self) -> Product:
        """The product as a distribution."""
        law: Product = self.family(self.outputs)
        return law

    def refit(self, codes: Elements) -> None:
        """Maximum likelihood by L-BFGS; a weak pull to zero keeps constant units finite."""
        codes = codes.detach()
        parameters = list(self.parameters())
        search = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

        def misfit() -> torch.Tensor:
            search.zero_grad()
            pull = sum(p.square().sum() for p in parameters) / len(codes)
            value: torch.Tensor = self.loss(codes).mean() + 1e-3 * pull
            value.backward()
            return value

        with torch.enable_grad():
            search.step(misfit)
        search.zero_grad()

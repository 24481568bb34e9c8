"""The autoregressive prior."""

import torch
from torch import nn

from genprop.autoregressive import AutoregressiveBernoulli
from genprop.conditional import Autoregressive
from genprop.descent import descend
from genprop.prior import LawPrior
from genprop.shapes import Elements


class AutoregressivePrior(LawPrior):
    r"""P(h) = ∏_j P(h_j | h_<j) over zeros and ones (NADE): exact probabilities, exact draws.

    Where elements are unseen, sums over up to ``particles`` vectors are exact; longer ones are
    estimated from so many draws. Fewer particles are quicker.

    Args:
        elements: the size of a code.
        units: hidden units, which read the code one element after the other.
        particles: the most vectors that a sum over unseen elements may look at; 1024 make it exact
            for ten of them.

    Raises:
        ValueError: no element, unit or particle.

    References:
        Larochelle, Murray, 2011, The neural autoregressive distribution estimator.

    >>> with torch.random.fork_rng():
    ...     prior = AutoregressivePrior(2)
    >>> codes = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> print(f"{prior.log_prob(codes).exp().sum():.4f}")
    1.0000
    """

    discrete = True

    def __init__(self, elements: int, units: int = 64, particles: int = 1024) -> None:
        super().__init__()
        self.family = Autoregressive(elements, units, particles)
        self.elements, self.units, self.particles = elements, units, particles
        self.outputs = nn.Parameter(torch.zeros(self.family.outputs))

    @property
    def law(self) -> AutoregressiveBernoulli:
        """P(h) as a distribution."""
        law: AutoregressiveBernoulli = self.family(self.outputs)
        return law

    def refit(self, codes: Elements) -> None:
        """Gradient descent from the present weights, until held-out codes gain no more."""
        descend(self, codes, lr=1e-2)

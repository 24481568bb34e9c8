"""Back-propagation, the yardstick."""

from collections.abc import Iterator

from torch import Tensor

from genprop.credit.network import CreditNetwork
from genprop.credit.rule import CreditRule, check_smooth
from genprop.rules.rule import Term


class BackPropagation(CreditRule):
    r"""The gradient of the cost, by the chain rule.

    Formula: e_L = ∂C/∂o, e_{l-1} = (∂F_l/∂h_{l-1})ᵀ e_l, and ΔW_l ∝ -(∂F_l/∂W_l)ᵀ e_l.

    Local: nothing but the last factor. Transported: the weights W_2 to W_L, transposed. Cost: one
    forward and one backward pass, about 3 forward passes. Memory: all layers' values until the
    error has passed. Source: Rumelhart, Hinton, Williams, 1986, Learning representations by
    back-propagating errors; straight-through: Bengio, Léonard, Courville, 2013.

    Args:
        straight_through: gives signs and samples, which have no derivative of use, the derivative
            1; without, networks that send them are refused.

    >>> BackPropagation(straight_through=True).straight_through
    True
    """

    def __init__(self, straight_through: bool = False) -> None:
        super().__init__()
        self.straight_through = straight_through

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """One term: the mean cost."""
        loss = network.loss(network(x, self.straight_through), y).mean()
        yield Term("network", {"network.loss": loss}, {"loss": loss.detach()})

    def check(self, network: CreditNetwork) -> None:
        if not self.straight_through:
            way_out = "use straight_through=True, or a rule that needs no derivative between layers"
            check_smooth(network, "back-propagation", way_out)

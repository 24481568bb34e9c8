"""The forward-forward rule: each layer learns to tell right labels from wrong ones."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from genprop.credit.network import CreditNetwork
from genprop.credit.rule import PredictingRule, numbered
from genprop.rules.rule import Term


class ForwardForward(PredictingRule):
    r"""Two passes up, with a row's own label and with a wrong one; no signal comes down.

    Formula: the label stands one-hot, times ``ink``, in place of the first elements of x. Layers
    receive h_{l-1} scaled to mean square 1, so that only its direction tells; with the goodness
    g_l = mean of squares of h_l, block l descends softplus(θ - g_l⁺) + softplus(g_l⁻ - θ). A row's
    class is the label of the most goodness, summed over layers above the first (over that one if
    there is no other).

    Local: each term reaches one block; the output layer takes no part. Transported: nothing, but
    the label is given below. Cost: two forward passes and their local derivatives, about 4 forward
    passes; a prediction takes one for each class. Memory: one layer's values if layers are visited
    one by one, as here. Source: Hinton, 2022, The forward-forward algorithm: some preliminary
    investigations.

    Args:
        threshold: θ.
        ink: of the label.

    >>> ForwardForward(threshold=1.0).threshold
    1.0
    """

    def __init__(self, threshold: float = 1.0, ink: float = 1.0) -> None:
        super().__init__()
        self.threshold, self.ink = threshold, ink

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a hidden layer, from the lowest up."""
        wrong = (y + torch.randint_like(y, 1, network.outputs)) % network.outputs
        good, bad = self._with(network, x, y), self._with(network, x, wrong)
        total = x.new_zeros(())
        for name, block in numbered(network.layers):
            good, bad = block(good), block(bad)
            loss = functional.softplus(self.threshold - goodness(good))
            loss = (loss + functional.softplus(goodness(bad) - self.threshold)).mean()
            total = total + loss.detach()
            yield Term(name, {f"{name}.goodness": loss}, {"loss": total})
            good, bad = levelled(good.detach()), levelled(bad.detach())

    @torch.no_grad()
    def predict(self, network: CreditNetwork, x: Tensor) -> Tensor:
        """The goodness of each label, ``(rows, classes)``."""
        found = []
        for label in range(network.outputs):
            h = self._with(network, x, torch.full((len(x),), label, device=x.device))
            sums = []
            for _, block in numbered(network.layers):
                sums.append(goodness(h := block(h)))
                h = levelled(h)
            found.append(torch.stack(sums[1:] or sums).sum(0))
        return torch.stack(found, -1)

    def check(self, network: CreditNetwork) -> None:
        if len(network.layers) < 2 or network.cost != "cross-entropy":
            raise ValueError("forward-forward needs hidden layers, and classes (cross-entropy)")
        if network.layers[0].weight[0].numel() < network.outputs and not network.layers[0].kernel:
            raise ValueError(f"x is too small to hold one of {network.outputs} labels")
        if network.outputs < 2:
            raise ValueError("with one class no label is wrong")

    def _with(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Tensor:
        """X with the label in place of its first elements."""
        label = self.ink * network.wanted(y).to(x.dtype)
        flat = torch.cat([label, x.flatten(1)[:, network.outputs :]], 1)
        return flat.view_as(x)


def goodness(h: Tensor) -> Tensor:
    """The mean of a row's squares."""
    return h.flatten(1).square().mean(1)


def levelled(h: Tensor) -> Tensor:
    """Rows scaled to mean square 1."""
    size = goodness(h).sqrt().clamp_min(1e-8)
    return h / size.view(-1, *[1] * (h.ndim - 1))

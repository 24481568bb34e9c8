"""Forward-forward with a goodness for each class, of squares and of projections' squares."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from genprop.credit.block import Block
from genprop.credit.goodness import levelled
from genprop.credit.network import CreditNetwork
from genprop.credit.rule import PredictingRule, numbered
from genprop.rules.rule import Term


class CovarianceGoodness(PredictingRule):
    r"""Each block classifies by its own second moments; their votes are weighed.

    Formula: of the channels h_c of block l (units, where there are no images), the features are the
    squares h_c² and (p_jᵀh)² for fixed random unit vectors p_j, which see the covariances without
    a matrix of them, averaged over the whole image and over its quarters; standardised in each
    row, a linear map makes of them logits a_l, and block and map descend -log softmax(a_l)_y. The
    output is Σ_l w_l a_l, whose weights w alone descend -log softmax of it.

    Local: each term reaches one block, its classifier, or w. Transported: nothing. Cost: one
    forward pass and local derivatives, about 3 forward passes. Memory: one layer's values.
    Source: covariance-aware forward-forward, 2026, arXiv 2605.04346, of which the abstract was at
    hand: learned projections, feature-alignment layers between blocks and hybrids of several layers
    a block are left out.

    Args:
        network: whose hidden blocks are given classifiers.
        projections: vectors p_j for each block; 0 leaves the squares alone.

    Raises:
        ValueError: a negative number of projections.

    >>> CovarianceGoodness(CreditNetwork.build(4, (3, 3), 2), projections=5).votes.shape
    torch.Size([2])
    """

    def __init__(self, network: CreditNetwork, projections: int = 64) -> None:
        super().__init__()
        if projections < 0:
            raise ValueError(f"projections is at least 0, but is {projections}")
        self.projections = projections
        self.classifiers = nn.ModuleList()
        for number, block in enumerate(network.layers[:-1], 1):
            draw = torch.randn(projections, block.outputs)
            self.register_buffer(f"directions_{number}", functional.normalize(draw, dim=1))
            size = (block.outputs + projections) * _places(block)
            self.classifiers.append(nn.Linear(size, network.outputs))
        self.votes = nn.Parameter(torch.ones(len(self.classifiers)))

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a hidden layer, and one of the votes."""
        h, seen = x.detach(), []
        for number, (name, block) in enumerate(numbered(network.layers), 1):
            value = block(h)
            logits = self._logits(value, number)
            seen.append(logits.detach())
            part = {f"{name}.goodness": network.loss(logits, y).mean()}
            yield Term(name, part, {})
            h = levelled(value.detach())
        loss = network.loss(self._vote(seen), y).mean()
        yield Term("votes", {"votes.loss": loss}, {"loss": loss.detach()})

    @torch.no_grad()
    def predict(self, network: CreditNetwork, x: Tensor) -> Tensor:
        """The weighed logits of all blocks."""
        found = []
        for number, (_, block) in enumerate(numbered(network.layers), 1):
            x = block(x)
            found.append(self._logits(x, number))
            x = levelled(x)
        return self._vote(found)

    def check(self, network: CreditNetwork) -> None:
        sizes = [(b.outputs + self.projections) * _places(b) for b in network.layers[:-1]]
        if not sizes or network.cost != "cross-entropy":
            raise ValueError("this rule needs hidden layers, and classes (cross-entropy)")
        if sizes != [c.weight.shape[1] for c in self.classifiers if isinstance(c, nn.Linear)]:
            raise ValueError("this rule was made for another network; make it anew for this one")

    def _logits(self, h: Tensor, number: int) -> Tensor:
        found = features(h, self.get_buffer(f"directions_{number}"))
        found = functional.layer_norm(found, found.shape[1:])
        logits: Tensor = self.classifiers[number - 1](found)
        return logits

    def _vote(self, logits: list[Tensor]) -> Tensor:
        return (torch.stack(logits, -1) * self.votes).sum(-1)


def features(h: Tensor, directions: Tensor) -> Tensor:
    """Squares of channels and of projections, averaged over the image and over its quarters.

    Args:
        h: ``(rows, units)`` or ``(rows, channels, height, width)``.
        directions: ``(projections, channels)``.
    """
    across = torch.einsum("pc,rc...->rp...", directions, h)
    squares = torch.cat([h, across], 1).square()
    if h.ndim == 2:
        return squares
    scales = [functional.adaptive_avg_pool2d(squares, side).flatten(1) for side in (1, 2)]
    return torch.cat(scales, 1)


def _places(block: Block) -> int:
    return 1 if len(block.out_shape) == 1 else 5

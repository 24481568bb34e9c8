"""Layers of a generative stack, under target propagation, as a stage of their own."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from genprop.credit.split import split
from genprop.credit.stage import Passing, Stage
from genprop.model import Model
from genprop.passage import Foot, Passage, climb_stack
from genprop.prior import FollowingPrior, Prior
from genprop.stack import Stack, is_discrete


class GenerativeStage(Stage):
    r"""Consecutive layers of a stack that learns by ``rules.target.TargetPropagation``, one sample.

    Layer l descends -log P(sg h_{l-1} | h_l) + log Q(h_l | sg h_{l-1}) - log P(h_l | sg h_{l+1}).
    Of the last part a stage's highest layer knows nothing: the stage above sends its derivative by
    h_l, made as soon as h_{l+1} is drawn. The highest stage has the prior, and waits for nothing.

    Args:
        stack: the layers.
        prior: of the code, above the highest stage; None below.
        lowest: whether what comes up is the data, which needs no target.

    >>> from genprop.conditional import Gaussian
    >>> stack = Stack.build(Gaussian(6), hidden=(4, 2))
    >>> GenerativeStage(Stack([stack[0]]))(torch.zeros(5, 6)).down.shape
    torch.Size([5, 6])
    """

    def __init__(self, stack: Stack, prior: Prior | None = None, lowest: bool = False) -> None:
        super().__init__()
        self.stack, self.prior, self.lowest = stack, prior, lowest

    @property
    def waits(self) -> bool:
        return self.prior is None

    def forward(self, *message: Tensor) -> Passing:
        """Passes h."""
        (below,) = message
        foot = Foot("x", self.stack, below, None, None, None)
        passages = list(climb_stack(foot, torch.Size()))
        top = passages[-1].h
        losses = list(_local_losses(passages))
        if self.prior is not None:
            losses.append(self.prior.loss(top).mean())
        down = None if self.lowest else _credit(passages[0], below)
        return Passing(
            torch.stack(losses).sum(), (top.detach(),), top if self.waits else None, down
        )


def _local_losses(passages: Sequence[Passage]) -> Iterator[Tensor]:
    for passage in passages:
        yield passage.reconstruction.mean()
        yield -passage.q.entropy().mean()
    for low, high in pairwise(passages):
        yield -low.log_q(high.p.detach()).mean()


@torch.enable_grad()
def _credit(passage: Passage, below: Tensor) -> Tensor:
    """The derivative of the lower layer's third part by its draw."""
    h = below.detach().requires_grad_()
    (slope,) = torch.autograd.grad(-passage.p.detach().log_prob(h).mean(), h)
    return slope


def generative_stages(model: Model, sizes: Sequence[int] | None = None) -> list[GenerativeStage]:
    """Stages that share a model's weights; the lowest is given x, wholly seen.

    Args:
        model: one modality, whose layers are continuous, under a prior that learns by its loss.
        sizes: layers of each stage, from the lowest; one each unless given.

    Raises:
        ValueError: another kind of model, or sizes that do not add up to the layers.
    """
    stack = _only_stack(model)
    parts = split(len(stack.layers), sizes)
    layers = [stack[level] for level in range(len(stack.layers))]
    return [
        GenerativeStage(
            Stack(layers[part]),
            model.prior if part.stop == len(layers) else None,
            part.start == 0,
        )
        for part in parts
    ]


def _only_stack(model: Model) -> Stack:
    stacks = model.all_stacks()
    if len(stacks) != 1 or isinstance(model.prior, Model | FollowingPrior):
        raise ValueError(
            "a pipeline trains one modality's layers under a prior that follows no codes; this "
            f"model has {len(stacks)} stacks under a {type(model.prior).__name__}"
        )
    stack = stacks[0][1]
    if any(is_discrete(stack[level].encoder.family) for level in range(len(stack.layers))):
        raise ValueError("a discrete layer needs several samples of the whole path, no pipeline")
    return stack

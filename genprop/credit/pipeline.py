r"""Layer-parallel training: every process owns a stage, mini-batches follow one another upwards.

In micro-step j a stage

1. takes what the stage above says of mini-batch j - 2, if it waits for that, and makes its update:
   it passes its input of that mini-batch again, with the same draws and its weights of now;
2. takes mini-batch j from below and passes it, sends it up, and its credit down; a stage that waits
   for nothing makes its update at once.

Stage k is k micro-steps behind the lowest. So a stage that waits for nothing makes the updates it
makes alone, exactly: mini-batch j meets the weights after updates 0 to j - 1. One that waits passes
mini-batch j with the weights after updates 0 to j - 2, whatever the number of stages: its delay is
one update. ``train_in_turns`` makes the same schedule in one process, ``train_together`` the one
without any delay.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

from genprop.credit.link import Link, Message, Queue, Wire
from genprop.credit.stage import Stage, passing_loss
from genprop.seeds import seeded

LAG = 2  # micro-steps from passing a mini-batch to the answer from above
STAGES = 2**12  # more than there are, so that no two stages draw the same noise


class Worker:
    """A stage with its optimizer and the links to its neighbours.

    Args:
        stage: what learns.
        optimizer: of the stage's parameters.
        place: how many stages lie below.
        below: links from and to the stage below; none of the lowest.
        above: links to and from the stage above; none of the highest.
        seed: of all draws.
    """

    def __init__(
        self,
        stage: Stage,
        optimizer: Optimizer,
        place: int,
        below: tuple[Link, Link] | None,
        above: tuple[Link, Link] | None,
        seed: int,
    ) -> None:
        self.stage, self.optimizer, self.place = stage, optimizer, place
        self.below, self.above, self.seed = below, above, seed
        self.waiting: deque[Message] = deque()
        self.losses: list[Tensor] = []

    def work(self, number: int, updates: int, data: Iterator[Message]) -> None:
        """Micro-step ``number`` of a run of so many updates."""
        if self.stage.waits and number >= LAG:
            assert self.above is not None
            (credit,) = self.above[1].take()
            self._update(number - LAG, self.waiting.popleft(), credit)
        if number < updates:
            message = next(data) if self.below is None else self.below[0].take()
            self._pass(number, message)

    def close(self) -> None:
        """Returns when all that was sent has left."""
        for link in (*(self.below or ()), *(self.above or ())):
            link.close()

    def _pass(self, number: int, message: Message) -> None:
        if self.stage.waits:
            with torch.no_grad(), self._draws(number):
                passing = self.stage(*message)
            self.waiting.append(message)
        else:
            with self._draws(number):
                passing = self.stage(*message)
        # neighbours are served first: they can work while this stage goes backward
        if self.above is not None:
            self.above[0].send(passing.up)
        if self.below is not None and passing.down is not None:
            self.below[1].send((passing.down,))
        if not self.stage.waits:
            self._descend(passing.loss)

    def _update(self, number: int, message: Message, credit: Tensor) -> None:
        with self._draws(number):
            loss = passing_loss(self.stage(*message), credit)
        self._descend(loss)

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.detach())

    def _draws(self, number: int) -> AbstractContextManager[None]:
        return _draws(self.seed, number, self.place)


def train_stage(
    stage: Stage,
    optimizer: Optimizer,
    updates: int,
    batches: Iterable[Message] = (),
    seed: int = 0,
) -> list[Tensor]:
    """Trains this process's stage in place, side by side with those of all other processes.

    The default group of torch.distributed is there already; its rank 0 has the lowest stage.

    Args:
        stage: this process's own.
        optimizer: of its parameters.
        updates: how many each stage makes.
        batches: of the lowest stage only, as many mini-batches, all of as many rows.
        seed: of all draws; the same in every process.

    Returns:
        The stage's loss at each of its updates.

    Raises:
        ValueError: a mini-batch of another number of rows.
    """
    rank, size = distributed.get_rank(), distributed.get_world_size()
    device = next(stage.parameters()).device

    def wires(peer: int) -> tuple[Link, Link] | None:
        return (Wire(peer, device), Wire(peer, device)) if 0 <= peer < size else None

    worker = Worker(stage, optimizer, rank, wires(rank - 1), wires(rank + 1), seed)
    _check([stage], is_top=rank == size - 1)
    data = iter(batches)
    for number in range(updates + LAG):
        if number < updates or stage.waits:
            worker.work(number, updates, data)
    worker.close()
    return worker.losses


def train_in_turns(
    stages: Sequence[Stage],
    optimizers: Sequence[Optimizer],
    updates: int,
    batches: Iterable[Message],
    seed: int = 0,
) -> list[list[Tensor]]:
    """Trains all stages in one process by the pipeline's schedule, one after another.

    Args:
        stages: from the lowest.
        optimizers: one for each.
        updates: how many each stage makes.
        batches: as many mini-batches.
        seed: of all draws.

    Returns:
        Each stage's losses.
    """
    workers, data = linked(stages, optimizers, seed), iter(batches)
    for turn in range(updates + LAG + len(workers) - 1):
        for worker in workers:
            if 0 <= turn - worker.place < updates + LAG:
                worker.work(turn - worker.place, updates, data)
    return [worker.losses for worker in workers]


def linked(stages: Sequence[Stage], optimizers: Sequence[Optimizer], seed: int = 0) -> list[Worker]:
    """Workers of one process, from the lowest, linked by queues.

    Args:
        stages: from the lowest.
        optimizers: one for each.
        seed: of all draws.

    Raises:
        ValueError: the highest stage waits for one above it.
    """
    _check(stages)
    links: list[tuple[Link, Link] | None] = [(Queue(), Queue()) for _ in stages[1:]]
    ends = zip(stages, optimizers, [None, *links], [*links, None], strict=True)
    return [
        Worker(stage, optimizer, place, below, above, seed)
        for place, (stage, optimizer, below, above) in enumerate(ends)
    ]


def train_together(
    stages: Sequence[Stage],
    optimizers: Sequence[Optimizer],
    batches: Iterable[Message],
    seed: int = 0,
) -> list[Tensor]:
    """Trains all stages in one process without delay: every update is the rule's own.

    Args:
        stages: from the lowest.
        optimizers: one for each.
        batches: mini-batches.
        seed: of all draws, the same ones as in a pipeline.

    Returns:
        The sum of all stages' losses at each update.
    """
    _check(stages)
    losses = []
    for number, batch in enumerate(batches):
        message, passings = batch, []
        for place, stage in enumerate(stages):
            with _draws(seed, number, place):
                passings.append(stage(*message))
            message = passings[-1].up
        credits = [*(passing.down for passing in passings[1:]), None]
        total = torch.stack([passing_loss(*pair) for pair in zip(passings, credits, strict=True)])
        for optimizer in optimizers:
            optimizer.zero_grad()
        total.sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(total.sum().detach())
    return losses


def _draws(seed: int, number: int, place: int) -> AbstractContextManager[None]:
    """The draws of one mini-batch in one stage, the same in every schedule."""
    return seeded((seed + number * STAGES + place) % 2**32)


def _check(stages: Sequence[Stage], is_top: bool = True) -> None:
    if not stages or (is_top and stages[-1].waits):
        raise ValueError("the highest stage waits for a stage above it, but there is none")

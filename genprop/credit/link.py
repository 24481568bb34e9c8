"""Links between stages: a queue within a process, a wire between two."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

Message = tuple[Tensor, ...]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DIMENSIONS = 8
AHEAD = 8  # tensors that may be on their way: a fast stage does not fill the memory


class Link(ABC):
    """A way on which messages keep their order."""

    @abstractmethod
    def send(self, message: Message) -> None:
        """Sends a message; its tensors are not to be changed afterwards."""

    @abstractmethod
    def take(self) -> Message:
        """The oldest message that was not taken yet."""

    @abstractmethod
    def close(self) -> None:
        """Returns when all that was sent has left."""


class Queue(Link):
    """A link within one process.

    >>> queue = Queue()
    >>> queue.send((torch.ones(2),))
    >>> queue.take()
    (tensor([1., 1.]),)
    """

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def take(self) -> Message:
        return self.messages.popleft()

    def close(self) -> None:
        pass


class Wire(Link):
    """A link to another process of torch.distributed's default group.

    Every message of a direction is of the first one's shapes, which are told once. Sending
    waits for the other side only where much is on its way.

    Args:
        peer: the other process's rank.
        device: where received tensors are put; the group's backend decides what it may be.
    """

    def __init__(self, peer: int, device: torch.device) -> None:
        self.peer, self.device = peer, device
        self.shapes: list[torch.Size] = []
        self.likes: Message | None = None
        self.leaving: deque[tuple[distributed.Work | None, Tensor]] = deque()

    def send(self, message: Message) -> None:
        shapes = [tensor.shape for tensor in message]
        if not self.shapes:
            self.shapes = shapes
            self._post(torch.tensor([len(message)], device=self.device))
            for tensor in message:
                self._post(_header(tensor))
        if shapes != self.shapes:
            raise ValueError(
                f"all mini-batches of a pipeline have the same number of rows: expected tensors of "
                f"{[tuple(s) for s in self.shapes]}, got {[tuple(s) for s in shapes]}; leave the "
                f"smaller last one out"
            )
        for tensor in message:
            self._post(tensor.contiguous())
        self._settle(AHEAD)

    def take(self) -> Message:
        if self.likes is None:
            count = int(self._receive(torch.empty(1, dtype=torch.int64, device=self.device)))
            self.likes = tuple(self._announced() for _ in range(count))
        return tuple(self._receive(torch.empty_like(like)) for like in self.likes)

    def close(self) -> None:
        self._settle(0)

    def _settle(self, most: int) -> None:
        """Waits until no more than so many tensors are on their way."""
        while len(self.leaving) > most:
            work, _ = self.leaving.popleft()
            if work is not None:
                work.wait()

    def _post(self, tensor: Tensor) -> None:
        # the tensor is kept until it has left
        self.leaving.append((distributed.isend(tensor, self.peer), tensor))

    def _receive(self, into: Tensor) -> Tensor:
        distributed.recv(into, self.peer)
        return into

    def _announced(self) -> Tensor:
        header = torch.empty(DIMENSIONS + 2, dtype=torch.int64, device=self.device)
        kind, dimensions, *sizes = self._receive(header).tolist()
        return torch.empty(sizes[:dimensions], dtype=DTYPES[kind], device=self.device)


@contextmanager
def meeting(file: Path, rank: int, size: int) -> Iterator[None]:
    """Within it processes of one machine are torch.distributed's default group; CPU only.

    Args:
        file: where they find each other; it is not there yet.
        rank: of this process.
        size: how many there are.
    """
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{file}",
        rank=rank,
        world_size=size,
        timeout=timedelta(minutes=5),
    )
    try:
        yield
        distributed.barrier()  # nobody leaves while another still waits for what was sent
    finally:
        distributed.destroy_process_group()


def _header(tensor: Tensor) -> Tensor:
    if tensor.dtype not in DTYPES or tensor.ndim > DIMENSIONS:
        raise ValueError(
            f"a wire takes real tensors of at most {DIMENSIONS} dimensions, got {tensor.dtype} of "
            f"shape {tuple(tensor.shape)}"
        )
    padding = [0] * (DIMENSIONS - tensor.ndim)
    sizes = [DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape, *padding]
    return torch.tensor(sizes, dtype=torch.int64, device=tensor.device)

"""Bytes of activations: what graphs hold for their backward pass, and what is allocated at all."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile


class Ledger:
    """The distinct storages that graphs hold at a time, those of parameters apart.

    Attributes:
        now: bytes held.
        peak: the most that was held.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.ours = {p.untyped_storage().data_ptr() for p in parameters}
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0

    def hold(self, tensor: Tensor) -> "Held":
        """What a graph keeps in place of a tensor."""
        return Held(tensor, self)

    def count(self, place: int, size: int) -> None:
        """One more graph node holds the storage at a place."""
        if place not in self.ours:
            self.holders[place] += 1
            if self.holders[place] == 1:
                self.now += size
                self.peak = max(self.peak, self.now)

    def release(self, place: int, size: int) -> None:
        """One node fewer holds it."""
        if place not in self.ours:
            self.holders[place] -= 1
            if not self.holders[place]:
                del self.holders[place]
                self.now -= size


class Held:
    """A saved tensor, in the ledger for as long as the graph keeps it."""

    def __init__(self, tensor: Tensor, ledger: Ledger) -> None:
        # detached: what a hook returns may not refer to the tensor it was given
        self.tensor, self.ledger = tensor.detach(), ledger
        storage = tensor.untyped_storage()
        self.entry = storage.data_ptr(), storage.nbytes()
        ledger.count(*self.entry)

    def __del__(self) -> None:
        self.ledger.release(*self.entry)


def peak_saved(update: Callable[[], None], model: nn.Module) -> int:
    """The most bytes of activations that graphs held at a time during an update."""
    ledger = Ledger(model.parameters())
    with saved_tensors_hooks(ledger.hold, lambda held: held.tensor):
        update()
    return ledger.peak


def peak_allocated(update: Callable[[], None], device: torch.device) -> int:
    """The most bytes that were allocated at a time during an update, above those before it."""
    if device.type == "cuda":
        return _peak_on_cuda(update, device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        update()
    results: Any = record.profiler and record.profiler.kineto_results
    now = peak = 0
    for _, size in sorted(_allocations(results.experimental_event_tree())):
        now += size
        peak = max(peak, now)
    return peak


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """When something was allocated or freed, and how many bytes, freed ones negative."""
    for event in events:
        if event.tag.name == "Allocation":
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from _allocations(event.children)


def _peak_on_cuda(update: Callable[[], None], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    update()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before

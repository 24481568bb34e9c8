"""Sampling by nearest stored codes, and whether samples are copies of training rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genprop.kernel import Kernel
from genprop.shapes import Elements

SHORT = 16  # elements up to which a tree beats comparing all with all
NUMBERS_AT_ONCE = 2**24
MANY = 250_000  # codes from which an approximate search beats comparing all with all
PROBES, ROWS_A_CELL = 64, 64  # cells that are searched; codes that each is fitted to
SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)


class NeighbourState(NamedTuple):
    """Where chains are.

    Attributes:
        position: ``(chains, *rows, elements)``.
    """

    position: Tensor


class NeighbourInfo(NamedTuple):
    """What a transition tells, ``(chains, *rows)`` each.

    Attributes:
        acceptance: ones.
        accepted: True.
        distance: from the position before.
    """

    acceptance: Tensor
    accepted: Tensor
    distance: Tensor


class NearestNeighbour(Kernel[NeighbourState]):
    r"""h̃ = h + scale·ε, and then the stored code that is nearest to h̃.

    A chain from stored code to stored code, which are those of training rows: what it decodes
    differs from them by the decoder's noise alone. With ``reconstruct``, as a net that has learned
    to find the nearest code, it may come to rest between them. Either way it is a chain without a
    density; how often it comes to a code depends on how near its neighbours are.

    Args:
        codes: the stored codes, ``(codes, elements)``.
        scale: standard deviation of the noise.
        reconstruct: what follows the noise in place of the search.

    Raises:
        ValueError: no code, or a scale that is negative or not finite.

    References:
        Bengio, 2014, How auto-encoders could provide credit assignment in deep networks via
        target propagation (arXiv 1407.7906; its nearest-neighbour strategies).

    >>> kernel = NearestNeighbour(torch.tensor([[0.0], [10.0]]), scale=1.0)
    >>> kernel.step(kernel.init(torch.tensor([[2.0]])))[0].position
    tensor([[0.]])
    """

    def __init__(
        self,
        codes: Tensor,
        scale: float,
        reconstruct: Callable[[Elements], Elements] | None = None,
    ) -> None:
        _check_codes(codes)
        if not 0 <= scale < math.inf:
            raise ValueError(f"the noise needs a scale of at least 0, but got {scale}")
        self.codes, self.scale, self.reconstruct = codes, scale, reconstruct

    def start(self, chains: int) -> Elements:
        """Stored codes at random, ``(chains, elements)``."""
        index = torch.randint(len(self.codes), (chains,), device=self.codes.device)
        return self.codes[index]

    def init(self, position: Elements) -> NeighbourState:
        return NeighbourState(position)

    def step(self, state: NeighbourState) -> tuple[NeighbourState, NeighbourInfo]:
        noisy = state.position + self.scale * torch.randn_like(state.position)
        if self.reconstruct is None:
            position = self.codes[nearest(self.codes, noisy)[1][..., 0]]
        else:
            position = self.reconstruct(noisy)
        distance = (position - state.position).norm(dim=-1)
        accepted = torch.ones_like(distance, dtype=torch.bool)
        return NeighbourState(position), NeighbourInfo(accepted.to(distance), accepted, distance)


@dataclass(frozen=True)
class Memorisation:
    """How near samples are to training rows, beside how near rows are that were held out.

    Attributes:
        samples: quantiles at 1, 25, 50, 75 and 99 % of the samples' distances to the nearest
            training row.
        held_out: the same of the held-out rows.
        share: of samples that are nearer than the nearest 1 % of the held-out rows.
        error: standard error of that share were samples as new as held-out rows.
        counts: how many samples and how many held-out rows.
    """

    samples: tuple[float, ...]
    held_out: tuple[float, ...]
    share: float
    error: float
    counts: tuple[int, int]

    @property
    def copies(self) -> bool:
        """Whether more samples are that near than chance explains, by four standard errors."""
        return self.share > SHARES[0] + 4 * self.error

    def __str__(self) -> str:
        verdict = "copies of training rows" if self.copies else "no sign of copies"
        return (
            f"{self.share:.1%} of {self.counts[0]} samples are nearer to a training row than all "
            f"but 1% of {self.counts[1]} held-out rows (expected 1.0% ± {self.error:.1%}), median "
            f"distance {self.samples[2]:.3g} against {self.held_out[2]:.3g}: {verdict}"
        )


def memorisation(samples: Tensor, training: Tensor, held_out: Tensor) -> Memorisation:
    """Compares Euclidean distances to the nearest training row.

    Samples that are sharper than data or lie where data is dense are near to training rows without
    being copies, and so are expected values E[x | h] in place of draws; copies are near beyond
    what any held-out row is.

    Args:
        samples: ``(samples, elements)``.
        training: the rows that the model was fitted to.
        held_out: rows of the same source that it was not.

    Raises:
        ValueError: one of them is empty, or they differ in their elements.

    >>> rows = torch.arange(100.0)[:, None]
    >>> print(memorisation(rows[:50], rows, rows + 0.4))
    100.0% of 50 samples are nearer to a training row than all but 1% of 100 held-out rows \
(expected 1.0% ± 1.7%), median distance 0 against 0.4: copies of training rows
    """
    near = nearest(training, samples)[0][:, 0].double()
    usual = nearest(training, held_out)[0][:, 0].double()
    chance = SHARES[0] * (1 - SHARES[0])
    return Memorisation(
        _quantiles(near),
        _quantiles(usual),
        share=float((near < usual.quantile(SHARES[0])).double().mean()),
        error=math.sqrt(chance / len(near) + chance / len(usual)),
        counts=(len(near), len(usual)),
    )


def nearest(
    codes: Tensor, queries: Tensor, count: int = 1, exact: bool | None = None
) -> tuple[Tensor, Tensor]:
    """The stored codes nearest to each query, the nearest first.

    On a CPU, codes of up to 16 elements stand in a tree (scikit-learn's). Longer ones, and those
    on a GPU, are all compared with all, block by block. From a quarter of a million on, long codes
    on a CPU are searched approximately where faiss is installed (``genprop[neighbours]``): in the
    64 nearest of √n cells, where the nearest is found nearly always but not surely.

    Args:
        codes: ``(codes, elements)``.
        queries: ``(…, elements)``.
        count: how many of them.
        exact: whether the search must be; by default as the number of codes says.

    Returns:
        Distances ``(…, count)`` and the numbers of the codes.

    Raises:
        ValueError: no code, fewer than ``count``, or queries with other elements.
        ModuleNotFoundError: an approximate search is asked for, but faiss is not installed.

    >>> nearest(torch.tensor([[0.0], [3.0], [5.0]]), torch.tensor([[4.5]]), 2)
    (tensor([[0.5000, 1.5000]]), tensor([[2, 1]]))
    """
    _check_codes(codes)
    _check_queries(codes, queries, count)
    flat = queries.reshape(-1, codes.shape[-1])
    index = _search(codes, exact)(codes, flat, count)
    # differences anew: sums of squares lose small distances
    distance = torch.cat(
        [
            (codes[i] - q[:, None]).norm(dim=-1)
            for i, q in zip(*(t.split(_block(codes, count)) for t in (index, flat)), strict=True)
        ]
    )
    order = distance.argsort(dim=-1, stable=True)
    shape = (*queries.shape[:-1], count)
    return distance.gather(-1, order).reshape(shape), index.gather(-1, order).reshape(shape)


def _search(codes: Tensor, exact: bool | None) -> Callable[[Tensor, Tensor, int], Tensor]:
    """How codes of this number, length and place are searched."""
    if exact is False:
        return _by_cells
    if codes.device.type != "cpu":
        return _by_blocks
    if codes.shape[-1] <= SHORT:
        return _by_tree
    large = exact is None and len(codes) >= MANY and find_spec("faiss") is not None
    return _by_cells if large else _by_blocks


def _by_cells(codes: Tensor, queries: Tensor, count: int) -> Tensor:
    import faiss

    cells = max(1, math.isqrt(len(codes)))
    index: Any = faiss.index_factory(codes.shape[-1], f"IVF{cells},Flat")
    index.cp.seed, index.nprobe = 0, min(PROBES, cells)
    numbers = codes.detach().cpu().float().numpy()
    index.train(numbers[:: max(1, len(codes) // (cells * ROWS_A_CELL))])
    index.add(numbers)
    found = index.search(queries.detach().cpu().float().numpy(), count)[1]
    return torch.from_numpy(found).to(codes.device)


def _by_tree(codes: Tensor, queries: Tensor, count: int) -> Tensor:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, algorithm="kd_tree").fit(codes.detach().numpy())
    index = search.kneighbors(queries.detach().numpy(), return_distance=False)
    return torch.from_numpy(index).to(torch.long)


def _by_blocks(codes: Tensor, queries: Tensor, count: int) -> Tensor:
    centre = codes.mean(0)
    parts = [_in_blocks(codes - centre, part - centre, count) for part in queries.split(1024)]
    return torch.cat(parts)


def _in_blocks(codes: Tensor, queries: Tensor, count: int) -> Tensor:
    """The best of each block of codes, and of these the best."""
    best, found = [], []
    size = max(count, NUMBERS_AT_ONCE // max(1, len(queries)))
    for start in range(0, len(codes), size):
        block = codes[start : start + size]
        # ½‖c‖² - q·c orders codes as their distances do
        cost = 0.5 * block.square().sum(-1) - queries @ block.mT
        value, index = cost.topk(min(count, len(block)), largest=False)
        best.append(value)
        found.append(index + start)
    order = torch.cat(best, -1).topk(count, largest=False).indices
    return torch.cat(found, -1).gather(-1, order)


def _block(codes: Tensor, count: int) -> int:
    return max(1, NUMBERS_AT_ONCE // (count * codes.shape[-1]))


def _quantiles(distance: Tensor) -> tuple[float, ...]:
    return tuple(distance.quantile(distance.new_tensor(SHARES)).tolist())


def _check_codes(codes: Tensor) -> None:
    if codes.ndim != 2 or not len(codes):
        raise ValueError(
            f"stored codes must be (codes, elements), at least one, but have shape "
            f"{tuple(codes.shape)}"
        )


def _check_queries(codes: Tensor, queries: Tensor, count: int) -> None:
    if queries.shape[-1] != codes.shape[-1]:
        raise ValueError(
            f"codes have {codes.shape[-1]} elements, but what is compared with them has "
            f"{queries.shape[-1]}"
        )
    if not queries.numel():
        raise ValueError("nothing is to be compared with the codes; give at least one row")
    if not 1 <= count <= len(codes):
        raise ValueError(f"{count} nearest of {len(codes)} codes cannot be had")

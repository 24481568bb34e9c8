"""Random numbers that belong to rows: whatever batch a row comes in, its own are the same."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from genprop.data import Batch

GOLDEN = -7046029254386353131  # 2^64 / the golden ratio, odd, as a signed number
FIRST, SECOND = -4658895280553007687, -7723592293110705685
HALVINGS = 60
Keys = NDArray[np.int64]


class RowNoise(TorchFunctionMode):
    """Within it torch's random functions draw from a generator for each row of a batch.

    A number is a hash of the row's key, of how many times something was drawn before, and of its
    place in the row. Every tensor that is drawn must have the rows as one of its dimensions, told
    by its size, which no other dimension may share; others are left to torch's own generator.

    Args:
        keys: one whole number for each row.

    References:
        Salmon, Moraes, Dror, Shaw, 2011, Parallel random numbers: as easy as 1, 2, 3 (generators
        that count). Steele, Lea, Flood, 2014, Fast splittable pseudorandom number generators (the
        hash).

    >>> with RowNoise(torch.tensor([5, 8, 9])):
    ...     three = torch.randn(2, 3, 1)
    >>> with RowNoise(torch.tensor([9, 1, 2, 7])):
    ...     four = torch.randn(2, 4, 1)
    >>> torch.equal(three[:, 2], four[:, 0])
    True
    """

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.keys, self.calls = keys, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        make = DRAWN.get(func)
        made = None if make is None else make(self, *args, **kwargs)
        return func(*args, **kwargs) if made is None else made

    def uniform(self, shape: Sequence[int]) -> Tensor | None:
        """Numbers between 0 and 1, both left out; None where no dimension is that of the rows."""
        rows = len(self.keys)
        places = [at for at, size in enumerate(shape) if size == rows]
        if len(places) != 1:
            return None
        at = places[0]
        self.calls += 1
        others = [size for place, size in enumerate(shape) if place != at]
        count = int(np.prod(others, dtype=int))
        start = mixed(self.keys + self.calls)
        index = torch.arange(1, count + 1, device=self.keys.device)
        bits = mixed(start[:, None] + index * GOLDEN)
        # the 53 highest bits, and half of the lowest of them, so that neither 0 nor 1 can be
        u = (_shifted(bits, 11).double() + 0.5) * 2.0**-53
        return u.reshape(rows, *others).movedim(0, at).contiguous()


def keys_of(parts: Sequence[Tensor], seed: int) -> Tensor:
    """A key for each row, a hash of what it holds and of a seed.

    Rows that hold the same have keys that differ by how many of them came before.

    Args:
        parts: tensors ``(rows, elements)``: values, and masks.
        seed: of all rows.

    >>> x = torch.tensor([[1.0], [2.0], [1.0]])
    >>> one, other = keys_of([x], 0), keys_of([x.flip(0)], 0)
    >>> torch.equal(one, other.flip(0)), len(set(one.tolist())), bool(one[1] == other[1])
    (False, 3, True)
    """
    total = torch.full((len(parts[0]),), seed, dtype=torch.int64)
    for part in parts:
        bits = part.cpu().double().contiguous().view(torch.int64)
        place = torch.arange(1, bits.shape[1] + 1) * GOLDEN
        # with its place, so that two columns that change places are told apart
        total = mixed(total) + mixed(bits + place).sum(1)
    return mixed(total + _earlier(total.numpy()) * FIRST)


def keys_of_rows(batch: Batch, seed: int) -> Tensor:
    """``keys_of`` what rows hold and where they hold nothing.

    >>> batch = Batch.of(torch.tensor([[1.0], [float("nan")]]))
    >>> torch.equal(keys_of_rows(batch, 0)[1:], keys_of_rows(batch.take(slice(1, 2)), 0))
    True
    """
    return keys_of([*batch.x.values(), *batch.masks().values()], seed)


def mixed(z: Tensor) -> Tensor:
    """A bijection of 64 bits under which every bit depends on all."""
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    return z ^ _shifted(z, 31)


def distinct(rows: int, taken: set[int]) -> int:
    """The smallest size from ``rows`` on that is not taken.

    >>> distinct(3, {3, 4, 7})
    5
    """
    while rows in taken:
        rows += 1
    return rows


def _shifted(z: Tensor, by: int) -> Tensor:
    """To the right, zeros coming in."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _earlier(hashes: Keys) -> Tensor:
    """How many equal numbers stand before each."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(hashes)]
    starts = np.maximum.accumulate(np.where(fresh, np.arange(len(hashes)), 0))
    count = np.empty(len(hashes), dtype=np.int64)
    count[order] = np.arange(len(hashes)) - starts
    return torch.from_numpy(count)


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(size[0]) if size and isinstance(size[0], Sequence) else tuple(size)


def _rand(noise: RowNoise, *size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    u = noise.uniform(_shape(size))
    return None if u is None else _open(u, dtype or torch.get_default_dtype()).to(device)


def _randn(noise: RowNoise, *size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    u = noise.uniform(_shape(size))
    if u is None:
        return None
    return torch.special.ndtri(u).to(dtype or torch.get_default_dtype()).to(device)


def _rand_like(noise: RowNoise, x: Tensor, **_: Any) -> Tensor | None:
    u = noise.uniform(x.shape)
    return None if u is None else _open(u, x.dtype)


def _randn_like(noise: RowNoise, x: Tensor, **_: Any) -> Tensor | None:
    u = noise.uniform(x.shape)
    return None if u is None else torch.special.ndtri(u).to(x.dtype)


def _bernoulli(noise: RowNoise, p: Tensor, **_: Any) -> Tensor | None:
    u = noise.uniform(p.shape)
    return None if u is None else (u < p).to(p.dtype)


def _exponential(noise: RowNoise, x: Tensor, rate: float = 1.0, **_: Any) -> Tensor | None:
    u = noise.uniform(x.shape)
    return None if u is None else x.copy_(-u.log() / rate)


def _multinomial(
    noise: RowNoise, p: Tensor, draws: int, replacement: bool = False, **_: Any
) -> Tensor | None:
    """Places in rows of weights ``(rows, places)``."""
    if not replacement or p.ndim != 2 or len(p) != len(noise.keys):
        return None
    u = noise.uniform((len(p), draws) if draws != len(p) else (len(p), draws, 1))
    if u is None:
        return None
    below = p.double().cumsum(-1)
    u = u.reshape(len(p), draws) * below[:, -1:]
    return torch.searchsorted(below, u).clamp(max=p.shape[1] - 1)


def _poisson(noise: RowNoise, rate: Tensor, **_: Any) -> Tensor | None:
    """The smallest n with P(N ≤ n) ≥ u, by halving."""
    u = noise.uniform(rate.shape)
    if u is None:
        return None
    r = rate.double()
    low, high = torch.full_like(r, -1.0), (r + 12 * r.sqrt() + 40).ceil()
    while bool((high - low > 1).any()):
        middle = ((low + high) / 2).floor()
        enough = torch.special.gammaincc(middle.clamp_min(0) + 1, r) >= u
        enough = torch.where(middle < 0, False, enough)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.to(rate.dtype)


def _gamma(noise: RowNoise, shape: Tensor, **_: Any) -> Tensor | None:
    """The quantile of Gamma(shape, 1), by halving its logarithm."""
    u = noise.uniform(shape.shape)
    if u is None:
        return None
    k = shape.double()
    low, high = torch.full_like(k, -700.0), (k + 12 * k.sqrt() + 40).log()
    for _number in range(HALVINGS):
        middle = (low + high) / 2
        enough = torch.special.gammainc(k, middle.exp()) >= u
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.exp().to(shape.dtype)


def _open(u: Tensor, dtype: torch.dtype) -> Tensor:
    """In another precision, in which 1 must not be reached by rounding."""
    return u.to(dtype).clamp(max=1 - torch.finfo(dtype).eps / 2)


DRAWN: dict[Any, Callable[..., Tensor | None]] = {
    torch.rand: _rand,
    torch.randn: _randn,
    torch.rand_like: _rand_like,
    torch.randn_like: _randn_like,
    torch.bernoulli: _bernoulli,
    torch.Tensor.exponential_: _exponential,
    torch.multinomial: _multinomial,
    torch.poisson: _poisson,
    torch._standard_gamma: _gamma,
}

"""Batch: rows of named modalities, and what of them is seen."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genprop.shapes import Rows

Share = float | Mapping[str, float]  # of rows that hide something: of all, or by modality


@dataclass(frozen=True)
class Batch:
    """Rows of named modalities with one boolean mask each, True where observed.

    Attributes:
        x: for each modality ``(rows, elements)``, zero where not observed.
        seen: for each modality a mask of the same shape, or None where all is observed.
        shown: what encoders are told in training, likewise; None says all that is seen.
    """

    x: dict[str, Tensor]
    seen: dict[str, Tensor | None]
    shown: dict[str, Tensor | None] | None = None

    @classmethod
    def of(
        cls,
        x: Tensor | Mapping[str, Tensor],
        seen: Tensor | Mapping[str, Tensor | None] | None = None,
    ) -> "Batch":
        """A batch from tensors; NaN is the same statement as False in the mask.

        Args:
            x: a tensor ``(rows, elements)``, which becomes modality ``"x"``, or one for each name.
            seen: masks for all or some of them.

        Raises:
            ValueError: a tensor is not a matrix, rows differ, a mask has another shape or an
                unknown name, or a seen value is infinite.

        >>> batch = Batch.of(torch.tensor([[1.0, float("nan")]]))
        >>> batch.x["x"], batch.seen["x"]
        (tensor([[1., 0.]]), tensor([[ True, False]]))
        """
        tensors = {"x": x} if isinstance(x, Tensor) else dict(x)
        masks = {"x": seen} if isinstance(seen, Tensor) else dict(seen or {})
        _check(tensors, masks)
        values: dict[str, Tensor] = {}
        known: dict[str, Tensor | None] = {}
        for name, tensor in tensors.items():
            values[name], known[name] = _filled(name, tensor, masks.get(name))
        return cls(values, known)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.x.values())))

    def take(self, index: Tensor | slice) -> "Batch":
        """The rows of an index."""
        return self._with(lambda x: x[index], lambda mask: mask[index])

    def _with(
        self, values: Callable[[Tensor], Tensor], masks: Callable[[Tensor], Tensor]
    ) -> "Batch":
        def each(these: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
            return {name: None if m is None else masks(m) for name, m in these.items()}

        x = {name: values(x) for name, x in self.x.items()}
        return type(self)(x, each(self.seen), self.shown and each(self.shown))

    def _without(self, masks: dict[str, Tensor | None]) -> "Batch":
        """The rows as if no more were seen than these masks say."""
        values = {
            n: x if (m := masks[n]) is None else torch.where(m, x, 0) for n, x in self.x.items()
        }
        return type(self)(values, masks)

    def split(self, share: float) -> tuple["Batch", "Batch | None"]:
        """All rows but a share of them, drawn at random, and these; None where they are under 2."""
        held = int(share * self.rows)
        if held < 2:
            return self, None
        order = torch.randperm(self.rows)
        return self.take(order[held:]), self.take(order[:held])

    def split_cells(
        self, share: float, sizes: Mapping[str, Sequence[int]] | None = None
    ) -> tuple["Batch", "Batch | None"]:
        """All cells but a share of the seen ones, drawn at random, and all cells, shown these.

        Args:
            share: of the cells; none are held out where they would be fewer than two.
            sizes: as of ``hide``.
        """
        shown: dict[str, Tensor | None] = {}
        held = 0
        for name, mask in self.masks().items():
            hidden = mask & (_alike(self.x[name], (sizes or {}).get(name)) < share)
            shown[name] = mask & ~hidden
            held += int(hidden.sum())
        if held < 2:
            return self, None
        return self._without(shown), type(self)(self.x, self.seen, shown)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Batch":
        """The same rows on a device, values in a floating type."""
        return self._with(lambda x: x.to(device, dtype), lambda mask: mask.to(device))

    def told(self, name: str) -> Tensor | None:
        """What of a modality encoders are told; None says all."""
        return (self.shown or self.seen)[name]

    def masks(self) -> dict[str, Tensor]:
        """What of each modality is seen, spelled out where it is all."""
        return {
            name: torch.ones_like(self.x[name], dtype=torch.bool) if seen is None else seen
            for name, seen in self.seen.items()
        }

    def present(self, name: str) -> Rows | None:
        """The rows in which anything of a modality is seen; None says all."""
        seen = self.seen[name]
        return None if seen is None else seen.any(-1)

    def hide(
        self,
        share: Share,
        sizes: Mapping[str, Sequence[int]] | None = None,
        explain: bool = False,
    ) -> "Batch":
        """Hides a part of some rows, by chance.

        A number is the probability of a row to be chosen. In chosen rows cells are hidden at a rate
        that is uniform for each row; of several modalities, every second of these rows hides each
        modality whole or not at all. So encoders meet whole rows as well as every pattern of
        missing cells and modalities. By modality it is the probability that a row hides it whole,
        whatever else the row hides; what is not named is never hidden.

        Args:
            share: of the rows, or by modality.
            sizes: of each modality the elements of its variables in order, those of a one-hot group
                being one: it is hidden whole or not at all.
            explain: whether cells are hidden from encoders only, so that decoders explain what
                encoders were not told; else they are as if not seen.

        >>> batch = Batch.of({"x": torch.ones(2, 2), "y": torch.ones(2, 1)}).hide({"y": 1.0})
        >>> batch.masks()["x"].all().item(), batch.masks()["y"].any().item()
        (True, False)
        """
        hidden = self._whole(share) if isinstance(share, Mapping) else self._any(share, sizes or {})
        masks: dict[str, Tensor | None] = dict(self.seen)
        for name, cells in hidden.items():
            seen = self.seen[name]
            masks[name] = ~cells if seen is None else seen & ~cells
        return type(self)(self.x, self.seen, masks) if explain else self._without(masks)

    def _whole(self, share: Mapping[str, float]) -> dict[str, Tensor]:
        """The cells of modalities that are hidden whole."""
        there = {name: self.x[name] for name in self.x if name in share}
        return {
            name: (torch.rand(len(x), 1, device=x.device) < share[name]).expand(x.shape)
            for name, x in there.items()
        }

    def _any(self, share: float, sizes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """The cells that are hidden in chosen rows."""
        first = next(iter(self.x.values()))
        chosen = torch.rand(len(first), 1, device=first.device) < share
        whole = torch.rand(len(first), 1, device=first.device) < (0.5 if len(self.x) > 1 else 0.0)
        hidden = {}
        for name, x in self.x.items():
            rate = torch.rand(len(x), 1, device=x.device)
            cells = torch.where(whole, rate < 0.5, _alike(x, sizes.get(name)) < rate)
            hidden[name] = chosen & cells
        return hidden

    def entropy(self) -> float:
        """H of the rows' empirical law in nats, NaN unless all values are seen and whole numbers.

        >>> Batch.of(torch.tensor([[0.0], [0.0], [1.0], [1.0]])).entropy()
        0.6931471805599453
        """
        if any(seen is not None for seen in self.seen.values()):
            return math.nan
        table = torch.cat([x for x in self.x.values()], -1)
        if not bool((table == table.round()).all()):
            return math.nan
        counts = torch.unique(table, dim=0, return_counts=True)[1].double()
        share = counts / counts.sum()
        return float(-(share * share.log()).sum())


def shares(share: Share) -> list[float]:
    """Each share.

    >>> shares(0.5), shares({"x": 0.0, "y": 1.0})
    ([0.5], [0.0, 1.0])
    """
    return [*share.values()] if isinstance(share, Mapping) else [share]


def _alike(x: Tensor, sizes: Sequence[int] | None) -> Tensor:
    """A number between 0 and 1 for each cell, the same for all elements of a variable."""
    if sizes is None or max(sizes) == 1:
        return torch.rand(x.shape, device=x.device)
    each = torch.rand(len(x), len(sizes), device=x.device)
    return each.repeat_interleave(torch.tensor(sizes, device=x.device), -1)


def _check(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> None:
    if not tensors:
        raise ValueError("a batch needs at least one modality, but got none")
    unknown = set(masks) - set(tensors)
    if unknown:
        raise ValueError(
            f"masks are given for {sorted(unknown)}, but the modalities are {sorted(tensors)}"
        )
    rows = {name: len(x) for name, x in tensors.items() if x.ndim}
    for name, x in tensors.items():
        if x.ndim != 2:
            raise ValueError(
                f"modality {name!r} must be (rows, elements), but has shape {tuple(x.shape)}"
            )
        mask = masks.get(name)
        if mask is not None and (mask.shape != x.shape or mask.dtype != torch.bool):
            raise ValueError(
                f"the mask of modality {name!r} must be boolean of shape {tuple(x.shape)}, but is "
                f"{mask.dtype} of shape {tuple(mask.shape)}"
            )
    if len(set(rows.values())) > 1:
        raise ValueError(f"all modalities must have the same rows, but have {rows}")


def _filled(name: str, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    seen = ~torch.isnan(x) if mask is None else mask & ~torch.isnan(x)
    x = torch.where(seen, x, 0)
    if not torch.isfinite(x).all():
        raise ValueError(
            f"modality {name!r} holds infinite values; replace them by numbers, or by NaN where "
            f"they are missing"
        )
    return x, None if bool(seen.all()) else seen

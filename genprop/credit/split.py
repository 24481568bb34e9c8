"""How consecutive layers are dealt out to stages."""

from collections.abc import Sequence
from itertools import accumulate, pairwise


def split(layers: int, sizes: Sequence[int] | None = None) -> list[slice]:
    """The layers of each stage, from the lowest.

    Args:
        layers: how many there are.
        sizes: layers of each stage; one each unless given.

    Raises:
        ValueError: an empty stage, or sizes that do not add up to the layers.

    >>> split(3, (2, 1))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    sizes = (1,) * layers if sizes is None else tuple(sizes)
    if sum(sizes) != layers or min(sizes, default=0) < 1:
        raise ValueError(
            f"stages need one layer each at least and {layers} together, but sizes are {sizes}"
        )
    return [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]

"""Randomness at the edge: a seed for a while, the global generators left as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sklearn.utils import check_random_state


@contextmanager
def seeded(random_state: Any) -> Iterator[None]:
    """Within it torch draws from this seed; its own state is put back afterwards.

    Args:
        random_state: a whole number, a NumPy RandomState, or None for another seed every time, as
            in scikit-learn.

    >>> with seeded(0):
    ...     one = torch.rand(2)
    >>> with seeded(0):
    ...     bool((torch.rand(2) == one).all())
    True
    """
    seed = whole_seed(random_state)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def whole_seed(random_state: Any) -> int:
    """A whole number that stands for a random state as scikit-learn takes it.

    >>> whole_seed(0) == whole_seed(0) != whole_seed(1)
    True
    """
    return int(check_random_state(random_state).randint(2**31 - 1))

"""Rows in parts that fit into a bounded memory."""

from collections.abc import Callable

from genprop.data import Batch
from genprop.likelihood.estimate import Estimate, joined
from genprop.model import Model

NUMBERS_AT_ONCE = 2**24


def rows_at_once(model: Model, draws: int) -> int:
    """How many rows' paths of so many draws fit into a bounded memory."""
    widest = max(max(s.elements or 1, s.code_elements) for _, s in model.named_stacks())
    return max(1, NUMBERS_AT_ONCE // (4 * widest * draws))


def in_parts(batch: Batch, rows: int, estimate: Callable[[Batch], Estimate]) -> Estimate:
    """An estimate of all rows, made of so many at a time."""
    rows = max(1, rows)
    starts = range(0, max(1, batch.rows), rows)
    return joined([estimate(batch.take(slice(start, start + rows))) for start in starts])

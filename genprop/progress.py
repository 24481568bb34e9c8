"""A progress bar on a terminal, and silence elsewhere."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Shows each epoch's bounds and account while training runs; silent off a terminal.

    Args:
        total: how many epochs there will be at most, or models, each told by its last epoch.
        verbose: 0 is silent.
        what: what is counted.
    """

    def __init__(self, total: int, verbose: int, what: str = "fit") -> None:
        self.total, self.what = total, what
        self.shown = verbose > 0 and sys.stderr.isatty()
        self.bar: Any = None
        self.display: Any = None

    def __enter__(self) -> "Progress":
        if self.shown:
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.display is not None:
            self.display.stop()

    def show(self, row: dict[str, float]) -> None:
        """Tells an epoch's figures, in nats a row."""
        if self.display is not None:
            self.bar.advance(self.bar.task_ids[0])
            self.display.update(self._with_figures(summary(row)))

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        parts = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
        self.bar = Bar(TextColumn(self.what), *parts)
        self.bar.add_task(self.what, total=self.total)
        self.display = Live(self._with_figures(""), console=Console(file=sys.stderr))
        self.display.start()

    def _with_figures(self, figures: str) -> Any:
        """The bar, and below it the figures: side by side they do not fit into 80 columns."""
        from rich.console import Group

        return Group(self.bar, figures)


def summary(row: dict[str, float]) -> str:
    """An epoch's figures in one line: the bounds, and the terms of KL(Q‖P) summed over layers.

    >>> summary({"train": 20.0, "validation": 21.5, "x.1.reconstruction": 9.0,
    ...          "x.1.entropy": -1.0, "prior": 12.0})
    'train 20.00  validation 21.50  reconstruction 9.00  entropy -1.00  prior 12.00'
    """
    terms = {"train": row["train"], "validation": row["validation"]}
    for part in ("reconstruction", "entropy"):
        terms[part] = sum(v for k, v in row.items() if k.endswith(f".{part}"))
    terms["prior"] = row["prior"]
    return "  ".join(f"{name} {value:.2f}" for name, value in terms.items() if value == value)

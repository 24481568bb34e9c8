"""What all benchmarks share: arguments, the record of the environment, bars, tables, the JSON."""

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = (
    "genprop",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "lightning-fabric",
    "pyro-ppl",
    "pythae",
)
NO_RESULT = "--quick: a check that the benchmark runs; its figures are no result."
NOT_MEASURED = "not measured"
WIDTH = 140  # of a table that no terminal shows

Row = dict[str, Any]


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="only a check that it runs, no result")
    made.add_argument("--data", type=Path, metavar="DIR", help="folder of data files, if any")
    made.add_argument("--json", type=Path, metavar="FILE", help="where the result is written")
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with the command that gave them; makes the folder of the JSON file."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = made.parse_args(words)
    arguments.command = command(made.prog, words)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    return arguments


def command(prog: str, words: Sequence[str]) -> str:
    """What was typed, the folder of data apart, which is another one on every machine.

    >>> command("python -m benchmarks.rules", ["--quick", "--data", "/home/me/data"])
    'python -m benchmarks.rules --quick --data DIR'
    """
    shown = list(words)
    for place, word in enumerate(words):
        if word.startswith("--data="):
            shown[place] = "--data=DIR"
        elif place and words[place - 1] == "--data":
            shown[place] = "DIR"
    return shlex.join([*prog.split(), *shown])


def bar(name: str, value: float | None, text: str, holds: bool | None) -> Row:
    """A figure that was asked for; ``None`` where it was not measured."""
    return {"name": name, "value": value, "bar": text, "holds": holds}


def at_most(name: str, value: float | None, limit: float) -> Row:
    """A figure that must not be larger than the limit."""
    return bar(name, value, f"<= {limit:g}", None if value is None else value <= limit)


def at_least(name: str, value: float | None, limit: float) -> Row:
    """A figure that must not be smaller than the limit."""
    return bar(name, value, f">= {limit:g}", None if value is None else value >= limit)


@dataclass
class Report:
    """The result of a benchmark.

    Attributes:
        benchmark: its name.
        quick: whether it was only a check that it runs.
        command: what was typed.
        seeds: the seeds of all runs.
        rows: what was measured.
        bars: what was asked for.
        more: further sections of the JSON.
    """

    benchmark: str
    quick: bool
    command: str
    seeds: Sequence[int]
    rows: list[Row]
    bars: list[Row]
    more: dict[str, Any] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """What the JSON holds."""
        note = {"note": NO_RESULT} if self.quick else {}
        return {
            "benchmark": self.benchmark,
            "quick": self.quick,
            **note,
            "command": self.command,
            "environment": environment(self.seeds),
            "rows": self.rows,
            "bars": self.bars,
            **self.more,
        }

    def show(self, titles: Mapping[str, str]) -> None:
        """Prints the rows and the bars.

        Args:
            titles: the rows' columns to print, by their keys.
        """
        console = make_console()
        if self.quick:
            console.print(NO_RESULT, style="bold red")
        console.print(table(self.benchmark, self.rows, titles))
        held = [{**b, "holds": verdict(b["holds"])} for b in self.bars]
        names = {"name": "asked for", "value": "value", "bar": "bar", "holds": "holds"}
        console.print(table("bars", held, names))
        if self.quick:
            console.print(NO_RESULT, style="bold red")

    def write(self, path: Path | None) -> None:
        """Writes the JSON, whole or not at all."""
        if path is not None:
            write_json(path, self.content())


def kept(path: Path | None, quick: bool, part: str = "rows") -> tuple[list[Row], list[str]]:
    """What an earlier run of the same kind wrote, and the commands that made it.

    Args:
        path: the JSON file, if there is one.
        quick: whether this run is a quick one.
        part: where in the file.
    """
    if path is None or not path.exists():
        return [], []
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["quick"] != quick:
        raise SystemExit(f"{path} has quick={content['quick']}; give --json another file")
    return content.get(part, []), content.get("commands", [content["command"]])


def merged(earlier: Iterable[Row], rows: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """Rows of both, the later in place of an earlier one that agrees in what is named."""
    return list({tuple(row.get(name) for name in names): row for row in (*earlier, *rows)}.values())


def named(names: Iterable[str], texts: Sequence[str] | None) -> list[str]:
    """The names that were asked for: whole, or by a text in them; all unless anything was.

    >>> named(["DTP", "DTP, iterated", "BP"], ["DTP"]), named(["DTP, iterated", "BP"], ["DTP"])
    (['DTP'], ['DTP, iterated'])
    """
    known = list(names)

    def fits(name: str, text: str) -> bool:
        return name == text if text in known else text in name

    return [name for name in known if any(fits(name, text) for text in texts or [""])]


def make_console() -> Console:
    """Standard output, wide where it is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


def table(title: str, rows: Iterable[Mapping[str, Any]], titles: Mapping[str, str]) -> Table:
    """Rows as a table."""
    made = Table(title=title, title_justify="left")
    rows = list(rows)
    for key, heading in titles.items():
        numeric = any(isinstance(row.get(key), float | int) for row in rows)
        made.add_column(heading, justify="right" if numeric else "left")
    for row in rows:
        made.add_row(*(cell(row.get(key)) for key in titles))
    return made


def cell(value: Any) -> str:
    """A value as a table shows it.

    >>> cell(17.23456), cell(None), cell([1.0, 2.5]), cell(12345.6), cell(0.0001234)
    ('17.235', '-', '1.000 2.500', '12,346', '0.000123')
    """
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(cell(v) for v in value)
    if not isinstance(value, float):
        return f"{value:,}" if type(value) is int else str(value)
    if value and abs(value) < 0.01:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"


def verdict(holds: bool | None) -> str:
    """Whether a bar holds, in a word."""
    return NOT_MEASURED if holds is None else ("no", "yes")[holds]


def environment(seeds: Sequence[int]) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions(PACKAGES),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch_build(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seeds": list(seeds),
    }


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each package, None where there is none."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def revision() -> str | None:
    """The commit the code is at, with ``-dirty`` where files differ; None outside a checkout."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def torch_build() -> list[str]:
    """The libraries that torch was built with."""
    lines = torch.__config__.show().splitlines()
    return [line.strip(" -") for line in lines if line.startswith("  - ") and "=" not in line]


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, whole or not at all; what is not finite becomes null."""
    text = json.dumps(finite(content), indent=2, allow_nan=False, ensure_ascii=False)
    fresh = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def finite(content: Any) -> Any:
    """The same content with None for numbers that are not finite.

    >>> finite({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def tell(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)

"""What README and examples show is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)


def run(code: str | Path, folder: Path) -> None:
    """Runs a script as a user does: without the types being checked, which takes its time."""
    # on one thread: a second one only slows nets of this size
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [code] if isinstance(code, Path) else ["-c", code]
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True)


CHECKS = (
    """
assert draws.shape == (20, 28, 13)
assert new.shape == (5, 13)
""",
    """
assert (label == digits.target[1400:]).mean() > 0.7
assert images.shape == (10, 2, 64)
""",
    """
kept, put = (dict(m.model_.stacks["image"].named_parameters()) for m in (first, both))
assert all((kept[name] == value).all() for name, value in put.items())
assert (both.predict({"image": image}) == label).mean() > 0.5
""",
    """
assert filled.notna().all(axis=None)
assert (filled.dtypes == whole.dtypes).all()
low, high = pool(means["mean"], means["sem"] ** 2).interval()
assert low < whole["alcohol"].mean() < high
""",
)


@pytest.mark.parametrize("number", range(len(CHECKS)))
def test_readme_code_runs(number: int, tmp_path: Path) -> None:
    assert len(BLOCKS) == len(CHECKS)
    run(BLOCKS[number] + CHECKS[number], tmp_path)
    assert number or (tmp_path / "wine-model" / "config.json").exists()


def test_readme_example_is_ten_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 10


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_examples_run(name: str, tmp_path: Path) -> None:
    run(ROOT / "examples" / name, tmp_path)


def test_readme_names_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:docs|benchmarks|[A-Z]+)[\w/.]*\.(?:md|cff))`", text):
        assert (ROOT / path).exists(), path
    for picture in re.findall(r"\]\(([^)]+\.png)\)", text):
        assert (ROOT / picture).exists(), picture

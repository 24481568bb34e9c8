"""What README and examples show is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genprop.tables.multiple import pool

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_readme_first_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(BLOCKS[0])
    assert names["draws"].shape == (20, 28, 13)
    assert names["new"].shape == (5, 13)
    assert (tmp_path / "wine-model" / "config.json").exists()


def test_readme_second_code_runs():
    names = run(BLOCKS[1])
    assert (names["label"] == names["digits"].target[1400:]).mean() > 0.7
    assert names["images"].shape == (10, 2, 64)


def test_readme_third_code_runs(capsys):
    names = run(BLOCKS[2])
    assert names["filled"].notna().all(axis=None)
    assert (names["filled"].dtypes == names["whole"].dtypes).all()
    low, high = pool(names["means"]["mean"], names["means"]["sem"] ** 2).interval()
    assert low < names["whole"]["alcohol"].mean() < high
    assert len(BLOCKS) == 3


def test_readme_example_is_ten_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 10


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_examples_run(name, tmp_path):
    # on one thread: a second one only slows nets of this size
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, ROOT / "examples" / name], cwd=tmp_path, env=environment, check=True
    )


def test_readme_names_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:docs|benchmarks|[A-Z]+)[\w/.]*\.(?:md|cff))`", text):
        assert (ROOT / path).exists(), path
    for picture in re.findall(r"\]\(([^)]+\.png)\)", text):
        assert (ROOT / picture).exists(), picture

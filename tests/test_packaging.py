"""The wheel works where the checkout is not, and starting up is quick and changes nothing."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("genprop", "priors", "samplers", "pyproject.toml", "README.md", "LICENSE")
HEAVY = ("pyro", "arviz", "matplotlib", "pandas", "lightning_fabric", "sklearn")

IMPORT_EVERYTHING = """
import genprop, importlib, pkgutil
print(genprop.__file__)
for module in pkgutil.walk_packages(genprop.__path__, "genprop."):
    importlib.import_module(module.name)
    print(module.name)
"""
FIND_STRAYS = """
from importlib.util import find_spec
print([name for name in ("priors", "samplers") if find_spec(name)])
"""
FIT_AND_SAMPLE = """
import numpy as np
from genprop import GenProp
X = np.random.default_rng(0).normal(size=(40, 3))
print(GenProp(hidden=(4,), epochs=1, verbose=0).fit(X).sample(2).shape)
"""
START_UP = """
import json, logging, sys, time, warnings
import torch
def state():
    return [
        torch.random.initial_seed(), torch.get_rng_state().sum().item(), torch.get_num_threads(),
        str(torch.get_default_dtype()), str(torch.get_default_device()), len(warnings.filters),
        len(logging.getLogger().handlers),
    ]
before, start = state(), time.perf_counter()
import genprop
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(sys.modules), before, state()]))
"""


def run(command: Sequence[str | Path], folder: Path) -> str:
    """What a command prints; its errors are the test's."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, itself built from a copy: nothing left over gets in."""
    source = tmp_path_factory.mktemp("source")
    for path in (ROOT / name for name in SOURCES):
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / path.name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(path, source)
    run([sys.executable, "-m", "build", "--no-isolation"], source)
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment's interpreter, with the wheel in it and our dependencies lent to it."""
    folder = tmp_path_factory.mktemp("clean")
    run([sys.executable, "-m", "venv", "--without-pip", "environment"], folder)
    python = folder / "environment" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    run([*install, "--no-deps", "--no-index", wheel], folder)
    # A folder lent by a .pth file has its own .pth files left alone, so the checkout stays out.
    find_site = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run([python, "-c", find_site], folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python


def isolated(python: Path | str, script: str, folder: Path) -> list[str]:
    """The lines that a script prints where neither this folder nor our environment is seen."""
    return run([python, "-I", "-c", script], folder).splitlines()


def test_wheel_holds_the_package(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    folders = os.walk(ROOT / "genprop", followlinks=True)
    paths = [Path(folder, file).relative_to(ROOT) for folder, _, files in folders for file in files]
    assert "genprop/py.typed" in names
    assert set(names) == {p.as_posix() for p in paths if p.suffix in {".py", ".typed"}}


def test_every_module_is_imported_from_the_wheel(clean_python: Path, tmp_path: Path) -> None:
    where, *modules = isolated(clean_python, IMPORT_EVERYTHING, tmp_path)
    assert Path(where).is_relative_to(clean_python.parents[1])
    assert {"genprop.priors", "genprop.samplers", "genprop.rules"} < set(modules)


def test_no_stray_package_is_installed(clean_python: Path, tmp_path: Path) -> None:
    assert isolated(clean_python, FIND_STRAYS, tmp_path) == ["[]"]


def test_wheel_fits_and_samples(clean_python: Path, tmp_path: Path) -> None:
    assert isolated(clean_python, FIT_AND_SAMPLE, tmp_path)[-1] == "(2, 3)"


def test_import_is_quick_and_has_no_effect(tmp_path: Path) -> None:
    runs = [json.loads(isolated(sys.executable, START_UP, tmp_path)[-1]) for _ in range(5)]
    assert min(seconds for seconds, *_ in runs) <= 0.3
    _, loaded, before, after = runs[0]
    assert not set(HEAVY) & set(loaded)
    assert before == after


def test_commands_are_read_without_what_computes(tmp_path: Path) -> None:
    code = "import sys, genprop.cli; print(*sys.modules)"
    loaded = isolated(sys.executable, code, tmp_path)[-1].split()
    assert not {"torch", *HEAVY} & set(loaded)


def test_help_is_quick(tmp_path: Path) -> None:
    command = Path(sysconfig.get_path("scripts"), "genprop")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        text = run([command, "--help"], tmp_path)
        seconds.append(time.perf_counter() - start)
    assert "demo" in text
    assert min(seconds) <= 2.0

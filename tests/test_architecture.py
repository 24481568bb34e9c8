"""The shape of the house: who may import whom, and what no file of the package may hold."""

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FACES = (
    "description",
    "estimator",
    "fitted",
    "diagnostics",
    "plots",
    "chain_plots",
    "persistence",
    "files",
    "config",
)
# Lowest first: a module imports from the floors below its own.
FLOORS = (
    ("shapes", "names", "seeds", "threads", "resampling", "convergence", "arviz_api", "optimizers"),
    ("idx", "csv_table", "folders", "sentences", "holes", "patterns"),
    ("tables.column_choice", "tables.multiple", "tables.ampute", "tables.calibration"),
    ("nets", "regressed", "distributions", "correlations"),
    ("by_pattern",),
    ("marginals",),
    ("multivariate", "logistic", "student", "counts", "autoregressive", "corruption"),
    ("convolutional", "mixture", "diffusion", "denoiser", "flows", "guide"),
    ("conditional", "prior", "kernel"),
    ("correlated",),
    (
        "descent",
        "adaptation",
        "bridge",
        "leapfrog",
        "counting",
        "ordinal",
        "hurdle",
        "tables.missingness",
    ),
    ("tables.columns", "tables.column_code"),
    ("data", "encoding", "tables.encoding"),
    ("stack", "table", "tables.row_noise"),
    ("passage", "modality_weights", "quantised", "encodings", "pyro_programs"),
    ("model",),
    ("unseen", "prior_paths"),
    ("tables.not_at_random",),
    # kernels see a log-density, never a model or a prior: a flow's conditional is a chain of them
    (
        "samplers.hamiltonian",
        "samplers.metropolis",
        "samplers.langevin",
        "samplers.nuts",
        "samplers.tempering",
        "samplers.annealed",
        "samplers.clamped",
    ),
    ("samplers.in_turn",),
    ("levels",),
    ("posterior",),
    ("priors.*", "samplers.*"),
    ("rules.*", "likelihood.*"),
    ("progress", "codes", "validation", "visits", "tables.donors", "tables.filled"),
    ("train", "tables.imputation", "build", "prediction", "recoding"),
    ("tables.members", "beginning"),
    ("tables.imputed", "tables.hidden_modalities"),
    ("credit.*",),
    FACES,
    (
        "baselines",
        "shards",
        "checkup",
        "coherence",
        "modal_plots",
        "accounts",
        "tables.calibration_plots",
        "tables.imputer",
        "tables.hidden_cells",
    ),
    ("demo",),
    ("cli",),
    ("__main__",),
)
# Who may import each other on one floor, as long as no circle comes of it.
NEIGHBOURS = (("rules.*",), ("likelihood.*",), ("credit.*",), FACES)

MOST_LINES = 400
EMPTY_NAMES = {"utils", "helpers", "base", "manager", "registry"}
UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def find_modules() -> dict[str, Path]:
    """The file of every module of the checkout; a package is its ``__init__.py``."""
    found = {}
    for folder, _, names in os.walk(ROOT / "genprop", followlinks=True):
        for path in (Path(folder, name) for name in names if name.endswith(".py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return dict(sorted(found.items()))


MODULES = find_modules()
PACKAGES = {module for module, path in MODULES.items() if path.name == "__init__.py"}
every_module = pytest.mark.parametrize("module", MODULES)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported(node: ast.AST) -> Iterator[str]:
    """The modules one statement imports; ``from a import b`` is a.b where that is a file."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parent = node.module or ""
        children = (f"{parent}.{alias.name}" for alias in node.names)
        yield from (child if child in MODULES else parent for child in children)


def own_imports(root: ast.AST) -> set[str]:
    """The modules of genprop that are imported anywhere under a node."""
    names = (name for node in ast.walk(root) for name in imported(node))
    return {name for name in names if name.partition(".")[0] == "genprop"}


def is_one_of(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(module, f"genprop.{pattern}") for pattern in patterns)


def height(module: str) -> int | None:
    """The floor a module stands on, None if it has no place yet."""
    return next((i for i, floor in enumerate(FLOORS) if is_one_of(module, floor)), None)


def may_import(module: str, other: str) -> bool:
    """Whether the plan lets a module import another one."""
    if module in PACKAGES:
        return module == "genprop" or (other.startswith(f"{module}.") and other not in PACKAGES)
    upper, lower = height(module), height(other)
    if upper is None or lower is None or other in PACKAGES:
        return False
    if upper == lower:
        return any(is_one_of(module, room) and is_one_of(other, room) for room in NEIGHBOURS)
    return lower < upper


@every_module
def test_has_a_place(module: str) -> None:
    assert module in PACKAGES or height(module) is not None, (
        f"{module} is new: give it a place in FLOORS, above all that it imports"
    )


@every_module
def test_imports_down_only(module: str) -> None:
    wrong = sorted(other for other in own_imports(tree(module)) if not may_import(module, other))
    assert not wrong, f"{module} may not import {', '.join(wrong)}: see FLOORS"


@pytest.mark.parametrize(
    ("module", "other", "allowed"),
    [
        ("genprop.stack", "genprop.data", True),
        ("genprop.data", "genprop.stack", False),
        ("genprop.prior", "genprop.kernel", False),
        ("genprop.rules.target", "genprop.rules.rule", True),
        ("genprop.rules.target", "genprop.likelihood.estimate", False),
        ("genprop.priors.gaussian", "genprop.priors.factorial", False),
        ("genprop.priors.gaussian", "genprop.samplers.gibbs", False),
        ("genprop.samplers.gibbs", "genprop.model", True),
        ("genprop.train", "genprop.rules", False),
        ("genprop.train", "genprop", False),
        ("genprop.estimator", "genprop.persistence", True),
        ("genprop.demo", "genprop.cli", False),
        ("genprop.priors", "genprop.priors.gaussian", True),
        ("genprop.priors", "genprop.model", False),
        ("genprop", "genprop.estimator", True),
    ],
)
def test_the_plan(module: str, other: str, allowed: bool) -> None:
    assert may_import(module, other) is allowed


def test_imports_make_no_circle() -> None:
    TopologicalSorter({module: own_imports(tree(module)) for module in MODULES}).prepare()


@every_module
def test_imports_are_absolute(module: str) -> None:
    relative = [n for n in ast.walk(tree(module)) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative, f"{module} line {relative[0].lineno}: import by the full name"


@every_module
def test_no_function_imports_genprop(module: str) -> None:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    hidden = [n.name for n in ast.walk(tree(module)) if isinstance(n, functions) and own_imports(n)]
    assert not hidden, f"{module}: {hidden} import genprop; imports stand at the top of a file"


@every_module
def test_nothing_is_unpickled(module: str) -> None:
    nodes = list(ast.walk(tree(module)))
    loaded = {name.partition(".")[0] for node in nodes for name in imported(node)} & UNPICKLERS
    written = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute | ast.keyword)}
    wrong = loaded | (written & {"torch.load", "torch.save", "allow_pickle=True"})
    assert not wrong, f"{module}: {wrong}; weights are safetensors, settings are JSON"


@every_module
def test_file_is_small_and_finished(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES, f"{module} holds more than one idea: divide it"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), f"{module}: finish it or file it"


@every_module
def test_name_says_something(module: str) -> None:
    empty = {part.strip("_") for part in module.split(".")} & EMPTY_NAMES
    assert not empty, f"{module}: name it after what it holds"


def test_packages_are_the_folders() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == PACKAGES


@pytest.mark.parametrize("name", ["priors", "samplers"])
def test_link_is_relative(name: str) -> None:
    assert os.readlink(ROOT / "genprop" / name) == os.path.join("..", name)

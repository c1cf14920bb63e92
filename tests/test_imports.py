"""A room reaches only where the table here, the README's picture of the house, says it may."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stockformer"
# Room -> what it may import of this package, and which heavy libraries it must not.
ROOMS = {"data", "models", "training", "evaluation", "run", "interface"}
MAY: dict[str, set[str]] = {
    "schema": set(),
    "printable": set(),
    "config": {"schema"},
    "composition": {"config", "schema"},
    "overrides": {"config", "composition", "schema"},
    "atomic": set(),
    "streams": set(),
    "quoting": set(),
    "run": {"atomic", "printable", "quoting", "schema"},
    "resume": {"atomic", "config", "overrides", "quoting", "run"},
    "interruption": {"run", "streams"},
    "cli": {
        *("__version__", "config", "overrides", "printable", "quoting", "resume", "run"),
        "streams",
    },
    "interface": set(),
    "data": {"data", "interface", "atomic", "schema"},
    "models": {"models", "interface"},
    "training": {
        *("training", "models", "interface", "run", "streams", "quoting", "atomic", "data"),
        *("evaluation", "schema"),
    },
    "evaluation": {"evaluation"},
    "reporting": {
        *("reporting", "evaluation", "quoting", "run", "schema", "atomic", "printable"),
    },
    "build": {"config"},
    "dataset": {"build", "data", "training", "evaluation", "interface"},
    "experiment": {
        *("build", "config", "dataset"),
        *("data", "models", "training", "evaluation", "run", "interface"),
    },
    "reevaluation": {
        *("cli", "config", "overrides", "quoting", "dataset", "experiment"),
        *("evaluation", "run", "schema", "training"),
    },
    "analysis": {"reporting", "reevaluation", "ensemble"},
    "ensemble": {
        *("cli", "quoting", "reevaluation", "dataset", "experiment", "evaluation", "reporting"),
        "run",
    },
    "audit": {
        "audit",
        "ensemble",
        "reevaluation",
        "run",
        "build",
        "cli",
        "dataset",
        "experiment",
        "config",
        "data",
        "models",
        "training",
        "evaluation",
        "interface",
    },
}
MUST_NOT: dict[str, set[str]] = {
    "schema": {"torch", "numpy", "pandas", "hydra", "omegaconf"},
    "config": {"torch", "numpy", "pandas"},
    "composition": {"torch", "numpy", "pandas"},
    "overrides": {"torch", "numpy", "pandas"},
    "cli": {"torch", "numpy", "pandas"},
    "atomic": {"torch", "numpy", "pandas", "hydra", "omegaconf"},
    "streams": {"torch", "numpy", "pandas", "hydra", "omegaconf"},
    "quoting": {"torch", "numpy", "pandas", "hydra", "omegaconf"},
    "run": {"torch", "numpy", "pandas", "hydra", "omegaconf"},
    "resume": {"torch", "numpy", "pandas"},
    "interruption": {"torch", "numpy", "pandas", "hydra", "omegaconf"},
    "interface": {"hydra", "omegaconf", "pandas"},
    "data": {"hydra", "omegaconf"},
    "models": {"hydra", "omegaconf", "pandas", "sklearn"},
    "training": {"hydra", "omegaconf", "sklearn"},
    "evaluation": {"torch", "hydra", "omegaconf"},
    "reporting": {"torch", "hydra", "omegaconf"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_reaches_only_where_it_may(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert not imports(path)
        return
    ours = {n.split(".")[1] for n in imports(path) if n.startswith("stockformer.")}
    libraries = {name.split(".")[0] for name in imports(path)}
    assert ours <= MAY[room(path)]
    assert not libraries & MUST_NOT.get(room(path), set())


def test_only_windows_and_the_models_side_of_the_data_room_know_torch() -> None:
    with_torch = {
        str(p.relative_to(PACKAGE)) for p in FILES if room(p) == "data" and "torch" in imports(p)
    }
    assert with_torch == {"data/windows.py"}


BANNED = (
    r"(?<![\w.])(print|eval)\(",
    r"import pickle|pickle\.load|read_pickle|joblib\.load",
    r"allow_pickle *= *True|weights_only *= *False",
)


@pytest.mark.parametrize("pattern", BANNED)
def test_nothing_in_the_package_prints_unpickles_or_evaluates(pattern: str) -> None:
    assert not [path for path in FILES if re.search(pattern, path.read_text())]

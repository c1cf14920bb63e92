"""A subpackage imports only what the table here allows; the README draws the layout."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stockformer"
# Subpackage, or a module of it with its own rules -> what it may import of this package.
# What a run leaves on the disk and the terminal, and how it is read back: all may use these.
BASE = {
    *("runs.atomic", "runs.console", "runs.fork_server", "runs.logs", "runs.typed_json"),
    "config.quoting",
}
MAY: dict[str, set[str]] = {
    "runs.atomic": set(),
    "runs.console": set(),
    "runs.fork_server": set(),
    "runs.typed_json": set(),
    "runs.logs": {"runs.atomic", "runs.console"},
    "runs.folder": BASE,
    "runs.settings": {"runs.folder"},
    "runs.interruption": {"runs.folder", *BASE},
    "runs.resume": {"config", "runs.folder", *BASE},
    "config.quoting": set(),
    "config": {"config", "evaluation.metrics", "data.factors.library"},
    "interface": set(),
    "data": {"data", "interface", *BASE},
    "data.sources.download": {"data", "commands", *BASE},
    "models": {"models", "interface"},
    "training": {"training", "models", "interface", "data", "evaluation", "runs.folder", *BASE},
    "evaluation.inputs": {"evaluation", "data"},
    "evaluation.baselines": {"evaluation", "data.factors.cross_section", "models.regression"},
    "evaluation": {"evaluation", "data.factors.cross_section", "runs.typed_json"},
    "runs.recorded_run": {"evaluation", "data.reading.unpacking", "runs.folder", *BASE},
    "sweeps.ray_launcher": {"sweeps", "runs.interruption", *BASE},
    "sweeps": {"sweeps", "evaluation", "config.plain_yaml", "runs.folder", *BASE}
    | {"runs.recorded_run", "runs.settings"},
    "reporting": {
        *("reporting", "evaluation", "data", "sweeps", "runs.folder", "runs.recorded_run"),
        *("runs.settings", *BASE),
    },
    "experiment": {"config", "data", "models", "training", "evaluation", "reporting", "runs"}
    | {"interface"},
    "runs": {"runs", "config", "data", "training", "evaluation", "reporting", "experiment"}
    | {"models.tabular"},
    "runs.export": {"runs", "config", "experiment", "interface", "models.tabular"}
    | {"evaluation.neutralise"},
    "export": {"commands", "runs"},
    "weekly": {"commands"},
    "programs": {"commands", "config", "audit", "experiment", "reporting", "runs"},
    "commands": {"__version__", "commands", "config", "evaluation", "reporting", "runs", "sweeps"},
    "audit": {"audit", "commands", "config", "data", "models", "training", "evaluation", "runs"}
    | {"interface", "experiment"},
}
HEAVY = {"torch", "numpy", "pandas"}
MUST_NOT: dict[str, set[str]] = {
    **dict.fromkeys(
        (*BASE, "runs.interruption", "runs.folder", "runs.settings"), HEAVY | {"hydra", "omegaconf"}
    ),
    **dict.fromkeys(("runs.resume", "config", "commands", "programs"), HEAVY),
    "evaluation.metrics": {"pandas", "torch"},  # read by every command
    "evaluation.quantities": HEAVY,
    "interface": {"hydra", "omegaconf", "pandas"},
    "data": {"hydra", "omegaconf"},
    "models": {"hydra", "omegaconf", "pandas", "sklearn"},
    "models.regression": {"torch", "hydra", "omegaconf", "pandas"},  # baselines use it
    "training": {"hydra", "omegaconf", "sklearn"},
    "evaluation": {"torch", "hydra", "omegaconf"},
    "reporting": {"torch", "hydra", "omegaconf"},
    "runs.recorded_run": {"torch", "hydra", "omegaconf"},
    "sweeps": {"torch", "hydra", "omegaconf"},
    "sweeps.folder": HEAVY | {"hydra", "omegaconf"},
    "sweeps.search": {"torch", "omegaconf"},  # hydra: its grammar of search spaces
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


def rules(path: Path, table: dict[str, set[str]]) -> set[str]:
    """Those of the module, else those of its subpackage."""
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return table[module] if module in table else table.get(module.partition(".")[0], set())


def within(name: str, allowed: set[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_subpackage_imports_only_what_it_may(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert not imports(path)
        return
    names = imports(path)
    ours = {n.removeprefix("stockformer.") for n in names if n.startswith("stockformer.")}
    modules = {name for name in ours if not any(other.startswith(f"{name}.") for other in ours)}
    assert not [name for name in modules if not within(name, rules(path, MAY))]
    assert not {name.split(".")[0] for name in names} & rules(path, MUST_NOT)


def test_of_the_data_only_windows_know_torch() -> None:
    data = sorted((PACKAGE / "data").rglob("*.py"))
    with_torch = {p.name for p in data if "torch" in imports(p)}
    assert with_torch == {"windows.py"}


BANNED = (
    r"(?<![\w.])(print|eval)\(",
    r"import pickle|pickle\.load|read_pickle|joblib\.load",
    r"allow_pickle *= *True|weights_only *= *False",
)


@pytest.mark.parametrize("pattern", BANNED)
def test_nothing_in_the_package_prints_unpickles_or_evaluates(pattern: str) -> None:
    assert not [path for path in FILES if re.search(pattern, path.read_text())]

"""The way through the house: imports go one way, and heavy packages wait until they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sim

PACKAGE = Path(sim.__file__).parent

# The rooms of the house from the ground up: a room imports from those before it.
ROOMS = (
    *("foundation", "engines", "parallel", "inputs", "kernels", "calibration", "variation"),
    *("deployments", "decoding", "steady", "doubt", "metrics", "results", "experiments", "sweeps"),
    *("explain", "study", "pictures", "cli", ""),
)


def modules() -> dict[str, Path]:
    """Return the modules of sim by their name behind `sim.`; `sim` itself is the empty name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, by its full name, in functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                known = name.removeprefix("sim.") in MODULES and name.startswith("sim.")
                found.add(name if known else node.module)
    return found


def within(path: Path) -> set[str]:
    """Return the modules of sim that a file imports."""
    names = {name for name in imports(path) if name == "sim" or name.startswith("sim.")}
    return {name.removeprefix("sim").removeprefix(".") for name in names}


def level(name: str) -> int:
    return ROOMS.index(name.split(".")[0])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str) -> None:
    assert {other for other in within(MODULES[name]) if level(other) > level(name)} == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: within(path) - {name} for name, path in MODULES.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports go round: {error.args[1]}")
    assert set(order) == set(MODULES)


def test_engines_know_nothing_of_gpus() -> None:
    for name, path in MODULES.items():
        if name.startswith("engines."):
            others = {other for other in within(path) if not other.startswith("engines")}
            assert others <= {"foundation.errors"}, name


# Packages that few know of, and the modules (or whole rooms) that may import them. Rich reads
# brackets as markup: who imports it has to know that names may hold them.
KNOWN_TO = {
    "simpy": {"engines.event"},
    "plotly": {"pictures"},
    "jinja2": {"pictures"},
    "rich": {"cli.text", "cli.textplot"},
    "typer": {"cli"},
    "plotext": {"cli.textplot"},
    "pydantic": {"inputs", "sweeps", "study.schema"},
}


@pytest.mark.parametrize("package", KNOWN_TO)
def test_a_package_is_known_to_few(package: str) -> None:
    users = {
        name
        for name, path in MODULES.items()
        if any(other.split(".")[0] == package for other in imports(path))
    }
    known = KNOWN_TO[package]
    strangers = {name for name in users if not {name, name.split(".")[0]} & known}
    assert not strangers
    assert users, f"{package}: not used"


@pytest.mark.parametrize("module", ["sim", "sim.cli", "sim.decoding.run", "sim.inputs.scenario"])
def test_importing_costs_no_heavy_package(module: str) -> None:
    heavy = ("pandas", "plotly", "numba", "pyarrow", "scipy", "torch", "matplotlib", "plotext")
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({heavy!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

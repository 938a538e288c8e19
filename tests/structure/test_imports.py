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

# DESIGN §1, with the modules that came later. A name with a dot at the end stands for a package.
LEVELS: tuple[tuple[str, ...], ...] = (
    (
        *("errors", "units", "pareto", "streams", "statistics", "figure", "strict", "compiled"),
        *("printable", "naming", "files", "csv_rows", "workers", "signals"),
        *("nanoseconds", "json_text", "suggestions", "spreadsheets"),
    ),
    (
        *("hardware", "model", "kinds", "yaml_loader", "measurements", "axes", "constraints"),
        *("lengths", "arrivals", "traces", "trace_forms", "trace_times", "workload"),
        *("admission", "noise", "speculation", "software", "shapes", "yaml_limits", "yaml_scalars"),
        "yaml_mistakes",
    ),
    (
        *("cards", "ops", "curve", "lookup", "table", "kernels", "kvcache", "theory", "experts"),
        *("families", "routing", "eplb"),
        *("regression", "calibration", "calibration_grid", "calibration_check"),
        *("calibration_merge", "served", "measurement_files", "published"),
        *("measure", "measure_blockwise", "measure_torch", "measure_triton"),
    ),
    ("scenario",),
    (
        *("program", "layers", "expected", "deployments.", "work_log"),
        *("ledger", "line", "flight_loops", "acceptance", "flights", "scheduler"),
        *("unfolding", "jitter", "expert_load", "drawn"),
    ),
    ("engines.",),
    (
        *(
            "catalogue",
            "run",
            "physical",
            "goodput",
            "stability",
            "metrics",
            "replications",
            "steady",
        ),
        *("steady", "search", "frozen"),
        *("bottleneck", "sensitivity", "balance", "loops", "demand", "measure_cases"),
    ),
    (
        *("points", "sweeps", "refine", "sources", "store", "session", "results", "plots", "gantt"),
        *("cautions", "swept", "saved", "timeline", "report"),
        *("explain", "explain_page", "calibration_plot", "scenario_doc"),
        *("comparison", "capacity", "ratio"),
        *("studies", "cells", "champions", "duels", "contests", "outcomes", "study_report"),
        "verdict_map",
        "pages",
    ),
    ("cli.", "calibrate_cli", "measure_cli", ""),
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
    for number, group in enumerate(LEVELS):
        for member in group:
            package = member.removesuffix(".")
            if name == package or (member.endswith(".") and name.startswith(member)):
                return number
    raise KeyError(f"sim.{name} stands on no level: give it one")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str) -> None:
    upwards = {other for other in within(MODULES[name]) if level(other) > level(name)}
    assert upwards == set()


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
            assert others <= {"program", "errors", "compiled"}, name


def test_only_the_event_engine_knows_simpy() -> None:
    users = {
        name
        for name, path in MODULES.items()
        if any(other.split(".")[0] == "simpy" for other in imports(path))
    }
    assert users == {"engines.event"}


def test_text_reaches_a_terminal_by_one_way() -> None:
    """Rich reads brackets as markup: who imports it has to know that names may hold them."""
    users = {
        name
        for name, path in MODULES.items()
        if any(other.split(".")[0] == "rich" for other in imports(path))
    }
    assert users == {"cli.text", "cli.textplot"}


@pytest.mark.parametrize("module", ["sim", "sim.cli", "sim.run", "sim.scenario"])
def test_importing_costs_no_heavy_package(module: str) -> None:
    heavy = ("pandas", "plotly", "numba", "pyarrow", "scipy", "torch", "matplotlib", "plotext")
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({heavy!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

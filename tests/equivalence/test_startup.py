"""Numba stays out of the way: imported where loops run, and only those that run are compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numba
import pytest

import sim
from sim.decoding import loops
from sim.engines.jit import compiled

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(*verb: str) -> set[str]:
    """Return the modules that a command has imported when it ends."""
    code = f"""
import sys
from sim.cli import main
sys.argv = ["afdsim", *{verb!r}]
try:
    main()
finally:
    print("", *sys.modules, file=sys.stdout)
"""
    return set(python(code).splitlines()[-1].split())


@pytest.mark.parametrize("module", ["sim", "sim.cli", "sim.decoding.run", "sim.engines.event"])
def test_importing_does_not_import_numba(module: str) -> None:
    assert python(f"import sys, {module}; print('numba' in sys.modules)") == "False\n"


@pytest.mark.parametrize("verb", [("validate", "step3-2a2f"), ("schema",), ("schema", "sweep")])
def test_verbs_that_run_nothing_import_no_engine(verb: tuple[str, ...]) -> None:
    found = loaded(*verb)
    engines = {name for name in found if name.startswith(("sim.engines.event", "simpy"))}
    assert engines | found & {"numba", "pandas", "pyarrow", "plotly", "rich", "jinja2"} == set()


def test_a_run_writes_its_tables_without_pandas(tmp_path: Path) -> None:
    found = loaded("run", "dsv3-ep8-h200", "--out", str(tmp_path / "run"))
    assert found & {"pandas", "simpy", "plotly", "jinja2"} == set()
    assert {"numba", "pyarrow"} <= found


def test_a_sweep_without_news_imports_nothing_to_run_or_draw(tmp_path: Path) -> None:
    verb = "sweep", "afd-ratio", "--engine", "bound", "--workers", "1", "--out", str(tmp_path / "s")
    loaded(*verb)
    found = loaded(*verb)
    assert found & {"pandas", "numba", "simpy", "plotly", "jinja2"} == set()


def test_a_run_compiles_the_loops_that_it_runs() -> None:
    code = """
import sim
from sim.decoding import loops
limits = ["simulation.min_steps=20", "simulation.max_steps=20"]
sim.simulate(sim.load("step3-2a2f", limits))
print(*(loop.__name__ for loop in loops.loops() if "dispatcher" in vars(loop)))
"""
    ran = set(python(code).split())
    assert {"advance", "enter", "emit"} <= ran
    assert ran.isdisjoint({"positive_circuit", "accept", "emitted", "grow", "give_way"})


def test_what_is_said_before_a_loop_is_compiled_is_said_once(tmp_path: Path) -> None:
    code = """
from sim.engines.jit import compiled, on_compiling
on_compiling(lambda: print("compiling"))
@compiled("int64(int64)")
def one(x): return x + 1
@compiled("int64(int64)")
def two(x): return one(x) + 1
print("not yet")
print(two(1))
"""
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path)) == "not yet\ncompiling\n3\n"


def test_every_loop_is_compiled_at_installation() -> None:
    homes = {sys.modules[loop.__module__] for loop in loops.loops()}
    package = Path(sim.__file__).parent
    users = {path for path in package.rglob("*.py") if "@compiled(" in path.read_text()}
    assert {Path(str(home.__file__)) for home in homes} >= users


@pytest.mark.parametrize("error", [RuntimeError("no locator available"), OSError(28, "full")])
def test_without_a_place_for_the_cache_it_compiles_afresh(error: Exception) -> None:
    njit = numba.njit

    def uncached(*arguments: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise error
        return njit(*arguments, **options)

    def successor(x: int) -> int:
        return x + 1

    with patch("numba.njit", uncached):
        made: Any = compiled("int64(int64)")(successor)
        assert made(1) == 2
    assert made.dispatcher.signatures

"""Numba stays out of the way: not imported where nothing runs, and no cache needed to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numba
import pytest

from sim.compiled import compiled

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["sim", "sim.cli", "sim.run", "sim.engines.event"])
def test_importing_does_not_import_numba(module: str) -> None:
    assert python(f"import sys, {module}; print('numba' in sys.modules)") == "False\n"


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

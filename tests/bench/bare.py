"""Limits: loops and draws that do the inner work of a job and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from time import process_time
from typing import Any

import numba
import numpy as np

from sim.deployments import compile_deployment
from sim.engines.maxplus.plan import plan
from sim.engines.maxplus.tables import KIND, PLAIN, WIDTH
from sim.inputs import scenario
from tests.bench.jobs import Bench, Limit


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the CPU time of the fastest of some repeats, s."""
    took = []
    for _ in range(repeats):
        begun = process_time()
        work()
        took.append(process_time() - begun)
    return min(took)


def loop(name: str, steps: int, *settings: str) -> Limit:
    """Return what a bare loop takes that walks the tasks of a scenario for so many steps."""
    program = compile_deployment(scenario.load(name, settings)).program
    spent = bare_step_s(plan(program).rows, min(steps, 500)) * steps
    return Limit(f"a bare loop of {steps:,} steps", spent)


def bare_step_s(rows: Any, steps: int) -> float:
    """Return the CPU seconds per step of a loop over rows of tasks, with constant work."""
    width = rows[:, WIDTH].astype(np.uint64)
    first = np.cumsum(width) - width
    marking = rows[:, KIND] != PLAIN
    arrays = [np.zeros(int(width.sum()), dtype=np.int64) for _ in range(4)]
    walk = _compiled()
    walk(*arrays, first, width, marking, 1)
    return seconds(lambda: walk(*arrays, first, width, marking, steps)) / steps


@lru_cache(maxsize=1)
def _compiled() -> Any:
    return numba.njit(error_model="numpy")(_walk)


def _walk(ends, free, inputs, work, first, width, marking, steps):  # type: ignore[no-untyped-def]
    ready = late = begun = over = 0
    for _ in range(steps):
        for n in range(len(first)):
            at = first[n]
            if marking[n]:
                for i in range(width[n]):
                    start = max(max(free[at + i], ready), inputs[at + i] + late)
                    ends[at + i] = start + work[at + i]
                    begun, over = max(begun, start), max(over, start + work[at + i])
            else:
                for i in range(width[n]):
                    start = max(max(free[at + i], ready), inputs[at + i] + late)
                    ends[at + i] = start + work[at + i]
    return begun + over


def request_draws(requests: int) -> Limit:
    """Return what it takes to draw the gaps, prompts and outputs of so many requests."""

    def draw() -> None:
        rng = np.random.default_rng(0)
        rng.exponential(size=requests).cumsum()
        for _ in range(2):
            rng.lognormal(size=requests).astype(np.int64)

    return Limit("bare draws", seconds(draw, repeats=1))


def expert_draws(steps: int, layers: int, experts: int, tokens: int) -> Limit:
    """Return what it takes to draw the tokens of all experts for so many micro-batch steps."""
    shares = np.full((layers, experts), 1 / experts)
    counts = np.full(layers, tokens)
    rng = np.random.default_rng(0)
    tried = min(steps, 100)

    def draw() -> None:
        for _ in range(tried):
            rng.multinomial(counts, shares)

    return Limit(f"bare draws of {steps:,} steps", seconds(draw, repeats=1) / tried * steps)


def compilation(bench: Bench) -> Limit:
    """Return what Numba takes to compile a function of one line, beyond its import."""
    one = "import numba\n@numba.njit('i8(i8)')\ndef plus(n): return n + 1"
    alone, compiled = (bench.run(sys.executable, "-c", text).cpu_s for text in (one[:12], one))
    return Limit("one function compiled", compiled - alone)

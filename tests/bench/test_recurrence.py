"""How much faster the recurrence is, as ratios that a machine's speed does not decide.

Run with `pytest -m bench -s tests/bench/test_recurrence.py`. Times are CPU times of one process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.engines import event, recurrence
from sim.engines.bound import BoundEngine
from sim.engines.maxplus import walk
from sim.engines.maxplus.tables import KIND, PLAIN, WIDTH
from sim.engines.program import Times
from sim.experiments.run_folder import save_run
from sim.inputs import scenario
from sim.metrics.summary import summary

pytestmark = pytest.mark.bench

SCENARIOS = ("step3-2a2f", "dsv3-ep128")
STEPS = 500


class SteadyTimes:
    """A controller that always answers the same for `steps` steps of each micro-batch."""

    def __init__(self, times: Times, micro_batches: int, steps: int) -> None:
        self.times = times
        self.left = micro_batches * steps

    def boundary(self, micro_batch: int, now_ns: int) -> Times | None:
        self.left -= 1
        return self.times if self.left >= 0 else None


def compiled(name: str) -> tuple[Deployment, Times, int]:
    """Return the site, the times of its nominal micro-batch and its server tasks a step."""
    site = compile_deployment(scenario.load(name))
    program = site.program
    tasks = sum(program.pools[program.stages[n.stage].pool].servers for n in program.nodes)
    return site, site.times(site.expected.batch()), tasks


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the CPU time of the fastest of some repeats, s."""
    took = []
    for _ in range(repeats):
        begun = process_time()
        work()
        took.append(process_time() - begun)
    return min(took)


@pytest.mark.parametrize("name", SCENARIOS)
def test_tasks_per_second_in_the_step_loop(name: str) -> None:
    site, times, tasks = compiled(name)
    program, m = site.program, site.program.micro_batches
    slow = [event.EventEngine(program, SteadyTimes(times, m, 5)) for _ in range(2)]
    event_s = seconds(lambda: slow.pop().run(), repeats=2) / 5
    fast = [recurrence.RecurrenceEngine(program, SteadyTimes(times, m, STEPS)) for _ in range(5)]
    recurrence_s = seconds(lambda: fast.pop().run(), repeats=5) / STEPS
    print(
        f"\n{name}: event {tasks / event_s / 1e3:.0f} k tasks/s, recurrence "
        f"{tasks / recurrence_s / 1e6:.0f} M tasks/s, {event_s / recurrence_s:.0f} times as many"
    )
    assert event_s / recurrence_s > 300


@pytest.mark.parametrize("name", SCENARIOS)
def test_inner_loop_against_a_bare_one(name: str) -> None:
    site, times, _tasks = compiled(name)
    program, m = site.program, site.program.micro_batches
    engine = recurrence.RecurrenceEngine(program, SteadyTimes(times, m, STEPS))
    rows = engine.plan.rows
    width = rows[:, WIDTH].astype(np.uint64)
    first = np.cumsum(width) - width
    marking = rows[:, KIND] != PLAIN
    arrays = [np.zeros(int(width.sum()), dtype=np.int64) for _ in range(4)]

    def loop(ends, free, inputs, work, first, width, marking, steps):  # type: ignore[no-untyped-def]
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

    bare: Any = numba.njit(error_model="numpy")(loop)
    bare(*arrays, first, width, marking, 1)
    bare_s = seconds(lambda: bare(*arrays, first, width, marking, STEPS)) / STEPS
    spent = 0.0
    advance = walk.advance

    def timed(*state: Any) -> int:
        nonlocal spent
        begun = process_time()
        chosen = advance(*state)
        spent += process_time() - begun
        return chosen

    with patch("sim.engines.recurrence.advance", timed):
        engine.run()
    loop_s = spent / STEPS
    print(f"\n{name}: {loop_s * 1e6:.1f} µs a step, {loop_s / bare_s:.1f} times a bare loop")
    assert loop_s / bare_s < 6


@pytest.mark.parametrize("name", SCENARIOS)
def test_end_to_end(name: str, tmp_path: Path) -> None:
    steps = [f"simulation.{which}_steps={STEPS}" for which in ("min", "max")]

    def whole(engine: str) -> float:
        begun = process_time()
        run = simulate(scenario.load(name, [*steps, f"simulation.engine={engine}"]))
        save_run(run, summary(run), tmp_path / engine)
        assert run.engine == engine
        return process_time() - begun

    whole("recurrence")
    fast_s = min(whole("recurrence") for _ in range(3))
    slow_s = whole("event")
    in_flight = scenario.load(name).workload.arrivals
    requests = getattr(in_flight, "concurrency", None) or 128 * 128
    print(
        f"\n{name}: {STEPS} steps end to end, results written: event {slow_s:.1f} s, recurrence "
        f"{fast_s:.2f} s, {slow_s / fast_s:.0f} times as fast, "
        f"{requests * STEPS / fast_s / 1e6:.1f} M tokens/s"
    )
    assert slow_s / fast_s > 10


@pytest.mark.parametrize("name", SCENARIOS)
def test_bound_in_milliseconds(name: str) -> None:
    site, times, _tasks = compiled(name)
    all_times = [times] * site.program.micro_batches
    engine = BoundEngine(site.program)
    step_s, whole_s = (
        seconds(lambda: engine.step_ns(all_times)),
        seconds(lambda: engine.bound(all_times)),
    )
    print(f"\n{name}: step {step_s * 1e3:.1f} ms, with circuit and slack {whole_s * 1e3:.0f} ms")
    assert whole_s < 1


def test_startup_with_a_warm_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sim.cli", "run", "step3-2a2f"]
    command += ["--set", "simulation.max_steps=20", "--out", str(tmp_path / "run")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / 2
    print(f"\nafdsim run of 20 steps: {spent:.2f} s of CPU")
    assert spent < 5

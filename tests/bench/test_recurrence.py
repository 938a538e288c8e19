"""How much faster the recurrence is, as ratios that a machine's speed does not decide.

Run with `make bench ROWS=test_recurrence`. Times are CPU times of one process.
"""

from __future__ import annotations

from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.engines import event, recurrence
from sim.engines.bound import BoundEngine
from sim.engines.maxplus import walk
from sim.engines.program import Times
from sim.experiments.run_folder import save_run
from sim.inputs import scenario
from sim.metrics.summary import summary
from tests.bench.bare import bare_step_s, seconds
from tests.bench.jobs import Bench

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


@pytest.mark.parametrize("name", SCENARIOS)
def test_tasks_per_second_in_the_step_loop(name: str, bench: Bench) -> None:
    site, times, tasks = compiled(name)
    program, m = site.program, site.program.micro_batches
    slow = [event.EventEngine(program, SteadyTimes(times, m, 5)) for _ in range(2)]
    event_s = seconds(lambda: slow.pop().run(), repeats=2) / 5
    fast = [recurrence.RecurrenceEngine(program, SteadyTimes(times, m, STEPS)) for _ in range(5)]
    recurrence_s = seconds(lambda: fast.pop().run(), repeats=5) / STEPS
    bench.ratio(
        f"{name}: event {tasks / event_s / 1e3:.0f} k tasks/s, recurrence "
        f"{tasks / recurrence_s / 1e6:.0f} M tasks/s, {event_s / recurrence_s:.0f} times as many"
    )
    assert event_s / recurrence_s > 300


@pytest.mark.parametrize("name", SCENARIOS)
def test_inner_loop_against_a_bare_one(name: str, bench: Bench) -> None:
    site, times, _tasks = compiled(name)
    program, m = site.program, site.program.micro_batches
    engine = recurrence.RecurrenceEngine(program, SteadyTimes(times, m, STEPS))
    bare_s = bare_step_s(engine.plan.rows, STEPS)
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
    bench.ratio(f"{name}: {loop_s * 1e6:.1f} µs a step, {loop_s / bare_s:.1f} times a bare loop")
    assert loop_s / bare_s < 6


@pytest.mark.parametrize("name", SCENARIOS)
def test_end_to_end(name: str, bench: Bench, tmp_path: Path) -> None:
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
    bench.ratio(
        f"{name}: {STEPS} steps end to end, results written: event {slow_s:.1f} s, recurrence "
        f"{fast_s:.2f} s, {slow_s / fast_s:.0f} times as fast, "
        f"{requests * STEPS / fast_s / 1e6:.1f} M tokens/s"
    )
    assert slow_s / fast_s > 10


@pytest.mark.parametrize("name", SCENARIOS)
def test_bound_in_milliseconds(name: str, bench: Bench) -> None:
    site, times, _tasks = compiled(name)
    all_times = [times] * site.program.micro_batches
    engine = BoundEngine(site.program)
    step_s, whole_s = (
        seconds(lambda: engine.step_ns(all_times)),
        seconds(lambda: engine.bound(all_times)),
    )
    bench.ratio(
        f"{name}: step {step_s * 1e3:.1f} ms, with circuit and slack {whole_s * 1e3:.0f} ms"
    )
    assert whole_s < 1

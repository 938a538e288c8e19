"""Tasks per second of the event engine against bare SimPy timeouts, in CPU time of one process.

Run with `make bench ROWS=tasks_per_second`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from time import process_time

import pytest
import simpy

from sim.deployments import compile_deployment
from sim.engines import event
from sim.inputs import scenario
from tests.bench.jobs import Bench
from tests.scripted_runs import Scripted, always

pytestmark = pytest.mark.bench

STEPS = 4
ROUNDS = 30
TIMEOUTS = 30_000


def bare_loop(processes: int) -> float:
    """Return timeouts per second of processes that do nothing but wait."""
    env = simpy.Environment()

    def wait(times: int) -> Generator[simpy.Event, None, None]:
        for _ in range(times):
            yield env.timeout(1)

    for _ in range(processes):
        env.process(wait(TIMEOUTS // processes))
    return TIMEOUTS / cpu_seconds(env.run)


def cpu_seconds(work: Callable[[], object]) -> float:
    gc.collect()
    begun = process_time()
    work()
    return process_time() - begun


@pytest.mark.parametrize("name", ["step3-2a2f", "dsv3-ep128"])
def test_tasks_per_second(name: str, bench: Bench) -> None:
    # The fastest of many short rounds, turn by turn, so that neighbours on the machine and its
    # clock weigh on both alike.
    site = compile_deployment(scenario.load(name))
    program = site.program
    script = always(site.times(site.expected.batch()))
    servers = sum(pool.servers for pool in program.pools)
    recorded = event.EventEngine(
        program, Scripted(program.micro_batches, script, STEPS), lambda _node, _step: True
    )
    recorded.run()
    tasks = len(recorded.records)
    engine_rate = bare_rate = single_rate = 0.0
    for _ in range(ROUNDS):
        engine = event.EventEngine(program, Scripted(program.micro_batches, script, STEPS))
        engine_rate = max(engine_rate, tasks / cpu_seconds(engine.run))
        bare_rate = max(bare_rate, bare_loop(servers))
        single_rate = max(single_rate, bare_loop(1))
    bench.ratio(
        f"{name}: event {engine_rate / 1e3:.0f} k tasks/s, bare SimPy {bare_rate / 1e3:.0f} k "
        f"timeouts/s with as many processes as the program has servers ({servers}), ratio "
        f"{engine_rate / bare_rate:.2f}; {single_rate / 1e3:.0f} k with one process, ratio "
        f"{engine_rate / single_rate:.2f}"
    )
    # Aim: 0.6. Below this something has gone wrong, not the machine.
    assert engine_rate / bare_rate > 0.4

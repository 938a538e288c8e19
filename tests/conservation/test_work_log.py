"""What a step leaves in the work log is what its program says of its times."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.decoding.work_log import WorkLog
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.engines.program import Times
from sim.inputs import scenario


@lru_cache
def site(name: str) -> Deployment:
    return compile_deployment(scenario.load(name))


@pytest.mark.parametrize("name", ["poisson-example", "dsv3-afd", "dsv3-ep16-h200-mtp"])
@given(steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**32)), min_size=1, max_size=9))
def test_work_is_that_of_the_program(name: str, steps: list[tuple[int, int]]) -> None:
    of = site(name)
    program, log = of.program, WorkLog(of, of.program)
    busy = np.zeros((5, sum(pool.servers for pool in program.pools)), dtype=np.int64)
    slowest = []
    for step, seed in steps:
        values = np.random.default_rng(seed).integers(0, 10**7, program.slot_bounds[-1][1])
        times = Times(values, program.slot_bounds, (5,) * len(program.delays))
        busy[step] += program.busy_ns(times)
        slowest.append(program.slowest_of(values))
        assert log.note(step, times) == len(slowest) - 1
    assert log.busy_ns().tolist() == busy[: 1 + max(step for step, _ in steps)].tolist()
    delays_ns = np.full((len(steps), len(program.delays)), 5)
    expected = of.layer_ns(program, np.array(slowest), delays_ns)
    found = log.layer_ns(np.arange(len(steps)))
    assert {name: column.tolist() for name, column in found.items()} == {
        name: column.tolist() for name, column in expected.items()
    }

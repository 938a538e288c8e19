"""The bound is the steady state of both engines, exactly, and its circuit and slack are true."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from sim.deployments.afd import ring as afd_ring
from sim.engines import event, recurrence
from sim.engines.bound import BoundEngine
from sim.engines.program import Program, Times
from tests import oracles
from tests.oracles import EpTimes, RingTimes
from tests.scripted_runs import ring, schedule
from tests.strategies.deployments import (
    durations,
    ep_cases,
    layer_counts,
    micro_batch_counts,
    ring_cases,
    server_counts,
)
from tests.strategies.programs import programs, random_times
from tests.timing.test_unlike_layers import ep_program, ring_program

DEFAULT = settings(max_examples=60, deadline=None)
NIGHTLY = settings(max_examples=500, deadline=None)

STEPS = 600
LONGEST_CYCLE = 60


class SteadyTimes:
    """A controller that always answers the same; it looks at the engine at micro-batch 0's."""

    def __init__(self, times: list[Times], steps: int) -> None:
        self.times = times
        self.steps = steps
        self.engine: recurrence.RecurrenceEngine | None = None
        self.states: list[NDArray[np.int64]] = []
        self.calls: list[tuple[int, int]] = []

    def boundary(self, micro_batch: int, now_ns: int) -> Times | None:
        self.calls.append((micro_batch, now_ns))
        if micro_batch == 0:
            if self.engine is not None:
                self.states.append(self.engine.ends_ns.copy())
            self.steps -= 1
        return None if self.steps < 0 else self.times[micro_batch]


def steady_ns(program: Program, times: list[Times]) -> Fraction | None:
    """Return the time per step of both engines, None if it is not steady within `STEPS` steps.

    All that a step depends on is when the tasks before it ended. Once all of these have moved by
    the same time in some steps, they always will: the event engine, which shows no such state,
    need only make the same calls until then.
    """
    controller = SteadyTimes(times, STEPS)
    controller.engine = recurrence.RecurrenceEngine(program, controller)
    controller.engine.run()
    states = np.array(controller.states)
    for cycle in range(1, LONGEST_CYCLE + 1):
        moved = states[cycle:] - states[:-cycle]
        steady = (moved == moved[:, :1]).all(axis=1)
        if steady[-1]:
            first = int(np.argmax(steady))
            assert steady[first:].all()
            reference = SteadyTimes(times, first + 2 * cycle)
            event.run(program, reference)
            calls = reference.calls[:-1]
            assert calls == controller.calls[: len(calls)]
            return Fraction(int(moved[-1, 0]), cycle)
    return None


def check(program: Program, seed: int, longest_ns: int) -> None:
    rng = np.random.default_rng(seed)
    times = [random_times(program, rng, longest_ns) for _ in program.closing]
    try:
        engine = BoundEngine(program)
    except recurrence.InexactError:
        assume(False)
    bound = engine.bound(times)
    steady = steady_ns(program, times)
    assume(steady is not None)
    assert bound.step_ns == steady
    assert sum(part.time_ns for part in bound.circuit) == bound.step_ns * bound.steps
    check_slack(engine, times, bound.slack_ns, bound.step_ns)


def check_slack(
    engine: BoundEngine, times: list[Times], slack_ns: dict[str, Fraction | None], step_ns: Fraction
) -> None:
    """All of the slack may be used up, but not one nanosecond more."""
    for name, slack in slack_ns.items():
        assert slack is None or slack >= 0
        room = 1000 if slack is None else slack.numerator // slack.denominator
        assert engine.step_ns([longer(engine.program, t, name, room) for t in times]) == step_ns
        if slack is not None:
            beyond = [longer(engine.program, t, name, room + 1) for t in times]
            assert engine.step_ns(beyond) > step_ns


def longer(program: Program, times: Times, name: str, by_ns: int) -> Times:
    """Return `times` with every task of a stage, or a delay, longer."""
    values = times.values.copy()
    for slot, (first, last) in enumerate(times.bounds):
        stage = program.stages[slot // (program.slots // len(program.stages))]
        values[first:last] += by_ns * (stage.name == name)
    delays = zip(program.delays, times.delays_ns, strict=True)
    delays_ns = tuple(ns + by_ns * (delay == name) for delay, ns in delays)
    return times._replace(values=values, delays_ns=delays_ns)


cases = given(programs, st.integers(0, 2**32), st.sampled_from((0, 1, 3, 20, 1000)))


@DEFAULT
@cases
def test_bound_is_the_steady_state(program: Program, seed: int, longest_ns: int) -> None:
    check(program, seed, longest_ns)


@pytest.mark.nightly
@NIGHTLY
@cases
def test_bound_is_the_steady_state_nightly(program: Program, seed: int, longest_ns: int) -> None:
    check(program, seed, longest_ns)


def step_ns(program: Program, rows: dict[str, int], link: int = 0) -> Fraction:
    """Return the bound of like layers and micro-batches."""
    named = {(stage, 0): ns for stage, ns in rows.items()}
    delays_ns = {name: link if name == "link" else 0 for name in program.delays}
    times = program.times(named, delays_ns)
    return BoundEngine(program).step_ns([times] * program.micro_batches)


def ring_rows(a: int, f: int, c1: int = 0, c2: int = 0) -> dict[str, int]:
    return {"attention": a, "experts": f, "a2f": c1, "a2f_in": c1, "f2a": c2, "f2a_in": c2}


@DEFAULT
@given(layer_counts, micro_batch_counts, server_counts, server_counts, durations(5))
def test_full_duplex_rings(
    layers: int, m: int, gpus: int, instances: int, drawn: list[int]
) -> None:
    a, f, c1, c2, p = drawn
    program = ring(layers, m, gpus, instances)
    expected = oracles.latency_ring_ns(layers, m, a, f, c1)
    assert step_ns(program, ring_rows(a, f), link=c1) == expected  # C1
    expected = oracles.ring_ns(layers, m, a, f, c1, c2)
    assert step_ns(program, ring_rows(a, f, c1, c2)) == expected  # C2
    expected = oracles.ring_ns(layers, m, a, f, c1, c2, p)
    assert step_ns(program, ring_rows(a, f, c1, c2), link=p) == expected  # C2b


@DEFAULT
@given(layer_counts, micro_batch_counts, durations(4), st.data())
def test_half_duplex_ring_keeps_c8(
    layers: int, m: int, drawn: list[int], data: st.DataObject
) -> None:
    a, f, c1, c2 = drawn
    lags = afd_ring.Lags(nic=data.draw(st.integers(0, m - 1)))
    program = ring(layers, m, lags=lags, half_duplex=True)
    expected = oracles.half_duplex_bound_ns(layers, m, a, f, c1, c2)
    assert step_ns(program, ring_rows(a, f, c1, c2)) >= expected


@DEFAULT
@given(layer_counts, micro_batch_counts, durations(3), durations(2))
def test_c6_the_slowest_gpu_counts(
    layers: int, m: int, unlike: list[int], drawn: list[int]
) -> None:
    f, c = drawn
    program = ring(layers, m, gpus=3)
    rows: dict[tuple[str, int], ArrayLike] = {("attention", 0): unlike, ("experts", 0): f}
    times = program.times(rows, {"link": c, "host": 0})
    expected = oracles.latency_ring_ns(layers, m, max(unlike), f, c)
    assert BoundEngine(program).step_ns([times] * m) == expected


@DEFAULT
@given(layer_counts, server_counts, durations(6))
def test_ep_with_and_without_overlap(layers: int, gpus: int, drawn: list[int]) -> None:
    names = ("dispatch", "shared", "attn0", "experts", "combine", "attn1")
    rows = dict(zip(names, drawn, strict=True))
    in_sequence = schedule(layers, gpus, two_batch=False)
    assert step_ns(in_sequence, rows) == layers * sum(drawn)  # C9
    two_batch = schedule(layers, gpus, two_batch=True)
    assert step_ns(two_batch, rows) == oracles.two_batch_ns(layers, *drawn)  # C7


@DEFAULT
@given(ring_cases(), ep_cases(), st.integers(1, 5), st.booleans(), st.data())
def test_c4_layers_that_differ(
    ring_times: RingTimes, ep_times: EpTimes, m: int, two_batch: bool, data: st.DataObject
) -> None:
    tail = data.draw(st.integers(0, m - 1))
    program, times = ring_program(ring_times, m, tail)
    expected = oracles.eigenvalue(oracles.ring_matrix(ring_times, m, tail))
    assert BoundEngine(program).step_ns([times] * m) == expected
    program, times = ep_program(ep_times, two_batch=two_batch)
    matrix = oracles.two_batch_matrix(ep_times) if two_batch else None
    in_sequence = oracles.in_sequence_ns(ep_times)
    expected = Fraction(int(in_sequence)) if matrix is None else oracles.eigenvalue(matrix)
    assert BoundEngine(program).step_ns([times] * program.micro_batches) == expected


def test_critical_circuit_and_slack_of_an_attention_bound_ring() -> None:
    program = ring(layers=4, micro_batches=3)
    times = program.times(
        {("attention", 0): 100, ("experts", 0): 60, ("a2f", 0): 30}, {"link": 10, "host": 0}
    )
    bound = BoundEngine(program).bound([times] * 3)
    assert bound.step_ns == 4 * 3 * 100
    assert {part.stage for part in bound.circuit} <= {"attention", "lm_head"}
    assert len([part for part in bound.circuit if part.stage == "attention"]) == 12
    # The loop of a layer takes 100 + 30 + 60 + 2·10 of the 300 that attention needs for it.
    assert bound.slack_ns["attention"] == 0
    assert bound.slack_ns["experts"] == 40
    assert bound.slack_ns["link"] == 45

"""What may begin when: each rule of DESIGN §4 holds a task back until exactly t."""

from __future__ import annotations

import pytest

from sim.deployments.afd import ring as afd_ring
from sim.deployments.ep import schedule as ep_schedule
from sim.engines.controller import Wait
from sim.engines.program import Program, Times
from tests.exact_times import ENGINES, Held, assert_earliest_at
from tests.scripted_runs import Run, play_boundaries
from tests.scripted_schedulers import AMPLE, open_loop
from tests.strategies.requests import Arrival

# Durations, ns: attention, sending, receiving, latency, FFN; and the step of a whole program.
A, SEND, TAKE, LATENCY, F = 1000, 200, 300, 40, 5000
STEP = 100


def ring(
    m: int = 1,
    gpus: int = 1,
    instances: int = 1,
    kinds: tuple[int, ...] = (0,),
    *,
    half_duplex: bool = False,
) -> Program:
    """Return a ring; no step begins before all LM heads of the last are over."""
    shape = afd_ring.Ring(kinds, m, gpus, instances, half_duplex=half_duplex)
    return afd_ring.program(shape, afd_ring.Lags(tail=m - 1))


def ep(gpus: int = 1, kinds: tuple[int, ...] = (0,), *, two_batch: bool = False) -> Program:
    return ep_schedule.program(ep_schedule.Schedule(kinds, gpus, two_batch))


def rows(**stages: int | list[int]) -> dict[tuple[str, int], int | list[int]]:
    """Return durations of stages in layers of kind 0."""
    return {(name, 0): ns for name, ns in stages.items()}


# Of two micro-batches the second one's task is asked for, since the first keeps a server busy.
CASES = {
    "a server takes its next task when the last one is over": (
        Held(
            ring(2), ("experts", 0, 1), rows(attention=A, experts=F), LATENCY, after_ns=F + LATENCY
        ),
        A + LATENCY + F,
    ),
    "an FFN instance waits for the data of all attention GPUs": (
        Held(
            ring(gpus=3),
            ("experts", 0, 0),
            rows(attention=[A, A + 70, A - 20]),
            LATENCY,
            after_ns=LATENCY,
        ),
        A + 70 + LATENCY,
    ),
    "an attention GPU waits for the answers of all FFN instances": (
        Held(
            ring(instances=2, kinds=(0, 1)),
            ("attention", 1, 0),
            rows(attention=A, experts=[F, F + 70]),
            LATENCY,
            after_ns=2 * LATENCY,
        ),
        A + LATENCY + F + 70 + LATENCY,
    ),
    "a receiver takes the data for as long as it needs from the sender's begin": (
        Held(
            ring(),
            ("experts", 0, 0),
            rows(attention=A, a2f=SEND, a2f_in=TAKE),
            LATENCY,
            after_ns=LATENCY,
        ),
        A + TAKE + LATENCY,
    ),
    "a slower sender holds up what the receiver has taken": (
        Held(
            ring(),
            ("experts", 0, 0),
            rows(attention=A, a2f=TAKE, a2f_in=SEND),
            LATENCY,
            after_ns=LATENCY,
        ),
        A + TAKE + LATENCY,
    ),
    "a receiver begins with the last sender": (
        Held(
            ring(gpus=2),
            ("a2f_in", 0, 0),
            rows(attention=[A, A + 70]),
            LATENCY,
            after_ns=2 * LATENCY,
        ),
        A + 70,
    ),
    "a sender begins when it has sent the micro-batch before": (
        Held(
            ring(2),
            ("a2f", 0, 1),
            rows(attention=A, a2f=2 * A),
            LATENCY,
            after_ns=2 * A + 2 * LATENCY,
        ),
        A + 2 * A,
    ),
    "a half-duplex link sends again when it has received": (
        Held(
            ring(2, half_duplex=True),
            ("a2f", 0, 1),
            rows(attention=A, a2f=SEND, experts=F, f2a_in=TAKE),
            LATENCY,
            after_ns=SEND + LATENCY + F + TAKE + LATENCY,
        ),
        A + SEND + LATENCY + F + TAKE,
    ),
    "a dispatch waits for all ranks": (
        Held(ep(gpus=3), ("dispatch", 0, 0), rows(attn1=A, shared=[20, 70, 0])),
        A + 70,
    ),
    "experts wait for the dispatch": (
        Held(ep(gpus=2), ("experts", 0, 0), rows(attn1=A, dispatch=SEND)),
        A + SEND,
    ),
    "a combine waits for the experts of all ranks": (
        Held(ep(gpus=2), ("combine", 0, 0), rows(attn1=A, dispatch=SEND, experts=[F, F + 70])),
        A + SEND + F + 70,
    ),
    "the next layer waits for the combine": (
        Held(
            ep(kinds=(0, 1)),
            ("attn0", 1, 0),
            rows(attn1=A, dispatch=SEND, experts=F, combine=TAKE),
        ),
        A + SEND + F + TAKE,
    ),
    "overlapped experts wait for a dispatch that outlasts the other micro-batch": (
        Held(
            ep(two_batch=True),
            ("experts", 0, 0),
            rows(attn0=A, attn1=SEND, shared=TAKE, dispatch=F),
            after_ns=SEND + TAKE,
        ),
        A + SEND + F,
    ),
    "overlapped experts wait for the other micro-batch that outlasts their dispatch": (
        Held(
            ep(two_batch=True),
            ("experts", 0, 0),
            rows(attn0=A, attn1=SEND, shared=TAKE, dispatch=SEND),
            after_ns=SEND + TAKE,
        ),
        A + SEND + TAKE + A,
    ),
}

engines = pytest.mark.parametrize("run", ENGINES.values(), ids=ENGINES)


@engines
@pytest.mark.parametrize(("held", "earliest_ns"), CASES.values(), ids=CASES)
def test_a_task_begins_at_exactly(held: Held, earliest_ns: int, run: Run) -> None:
    assert_earliest_at(earliest_ns, lambda probe_ns: held.begins_ns(run, probe_ns))


@engines
def test_a_step_begins_when_the_host_gap_is_over(run: Run) -> None:
    """The second micro-batch's LM head is the probe: it keeps the GPU busy beside the gap."""
    program, head, gap = ring(2), ("lm_head", 1), 500

    def begins_ns(probe_ns: int) -> int:
        heads = [{head: A}, {head: probe_ns - A}]

        def script(j: int, step: int) -> Times:
            first = step == 0
            delays = {"link": 0, "host": gap if first and j == 0 else 0}
            return program.times(heads[j] if first else {}, delays)

        return play_boundaries(program, script, 2, run)[0][2]

    assert_earliest_at(A + gap, begins_ns)


class Decoding:
    """A controller that admits scripted requests and makes every step last STEP ns."""

    def __init__(self, script: list[Arrival], capacity: float) -> None:
        self.program = ring()
        self.scheduler = open_loop(script, capacity=capacity, block=4)
        self._times = self.program.times({("attention", 0): STEP}, {"link": 0, "host": 0})
        self._open = False

    def boundary(self, micro_batch: int, now_ns: int) -> Times | Wait | None:
        if self._open:
            self.scheduler.emit(micro_batch, now_ns)
        self.scheduler.admit(micro_batch, now_ns)
        self._open = self.scheduler.in_flight() > 0
        if self._open:
            return self._times
        arrival_ns = self.scheduler.next_arrival_ns()
        return None if arrival_ns is None else Wait(arrival_ns)


def admitted_ns(run: Run, script: list[Arrival], capacity: float = AMPLE) -> int:
    """Return when the last request of a script is admitted."""
    decoding = Decoding(script, capacity)
    run(decoding.program, decoding)
    return int(decoding.scheduler.column("admitted_ns")[len(script) - 1])


@engines
def test_a_request_enters_at_the_boundary_at_which_it_arrives(run: Run) -> None:
    entered = [
        admitted_ns(run, [Arrival(0, prompt=1, output=10), Arrival(at_ns, prompt=1, output=1)])
        for at_ns in (3 * STEP - 1, 3 * STEP, 3 * STEP + 1)
    ]
    assert entered == [3 * STEP, 3 * STEP, 4 * STEP]


@engines
def test_a_request_enters_an_empty_micro_batch_at_once(run: Run) -> None:
    # The first request leaves at the end of its only step, at STEP.
    first = Arrival(0, prompt=1, output=1)
    assert_earliest_at(
        STEP, lambda at_ns: admitted_ns(run, [first, Arrival(at_ns, prompt=1, output=1)])
    )


@engines
def test_kv_is_free_at_the_boundary_at_which_its_request_ends(run: Run) -> None:
    # 1 + 3 tokens are one block of 4 B, held until the third boundary; 1 + 4 tokens are two.
    holder = Arrival(0, prompt=1, output=3)

    def enters_ns(at_ns: int, capacity: int) -> int:
        return admitted_ns(run, [holder, Arrival(at_ns, prompt=1, output=4)], capacity)

    assert [enters_ns(at_ns, 11) for at_ns in (STEP, 3 * STEP, 3 * STEP + 1)] == [
        3 * STEP,
        3 * STEP,
        3 * STEP + 1,
    ]
    assert enters_ns(STEP, 12) == STEP

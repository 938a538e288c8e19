"""Transfers: the last byte's way through two NICs, and tasks that start at exactly the instant.

Data has arrived at max(sender end, max(last sender's start, receiver free) + bytes/bw_in) +
latency (DESIGN §3), with several senders and receivers.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.engines.program import Program, Times
from tests.oracles import RingTimes
from tests.scripted_runs import play, ring
from tests.strategies.deployments import ring_cases

few = settings(max_examples=50, deadline=None)


def one_layer(t: RingTimes, program: Program) -> Times:
    rows = {
        ("attention", 0): t.attention[0],
        ("a2f", 0): t.a2f[0],
        ("a2f_in", 0): t.a2f_in[0],
        ("f2a", 0): t.f2a[0],
        ("f2a_in", 0): t.f2a_in[0],
        ("experts", 0): t.experts[0],
    }
    return program.times(rows, {"link": int(t.link), "host": 0})


@few
@given(ring_cases())
def test_arrival_over_free_nics(t: RingTimes) -> None:
    program = ring(1, 1, t.attention.shape[1], t.experts.shape[1])
    timeline = play(program, one_layer(t, program), steps=1)
    sent_from = t.attention[0]
    sent = sent_from + t.a2f[0]
    arrived = np.maximum(sent.max(), sent_from.max() + t.a2f_in[0]) + t.link
    assert [r.start_ns for r in timeline.of("experts", 0, 0)] == arrived.tolist()
    back_from = arrived + t.experts[0]
    back = back_from + t.f2a[0]
    answered = np.maximum(back.max(), back_from.max() + t.f2a_in[0]) + t.link
    assert [r.start_ns for r in timeline.of("lm_head", 1, 0)] == answered.tolist()


@few
@given(ring_cases())
def test_arrival_over_nics_that_are_busy(t: RingTimes) -> None:
    # The second micro-batch finds senders and receivers at work on the first.
    program = ring(1, 2, t.attention.shape[1], t.experts.shape[1])
    timeline = play(program, one_layer(t, program), steps=1)
    sender_free = t.attention[0] + t.a2f[0]
    receiver_free = t.attention[0].max() + t.a2f_in[0]
    sent_from = np.maximum(2 * t.attention[0], sender_free)
    sent = sent_from + t.a2f[0]
    received = np.maximum(sent_from.max(), receiver_free) + t.a2f_in[0]
    arrived = np.maximum(sent.max(), received) + t.link
    assert [r.start_ns for r in timeline.of("all_gather", 0, 1)] == arrived.tolist()


@pytest.mark.parametrize(
    ("sender_ns", "receiver_ns", "expected_ns"),
    [
        (60, 10, 100 + 60 + 20),  # the sender's NIC is the slower one
        (10, 60, 100 + 60 + 20),  # the receiver's is: it begins with the sender, not after it
        (60, 60, 100 + 60 + 20),  # both at once, not one after the other
    ],
)
def test_a_transfer_occupies_both_nics_at_once(
    sender_ns: int, receiver_ns: int, expected_ns: int
) -> None:
    program = ring(1, 1)
    rows = {("attention", 0): 100, ("a2f", 0): sender_ns, ("a2f_in", 0): receiver_ns}
    timeline = play(program, program.times(rows, {"link": 20, "host": 0}), steps=1)
    assert timeline.of("experts", 0, 0)[0].start_ns == expected_ns


# A task of the second micro-batch starts at `free` when its input came before, and at the input
# when that comes later: probed 1 ns to either side of the tie, and at it.
@pytest.mark.parametrize("early_ns", [-1, 0, 1])
def test_a_task_starts_at_the_later_of_input_and_free_server(early_ns: int) -> None:
    a, f, link = 100, 100 + early_ns, 7
    program = ring(1, 2)
    rows = {("attention", 0): a, ("experts", 0): f}
    timeline = play(program, program.times(rows, {"link": link, "host": 0}), steps=1)
    input_ns, free_ns = 2 * a + link, a + link + f
    (second,) = timeline.of("experts", 0, 1)
    assert second.start_ns == max(input_ns, free_ns) == 200 + link + max(0, early_ns)


def test_a_barrier_opens_with_the_last_gpu_and_not_before() -> None:
    program = ring(1, 1, gpus=3)
    for last in range(3):
        attention = [50, 50, 50]
        attention[last] = 51
        times = program.times({("attention", 0): attention}, {"link": 0, "host": 0})
        timeline = play(program, times, steps=1)
        assert timeline.of("experts", 0, 0)[0].start_ns == 51


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_host_gap_lies_between_the_lm_head_and_the_boundary(lm_head: int, host: int) -> None:
    program = ring(1, 1)
    times = program.times({("lm_head", 1): lm_head}, {"link": 0, "host": host})
    timeline = play(program, times, steps=2)
    assert timeline.boundaries == [[0, lm_head + host, 2 * (lm_head + host)]]
    assert timeline.of("attention", 0, 0, step=1)[0].start_ns == lm_head + host

"""C4: layers that differ, an LM-head tail and a host gap, against a max-plus model of their own.

The model in oracles.py is written from DESIGN §4. Its matrix over one step has the step time as
its eigenvalue, which Karp's theorem gives exactly; the engine must agree to the nanosecond.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.deployments.afd import ring as afd_ring
from sim.deployments.ep import schedule as ep_schedule
from sim.engines.program import Program, Times
from tests.oracles import (
    EpTimes,
    RingTimes,
    eigenvalue,
    in_sequence_ns,
    ring_matrix,
    two_batch_matrix,
)
from tests.scripted_runs import period_ns
from tests.strategies.deployments import ep_cases, ring_cases

few = settings(max_examples=40, deadline=None)
RING_STAGES = (
    *("attention", "a2f", "a2f_in", "all_gather", "experts", "reduce_scatter", "f2a", "f2a_in"),
)
EP_STAGES = ("attn0", "attn1", "shared", "experts", "dispatch", "combine")


def ring_program(t: RingTimes, m: int, tail: int) -> tuple[Program, Times]:
    """Every layer is of a kind of its own."""
    layers, gpus = t.attention.shape
    shape = afd_ring.Ring(tuple(range(layers)), m, gpus, t.experts.shape[1])
    program = afd_ring.program(shape, afd_ring.Lags(tail=tail))
    rows = {
        (name, layer): getattr(t, name)[layer] for name in RING_STAGES for layer in range(layers)
    }
    rows["lm_head", layers] = t.lm_head
    return program, program.times(rows, {"link": int(t.link), "host": int(t.host)})


def ep_program(t: EpTimes, *, two_batch: bool) -> tuple[Program, Times]:
    layers, gpus = t.attn0.shape
    program = ep_schedule.program(ep_schedule.Schedule(tuple(range(layers)), gpus, two_batch))
    rows = {(name, layer): getattr(t, name)[layer] for name in EP_STAGES for layer in range(layers)}
    rows["lm_head", layers] = t.lm_head
    return program, program.times(rows, {"host": int(t.host)})


@few
@given(ring_cases(), st.integers(1, 5), st.data())
def test_ring_step_is_the_eigenvalue_of_its_matrix(
    t: RingTimes, m: int, data: st.DataObject
) -> None:
    tail = data.draw(st.integers(0, m - 1))
    assert period_ns(*ring_program(t, m, tail)) == eigenvalue(ring_matrix(t, m, tail))


@few
@given(ep_cases())
def test_two_batch_step_is_the_eigenvalue_of_its_matrix(t: EpTimes) -> None:
    assert period_ns(*ep_program(t, two_batch=True)) == eigenvalue(two_batch_matrix(t))


@few
@given(ep_cases())
def test_ep_in_sequence_is_the_sum_over_layers(t: EpTimes) -> None:
    assert period_ns(*ep_program(t, two_batch=False)) == in_sequence_ns(t)


def two_layer_ring(a: tuple[int, int], f: tuple[int, int]) -> RingTimes:
    zero = np.zeros((2, 1))
    attention = np.array(a, dtype=np.float64)[:, np.newaxis]
    experts = np.array(f, dtype=np.float64)[:, np.newaxis]
    none = np.zeros(1)
    return RingTimes(attention, zero, zero, zero, experts, zero, zero, zero, none, 0, 0)


def test_the_sum_of_the_layers_maxima_is_no_bound() -> None:
    # The bottleneck moves between the layers, and the servers work ahead: 100 + 100 would be
    # the sum of max(m·a, m·f, a + f) over the two layers.
    m, a, f = 2, (50, 1), (1, 50)
    summed = sum(max(m * a[i], m * f[i], a[i] + f[i]) for i in range(2))
    step = period_ns(*ring_program(two_layer_ring(a, f), m, tail=0))
    assert summed == 200
    assert step < summed
    # What is a bound: every server's own work, and every micro-batch's own way.
    assert step >= max(m * sum(a), m * sum(f), sum(a) + sum(f))


def test_karp_finds_the_heaviest_of_several_circuits() -> None:
    # A circuit of 2 entries that takes 7 and one of 1 entry that takes 3: 7/2 is heavier.
    never = -np.inf
    matrix = np.array([[never, 3.0, never], [4.0, never, never], [never, 1.0, 3.0]])
    assert eigenvalue(matrix) == Fraction(7, 2)

"""Preemption: who gives way when KV runs out, what is kept, and how they come back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.decoding.scheduler import PREEMPTIONS, Scheduler
from sim.foundation.errors import InfeasibleError
from sim.foundation.units import NS_PER_S
from sim.inputs.admission import Admission, Recompute, Swap, Watermark
from tests.scripted_schedulers import closed_loop, open_loop
from tests.strategies.requests import Arrival, arrivals

few = settings(max_examples=80, deadline=None)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))


def recompute(tokens_per_ns: float = 1.0) -> Recompute:
    rate = {"value": tokens_per_ns * NS_PER_S, "source": "test"}
    return Recompute.model_validate({"kind": "recompute", "tokens_per_s": rate})


def swap(bytes_per_ns: float = 1.0) -> Swap:
    rate = {"value": bytes_per_ns * NS_PER_S, "source": "test"}
    return Swap.model_validate({"kind": "swap", "bytes_per_s": rate})


def watermark(share: float = 1.0, preemption: Recompute | Swap | None = None) -> Admission:
    policy = Watermark(kind="watermark", share=share, preemption=preemption or recompute())
    return Admission(kv=policy)


def claims(scheduler: Scheduler, block: int = 1) -> list[int]:
    """Return the KV that requests in flight need for their next step, in blocks, by GPU."""
    used = [0] * scheduler.gpus
    for batch in scheduler.micro_batches:
        for gpu, context in zip(batch.gpu.tolist(), batch.contexts.tolist(), strict=True):
            used[gpu] += -(-(context + 1) // block) * block
    return used


class Gone(NamedTuple):
    request: int
    gpu: int
    at_ns: int
    context: int
    back_ns: int


def preempted(scheduler: Scheduler, since: int) -> list[Gone]:
    table = scheduler.preemptions()
    names = ("request", "gpu", "preempted_ns", "context_tokens", "restored_ns")
    rows = zip(*(table[name][since:].tolist() for name in names), strict=True)
    return [Gone(*row) for row in rows]


class Seen(NamedTuple):
    """A boundary: its micro-batch, the time, and who was where before it."""

    micro_batch: int
    now_ns: int
    before: list[list[tuple[int, int]]]
    gone: list[Gone]
    finished: list[int]
    entered: list[int]
    tokens: int


def boundaries(scheduler: Scheduler, most: int = 4000) -> Iterator[Seen]:
    """Bring micro-batches to their boundaries in turn, 10 ns apart, until all is served."""
    now = 0
    for _ in range(most):
        for j in range(len(scheduler.micro_batches)):
            before = [
                [*zip(batch.request.tolist(), batch.gpu.tolist(), strict=True)]
                for batch in scheduler.micro_batches
            ]
            rows = len(scheduler.preemptions()["request"])
            emission = scheduler.emit(j, now)
            stayed = set(scheduler.micro_batches[j].request.tolist())
            gone = preempted(scheduler, rows)
            scheduler.admit(j, now)
            entered = [r for r in scheduler.micro_batches[j].request.tolist() if r not in stayed]
            finished = emission.finished.tolist()
            yield Seen(j, now, before, gone, finished, entered, emission.tokens)
            now += 10
        if not (scheduler.in_flight() or scheduler.waiting()):
            comes_ns = scheduler.next_arrival_ns()
            if comes_ns is None:
                return
            now = max(now, comes_ns)
    pytest.fail("the line is never served")


policies = st.builds(
    watermark,
    st.sampled_from([0.3, 0.6, 0.9, 1.0]),
    st.sampled_from([recompute(), recompute(0.05), swap(), swap(100)]),
)


@few
@given(arrivals(), shapes, st.integers(33, 70), st.integers(1, 8), policies)
def test_all_tokens_come_once_and_kv_never_exceeds_capacity(
    script: list[Arrival], shape: tuple[int, int], capacity: int, block: int, policy: Admission
) -> None:
    # The longest request, 33 tokens, fits alone in whole blocks.
    capacity = -(-capacity // block) * block
    scheduler = open_loop(script, *shape, capacity, block, policy)
    tokens = [0] * len(script)
    finished = 0
    for seen in boundaries(scheduler):
        for request, _gpu in seen.before[seen.micro_batch]:
            tokens[request] += 1
        finished += len(seen.finished)
        assert scheduler.used_bytes.tolist() == claims(scheduler, block)
        assert (scheduler.used_bytes <= capacity).all()
        assert (scheduler.kv_bytes() <= scheduler.used_bytes).all()
        held = [sum(r[1] == g for r in _flat(scheduler)) for g in range(scheduler.gpus)]
        assert sum(batch.held for batch in scheduler.micro_batches).tolist() == held  # type: ignore[union-attr]
    assert tokens == [one.output for one in script]
    assert finished == len(script)
    assert scheduler.used_bytes.tolist() == [0] * scheduler.gpus


def _flat(scheduler: Scheduler) -> list[tuple[int, int]]:
    return [
        pair
        for batch in scheduler.micro_batches
        for pair in zip(batch.request.tolist(), batch.gpu.tolist(), strict=True)
    ]


@few
@given(arrivals(), shapes, st.integers(33, 60), policies)
def test_the_youngest_of_a_full_gpu_give_way_and_no_more_than_need_be(
    script: list[Arrival], shape: tuple[int, int], capacity: int, policy: Admission
) -> None:
    scheduler = open_loop(script, *shape, capacity, 1, policy)
    for seen in boundaries(scheduler):
        for gpu in range(scheduler.gpus):
            here = [r for r, at in seen.before[seen.micro_batch] if at == gpu]
            gone = [one for one in seen.gone if one.gpu == gpu]
            stay = [r for r in here if r not in [one.request for one in gone] + seen.finished]
            assert all(one.request in here for one in gone)
            if not gone:
                continue
            assert all(one.request > other for one in gone for other in stay)
            # Without the oldest of those that gave way, there would have been no room.
            contexts = [one.context + 1 for one in sorted(gone)]
            left = claims(scheduler)[gpu] - sum(
                script[r].prompt + _decoded(scheduler, r) + 1
                for r in seen.entered
                if _home(scheduler, r) == gpu
            )
            assert left <= capacity < left + contexts[0]


def _decoded(scheduler: Scheduler, request: int) -> int:
    return int(scheduler.column("kept")[request])


def _home(scheduler: Scheduler, request: int) -> int:
    return int(scheduler.column("gpu")[request])


@few
@given(arrivals(), shapes, st.integers(33, 60), policies)
def test_they_come_back_when_their_kv_is_there_before_all_others(
    script: list[Arrival], shape: tuple[int, int], capacity: int, policy: Admission
) -> None:
    scheduler = open_loop(script, *shape, capacity, 1, policy)
    out: dict[int, int] = {}
    fresh: list[int] = []
    for seen in boundaries(scheduler):
        out |= {one.request: one.back_ns for one in seen.gone}
        ready = sorted(r for r, back_ns in out.items() if back_ns <= seen.now_ns)
        back = [r for r in seen.entered if r in out]
        assert back == ready[: len(back)]
        new = [r for r in seen.entered if r not in out]
        assert seen.entered == back + new
        if new:
            assert back == ready
        fresh += new
        for request in back:
            del out[request]
    # First come, first served among those that never were in.
    assert fresh == list(range(len(script)))
    assert not out


@few
@given(st.integers(1, 40), shapes, st.integers(45, 90), st.integers(0, 9), policies)
def test_a_closed_loop_loses_none(
    concurrency: int, shape: tuple[int, int], capacity: int, seed: int, policy: Admission
) -> None:
    gpus, m = shape
    scheduler = closed_loop(concurrency, gpus, m, capacity, seed=seed, admission=policy)
    now = 0
    for _ in range(60):
        for j in range(m):
            scheduler.emit(j, now)
            scheduler.admit(j, now)
            assert (scheduler.used_bytes <= capacity).all()
            table = scheduler.preemptions()
            away = (table["restored_ns"] > now).sum()
            assert scheduler.in_flight() + scheduler.waiting() + away == concurrency
            now += 10


def test_one_gives_way_to_the_byte() -> None:
    # Two of 4 tokens need 5 + 5 in their first step, 6 + 6 in the second.
    script = [Arrival(0, 4, 9), Arrival(0, 4, 3)]
    scheduler = open_loop(script, capacity=13, admission=watermark(1.0, recompute(0.5)))
    scheduler.admit(0, 0)
    assert scheduler.micro_batches[0].request.tolist() == [0, 1]
    assert scheduler.used_bytes.tolist() == [10]
    assert scheduler.emit(0, 10).tokens == 2
    assert scheduler.used_bytes.tolist() == [12]
    assert scheduler.emit(0, 20).tokens == 2
    assert scheduler.micro_batches[0].request.tolist() == [0]
    assert scheduler.used_bytes.tolist() == [7]
    # Two tokens were decoded and are kept; 6 tokens at 0.5 per ns are there after 12 ns.
    assert preempted(scheduler, 0) == [Gone(1, 0, 20, 6, 32)]
    assert (scheduler.waiting(), scheduler.next_arrival_ns()) == (0, 32)
    for now in (30, 31):
        scheduler.admit(0, now)
        assert scheduler.micro_batches[0].request.tolist() == [0]
    # Beside 7 there is no room for 7 more: it waits at the head of the queue.
    scheduler.admit(0, 32)
    assert scheduler.micro_batches[0].request.tolist() == [0]
    assert scheduler.waiting() == 1
    for now in range(40, 110, 10):
        scheduler.emit(0, now)
        scheduler.admit(0, now)
    assert scheduler.micro_batches[0].request.tolist() == [1]
    assert scheduler.column("admitted_ns").tolist() == [0, 0]
    emission = scheduler.emit(0, 110)
    assert (emission.tokens, emission.continuing) == (1, 0)
    assert emission.finished.tolist() == [1]
    assert [int(column[0]) for column in scheduler.preemptions().values()][-1] == 110
    assert scheduler.column("first_token_ns").tolist() == [10, 10]
    assert scheduler.column("last_token_ns").tolist() == [100, 110]


def test_a_swap_goes_out_and_comes_back() -> None:
    script = [Arrival(0, 4, 9), Arrival(0, 4, 3)]
    scheduler = open_loop(script, capacity=13, admission=watermark(1.0, swap(2.0)))
    scheduler.admit(0, 0)
    scheduler.emit(0, 10)
    scheduler.emit(0, 20)
    # 6 bytes each way at 2 bytes per ns.
    assert preempted(scheduler, 0) == [Gone(1, 0, 20, 6, 26)]


def test_requests_are_let_in_up_to_the_watermark_only() -> None:
    script = [Arrival(0, 4, 9)] * 4
    scheduler = open_loop(script, capacity=20, admission=watermark(0.5))
    scheduler.admit(0, 0)
    assert scheduler.micro_batches[0].request.tolist() == [0, 1]
    scheduler = open_loop(script, capacity=20, admission=watermark(0.49))
    scheduler.admit(0, 0)
    assert scheduler.micro_batches[0].request.tolist() == [0]


def test_an_empty_gpu_takes_what_is_over_the_watermark() -> None:
    scheduler = open_loop([Arrival(0, 18, 2)], capacity=20, admission=watermark(0.1))
    scheduler.admit(0, 0)
    assert scheduler.in_flight() == 1
    with pytest.raises(InfeasibleError, match=r"18 \+ 2 tokens needs"):
        open_loop([Arrival(0, 18, 2)], capacity=19, admission=watermark(0.1)).admit(0, 0)


def test_it_may_come_back_elsewhere() -> None:
    # Request 2 gives way to request 0 and comes back where request 1 has ended.
    script = [Arrival(0, 5, 19), Arrival(0, 12, 3), Arrival(0, 9, 9)]
    scheduler = open_loop(script, gpus=2, capacity=24, admission=watermark())
    homes: dict[int, set[int]] = {}
    for _seen in boundaries(scheduler):
        for request, gpu in _flat(scheduler):
            homes.setdefault(request, set()).add(gpu)
    assert homes == {0: {0}, 1: {1}, 2: {0, 1}}


def test_without_a_watermark_none_gives_way() -> None:
    script = [Arrival(0, 4, 9)] * 6
    scheduler = open_loop(script, capacity=20)
    assert not [seen for seen in boundaries(scheduler) if seen.gone]
    table = scheduler.preemptions()
    assert tuple(table) == PREEMPTIONS
    assert all(len(column) == 0 for column in table.values())

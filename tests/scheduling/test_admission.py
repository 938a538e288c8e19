"""Admission: who enters which micro-batch on which GPU, and when (DESIGN §4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.decoding.scheduler import Scheduler
from sim.foundation.errors import InfeasibleError
from sim.inputs.admission import Admission, Balancing
from tests.scripted_schedulers import closed_loop, dealt, open_loop
from tests.strategies.requests import Arrival, arrivals

few = settings(max_examples=60, deadline=None)


@dataclass
class Seen:
    """One boundary: the state as it was before and after admission."""

    micro_batch: int
    now_ns: int
    before: list[list[int]]
    entered: list[int]
    reserved_before: list[int]


def boundaries(scheduler: Scheduler, rounds: int) -> Iterator[Seen]:
    """Bring every micro-batch in turn to its boundary, one every 10 ns."""
    now = 0
    for _ in range(rounds):
        for j in range(len(scheduler.micro_batches)):
            scheduler.emit(j, now)
            before = [batch.request.tolist() for batch in scheduler.micro_batches]
            reserved = scheduler.used_bytes.tolist()
            scheduler.admit(j, now)
            after = scheduler.micro_batches[j].request.tolist()
            assert after[: len(before[j])] == before[j]
            yield Seen(j, now, before, after[len(before[j]) :], reserved)
            now += 10


shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))


@few
@given(arrivals(), shapes, st.integers(48, 120))
def test_first_come_first_served(
    script: list[Arrival], shape: tuple[int, int], capacity: int
) -> None:
    scheduler = open_loop(script, *shape, capacity)
    entered = [request for seen in boundaries(scheduler, 80) for request in seen.entered]
    assert entered == list(range(len(entered)))
    assert len(entered) == len(script)


@few
@given(arrivals(), shapes, st.integers(48, 120), st.integers(1, 16))
def test_the_gpu_with_least_kv_among_those_with_room(
    script: list[Arrival], shape: tuple[int, int], capacity: int, block: int
) -> None:
    gpus, m = shape
    scheduler = open_loop(script, gpus, m, capacity, block)
    for seen in boundaries(scheduler, 60):
        batch = scheduler.micro_batches[seen.micro_batch]
        gpu_of = dict(zip(batch.request.tolist(), batch.gpu.tolist(), strict=True))
        kv = [0] * gpus
        held = [0] * gpus
        for request, gpu, context in zip(batch.request, batch.gpu, batch.contexts, strict=True):
            if request not in seen.entered:
                kv[gpu] += context
                held[gpu] += 1
        reserved = list(seen.reserved_before)
        present = scheduler.in_flight() + scheduler.waiting()
        # A GPU takes at most its share of the micro-batch, which takes its share of all.
        most = ceil(dealt(present, m)[seen.micro_batch] / gpus)
        for request in seen.entered:
            total = script[request].prompt + script[request].output
            need = -(-total // block) * block
            room = [g for g in range(gpus) if reserved[g] + need <= capacity and held[g] < most]
            chosen = gpu_of[request]
            assert chosen in room
            assert kv[chosen] == min(kv[g] for g in room)
            kv[chosen] += script[request].prompt
            reserved[chosen] += need
            held[chosen] += 1


@few
@given(arrivals(), shapes)
def test_a_request_stays_where_it_is(script: list[Arrival], shape: tuple[int, int]) -> None:
    scheduler = open_loop(script, *shape)
    homes: dict[int, tuple[int, int]] = {}
    for _seen in boundaries(scheduler, 40):
        for j, batch in enumerate(scheduler.micro_batches):
            for request, gpu in zip(batch.request.tolist(), batch.gpu.tolist(), strict=True):
                assert homes.setdefault(request, (j, gpu)) == (j, gpu)


@few
@given(arrivals(), shapes)
def test_admission_only_at_the_boundary_of_the_own_micro_batch(
    script: list[Arrival], shape: tuple[int, int]
) -> None:
    scheduler = open_loop(script, *shape)
    for seen in boundaries(scheduler, 40):
        for j, batch in enumerate(scheduler.micro_batches):
            if j != seen.micro_batch:
                assert batch.request.tolist() == seen.before[j]
        batch = scheduler.micro_batches[seen.micro_batch]
        assert (scheduler.column("admitted_ns")[seen.entered] == seen.now_ns).all()
        assert (scheduler.column("arrival_ns")[seen.entered] <= seen.now_ns).all()


@few
@given(st.integers(1, 40), shapes, st.integers(0, 9))
def test_a_closed_loop_replaces_at_once_and_keeps_micro_batches_even(
    concurrency: int, shape: tuple[int, int], seed: int
) -> None:
    gpus, m = shape
    scheduler = closed_loop(concurrency, gpus, m, seed=seed)
    for seen in boundaries(scheduler, 25):
        assert scheduler.in_flight() + scheduler.waiting() == concurrency
        if seen.now_ns >= 10 * (m - 1):
            assert scheduler.in_flight() == concurrency
            sizes = [len(batch) for batch in scheduler.micro_batches]
            assert sizes == dealt(concurrency, m)


@few
@given(st.integers(1, 40), shapes, st.integers(60, 150), st.integers(1, 16), st.integers(0, 9))
def test_kv_is_reserved_for_the_whole_output_and_never_exceeds_capacity(
    concurrency: int, shape: tuple[int, int], capacity: int, block: int, seed: int
) -> None:
    gpus, m = shape
    scheduler = closed_loop(concurrency, gpus, m, capacity, block, seed)
    for _seen in boundaries(scheduler, 25):
        expected = [0] * gpus
        for batch in scheduler.micro_batches:
            prompts = scheduler.column("prompt")[batch.request]
            outputs = scheduler.column("output")[batch.request]
            for gpu, prompt, output in zip(batch.gpu, prompts, outputs, strict=True):
                expected[gpu] += -(-(prompt + output) // block) * block
        assert scheduler.used_bytes.tolist() == expected
        assert (scheduler.used_bytes <= capacity).all()
        assert (scheduler.kv_bytes() <= scheduler.used_bytes).all()


@few
@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 16))
def test_kv_grows_by_one_token_a_step_in_whole_blocks(prompt: int, output: int, block: int) -> None:
    scheduler = open_loop([Arrival(0, prompt, output)], block=block)
    scheduler.admit(0, 0)
    for decoded in range(output):
        (used,) = scheduler.kv_bytes()
        assert used == -(-(prompt + decoded) // block) * block
        batch = scheduler.batch(0)
        assert batch.kv_tokens[None].tolist() == [prompt + decoded]
        finished = scheduler.emit(0, decoded).finished
        assert len(finished) == (decoded == output - 1)
    assert scheduler.kv_bytes().tolist() == [0]
    assert scheduler.used_bytes.tolist() == [0]


def test_a_request_enters_at_the_boundary_of_its_arrival_and_not_before() -> None:
    scheduler = open_loop([Arrival(100, 1, 5)])
    scheduler.admit(0, 99)
    assert scheduler.in_flight() == 0
    assert scheduler.next_arrival_ns() == 100
    scheduler.admit(0, 100)
    assert scheduler.in_flight() == 1
    assert scheduler.column("admitted_ns").tolist() == [100]


def test_a_request_fits_at_exactly_its_size() -> None:
    need = 7 + 5
    scheduler = open_loop([Arrival(0, 7, 5)], capacity=need)
    scheduler.admit(0, 0)
    assert scheduler.in_flight() == 1
    with pytest.raises(InfeasibleError, match=r"7 \+ 5 tokens needs"):
        open_loop([Arrival(0, 7, 5)], capacity=need - 1).admit(0, 0)


@few
@given(
    arrivals(),
    shapes,
    st.integers(1, 5),
    st.sampled_from(get_args(Balancing)),
    st.sampled_from(("even", "rows")),
)
@example([Arrival(1, 1, 1)] * 4, (2, 3), 2, "kv_and_requests", "even")
def test_a_gpu_runs_as_many_requests_as_its_engine_says_and_no_more(
    script: list[Arrival],
    shape: tuple[int, int],
    most: int,
    gpu: Balancing,
    split: Literal["even", "rows"],
) -> None:
    gpus, m = shape
    admission = Admission(gpu=gpu, split=split)
    scheduler = open_loop(script, gpus, m, admission=admission, most=most)
    entered: list[int] = []
    # Where one may run at a time, 25 requests of 8 steps follow each other.
    for seen in boundaries(scheduler, 300):
        entered += seen.entered
        running = np.sum([batch.held for batch in scheduler.micro_batches], axis=0)
        assert (running <= most).all()
        # Nobody waits while the micro-batch has less than its share of all that may run, unless
        # every GPU runs as many as it may, or has its own share of the micro-batch.
        if scheduler.waiting():
            present = min(scheduler.in_flight() + scheduler.waiting(), gpus * most)
            share = dealt(present, m, admission.row(gpus))[seen.micro_batch]
            batch, full = scheduler.micro_batches[seen.micro_batch], running == most
            if gpu == "kv_and_requests":
                full |= batch.held >= -(-share // gpus)
            # It may hold more: its share was larger when they entered.
            assert full.all() or len(batch) >= share
    assert entered == list(range(len(script)))


def test_the_request_after_the_last_slot_waits_for_a_request_to_leave() -> None:
    script = [Arrival(0, 5, 2), Arrival(0, 5, 3), Arrival(0, 5, 1)]
    scheduler = open_loop(script, m=2, most=2)
    for j in (0, 1):
        scheduler.admit(j, 0)
    assert [batch.request.tolist() for batch in scheduler.micro_batches] == [[0], [1]]
    for step in (1, 2):
        assert scheduler.waiting() == 1
        for j in (0, 1):
            scheduler.emit(j, step)
            scheduler.admit(j, step)
    assert [batch.request.tolist() for batch in scheduler.micro_batches] == [[2], [1]]


def test_a_block_counts_whole() -> None:
    scheduler = open_loop([Arrival(0, 7, 2)], capacity=16, block=8)
    scheduler.admit(0, 0)
    assert scheduler.used_bytes.tolist() == [16]
    with pytest.raises(InfeasibleError):
        open_loop([Arrival(0, 7, 2)], capacity=15, block=8).admit(0, 0)


def test_the_head_of_the_queue_is_not_overtaken() -> None:
    # The second request does not fit beside the first, the third would; both wait.
    script = [Arrival(0, 5, 2), Arrival(1, 8, 2), Arrival(2, 1, 1)]
    scheduler = open_loop(script, capacity=12)
    scheduler.admit(0, 2)
    assert scheduler.micro_batches[0].request.tolist() == [0]
    scheduler.emit(0, 3)
    scheduler.admit(0, 3)
    assert scheduler.micro_batches[0].request.tolist() == [0]
    # The first leaves with its second token: at this boundary, not a step later, there is room.
    scheduler.emit(0, 4)
    scheduler.admit(0, 4)
    assert scheduler.micro_batches[0].request.tolist() == [1, 2]


def test_kv_of_other_micro_batches_takes_room() -> None:
    script = [Arrival(0, 8, 2), Arrival(0, 8, 2)]
    scheduler = open_loop(script, gpus=1, m=2, capacity=19)
    scheduler.admit(0, 0)
    scheduler.admit(1, 0)
    assert [len(batch) for batch in scheduler.micro_batches] == [1, 0]
    assert scheduler.waiting() == 1


@few
@given(st.integers(1, 60), shapes, st.integers(0, 9))
def test_rows_stay_even_in_a_closed_loop(
    concurrency: int, shape: tuple[int, int], seed: int
) -> None:
    gpus, m = shape
    rows = Admission(split="rows")
    scheduler = closed_loop(concurrency, gpus, m, seed=seed, admission=rows)
    for seen in boundaries(scheduler, 25):
        if seen.now_ns >= 10 * (m - 1):
            assert [len(batch) for batch in scheduler.micro_batches] == dealt(concurrency, m, gpus)


@pytest.mark.parametrize(
    ("requests", "shares"), [(5, [2, 2, 1]), (6, [2, 2, 2]), (7, [3, 2, 2]), (10, [4, 4, 2])]
)
def test_shares_are_rows_of_one_a_gpu(requests: int, shares: list[int]) -> None:
    rows = Admission(split="rows")
    scheduler = open_loop([Arrival(0, 1, 9)] * requests, gpus=2, m=3, admission=rows)
    for j in range(3):
        scheduler.admit(j, 0)
    assert [len(batch) for batch in scheduler.micro_batches] == shares
    for batch in scheduler.micro_batches:
        assert batch.held.max() == ceil(len(batch) / 2)


def test_a_micro_batch_takes_no_more_than_its_share() -> None:
    script = [Arrival(0, 1, 9)] * 7
    scheduler = open_loop(script, gpus=1, m=3)
    for j in range(3):
        scheduler.admit(j, 0)
    assert [len(batch) for batch in scheduler.micro_batches] == [3, 2, 2]


@few
@given(arrivals(), shapes)
def test_tokens_are_counted_once_each(script: list[Arrival], shape: tuple[int, int]) -> None:
    scheduler = open_loop(script, *shape)
    tokens = continuing = 0
    now = 0
    while scheduler.in_flight() or scheduler.waiting() or scheduler.next_arrival_ns() is not None:
        for j in range(len(scheduler.micro_batches)):
            emission = scheduler.emit(j, now)
            tokens += emission.tokens
            continuing += emission.continuing
            scheduler.admit(j, now)
            now += 10
    assert tokens == sum(arrival.output for arrival in script)
    assert continuing == tokens - len(script)

"""Which GPU takes a request under every policy, against the policy in plain words; KV transfer."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.decoding.micro_batch_loops import BALANCINGS
from sim.decoding.scheduler import Scheduler
from sim.deployments.kvcache import Transfer
from sim.foundation.units import NS_PER_S
from sim.inputs.admission import Admission, Balancing
from tests.scripted_schedulers import closed_loop, dealt, open_loop
from tests.strategies.requests import Arrival, arrivals

few = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 3))
POLICIES = get_args(Balancing)


def test_every_policy_has_its_loop() -> None:
    assert tuple(BALANCINGS) == POLICIES
    assert sorted(BALANCINGS.values()) == list(range(len(POLICIES)))


class Home:
    """What the GPUs of one micro-batch hold as requests enter one after the other."""

    def __init__(self, scheduler: Scheduler, micro_batch: int, turn: int) -> None:
        batch = scheduler.micro_batches[micro_batch]
        self.held, self.ctx = batch.held.tolist(), batch.ctx.tolist()
        self.used = scheduler.used_bytes.tolist()
        self.turn = turn

    def candidates(self, policy: Balancing, need: int, capacity: int, most: int) -> list[int]:
        """Return the GPUs that a policy may choose."""
        gpus = range(len(self.held))
        room = [g for g in gpus if self.used[g] + need <= capacity]
        match policy:
            case "kv_and_requests":
                room = [g for g in room if self.held[g] < most]
                return [g for g in room if self.ctx[g] == min(self.ctx[r] for r in room)][:1]
            case "least_kv":
                return [g for g in room if self.ctx[g] == min(self.ctx[r] for r in room)][:1]
            case "least_requests":
                return [g for g in room if self.held[g] == min(self.held[r] for r in room)][:1]
            case "round_robin":
                return sorted(room, key=lambda g: (g - self.turn) % len(self.held))[:1]
            case _:
                # The one with most KV is never better than the other drawn one.
                worst = [g for g in room if self.ctx[g] == max(self.ctx[r] for r in room)]
                return [g for g in room if g not in worst or len(worst) > 1 or len(room) == 1]

    def take(self, gpu: int, prompt: int, need: int) -> None:
        self.held[gpu] += 1
        self.ctx[gpu] += prompt
        self.used[gpu] += need
        self.turn = (gpu + 1) % len(self.held)


@pytest.mark.parametrize("policy", POLICIES)
@few
@given(script=arrivals(), shape=shapes, capacity=st.integers(48, 120))
def test_requests_go_where_the_policy_says(
    policy: Balancing, script: list[Arrival], shape: tuple[int, int], capacity: int
) -> None:
    gpus, m = shape
    scheduler = open_loop(script, gpus, m, capacity, admission=Admission(gpu=policy))
    now, turns = 0, [0] * m
    order: list[int] = []
    for step in range(150 * m):
        j = step % m
        scheduler.emit(j, now)
        home = Home(scheduler, j, turns[j])
        before = len(scheduler.micro_batches[j])
        scheduler.admit(j, now)
        batch = scheduler.micro_batches[j]
        present = scheduler.in_flight() + scheduler.waiting()
        share = dealt(present, m)[j]
        most = ceil(share / gpus)
        for request, gpu in zip(batch.request[before:], batch.gpu[before:], strict=True):
            one = script[request]
            need = one.prompt + one.output
            assert gpu in home.candidates(policy, need, capacity, most)
            home.take(int(gpu), one.prompt, need)
            order.append(int(request))
        turns[j] = home.turn
        if scheduler.waiting() and len(batch) < share:
            need = script[len(order)].prompt + script[len(order)].output
            assert not home.candidates(policy, need, capacity, most)
        now += 10
    assert order == list(range(len(script)))


def spread(policy: Balancing, seed: int = 0) -> Counter[int]:
    """Return on how many GPUs of 8 how many of 800 like requests are, all there at once."""
    lengths = [Arrival(0, 10, 5)] * 800
    scheduler = open_loop(lengths, gpus=8, admission=Admission(gpu=policy))
    scheduler.admit(0, 0)
    return Counter(scheduler.micro_batches[0].held.tolist())


@pytest.mark.parametrize("policy", POLICIES)
def test_like_requests_are_spread_evenly(policy: Balancing) -> None:
    held = spread(policy)
    assert sum(number * gpus for number, gpus in held.items()) == 800
    if policy == "power_of_two":
        # Two choices keep the fullest within ln ln n / ln 2 + O(1) of the mean.
        assert max(held) - min(held) <= 4
    else:
        assert held == {100: 8}


def test_draws_of_two_hit_all_gpus_and_depend_on_the_seed() -> None:
    def homes(seed: int) -> list[int]:
        admission = Admission(gpu="power_of_two")
        scheduler = closed_loop(200, 8, 1, seed=seed, admission=admission)
        scheduler.admit(0, 0)
        return list(scheduler.micro_batches[0].gpu)

    assert set(homes(0)) == set(range(8))
    assert homes(0) == homes(0)
    assert homes(0) != homes(1)


def transfer(bytes_per_ns: float, latency_ns: int) -> Transfer:
    return Transfer(bytes_per_ns * NS_PER_S, latency_ns)


def test_a_request_enters_when_its_kv_has_come_and_not_before() -> None:
    scheduler = open_loop([Arrival(100, 50, 2)], transfer=transfer(2.0, 7))
    assert scheduler.next_arrival_ns() == 132
    scheduler.admit(0, 131)
    assert scheduler.in_flight() == 0
    assert scheduler.waiting() == 0
    scheduler.admit(0, 132)
    assert scheduler.in_flight() == 1
    assert scheduler.column("arrival_ns").tolist() == [100]


def test_short_prompts_overtake_long_ones_on_the_way() -> None:
    script = [Arrival(0, 100, 9), Arrival(1, 10, 9), Arrival(2, 10, 9), Arrival(90, 11, 9)]
    scheduler = open_loop(script, transfer=transfer(1.0, 0))
    for now in (10, 11, 12, 100, 101):
        scheduler.admit(0, now)
    # At 100 the first comes; the last would come at 101.
    assert scheduler.micro_batches[0].request.tolist() == [1, 2, 0, 3]


def test_replaced_requests_of_a_closed_loop_bring_their_kv_later() -> None:
    scheduler = closed_loop(10, 2, 1, transfer=transfer(1.0, 5))
    scheduler.admit(0, 0)
    assert scheduler.in_flight() == 10
    now, left = 0, 0
    while not left:
        now += 10
        left = len(scheduler.emit(0, now).finished)
        scheduler.admit(0, now)
    assert scheduler.in_flight() == 10 - left
    prompts = scheduler.column("prompt")[10 : 10 + left]
    assert scheduler.next_arrival_ns() == now + 5 + prompts.min()
    scheduler.admit(0, now + 5 + int(prompts.max()))
    assert scheduler.in_flight() == 10


@few
@given(arrivals(), st.integers(0, 30), st.sampled_from([0.3, 1.0, 20.0]))
def test_all_come_in_the_order_of_their_kv(
    script: list[Arrival], latency_ns: int, bytes_per_ns: float
) -> None:
    scheduler = open_loop(script, transfer=transfer(bytes_per_ns, latency_ns))
    entered: list[tuple[int, int]] = []
    comes_ns = scheduler.next_arrival_ns()
    while comes_ns is not None:
        before = scheduler.in_flight()
        scheduler.admit(0, comes_ns - 1)
        assert scheduler.in_flight() == before
        scheduler.admit(0, comes_ns)
        requests = scheduler.micro_batches[0].request.tolist()[before:]
        assert requests
        entered += [(comes_ns, request) for request in requests]
        comes_ns = scheduler.next_arrival_ns()
    expected = [
        (one.at_ns + round(one.prompt / bytes_per_ns) + latency_ns, request)
        for request, one in enumerate(script)
    ]
    assert entered == sorted(expected)

"""Resting: a GPU that takes requests in from prefill sits the next step out, and loses nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.decoding.resting import IdleLaw
from sim.inputs.admission import Admission
from tests.scripted_schedulers import open_loop
from tests.strategies.requests import Arrival, arrivals

few = settings(max_examples=80, deadline=None)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))
AT_ONCE = {"kind": "recompute", "tokens_per_s": {"value": 1e9, "source": "test"}}
SCARCE = {"kind": "watermark", "share": 1.0, "preemption": AT_ONCE}
IDLE = {"idle_step_share": {"value": 1.0, "source": "test"}}
POLICIES = (
    Admission.model_validate(IDLE),
    Admission.model_validate(IDLE | {"kv": SCARCE}),
)


@few
@given(arrivals(), shapes, st.integers(60, 120), st.sampled_from(POLICIES))
def test_who_takes_requests_in_rests_for_a_step(
    script: list[Arrival], shape: tuple[int, int], capacity: int, admission: Admission
) -> None:
    scheduler = open_loop(script, *shape, capacity, admission=admission)
    now, emitted, finished = 0, Counter[int](), list[int]()
    for _ in range(300):
        for j, batch in enumerate(scheduler.micro_batches):
            assert batch.resting is not None
            takes = ~batch.resting.gpus[batch.gpu]
            mine = batch.request[takes].tolist()
            emitted.update(mine)
            contexts = dict(zip(batch.request.tolist(), batch.contexts.tolist(), strict=True))
            seen = scheduler.emit(j, now)
            finished += seen.finished.tolist()
            assert seen.tokens == seen.requests == len(mine)
            assert seen.resting == len(takes) - len(mine)
            for request, context in zip(batch.request.tolist(), batch.contexts, strict=True):
                assert context == contexts[request] + (request in mine)
            before = len(batch)
            scheduler.admit(j, now)
            fresh = set(batch.gpu[before:].tolist())
            assert set(np.flatnonzero(batch.resting.gpus).tolist()) == fresh
            held = np.bincount(batch.gpu, minlength=scheduler.gpus)
            held[sorted(fresh)] = 0
            assert scheduler.batch(j).requests.tolist() == held.tolist()
            now += 10
    assert sorted(finished) == list(range(len(script)))
    assert [emitted[number] for number in finished] == [script[n].output for n in finished]


def test_gaps_around_a_rest_are_told_apart() -> None:
    """A request decodes, another comes to its GPU, and the first one's gap spans two steps."""
    scheduler = open_loop([Arrival(0, 4, 9), Arrival(25, 4, 9)], 1, 1, admission=POLICIES[0])
    scheduler.admit(0, 0)
    seen = []
    for now in (10, 20, 30, 40, 50):
        seen.append(scheduler.emit(0, now))
        scheduler.admit(0, now)
    assert [each.tokens for each in seen] == [0, 1, 1, 0, 2]
    assert [each.resting for each in seen] == [1, 0, 0, 2, 0]
    # The newcomer's first token, too, comes at 50; the gap of the other one began at 30.
    assert [each.continuing for each in seen] == [0, 0, 1, 0, 0]
    assert [(each.late, each.late_ns) for each in seen] == [(0, 0)] * 4 + [(1, 20)]
    assert scheduler.column("first_token_ns").tolist() == [20, 50]


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_which_requests_cost_a_step_is_drawn_by_request(share: float) -> None:
    law = IdleLaw(share, np.uint64(7))
    costs = [law.costs(request) for request in range(4000)]
    assert np.mean(costs) == pytest.approx(share, abs=0.03)
    assert [law.costs(request) for request in range(100)] == costs[:100]

"""The recorded timeline keeps to the static order, and starts every task at the first instant."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.deployments.afd import ring as afd_ring
from sim.deployments.ep import schedule as ep_schedule
from sim.engines.program import Link, Program
from tests.scripted_runs import NO_LAGS, Script, Timeline, play
from tests.strategies.deployments import ep_shapes, feasible_lags, programs, ring_shapes, scripts

few = settings(max_examples=40, deadline=None)
STEPS = 4


def waits_for(link: Link, server: int, sources: int, targets: int) -> list[int]:
    """Return the servers of a link's source that `server` of the target waits for."""
    if link.wiring == "all":
        return list(range(sources))
    if sources >= targets:
        block = sources // targets
        return list(range(server * block, (server + 1) * block))
    return [server // (targets // sources)]


def walk(program: Program, pool: int) -> Iterator[tuple[int, int]]:
    """Yield (node, step) for ever, in the order in which a server of `pool` runs them."""
    order = program.orders[pool]
    period = -max((offset for _, offset in order), default=0)
    while order:
        for node, offset in order:
            if period + offset >= 0:
                yield node, period + offset
        period += 1


def first_instant_ns(timeline: Timeline, script: Script, key: tuple[int, int, int]) -> int:
    """Return when the inputs of a task can be used, from the records of what brings them."""
    program, (index, step, server) = timeline.program, key
    node = program.nodes[index]
    ready = timeline.boundaries[node.micro_batch][step] if node.gated else 0
    width = program.pool_of(node).servers
    for link in node.inputs:
        source = program.nodes[link.node]
        source_step = step - link.steps_back
        if source_step < 0:
            continue
        delay_ns = 0
        if link.delay is not None:
            times = script(source.micro_batch, source_step)
            assert not hasattr(times, "until_ns")
            delay_ns = times.delays_ns[link.delay]
        sources = program.pool_of(source).servers
        for other in waits_for(link, server, sources, width):
            record = timeline.records[link.node, source_step, other]
            at = record.start_ns if link.when == "start" else record.end_ns
            ready = max(ready, at + delay_ns)
    return ready


@few
@given(programs(), st.data())
def test_servers_walk_their_order_one_task_at_a_time(program: Program, data: st.DataObject) -> None:
    timeline = play(program, data.draw(scripts(program)), STEPS)
    for (pool, _server), lane in timeline.by_server().items():
        assert [(r.node, r.step) for r in lane] == list(islice(walk(program, pool), len(lane)))
        assert sum(r.step < STEPS for r in lane) == STEPS * len(program.orders[pool])
        assert all(before.end_ns <= after.start_ns for before, after in pairwise(lane))


@few
@given(programs(), st.data())
def test_every_task_starts_as_soon_as_server_and_inputs_are_there(
    program: Program, data: st.DataObject
) -> None:
    script = data.draw(scripts(program))
    timeline = play(program, script, STEPS)
    for lane in timeline.by_server().values():
        free = 0
        for record in lane:
            key = record.node, record.step, record.server
            assert record.start_ns == max(free, first_instant_ns(timeline, script, key))
            free = record.end_ns


@few
@given(programs(), st.data())
def test_tasks_take_their_durations(program: Program, data: st.DataObject) -> None:
    script = data.draw(scripts(program))
    timeline = play(program, script, STEPS)
    for (index, step, server), record in timeline.records.items():
        node = program.nodes[index]
        times = script(node.micro_batch, step)
        assert not hasattr(times, "until_ns")
        assert record.end_ns - record.start_ns == times.rows[node.slot][server]


@few
@given(programs(), st.data())
def test_a_step_ends_when_all_lm_heads_and_the_host_are_done(
    program: Program, data: st.DataObject
) -> None:
    script = data.draw(scripts(program))
    timeline = play(program, script, STEPS)
    tail = len(program.layer_kinds) - 1
    for j, boundaries in enumerate(timeline.boundaries):
        for step in range(STEPS):
            times = script(j, step)
            assert not hasattr(times, "until_ns")
            heads = timeline.of("lm_head", tail, j, step)
            host_ns = times.delays_ns[program.delays.index("host")]
            assert boundaries[step + 1] == max(r.end_ns for r in heads) + host_ns


def two_batch_order(layers: int, steps: int) -> list[tuple[str, int, int, int]]:
    """DESIGN §4 to the letter: what a GPU computes, as (stage, layer, micro-batch, step)."""
    order = [("attn0", 0, 0, 0), ("attn1", 0, 0, 0)]
    for half in range(2 * layers * steps):
        j = half % 2
        step, layer = divmod(half // 2, layers)
        # The other micro-batch is half a layer ahead (j = 1) or behind (j = 0).
        other_step, other_layer = divmod(half // 2 + j, layers)
        order.append(("shared", layer, j, step))
        if other_layer == 0 and other_step > 0:
            order.append(("lm_head", layers, 1 - j, other_step - 1))
        order.append(("attn0", other_layer, 1 - j, other_step))
        order.append(("experts", layer, j, step))
        order.append(("attn1", other_layer, 1 - j, other_step))
    return order


@few
@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_two_batch_order_to_the_letter(layers: int, gpus: int, data: st.DataObject) -> None:
    program = ep_schedule.program(ep_schedule.Schedule((0,) * layers, gpus, two_batch=True))
    timeline = play(program, data.draw(scripts(program)), STEPS)
    wanted = two_batch_order(layers, STEPS)
    for (pool, _server), lane in timeline.by_server().items():
        if program.pools[pool].name != "gpu":
            continue
        ran = []
        for record in lane:
            node = program.nodes[record.node]
            name = program.stages[node.stage].name
            ran.append((name, node.layer, node.micro_batch, record.step))
        assert ran[: len(wanted)] == wanted


@few
@given(ep_shapes(), st.data())
def test_dispatch_and_combine_are_barriers_over_all_ranks(
    shape: ep_schedule.Schedule, data: st.DataObject
) -> None:
    program = ep_schedule.program(shape)
    timeline = play(program, data.draw(scripts(program)), 1)
    for layer in range(len(shape.layer_kinds)):
        for j in range(program.micro_batches):
            (dispatch,) = timeline.of("dispatch", layer, j)
            (combine,) = timeline.of("combine", layer, j)
            before = timeline.of("attn1", layer, j)
            experts = timeline.of("experts", layer, j)
            assert dispatch.start_ns >= max(r.end_ns for r in before)
            assert min(r.start_ns for r in experts) >= dispatch.end_ns
            assert combine.start_ns >= max(r.end_ns for r in experts)


@settings(max_examples=60, deadline=None)
@given(ring_shapes(), st.data())
def test_no_feasible_order_of_a_ring_deadlocks(shape: afd_ring.Ring, data: st.DataObject) -> None:
    lags = data.draw(st.sampled_from(feasible_lags(shape)))
    program = afd_ring.program(shape, lags)
    timeline = play(program, data.draw(scripts(program)), 2)
    width = sum(program.pool_of(node).servers for node in program.nodes)
    assert timeline.starts().shape == (2, width)


@pytest.mark.parametrize("lags", [{"nvlink": 1}, {"nvlink": 2, "nic": 1}, {"o_proj": 3}])
def test_an_order_that_waits_for_itself_says_so(lags: dict[str, int]) -> None:
    shape = afd_ring.Ring((0, 0), 3, 2, 1, 1, half_duplex=True, nvlink_turns=True)
    program = afd_ring.program(shape, NO_LAGS._replace(**lags))
    times = program.times({("attention", 0): 1}, {"link": 0, "host": 0})
    with pytest.raises(RuntimeError, match="until"):
        play(program, times, 2)


@settings(max_examples=60, deadline=None)
@given(ring_shapes(most_micro_batches=6), st.data())
def test_chosen_lags_are_feasible(shape: afd_ring.Ring, data: st.DataObject) -> None:
    ns = st.integers(0, 100)
    stage_ns = {stage: data.draw(ns) for stage in afd_ring.STAGES}
    lags = afd_ring.choose_lags(shape, stage_ns, data.draw(ns), data.draw(ns))
    assert lags in feasible_lags(shape)

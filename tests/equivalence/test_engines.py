"""Both engines make the same calls at the same nanoseconds, whatever the program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from sim.deployments.afd import ring as afd_ring
from sim.deployments.ep import schedule as ep_schedule
from sim.engines import event as event_engine
from sim.engines import recurrence
from sim.engines.program import Link, Program, ProgramBuilder
from tests.equivalence.broken import Early, Forgetful, Late, relinked, reordered, without
from tests.strategies.programs import Script, afd_programs, ep_programs, pipelines, scripts

DEFAULT = settings(max_examples=60, deadline=None)
NIGHTLY = settings(max_examples=500, deadline=None)

Run = Callable[[Program, Script], int]


def outcome(script: Script, run: Run) -> tuple[int, list[tuple[int, int]]]:
    """Return the simulated end and the calls of a run of `script`."""
    mine = deepcopy(script)
    return run(mine.program, mine), mine.calls


def refusal(program: Program) -> str:
    """Return why the recurrence refuses `program`, nothing if it does not."""
    try:
        recurrence.RecurrenceEngine(program, Script(program, 0, 0, 0, 0, 0))
    except recurrence.InexactError as reason:
        return str(reason)
    return ""


def compare(script: Script) -> None:
    reason = refusal(script.program)
    event(reason.split(" of layer")[0])
    assume(not reason)
    assert outcome(script, recurrence.run) == outcome(script, event_engine.run)


@DEFAULT
@given(scripts())
def test_calls_are_the_same(script: Script) -> None:
    compare(script)


@pytest.mark.nightly
@NIGHTLY
@given(scripts())
def test_calls_are_the_same_nightly(script: Script) -> None:
    compare(script)


@DEFAULT
@given(st.one_of(afd_programs(), ep_programs()))
def test_of_the_deployments_only_deadlocked_orders_are_refused(program: Program) -> None:
    reason = refusal(program)
    assert reason in ("", "its static order is deadlocked")
    if reason:
        endless = Script(program, 0, 5, 0.0, 0.0, 1000)
        with pytest.raises(RuntimeError, match="No scheduled events left"):
            event_engine.run(program, endless)


RING = afd_ring.program(afd_ring.Ring((0,), 2, 2, 2, 1, True, True), afd_ring.Lags())
TWO_BATCH = ep_schedule.program(ep_schedule.Schedule((0,), 2, True))
# The orders of EP repeat some of its links, so that only those into these stages can be missed.
SINGLE = ("dispatch", "experts", "combine")
LINKS = [
    (program, index, place)
    for program in (RING, TWO_BATCH)
    for index, node in enumerate(program.nodes)
    for place in range(len(node.inputs))
    if program is RING or program.stages[node.stage].name in SINGLE
]


def same(program: Program, tampered: Run) -> bool:
    """Return whether a tampered recurrence passes for the event engine in twenty runs."""
    runs = [Script(program, seed, 20, 0.1, 0.1, 30) for seed in range(20)]
    return all(outcome(run, tampered) == outcome(run, event_engine.run) for run in runs)


def of(broken: Program) -> Run:
    """Return the recurrence of another program than it is asked for."""
    return lambda _program, script: recurrence.run(broken, script)


def test_a_recurrence_that_forgets_a_link_is_caught() -> None:
    caught = 0
    for program, node, link in LINKS:
        broken = without(program, node, link)
        if not refusal(broken):
            assert not same(program, of(broken)), program.nodes[node]
            caught += 1
    assert caught >= len(LINKS) // 2
    assert same(RING, recurrence.run)
    assert same(TWO_BATCH, recurrence.run)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(relinked(RING, lambda link: link._replace(delay=None)), id="no delay"),
        pytest.param(relinked(RING, lambda link: link._replace(delay=1)), id="wrong delay"),
        pytest.param(relinked(RING, lambda link: link._replace(wiring="each")), id="no barrier"),
        pytest.param(relinked(RING, lambda link: link._replace(when="start")), id="too early"),
        pytest.param(relinked(RING, lambda link: link._replace(when="end")), id="too late"),
        pytest.param([replace(RING, closing_delay=0)], id="wrong gap between steps"),
        pytest.param(reordered(RING), id="two tasks exchanged"),
        pytest.param(reordered(TWO_BATCH), id="two tasks of EP exchanged"),
    ],
)
def test_a_recurrence_of_another_program_is_caught(broken: Iterable[Program]) -> None:
    tried = [program for program in broken if not refusal(program)]
    assert tried
    for program in tried:
        assert not same(RING if program.pools == RING.pools else TWO_BATCH, of(program))


# In EP, every GPU has waited for all that is behind when a step of micro-batch 0 begins.
@pytest.mark.parametrize(
    ("program", "engine"),
    [(RING, Late), (RING, Early), (RING, Forgetful), (TWO_BATCH, Late), (TWO_BATCH, Early)],
)
def test_a_recurrence_that_keeps_its_state_wrongly_is_caught(
    program: Program, engine: type[recurrence.RecurrenceEngine]
) -> None:
    assert not same(program, lambda program, script: engine(program, script).run())


def chain(*inputs: list[Link]) -> Program:
    """Return two stages and a tail on two GPUs, with the links that each of them has."""
    build = ProgramBuilder((0,), 1, ("host",))
    for name in ("first", "second", "tail"):
        build.stage(name, build.pool(name, "gpu", 2))
        build.node(name, int(name == "tail"), 0, inputs[len(build.nodes)], name == "first")
        build.order(len(build.pools) - 1, [((name, int(name == "tail"), 0), 0)])
    return build.build("tail", "host")


END, START = Link(0, "each"), Link(0, "each", "start")


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (([], [END], [Link(1, "all")]), ""),
        (([], [START], [Link(1, "all")]), "first of layer 0, micro-batch 0 may outlast its step"),
        (([], [], [END]),
         "second of layer 0, micro-batch 0 does not wait for its own step boundary"),
        (([], [END._replace(steps_back=2)], [Link(1, "all")]),
         "second of layer 0, micro-batch 0 waits for more than one step back"),
        (([Link(2, "all")], [END], [Link(1, "all")]), "its static order is deadlocked"),
    ],
)  # fmt: skip
def test_what_cannot_be_exact_is_refused_with_the_reason(
    inputs: tuple[list[Link], ...], reason: str
) -> None:
    assert refusal(chain(*inputs)) == reason


@DEFAULT
@given(pipelines())
def test_a_refusal_is_one_line(program: Program) -> None:
    assert "\n" not in refusal(program)

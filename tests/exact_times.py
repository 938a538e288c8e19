"""A harness that asserts that something becomes possible at *exactly* t, for both engines.

The idea is Ramulator's. A test says what holds a task back until t. A *probe* lets the task go at
t − 1, t and t + 1: the task begins at t, t and t + 1. So nothing begins it before t, and nothing
holds it back later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sim.engines import event, recurrence
from sim.engines.program import Link, Node, Pool, Program, Stage
from tests.scripted_runs import Run, play_boundaries

ENGINES: dict[str, Run] = {"event": event.run, "recurrence": recurrence.run}
PROBE = "probe"

Key = tuple[str, int, int]
"""Stage, layer and micro-batch of a task."""


def assert_earliest_at(t_ns: int, probe: Callable[[int], int]) -> None:
    """Assert that what `probe` lets go at a time begins at t at the earliest, and then at once."""
    assert [probe(t_ns + early) for early in (-1, 0, 1)] == [t_ns, t_ns, t_ns + 1]


@dataclass(frozen=True)
class Held:
    """A task that is held back, and the durations of step 0; later steps take no time."""

    program: Program
    task: Key
    rows: Mapping[tuple[str, int], int | list[int]]
    """ns by stage and kind of layer, for what precedes the task; what follows takes no time."""
    latency_ns: int = 0
    """Of every transfer (AFD)."""
    after_ns: int = 0
    """Latency from the task's start to the boundary that its step ends at."""

    def begins_ns(self, run: Run, probe_ns: int) -> int:
        """Return when the task begins if it also waits for a probe that ends at `probe_ns`."""
        program = probed(self.program, self.task)
        delays = {"link": self.latency_ns, "host": 0}
        first = program.times({**self.rows, (PROBE, 0): probe_ns}, delays)
        later = program.times({}, dict.fromkeys(delays, 0))
        played = play_boundaries(program, lambda _j, step: later if step else first, 1, run)
        return played[self.task[2]][1] - self.after_ns


def probed(program: Program, task: Key) -> Program:
    """Return `program` with one more server, which works from the step's begin for the task."""
    stage = Stage(PROBE, len(program.pools))
    slot = len(program.stages) * (max(program.layer_kinds) + 1)
    probe = Node(len(program.stages), slot, 0, task[2], (), gated=True)
    nodes = [
        node._replace(inputs=(*node.inputs, Link(len(program.nodes), "all")))
        if (program.stages[node.stage].name, node.layer, node.micro_batch) == task
        else node
        for node in program.nodes
    ]
    return replace(
        program,
        pools=(*program.pools, Pool(PROBE, "gpu", 1)),
        stages=(*program.stages, stage),
        nodes=(*nodes, probe),
        orders=(*program.orders, ((len(nodes), 0),)),
    )

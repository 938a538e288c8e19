"""Driving the event engine from a test: scripted durations, recorded tasks, exact periods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from sim.deployments.afd import ring as afd_ring
from sim.deployments.ep import schedule as ep_schedule
from sim.engines import event
from sim.engines.controller import Controller, Record, Wait
from sim.engines.program import Program, Times

Script = Callable[[int, int], Times | Wait]
Run = Callable[[Program, Controller], int]
"""How an engine runs a program under a controller; it returns the simulated end, ns."""
NO_LAGS = afd_ring.Lags()

# A transient longer than this means that a steady state was not found, which fails the test.
_MOST_STEPS = 4096
# Steady states may repeat only every few steps: at most as often as critical circuits are long.
_LONGEST_CYCLE = 12


class Scripted:
    """A controller that plays a script and ends the run after `steps` steps of everyone."""

    def __init__(self, micro_batches: int, script: Script, steps: int) -> None:
        self.script = script
        self.steps = steps
        self.boundaries: list[list[int]] = [[] for _ in range(micro_batches)]
        self._waited = [False] * micro_batches

    def boundary(self, micro_batch: int, now_ns: int) -> Times | Wait | None:
        """Note the boundary and answer from the script; `Wait` is asked for again when over."""
        mine = self.boundaries[micro_batch]
        if self._waited[micro_batch]:
            mine.pop()
        mine.append(now_ns)
        if min(map(len, self.boundaries)) > self.steps:
            return None
        answer = self.script(micro_batch, len(mine) - 1)
        self._waited[micro_batch] = isinstance(answer, Wait)
        return answer


@dataclass(frozen=True)
class Timeline:
    """What a scripted run did, in whole steps and in what of the next ones was begun."""

    program: Program
    steps: int
    """Whole steps of every micro-batch."""
    boundaries: list[list[int]]
    """Per micro-batch: when step 0, 1, … begins; the last entry ends the last whole step."""
    records: dict[tuple[int, int, int], Record]
    """By (node, step, server)."""

    def of(self, stage: str, layer: int, micro_batch: int, step: int = 0) -> list[Record]:
        """Return the records of a stage on all its servers."""
        for index, node in enumerate(self.program.nodes):
            name = self.program.stages[node.stage].name
            if (name, node.layer, node.micro_batch) == (stage, layer, micro_batch):
                width = self.program.pools[self.program.stages[node.stage].pool].servers
                return [self.records[index, step, server] for server in range(width)]
        raise KeyError((stage, layer, micro_batch))

    def by_server(self) -> dict[tuple[int, int], list[Record]]:
        """Return what each (pool, server) ran, in the order in which it began."""
        lanes: dict[tuple[int, int], list[Record]] = {}
        for record in self.records.values():
            pool = self.program.stages[self.program.nodes[record.node].stage].pool
            lanes.setdefault((pool, record.server), []).append(record)
        return lanes

    def starts(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Return the start of every task, one row for each whole step."""
        rows: list[list[int]] = [[] for _ in range(self.steps)]
        for (_node, step, _server), record in sorted(self.records.items()):
            if step < self.steps:
                rows[step].append(record.start_ns)
        return np.array(rows)


def always(times: Times) -> Script:
    """Return the script of constant durations."""
    return lambda _micro_batch, _step: times


def play(program: Program, script: Script | Times, steps: int) -> Timeline:
    """Run `program` for `steps` steps of every micro-batch and return what happened."""
    answer = always(script) if isinstance(script, Times) else script
    controller = Scripted(program.micro_batches, answer, steps)
    engine = event.EventEngine(program, controller, lambda _node, _step: True)
    engine.run()
    keyed = {(r.node, r.step, r.server): r for r in engine.records}
    assert len(keyed) == len(engine.records), "a task ran twice in one step"
    boundaries = [mine[: steps + 1] for mine in controller.boundaries]
    return Timeline(program, steps, boundaries, keyed)


def play_boundaries(
    program: Program, script: Script, steps: int, run: Run = event.run
) -> list[list[int]]:
    """Return only the boundaries of a run by either engine, without a record of its tasks."""
    controller = Scripted(program.micro_batches, script, steps)
    run(program, controller)
    return [mine[: steps + 1] for mine in controller.boundaries]


def period_ns(program: Program, times: Times) -> Fraction:
    """Return the exact steady-state time per step under constant durations.

    The starts of a step's tasks are a max-plus linear function of those of the step before. Once
    all of them have moved by the same c within p steps, they always will: c/p is exact, with no
    tolerance and no guess at where the transient ends.
    """
    steps = 16
    while steps <= _MOST_STEPS:
        starts = play(program, times, steps).starts()
        for cycle in range(1, _LONGEST_CYCLE + 1):
            moved = starts[-1] - starts[-1 - cycle]
            if (moved == moved[0]).all():
                return Fraction(int(moved[0]), cycle)
        steps *= 4
    raise AssertionError(f"no steady state within {_MOST_STEPS} steps")


def ring(
    layers: int,
    micro_batches: int,
    gpus: int = 1,
    instances: int = 1,
    lags: afd_ring.Lags = NO_LAGS,
    *,
    half_duplex: bool = False,
) -> Program:
    """Return an AFD ring of like layers."""
    shape = afd_ring.Ring((0,) * layers, micro_batches, gpus, instances, half_duplex=half_duplex)
    return afd_ring.program(shape, lags)


def schedule(layers: int, gpus: int, *, two_batch: bool) -> Program:
    """Return an EP schedule of like layers."""
    return ep_schedule.program(ep_schedule.Schedule((0,) * layers, gpus, two_batch))

"""The recurrence engine: the event engine's times without an event list.

A program is a timed event graph in static order, so the time of each task is the maximum of a few
earlier times plus a duration (a max-plus linear recurrence). A compiled loop evaluates the tables
of a `Plan`; Python runs only at step boundaries.

**Why the controller sees the same calls in the same order.** The event engine calls the boundary
with the smallest (time, micro-batch) among those in its queue, after all tasks of that instant.
Here, every task that does not depend on an unanswered boundary is evaluated first. Then each
micro-batch either has a known next boundary or waits, through some chain of tasks, for an answer
that another one has not been given yet. Durations are not negative, so a boundary behind such an
answer comes no earlier than it and, being its consequence, after it even at the same instant:
the known boundary with the smallest (time, micro-batch) is the next one. The first call for each
micro-batch is made at 0 ns, in order, before anything else.
"""

from __future__ import annotations

import numpy as np

from sim.engines.controller import Controller, Wait
from sim.engines.maxplus.plan import plan
from sim.engines.maxplus.tables import PHI, InexactError
from sim.engines.maxplus.walk import advance
from sim.engines.program import Program, Times

__all__ = ["InexactError", "RecurrenceEngine", "run"]


class RecurrenceEngine:
    """One run of a program under a controller. Raises InexactError for a program beyond it."""

    def __init__(self, program: Program, controller: Controller) -> None:
        self.program = program
        self.controller = controller
        self.plan = tables = plan(program)
        m, slots = program.micro_batches, program.slot_bounds[-1][1]
        self._answered = np.full(m, -1, dtype=np.int64)
        self._pending = np.zeros(m, dtype=np.bool_)
        self._marked = np.zeros(tables.mark_count, dtype=np.int64)
        self._durations = np.zeros(m * slots, dtype=np.int64)
        self._delays = np.zeros(tables.delay_count + 1, dtype=np.int64)
        self._duration_rows = self._durations.reshape(m, slots)
        self._delay_rows = self._delays[:-1].reshape(m, -1)
        self.ends_ns = np.zeros(tables.size, dtype=np.int64)
        """When each task, in evaluation order, ended last (scratch may follow)."""
        self._begun_ns = self._marked[:m]
        self._boundary_ns = self._marked[tables.boundary_marks :]
        first_period = -int(tables.rows[:, PHI].max())
        self._walk = (
            tables.groups,
            tables.needs,
            tables.closing,
            np.full(len(tables.groups) - 1, first_period, dtype=np.int64),
            self._answered,
            self._pending,
            tables.rows,
            tables.more,
            tables.outputs,
            self.ends_ns,
            self._marked,
            self._durations,
            self._delays,
            np.zeros(max(pool.servers for pool in program.pools), dtype=np.int64),
        )

    def run(self) -> int:
        """Run until the controller ends it and return the simulated end, ns."""
        boundary = self.controller.boundary
        answers = [boundary(j, 0) for j in range(self.program.micro_batches)]
        for j, first in enumerate(answers):
            if first is None:
                return 0
            self._answer(j, 0, first)
        while (j := advance(*self._walk)) >= 0:
            now_ns = int(self._boundary_ns[j])
            answer = boundary(j, now_ns)
            if answer is None:
                return now_ns
            self._answer(j, now_ns, answer)
        raise RuntimeError("every micro-batch waits for another")

    def _answer(self, micro_batch: int, now_ns: int, answer: Times | Wait) -> None:
        if isinstance(answer, Wait):
            self._boundary_ns[micro_batch] = answer.until_ns
            self._pending[micro_batch] = True
            return
        self._duration_rows[micro_batch] = answer.values
        self._delay_rows[micro_batch] = answer.delays_ns
        self._begun_ns[micro_batch] = now_ns
        self._answered[micro_batch] += 1
        self._pending[micro_batch] = False


def run(program: Program, controller: Controller) -> int:
    """Run `program` under `controller` and return the simulated end, ns. Raises InexactError."""
    return RecurrenceEngine(program, controller).run()

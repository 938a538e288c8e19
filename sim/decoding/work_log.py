"""Work log: what the begun steps of a run make of servers' and layers' times.

A step leaves its work, server by server, and the time of the slowest server in each slot. What
these make of a layer is worked out for many steps at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.deployments.deployment import Deployment
from sim.engines.jit import compiled
from sim.engines.program import Program, Times

Ints = NDArray[np.int64]

# Steps up to which each has a row of busy times; beyond, 2, 4, 8, … of them share one.
_MOST_ROWS = 1 << 16

# Values noted before they are summed up: 8 MiB of them.
_MOST_VALUES = 1 << 20


class WorkLog:
    """Collects the `Times` of begun steps of a deployment, which are times of `program`."""

    def __init__(self, site: Deployment, program: Program) -> None:
        self._site = site
        self._program = program
        self._busy = np.zeros((1, sum(pool.servers for pool in program.pools)), dtype=np.int64)
        self._rows = 0
        """Rows in use."""
        self.steps_per_row = 1
        """Steps that share a row of `busy_ns`."""
        self._slowest = np.empty(
            (_MOST_VALUES // len(program.slot_bounds) + 1, len(program.slot_bounds)), dtype=np.int64
        )
        self._delays_ns: list[tuple[int, ...]] = []
        self._layers: list[dict[str, NDArray[np.float64]]] = []
        self._count = 0

    def note(self, step: int, times: Times) -> int:
        """Note that a micro-batch has begun `step`; return how many had been noted before."""
        while step // self.steps_per_row >= _MOST_ROWS:
            self._halve()
        row = step // self.steps_per_row
        if row >= len(self._busy):
            # Memory that nothing was written to is none yet.
            more = np.zeros((min(2 * (row + 1), _MOST_ROWS), self._busy.shape[1]), dtype=np.int64)
            more[: self._rows] = self._busy[: self._rows]
            self._busy = more
        self._rows = max(self._rows, row + 1)
        noted = len(self._delays_ns)
        add_work(times.values, self._program.work, self._busy[row], self._slowest[noted])
        self._delays_ns.append(times.delays_ns)
        if noted + 1 == len(self._slowest):
            self._sum_up()
        self._count += 1
        return self._count - 1

    def busy_ns(self) -> NDArray[np.int64]:
        """Return work begun by (step, server), or by (some steps, server) in very long runs.

        `steps_per_row` steps share a row. Servers come in the order of the pools.
        """
        return self._busy[: self._rows]

    def layer_ns(self, chosen: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return per-layer times by column of the chosen notes."""
        self._sum_up()
        return {
            column: np.concatenate([layers[column] for layers in self._layers])[chosen]
            for column in self._site.breakdown
        }

    def _sum_up(self) -> None:
        noted = len(self._delays_ns)
        if not noted:
            return
        delays_ns = np.array(self._delays_ns)
        self._delays_ns.clear()
        slowest = self._slowest[:noted]
        self._layers.append(self._site.layer_ns(self._program, slowest, delays_ns))

    def _halve(self) -> None:
        """Let twice as many steps share a row.

        Rows of their own: those that are over would keep their memory.
        """
        rows, halved = self._busy[: self._rows], np.zeros(self._busy.shape, dtype=np.int64)
        self._rows = -(-self._rows // 2)
        halved[: self._rows] = rows[::2]
        halved[: len(rows) // 2] += rows[1::2]
        self._busy = halved
        self.steps_per_row *= 2


@compiled("void(int64[::1], int64[:, ::1], int64[::1], int64[::1])")
def add_work(values: Ints, work: Ints, busy: Ints, slowest: Ints) -> None:
    """Add the work of a step to `busy`, and fill in the time of the slowest server of each slot.

    `values` are those of a `Times`, `work` is that of its program. A slot without uses has none.
    """
    for slot in range(len(slowest)):
        first, last, server, uses = work[slot, 0], work[slot, 1], work[slot, 2], work[slot, 3]
        slowest[slot] = 0
        if uses == 0:
            continue
        longest = values[first]
        for i in range(first, last):
            busy[server + i - first] += uses * values[i]
            longest = max(longest, values[i])
        slowest[slot] = longest

"""Work log: what the begun steps of a run make of servers' and layers' times.

The times of many steps are looked at at once, as arrays; a step only notes them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.deployments.deployment import Deployment
from sim.engines.program import Program, Times

# Steps up to which each has a row of busy times; beyond, 2, 4, 8, … of them share one.
_MOST_ROWS = 1 << 16

# Values noted before they are summed up: 32 MiB of them.
_MOST_VALUES = 1 << 22


class WorkLog:
    """Collects the `Times` of begun steps of a deployment, which are times of `program`."""

    def __init__(self, site: Deployment, program: Program) -> None:
        self._site = site
        self._program = program
        self._noted: list[tuple[int, Times]] = []
        servers = sum(pool.servers for pool in program.pools)
        self._busy = np.zeros((0, servers), dtype=np.int64)
        self.steps_per_row = 1
        """Steps that share a row of `busy_ns`."""
        self._layers: list[dict[str, NDArray[np.float64]]] = []
        self._count = 0

    def note(self, step: int, times: Times) -> int:
        """Note that a micro-batch has begun `step`; return how many had been noted before."""
        self._noted.append((step, times))
        self._count += 1
        if len(self._noted) * len(times.values) > _MOST_VALUES:
            self._sum_up()
        return self._count - 1

    def busy_ns(self) -> NDArray[np.int64]:
        """Return work begun by (step, server), or by (some steps, server) in very long runs.

        `steps_per_row` steps share a row. Servers come in the order of the pools.
        """
        self._sum_up()
        return self._busy

    def layer_ns(self, chosen: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return per-layer times by column of the chosen notes."""
        self._sum_up()
        return {
            column: np.concatenate([layers[column] for layers in self._layers])[chosen]
            for column in self._site.breakdown
        }

    def _sum_up(self) -> None:
        if not self._noted:
            return
        steps = np.array([step for step, _ in self._noted])
        values = np.stack([times.values for _, times in self._noted])
        delays_ns = np.array([times.delays_ns for _, times in self._noted])
        self._noted.clear()
        while steps.max() // self.steps_per_row >= _MOST_ROWS:
            self._halve()
        rows = steps // self.steps_per_row
        missing = int(rows.max()) + 1 - len(self._busy)
        if missing > 0:
            more = np.zeros((missing, self._busy.shape[1]), dtype=np.int64)
            self._busy = np.concatenate([self._busy, more])
        program = self._program
        np.add.at(self._busy, rows, program.busy_of(values))
        self._layers.append(self._site.layer_ns(program, values, delays_ns))

    def _halve(self) -> None:
        """Let twice as many steps share a row."""
        even = np.pad(self._busy, ((0, len(self._busy) % 2), (0, 0)))
        self._busy = even[::2] + even[1::2]
        self.steps_per_row *= 2

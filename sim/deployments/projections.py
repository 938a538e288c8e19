"""Projections: what matrix products take, one after the other, on a card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sim.foundation.nanoseconds import Ns
from sim.inputs.scenario import Part, Precision
from sim.kernels import ops
from sim.kernels.kernel_table import KernelTable
from sim.kernels.timed import Timed


@dataclass(frozen=True)
class ProjectionTimer:
    """Times the projections of a model on one kind of GPU."""

    hidden: int
    precision: Precision
    table: KernelTable

    def timed(
        self,
        part: Part,
        projections: Iterable[tuple[float, float, int]],
        m: ArrayLike,
        alike: Ns | None = None,
    ) -> Timed:
        """Return the time of projections of a part one after the other."""
        tile, dtype = self.table.accelerator.gemm_tile_rows, self.precision.of(part)
        shapes = tuple(projections)

        def time(rows: ops.Floats) -> Timed:
            total = Timed(np.zeros(rows.shape, dtype=np.int64))
            for n, k, groups in shapes:
                total += self.table.timed(ops.gemm(dtype, rows, n, k, tile, groups=groups))
            return total

        return self.table.timed_each((dtype, shapes), m, time, alike)

    def ffn(
        self, intermediate: float, tokens: ArrayLike, alike: Ns | None = None, gated: bool = True
    ) -> Timed:
        """Return the time of an FFN of `intermediate` columns over `tokens` rows."""
        if intermediate == 0:
            return Timed(np.zeros(np.shape(tokens), dtype=np.int64))
        both = ((1 + gated) * intermediate, self.hidden, 1), (self.hidden, intermediate, 1)
        return self.timed("dense", both, tokens, alike)

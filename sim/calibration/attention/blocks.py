"""Blocks: attention measured whole becomes a core, less the projections as a table times them.

So projections and core give the block again, whatever the format of the weights and however many
GPUs share the heads; the core holds norms, rope, cache writes and all that a framework fuses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from sim.calibration import families
from sim.calibration.measurements import GPUS, Measurement
from sim.foundation.errors import CalibrationError
from sim.foundation.units import NS_PER_US
from sim.kernels import ops
from sim.kernels.kernel_table import KernelTable

# What a kernel takes at least. A node of a CUDA graph less on GB300 saves 2.17 us (pegainfer PR
# 664); projections that overlap on two streams, or that a framework runs faster, leave less.
_LAUNCH_US = 2.17


def apart(rows: Iterable[Measurement], table: KernelTable) -> list[Measurement]:
    """Return measurements with the blocks of the table's card as cores.

    No core is faster than a launch or the card's peak. Raises CalibrationError if the table has no
    projections of their format.
    """
    card, known = table.accelerator.name, dict[tuple[object, ...], float]()
    found = []
    for row in rows:
        if row.projections and card in GPUS.get(row.gpu, (row.gpu,)):
            key = row.weights, row.projections, dict(row.at)["batch"]
            if key not in known:
                known[key] = _projections_us(row, table)
            row = _core(row, known[key], table)
        found.append(row)
    return found


def _projections_us(row: Measurement, table: KernelTable) -> float:
    total_us, tile = 0.0, table.accelerator.gemm_tile_rows
    for n, k, groups in row.projections:
        op = ops.gemm(row.weights, dict(row.at)["batch"], n, k, tile, groups=groups)
        if table.serving(op)[0] is None:
            raise CalibrationError(
                f"{row.place}: a block is fitted as what its projections leave, and the table of "
                f"{table.accelerator.name} has no GEMM: fit its GEMMs first"
            )
        total_us += float(table.timed(op).ns) / NS_PER_US
    return total_us


def _core(row: Measurement, projections_us: float, table: KernelTable) -> Measurement:
    at = {name: np.array([value]) for name, value in row.at}
    op = families.build(table.accelerator, families.kernel_of(row), at)
    least_us = max(float(part.max()) for part in table.peak_us(op))
    core_us = max(row.latency_us - projections_us, least_us, _LAUNCH_US)
    return replace(row, latency_us=core_us, beside_us=projections_us, projections=())

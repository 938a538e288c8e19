"""Compose: experts whose projections were measured one by one.

Where no one measured the masked experts of a card, but its grouped GEMMs (H20: DeepGEMM's masked
layout), up and gate, activation and down follow each other: two measured kernels of one load, and
between them a pass over the activations that quantises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from sim.calibration.measurements import GPUS, Measurement
from sim.foundation.units import DTYPE_BYTES
from sim.inputs.hardware import Accelerator
from sim.kernels import served
from sim.kernels.kernel_table import US_PER_S

# A node of a CUDA graph less on GB300 saves 2.17 us (pegainfer PR 664), and a fused norm and
# quantisation moves bytes at 0.63 of the rate of memory (sglang PR 32994), as in software profiles.
_LAUNCH_US = 2.17
_MEMORY_SHARE = 0.63


def composed(rows: Iterable[Measurement], card: Accelerator) -> list[Measurement]:
    """Return the masked experts of `card` that rows of single projections make up."""
    up: dict[tuple[float, ...], list[Measurement]] = {}
    down: dict[tuple[float, ...], list[Measurement]] = {}
    for row in rows:
        is_of_card = card.name in GPUS.get(row.gpu, (row.gpu,))
        if not is_of_card or (row.op, row.kernel) != ("grouped_gemm", served.MASKED):
            continue
        size = {**dict(row.fixed), **dict(row.at)}
        n, k, load = float(size["n"]), float(size["k"]), (size["rows"], size["groups"])
        up.setdefault((k, n / 2, *map(float, load)), []).append(row)
        down.setdefault((n, k, *map(float, load)), []).append(row)
    return [_expert(shape, up[shape], down[shape], card) for shape in sorted(up.keys() & down)]


def _expert(
    shape: tuple[float, ...],
    up: Sequence[Measurement],
    down: Sequence[Measurement],
    card: Accelerator,
) -> Measurement:
    hidden, intermediate, rows, groups = shape
    first, medians = up[0], [np.median([row.latency_us for row in each]) for each in (up, down)]
    moved = rows * groups * intermediate * (2 * DTYPE_BYTES["bf16"] + DTYPE_BYTES[first.dtype])
    activation_us = _LAUNCH_US + moved / (card.hbm_bytes_per_s * _MEMORY_SHARE) * US_PER_S
    return replace(
        first,
        op="moe",
        kernel=served.MASKED,
        fixed=(("hidden", hidden), ("intermediate", intermediate)),
        at=(("rows", rows), ("active", groups), ("experts", groups)),
        latency_us=float(sum(medians) + activation_us),
        source=f"{first.source}, both projections",
        form="moe",
        regime="composed",
    )

"""In turn: what experts of unequal loads cost a kernel that takes one after the other.

A curve is of equal loads, where products of one expert hide the reading of the next one's weights.
Beside a hot expert there is less to hide behind: while its rows are multiplied little is read, and
while weights of cold experts are read little is multiplied. So the smooth maximum of compute and
memory time is taken expert by expert, and its sum is longer than that of all experts together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sim.kernels.curve import Curve
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats, Op

Tiles = NDArray[np.int64]


def stretch(table: KernelTable, one: Callable[[Tiles], Op], tiles: Tiles) -> Floats:
    """Return how many times longer experts take than with equal loads, by rank.

    `tiles` are the tiles of rows of each expert (… × experts); `one` returns the kernel of a single
    expert by its tiles. Equal loads take 1 times as long, and so does a kernel without a curve.
    """
    by_tiles = np.arange(1, max(2, int(tiles.max(initial=0))) + 1)
    op = one(by_tiles)
    curve, _own = table.serving(op)
    if curve is None:
        return np.ones(tiles.shape[:-1])
    compute_us, memory_us = table.work_us(op)
    tile_us = memory_us[1] - memory_us[0]
    weights_us = memory_us[0] - tile_us
    hit, total = (tiles > 0).sum(axis=-1), tiles.sum(axis=-1)
    together = _busy_us(curve, total * compute_us[0], hit * weights_us + total * tile_us)
    each = np.concatenate([[0.0], _busy_us(curve, compute_us, memory_us)])
    apart = each[tiles].sum(axis=-1)
    return np.asarray((curve.overhead_us + apart) / (curve.overhead_us + together))


def _busy_us(curve: Curve, compute_us: Floats, memory_us: Floats) -> Floats:
    """Return the smooth maximum of compute and memory time, µs."""
    compute, memory = compute_us / curve.e_c, memory_us / curve.e_m
    larger, smaller = np.maximum(compute, memory), np.minimum(compute, memory)
    share = np.divide(smaller, larger, out=np.zeros_like(larger), where=larger > 0)
    return np.asarray(larger * (1 + share**curve.p) ** (1 / curve.p))

"""Core stages: where the cores of an attention stand in a `Times`, each slowed in its own way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.deployments.batch import Batch
from sim.foundation.nanoseconds import too_long
from sim.kernels.core_line import CoreLine, CoreSlots
from sim.kernels.core_loops import IN_TIME
from sim.kernels.ops import Floats

Ints = NDArray[np.int64]


class CoreStages:
    """The stages with the cores of one attention, one for each kind of layer that has it."""

    def __init__(
        self,
        stage: str,
        window: int | None,
        line: CoreLine,
        uses: int,
        slots: Sequence[tuple[int, float]],
    ) -> None:
        """Take their name, what times a core, how often a step has one, and slots in a `Times`.

        `window` is the context that a core reads of a request. Of each slot: its first value, and
        how many times longer it takes beside communication.
        """
        self._stage = stage
        self._window = window
        self._line = line
        firsts = np.array([first for first, _ in slots], dtype=np.int64)
        slowdowns = np.array([slowdown for _, slowdown in slots], dtype=np.float64)
        self._slots = CoreSlots(firsts, slowdowns, uses)

    def add(self, batch: Batch, values: Ints, usage_ns: Floats) -> None:
        """Add cores to the stages in `values`, of which they are a part, and to `usage_ns`."""
        kv_tokens = batch.kv_tokens[self._window]
        load = batch.requests, batch.most, kv_tokens
        wrong_ns = self._line.add(*load, self._slots, values, usage_ns)
        if wrong_ns != IN_TIME:
            raise too_long(self._stage, wrong_ns)

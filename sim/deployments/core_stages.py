"""Core stages: where the cores of an attention stand in a `Times`, each slowed in its own way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.engines.jit import compiled
from sim.foundation.nanoseconds import MOST_TASK_NS, too_long
from sim.kernels.ops import Floats
from sim.kernels.timed import Timed

Ints = NDArray[np.int64]

_IN_TIME = -1.0


class CoreStages:
    """The stages with the cores of one attention, one for each kind of layer that has it."""

    def __init__(self, stage: str, uses: int, slots: Sequence[tuple[int, float]]) -> None:
        """Take their name, how often a step goes through one, and their slots in a `Times`.

        Of each slot: its first value, and how many times longer it takes beside communication.
        """
        self._stage = stage
        self._uses = uses
        self._firsts = np.array([first for first, _ in slots], dtype=np.int64)
        self._slowdowns = np.array([slowdown for _, slowdown in slots], dtype=np.float64)

    def add(self, cores: Timed, values: Ints) -> Floats:
        """Add cores to the stages in `values`, of which they are a part; return their usage."""
        wrong_ns = add_cores(cores.ns, self._firsts, self._slowdowns, values)
        if wrong_ns != _IN_TIME:
            raise too_long(self._stage, wrong_ns)
        return cores.usage_ns * self._uses


@compiled("float64(int64[::1], int64[::1], float64[::1], int64[::1])")
def add_cores(core_ns: Ints, firsts: Ints, slowdowns: Floats, values: Ints) -> float:
    """Add cores to the values of some slots, then slow these, as `Deployment.slowed` does.

    Returns −1, or a time that no task may take.
    """
    for slot in range(len(firsts)):
        for gpu in range(len(core_ns)):
            place = firsts[slot] + gpu
            values[place] += core_ns[gpu]
            if slowdowns[slot] != 1.0:
                time_ns = values[place] * slowdowns[slot]
                if not 0.0 <= time_ns <= MOST_TASK_NS:
                    return float(time_ns)
                values[place] = round(time_ns)
    return _IN_TIME

"""Unfolding: a program in which every layer is a kind of its own, so that like layers may differ.

A program has one duration for all layers of a kind. Where something is drawn for each layer, the
same tasks in the same order get a duration each; engines see a program like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.engines.program import KEPT, Program, Times
from sim.foundation.nanoseconds import Ns

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True, eq=False)
class Unfolding:
    """A program, unfolded, and how its times unfold."""

    program: Program
    """Every layer, and the tail, has a kind of its own: its number."""
    gather: Ns
    """Where each value of `Times.values` stands in the times of the folded program."""

    def times(self, times: Times) -> Times:
        """Return times of the folded program as (fresh) times of the unfolded one."""
        return Times(times.values[self.gather], self.program.slot_bounds, times.delays_ns)

    def block(self, values: NDArray[Number], stage: int) -> NDArray[Number]:
        """Return the values of a stage, (layers and tail) × servers, as a view."""
        count = len(self.program.layer_kinds)
        bounds = self.program.slot_bounds
        first, last = bounds[stage * count][0], bounds[(stage + 1) * count - 1][1]
        return values[first:last].reshape(count, -1)


@lru_cache(maxsize=KEPT)
def unfold(program: Program) -> Unfolding:
    """Return the unfolding of `program`."""
    kinds = tuple(range(len(program.layer_kinds)))
    nodes = [node._replace(slot=node.stage * len(kinds) + node.layer) for node in program.nodes]
    bounds = [
        program.slot_bounds[program.slot(stage, kind)]
        for stage in range(len(program.stages))
        for kind in program.layer_kinds
    ]
    gather = np.concatenate([np.arange(first, last) for first, last in bounds])
    return Unfolding(replace(program, layer_kinds=kinds, nodes=tuple(nodes)), gather)

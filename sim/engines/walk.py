"""Walk: the compiled inner loop of the recurrence, over the tables of a Plan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.engines.compiled import compiled
from sim.engines.graph import Ints
from sim.engines.plan import (
    DURATIONS,
    ENDS,
    GATHERING,
    JOINED,
    JOINED_MARKING,
    KIND,
    MARK_FROM,
    MARK_TO,
    MORE_FROM,
    MORE_TO,
    OUT_FROM,
    OUT_TO,
    PHI,
    PLAIN,
    PREVIOUS,
    STARTS,
    VECTOR,
    VECTOR_DELAY,
    WIDTH,
    Int32s,
)

_TABLES = "int32[:, ::1], int32[::1], int32[:, ::1], int32[:, ::1]"
_STATE = "int64[::1], int64[::1], int64[::1], int64[::1]"


@compiled("void(uint64, int64, int32[:, ::1], int32[:, ::1], int64[::1], int64[::1], int64[::1])")
def _gather(
    row: int, period: int, rows: Int32s, more: Int32s, ends: Ints, delays: Ints, gathered: Ints
) -> None:
    """Put the last of the inputs from server to server into `gathered`."""
    gathered[: rows[row, WIDTH]] = 0
    for k in range(rows[row, MORE_FROM], rows[row, MORE_TO]):
        place, gathers, spreads, back, delay = more[k]
        if period + rows[row, PHI] < back:
            continue
        for i in range(rows[row, WIDTH]):
            block = place + i // spreads * gathers
            for source in range(block, block + gathers):
                gathered[i] = max(gathered[i], ends[source] + delays[delay])


@compiled(f"void(int64, int64, int64, {_TABLES}, {_STATE}, int64[::1])")
def evaluate(  # noqa: C901 - one branch for each kind of node
    first: int,
    last: int,
    period: int,
    rows: Int32s,
    marks: Int32s,
    outputs: Int32s,
    more: Int32s,
    ends: Ints,
    marked: Ints,
    durations: Ints,
    delays: Ints,
    gathered: Ints,
) -> None:
    """Evaluate the nodes of rows `first` to `last` in one period.

    Indices are unsigned, which spares a check for negative ones in every access.
    """
    for row in range(np.uint64(first), np.uint64(last)):
        width = np.uint64(rows[row, WIDTH])
        end = np.uint64(rows[row, ENDS])
        free = np.uint64(rows[row, PREVIOUS])
        work = np.uint64(rows[row, DURATIONS])
        if period + rows[row, PHI] < 0:
            for i in range(width):
                ends[end + i] = ends[free + i]
            continue
        ready = np.int64(0)
        for k in range(np.uint64(rows[row, MARK_FROM]), np.uint64(rows[row, MARK_TO])):
            ready = max(ready, marked[np.uint64(marks[k])])
        kind = rows[row, KIND]
        if kind == PLAIN:
            for i in range(width):
                ends[end + i] = max(ends[free + i], ready) + durations[work + i]
            continue
        begun = np.int64(0)
        over = np.int64(0)
        if kind == JOINED:
            joins = np.uint64(rows[row, VECTOR])
            late = delays[np.uint64(rows[row, VECTOR_DELAY])]
            for i in range(width):
                start = max(max(ends[free + i], ready), ends[joins + i] + late)
                ends[end + i] = start + durations[work + i]
            continue
        if kind == JOINED_MARKING:
            joins = np.uint64(rows[row, VECTOR])
            late = delays[np.uint64(rows[row, VECTOR_DELAY])]
            for i in range(width):
                start = max(max(ends[free + i], ready), ends[joins + i] + late)
                over = max(over, start + durations[work + i])
                begun = max(begun, start)
                ends[end + i] = start + durations[work + i]
        else:
            if kind == GATHERING:
                _gather(row, period, rows, more, ends, delays, gathered)
            for i in range(width):
                start = max(ends[free + i], ready)
                if kind == GATHERING:
                    start = max(start, gathered[i])
                over = max(over, start + durations[work + i])
                begun = max(begun, start)
                ends[end + i] = start + durations[work + i]
        for k in range(np.uint64(rows[row, OUT_FROM]), np.uint64(rows[row, OUT_TO])):
            value = begun if outputs[k, 1] else over
            marked[np.uint64(outputs[k, 0])] = value + delays[np.uint64(outputs[k, 2])]
        if rows[row, STARTS] >= 0:
            starts = np.uint64(rows[row, STARTS])
            for i in range(width):
                ends[starts + i] = ends[end + i] - durations[work + i]


@compiled(
    f"int64(int64[::1], int64[:, ::1], int64[:, ::1], int64[::1], int64[::1], boolean[::1], "
    f"{_TABLES}, {_STATE}, int64[::1])"
)
def advance(
    groups: Ints,
    needs: Ints,
    closing: Ints,
    done: Ints,
    answered: Ints,
    pending: NDArray[np.bool_],
    rows: Int32s,
    marks: Int32s,
    outputs: Int32s,
    more: Int32s,
    ends: Ints,
    marked: Ints,
    durations: Ints,
    delays: Ints,
    gathered: Ints,
) -> int:
    """Evaluate all that the answered boundaries allow; return the micro-batch to ask next.

    `done` holds, by group, the next period to evaluate, `answered` the last step that each
    micro-batch has begun. Returns -1 if every micro-batch waits for another.
    """
    micro_batches = len(answered)
    period = done.min()
    while period <= done.max():
        for g in range(len(done)):
            if done[g] != period:
                continue
            allowed = True
            for j in range(micro_batches):
                allowed &= period + needs[g, j] <= answered[j]
            if not allowed:
                continue
            evaluate(
                groups[g], groups[g + 1], period,
                rows, marks, outputs, more, ends, marked, durations, delays, gathered,
            )  # fmt: skip
            done[g] = period + 1
            for j in range(micro_batches):
                if closing[j, 0] == g and period + closing[j, 1] >= 0:
                    pending[j] = True
        period += 1
    first = len(marked) - micro_batches
    chosen = -1
    for j in range(micro_batches):
        if pending[j] and (chosen < 0 or marked[first + j] < marked[first + chosen]):
            chosen = j
    return chosen

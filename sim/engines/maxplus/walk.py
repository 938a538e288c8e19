"""Walk: the compiled inner loop of the recurrence, over the tables of a Plan.

Indices are unsigned where it matters, which spares a check for negative ones in every access.
Rows are read field by field and vectors are copied in loops: to unpack a row or assign a slice,
Numba compiles the text of errors that cannot occur, which takes longer than all of this module.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.engines.jit import compiled
from sim.engines.maxplus.graph import Ints
from sim.engines.maxplus.tables import (
    DURATIONS,
    END_DELAY,
    END_MARK,
    ENDS,
    GENERAL,
    KIND,
    LAST_END,
    LAST_START,
    MARK,
    MORE_FROM,
    MORE_TO,
    OUT_FROM,
    OUT_TO,
    PHI,
    PLAIN,
    PREVIOUS,
    START_MARK,
    VECTOR,
    VECTOR_DELAY,
    WIDTH,
    Int32s,
)

_TABLES = "int32[:, ::1], int32[:, ::1], int32[:, ::1]"
_STATE = "int64[::1], int64[::1], int64[::1], int64[::1], int64[::1]"


@compiled(f"void(uint64, int64, {_TABLES}, {_STATE})")
def _general(  # noqa: C901 - one branch for each kind of input and output
    row: int,
    period: int,
    rows: Int32s,
    more: Int32s,
    outputs: Int32s,
    ends: Ints,
    marked: Ints,
    durations: Ints,
    delays: Ints,
    starts: Ints,
) -> None:
    """Evaluate one node with lists of inputs or outputs; `starts` is room for its starts."""
    width = rows[row, WIDTH]
    end, work = rows[row, ENDS], rows[row, DURATIONS]
    ready, late = marked[rows[row, MARK]], delays[rows[row, VECTOR_DELAY]]
    for i in range(width):
        joined = ends[rows[row, VECTOR] + i] + late
        starts[i] = max(max(ends[rows[row, PREVIOUS] + i], ready), joined)
    for k in range(rows[row, MORE_FROM], rows[row, MORE_TO]):
        place, gathers, spreads = more[k, 0], more[k, 1], more[k, 2]
        back, delay = more[k, 3], more[k, 4]
        if period + rows[row, PHI] < back:
            continue
        for i in range(width):
            if gathers == 0:
                starts[i] = max(starts[i], marked[place])
            block = place + i // spreads * gathers
            for source in range(block, block + gathers):
                starts[i] = max(starts[i], ends[source] + delays[delay])
    begun = over = np.int64(0)
    for i in range(width):
        ends[end + i] = starts[i] + durations[work + i]
        begun, over = max(begun, starts[i]), max(over, ends[end + i])
    for k in range(rows[row, OUT_FROM], rows[row, OUT_TO]):
        kind, place, delay = outputs[k, 0], outputs[k, 1], outputs[k, 2]
        if kind == LAST_END:
            marked[place] = over + delays[delay]
        elif kind == LAST_START:
            marked[place] = begun + delays[delay]
        else:
            for i in range(width):
                ends[place + i] = starts[i]


@compiled(f"void(int64, int64, int64, {_TABLES}, {_STATE})")
def evaluate(  # noqa: C901 - the common kinds of nodes, each in a loop of its own
    first: int,
    last: int,
    period: int,
    rows: Int32s,
    more: Int32s,
    outputs: Int32s,
    ends: Ints,
    marked: Ints,
    durations: Ints,
    delays: Ints,
    starts: Ints,
) -> None:
    """Evaluate the nodes of rows `first` to `last` in one period.

    Vectors of one and two servers, an FFN instance or two, are spared the overhead of a loop.
    """
    one = np.uint64(1)
    for row in range(np.uint64(first), np.uint64(last)):
        width = rows[row, WIDTH]
        end, free = np.uint64(rows[row, ENDS]), np.uint64(rows[row, PREVIOUS])
        work, joins = np.uint64(rows[row, DURATIONS]), np.uint64(rows[row, VECTOR])
        late = delays[np.uint64(rows[row, VECTOR_DELAY])]
        ready = marked[np.uint64(rows[row, MARK])]
        kind = rows[row, KIND]
        begun = over = np.int64(0)
        if period + rows[row, PHI] < 0:
            for i in range(np.uint64(width)):
                ends[end + i] = ends[free + i]
            continue
        if kind == GENERAL:
            _general(row, period, rows, more, outputs, ends, marked, durations, delays, starts)
            continue
        if width <= 2:
            begun = max(max(ends[free], ready), ends[joins] + late)
            over = begun + durations[work]
            if width == 2:
                begun_1 = max(max(ends[free + one], ready), ends[joins + one] + late)
                over_1 = begun_1 + durations[work + one]
                ends[end] = over
                ends[end + one] = over_1
                begun, over = max(begun, begun_1), max(over, over_1)
            else:
                ends[end] = over
        elif kind == PLAIN:
            for i in range(np.uint64(width)):
                start = max(max(ends[free + i], ready), ends[joins + i] + late)
                ends[end + i] = start + durations[work + i]
        else:
            for i in range(np.uint64(width)):
                start = max(max(ends[free + i], ready), ends[joins + i] + late)
                ends[end + i] = start + durations[work + i]
                begun = max(begun, start)
                over = max(over, start + durations[work + i])
        if kind != PLAIN:
            marked[np.uint64(rows[row, END_MARK])] = over + delays[np.uint64(rows[row, END_DELAY])]
            marked[np.uint64(rows[row, START_MARK])] = begun


@compiled(
    "int64(int64[::1], int64[:, ::1], int64[:, ::1], int64[::1], int64[::1], boolean[::1], "
    f"{_TABLES}, {_STATE})"
)
def advance(  # noqa: C901 - a helper would be one more loop to compile
    groups: Ints,
    needs: Ints,
    closing: Ints,
    done: Ints,
    answered: Ints,
    pending: NDArray[np.bool_],
    rows: Int32s,
    more: Int32s,
    outputs: Int32s,
    ends: Ints,
    marked: Ints,
    durations: Ints,
    delays: Ints,
    starts: Ints,
) -> int:
    """Evaluate all that the answered boundaries allow; return the micro-batch to ask next.

    `done` holds, by group, the next period to evaluate, `answered` the last step that each
    micro-batch has begun. Returns -1 if every micro-batch waits for another.
    """
    micro_batches = len(answered)
    period = latest = done[0]
    for g in range(len(done)):
        period, latest = min(period, done[g]), max(latest, done[g])
    while period <= latest:
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
                rows, more, outputs, ends, marked, durations, delays, starts,
            )  # fmt: skip
            done[g] = period + 1
            latest = max(latest, period + 1)
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

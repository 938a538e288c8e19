"""Circuits: the graph of single tasks behind a Plan, and its circuit with the largest mean time.

Vertices are tasks (a node on one server) and marks (barriers, step boundaries), in evaluation
order. The value of a vertex is when it is over; an edge adds `weight` ns and goes `back` periods.
The time of a period in the steady state is the largest weight/back among all circuits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.engines.jit import compiled
from sim.engines.maxplus.graph import Ints
from sim.engines.maxplus.tables import (
    DURATIONS,
    END_DELAY,
    END_MARK,
    ENDS,
    KIND,
    LAST_END,
    LAST_START,
    MARK,
    MARKING,
    MORE_FROM,
    MORE_TO,
    OUT_FROM,
    OUT_TO,
    PHI,
    PREVIOUS,
    START_MARK,
    STARTS,
    VECTOR,
    VECTOR_DELAY,
    WIDTH,
    Int32s,
    Plan,
)


class TaskGraph(NamedTuple):
    """Edges, sorted by target; those into vertex v are first[v]:first[v + 1]."""

    first: Ints
    source: Ints
    back: Ints
    delay: Ints
    """Place of the delay on the edge, in the order of `Plan.delay_count`; its last is none."""
    of_start: Ints
    """1 where the target waits for the start of the source."""
    task: Ints
    """By vertex: place of its duration; −1 for a mark."""
    row: Ints
    """By vertex: row of the plan of the task, or of the task that sets the mark."""
    server: Ints

    def weights(self, durations: Ints, delays: Ints) -> Ints:
        """Return the ns of each edge: the target's duration and the delay before it."""
        return _weights(*self[:6], durations, delays)


def task_graph(plan: Plan) -> TaskGraph:
    """Return the graph of the tasks of `plan`."""
    settings = _settings(plan)
    of_row = np.searchsorted(settings[:, 0], np.arange(len(plan.rows) + 1))
    phi = np.ascontiguousarray(plan.closing[:, 1])
    sizes = plan.size, plan.mark_count, plan.delay_count
    return TaskGraph(*_edges(plan.rows, plan.more, settings, of_row, phi, *sizes))


def _settings(plan: Plan) -> Ints:
    """Return (row, kind, mark or place, delay) of all that nodes set, by row."""
    rows = plan.rows.astype(np.int64)
    unread, none = plan.program.micro_batches + 1, plan.delay_count
    listed = np.repeat(np.arange(len(rows)), rows[:, OUT_TO] - rows[:, OUT_FROM])
    table = [np.column_stack([listed, plan.outputs])]
    marking = np.flatnonzero(rows[:, KIND] == MARKING)
    for kind, mark in ((LAST_END, END_MARK), (LAST_START, START_MARK)):
        setting = marking[rows[marking, mark] != unread]
        delay = rows[setting, END_DELAY] if kind == LAST_END else np.full(len(setting), none)
        columns = np.full(len(setting), kind), rows[setting, mark], delay
        table.append(np.column_stack([setting, *columns]))
    settings = np.concatenate(table)
    return np.ascontiguousarray(settings[np.argsort(settings[:, 0], kind="stable")])


_FIELDS = ", ".join(["int64[::1]"] * 8)
_TABLES = "int32[:, ::1], int32[:, ::1], int64[:, ::1], int64[::1], int64[::1]"


@compiled(f"Tuple(({_FIELDS}))({_TABLES}, int64, int64, int64)")
def _edges(  # noqa: C901 - one branch for each kind of input
    rows: Int32s,
    more: Int32s,
    settings: Ints,
    of_row: Ints,
    closing_phi: Ints,
    size: int,
    mark_count: int,
    none: int,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
    """Return the fields of a TaskGraph."""
    of_place = np.empty(size, dtype=np.int64)
    begins = np.zeros(size, dtype=np.int64)
    of_mark = np.empty(mark_count, dtype=np.int64)
    vertices = edges = 0
    for r in range(len(rows)):
        width = rows[r, WIDTH]
        for i in range(width):
            of_place[rows[r, ENDS] + i] = vertices + i
        edges += 3 * width
        for k in range(of_row[r], of_row[r + 1]):
            if settings[k, 1] == STARTS:
                for i in range(width):
                    of_place[settings[k, 2] + i] = vertices + i
                    begins[settings[k, 2] + i] = 1
        vertices += width
        for k in range(of_row[r], of_row[r + 1]):
            if settings[k, 1] != STARTS:
                of_mark[settings[k, 2]] = vertices
                vertices += 1
                edges += width
        for k in range(rows[r, MORE_FROM], rows[r, MORE_TO]):
            edges += width * max(more[k, 1], 1)
    first = np.zeros(vertices + 1, dtype=np.int64)
    source = np.empty(edges, dtype=np.int64)
    back = np.empty(edges, dtype=np.int64)
    delay = np.full(edges, none)
    of_start = np.zeros(edges, dtype=np.int64)
    task = np.full(vertices, -1)
    row = np.empty(vertices, dtype=np.int64)
    server = np.full(vertices, -1)
    micro_batches = len(closing_phi)
    v = e = 0
    for r in range(len(rows)):
        base, width, mark = v, rows[r, WIDTH], rows[r, MARK]
        for i in range(width):
            task[v], row[v], server[v] = rows[r, DURATIONS] + i, r, i
            source[e] = of_place[rows[r, PREVIOUS] + i]
            back[e] = source[e] >= base
            e += 1
            if mark < micro_batches:
                source[e] = of_mark[mark_count - micro_batches + mark]
                back[e] = 1 + closing_phi[mark] - rows[r, PHI]
                e += 1
            elif mark != micro_batches:
                source[e] = of_mark[mark]
                back[e] = source[e] >= base
                e += 1
            if rows[r, VECTOR] != rows[r, PREVIOUS] or rows[r, VECTOR_DELAY] != none:
                source[e] = of_place[rows[r, VECTOR] + i]
                back[e], delay[e] = source[e] >= base, rows[r, VECTOR_DELAY]
                e += 1
            for k in range(rows[r, MORE_FROM], rows[r, MORE_TO]):
                place, gathers, spreads, _back, late = more[k]
                if gathers == 0:
                    source[e] = of_mark[place]
                    back[e] = source[e] >= base
                    e += 1
                block = place + i // spreads * gathers
                for p in range(block, block + gathers):
                    source[e] = of_place[p]
                    back[e], delay[e], of_start[e] = source[e] >= base, late, begins[p]
                    e += 1
            v += 1
            first[v] = e
        for k in range(of_row[r], of_row[r + 1]):
            if settings[k, 1] != STARTS:
                row[v] = r
                for i in range(width):
                    source[e], back[e], delay[e] = base + i, 0, settings[k, 3]
                    of_start[e] = settings[k, 1] == LAST_START
                    e += 1
                v += 1
                first[v] = e
    return first, source[:e], back[:e], delay[:e], of_start[:e], task, row, server


@compiled("int64[::1](" + ", ".join(["int64[::1]"] * 8) + ")")
def _weights(
    first: Ints,
    source: Ints,
    _back: Ints,
    delay: Ints,
    of_start: Ints,
    task: Ints,
    durations: Ints,
    delays: Ints,
) -> Ints:
    """Return the ns of each edge."""
    weights = np.empty(len(source), dtype=np.int64)
    for v in range(len(task)):
        spent = durations[task[v]] if task[v] >= 0 else 0
        for e in range(first[v], first[v + 1]):
            weights[e] = spent + delays[delay[e]]
            if of_start[e] and task[source[e]] >= 0:
                weights[e] -= durations[task[source[e]]]
    return weights


@compiled("int64[::1](int64[::1], int64[::1])")
def _circuit(source: Ints, came_by: Ints) -> Ints:
    """Return the edges of a circuit among the edges `came_by`, none if there is none."""
    seen = np.full(len(came_by), -1)
    for start in range(len(came_by)):
        v = start
        while seen[v] < 0 and came_by[v] >= 0:
            seen[v] = start
            v = source[came_by[v]]
        if came_by[v] >= 0 and seen[v] == start:
            circuit = np.empty(len(came_by), dtype=np.int64)
            length, first = 0, v
            while length == 0 or v != first:
                circuit[length] = came_by[v]
                v = source[came_by[v]]
                length += 1
            return circuit[:length][::-1].copy()
    return came_by[:0].copy()


@compiled("int64[::1](int64[::1], int64[::1], int64[::1], int64[::1])")
def positive_circuit(first: Ints, source: Ints, cost: Ints, value: Ints) -> Ints:
    """Return the edges of a circuit whose costs add up to more than 0; none if there is none.

    `value` is raised to the longest distances as far as they have been found.
    """
    came_by = np.full(len(value), -1)
    settled = False
    circuit = came_by[:0].copy()
    while not settled and len(circuit) == 0:
        settled = True
        for v in range(len(value)):
            for e in range(first[v], first[v + 1]):
                reached = value[source[e]] + cost[e]
                if reached > value[v]:
                    value[v] = reached
                    came_by[v] = e
                    settled = False
        circuit = _circuit(source, came_by)
    return circuit


@compiled("int64[::1](int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], "
          "int64[::1])")  # fmt: skip
def largest_mean(
    first: Ints,
    source: Ints,
    back: Ints,
    weights: Ints,
    known: Ints,
    mean: Ints,
    value: Ints,
) -> Ints:
    """Return the edges of a circuit with the largest mean; fill in `mean`: numerator, denominator.

    Newton's iteration begins with the circuit `known`, or with a mean of 0. `value` holds longest
    distances of an earlier call, times the denominator of its mean, or zeros: any are right, near
    ones are soon.
    """
    best, last = known, mean[1]
    mean[0], mean[1] = 0, 1
    cost = np.empty(len(weights), dtype=np.int64)
    while True:
        if len(best):
            mean[0] = mean[1] = 0
            for e in best:
                mean[0] += weights[e]
                mean[1] += back[e]
            one, other = mean[1], mean[0] % mean[1]
            while other:
                one, other = other, one % other
            mean[0] //= one
            mean[1] //= one
        for v in range(len(value)):
            value[v] = value[v] * mean[1] // last
        last = mean[1]
        for e in range(len(weights)):
            cost[e] = mean[1] * weights[e] - mean[0] * back[e]
        found = positive_circuit(first, source, cost, value)
        if len(found) == 0:
            return best
        best = found


@compiled("Tuple((int64[:, ::1], int64[::1]))(" + ", ".join(["int64[::1]"] * 6)
          + ", int64[:, ::1], int64[:, ::1], int64[::1], int64[::1], int64[::1])")  # fmt: skip
def largest_means(
    first: Ints,
    source: Ints,
    back: Ints,
    delay: Ints,
    of_start: Ints,
    task: Ints,
    durations: Ints,
    delays: Ints,
    known: Ints,
    mean: Ints,
    value: Ints,
) -> tuple[Ints, Ints]:
    """Return the largest mean of each row of durations and delays, and the circuit of the last.

    Each search begins with what the one before has found, the first with those of an earlier call.
    """
    means = np.empty((len(durations), 2), dtype=np.int64)
    for row in range(len(durations)):
        weights = _weights(first, source, back, delay, of_start, task, durations[row], delays[row])
        known = largest_mean(first, source, back, weights, known, mean, value)
        means[row] = mean
    return means, known

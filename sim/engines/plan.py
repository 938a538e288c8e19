"""Plan: a Program as flat tables that a compiled loop can walk, or why that cannot be exact.

The loop keeps one vector of ends per node (`ends`, one value per server) and scalar `marks`: the
last end or start of a node that others wait for as a barrier, and the step boundaries. A node's
vector is the maximum of its predecessor in the server's order, the marks and the vectors that it
waits for, plus its durations.

Nodes are evaluated group by group. A group holds the nodes of a period that need the same step
boundaries: group g of period p may be evaluated as soon as, for every micro-batch j, the boundary
that begins step p + needs[g, j] has been answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.engines.graph import NEVER, DeadlockError, Graph, Ints
from sim.errors import SimError
from sim.program import Link, Program

Int32s = NDArray[np.int32]

# Columns of `Plan.rows`, one row a node.
WIDTH, ENDS, PREVIOUS, DURATIONS, VECTOR, VECTOR_DELAY = range(6)
MARK_FROM, MARK_TO, OUT_FROM, OUT_TO, MORE_FROM, MORE_TO, STARTS, KIND, PHI = range(6, 15)
COLUMNS = 16

# Kinds of nodes, by what the loop has to do: no vector to wait for and nothing that waits for a
# mark; a vector; a vector and marks to set; the rest.
PLAIN, JOINED, JOINED_MARKING, MARKING, GATHERING = range(5)


class InexactError(SimError):
    """The recurrence could not give the event engine's times; the message says why."""


@dataclass(frozen=True)
class Plan:
    """The tables of a program. Indices are -1 where there is nothing."""

    program: Program
    nodes: Ints
    """Node of the program by row; rows are in evaluation order."""
    rows: Int32s
    """One row a node: its vectors, and where its marks, outputs and further inputs are."""
    marks: Int32s
    """Marks that nodes wait for, by row's MARK_FROM:MARK_TO."""
    outputs: Int32s
    """(mark, 1 if of the start, delay) that nodes set, by OUT_FROM:OUT_TO."""
    more: Int32s
    """(place of the source, sources a target, targets a source, steps back, delay)."""
    groups: Ints
    """First row of each group, and the end."""
    needs: Ints
    """By group and micro-batch: step boundary needed, relative to the period."""
    closing: Ints
    """By micro-batch: (group, phi) of the node that closes its step."""
    size: int
    """Values in all vectors."""
    mark_count: int
    """Marks, the last of which are the step boundaries of the micro-batches."""

    @property
    def boundary_marks(self) -> int:
        """First mark that is a step boundary; the gates of the micro-batches come before."""
        return self.mark_count - self.program.micro_batches

    @property
    def delay_count(self) -> int:
        """Delays of all micro-batches; the delay after the last is always 0."""
        return self.program.micro_batches * len(self.program.delays)


def plan(program: Program) -> Plan:
    """Return the tables of `program`. Raises InexactError, with the reason in one line."""
    _check_orders(program)
    try:
        graph, ends_only = _graph(program)
    except DeadlockError:
        raise InexactError("its static order is deadlocked") from None
    needs = _needs(program, graph)
    _check_closings(program, graph, ends_only)
    return _Tables(program, graph, needs).plan()


def _check_orders(program: Program) -> None:
    """Refuse a program that does not run each node once a step or looks two steps back."""
    ordered = sorted(node for order in program.orders for node, _ in order)
    if ordered != list(range(len(program.nodes))):
        raise InexactError("a node is not run exactly once in a step")
    for v, node in enumerate(program.nodes):
        for link in node.inputs:
            if link.steps_back > 1:
                raise InexactError(f"{_name(program, v)} waits for more than one step back")


def _graph(program: Program) -> tuple[Graph, NDArray[np.bool_]]:
    """Return the graph of the nodes, and which of its edges wait for the end of their source."""
    edges: list[tuple[int, int, int, bool]] = []
    for v, node in enumerate(program.nodes):
        edges += [(link.node, v, link.steps_back, link.when == "end") for link in node.inputs]
    for order in program.orders:
        edges += [(u, v, there - here, True) for (u, here), (v, there) in pairwise(order)]
        if order:
            (v, there), (u, here) = order[0], order[-1]
            edges.append((u, v, 1 + there - here, True))
    for v, node in enumerate(program.nodes):
        if node.gated:
            edges.append((program.closing[node.micro_batch], v, 1, True))
    table = np.array(edges, dtype=np.int64).reshape(-1, 4)
    source, target, shift, ends = (np.ascontiguousarray(column) for column in table.T)
    return Graph.of(len(program.nodes), source, target, shift), ends.astype(bool)


def _needs(program: Program, graph: Graph) -> Ints:
    """Return the step boundary that each node needs of each micro-batch, relative to its period."""
    own = np.array([node.micro_batch for node in program.nodes])
    gated = np.array([node.gated for node in program.nodes])
    needs = np.empty((len(own), program.micro_batches), dtype=np.int64)
    for j in range(program.micro_batches):
        gates = np.flatnonzero(gated & (own == j))
        needs[:, j] = np.maximum(graph.latest_before(gates, graph.phi[gates]), -NEVER)
    late = needs[np.arange(len(own)), own] != graph.phi
    if late.any():
        node = int(np.argmax(late))
        raise InexactError(f"{_name(program, node)} does not wait for its own step boundary")
    return needs


def _check_closings(program: Program, graph: Graph, ends_only: NDArray[np.bool_]) -> None:
    """Refuse a program in which a step could close before all of it is over or has been read."""
    own = np.array([node.micro_batch for node in program.nodes])
    for j, closing in enumerate(program.closing):
        seed = np.array([closing])
        ended = graph.latest_after(seed, np.zeros(1, dtype=np.int64), ends_only)
        # Shifts add up to periods + phi(source) − phi(closing) read backwards.
        steps_ahead = ended + graph.phi - graph.phi[closing]
        loose = (own == j) & (steps_ahead < 0)
        if loose.any():
            raise InexactError(f"{_name(program, int(np.argmax(loose)))} may outlast its step")
        reached = graph.latest_after(seed, np.zeros(1, dtype=np.int64))
        steps_ahead = reached + graph.phi - graph.phi[closing]
        for v, link in ((v, link) for v, node in enumerate(program.nodes) for link in node.inputs):
            if own[link.node] == j and steps_ahead[v] < link.steps_back:
                raise InexactError(
                    f"{_name(program, link.node)} may come again before "
                    f"{_name(program, v)} has begun"
                )


class _Tables:
    """Collects the rows of a plan."""

    def __init__(self, program: Program, graph: Graph, needs: Ints) -> None:
        self.program = program
        self.phi = graph.phi
        distinct, group = np.unique(needs, axis=0, return_inverse=True)
        # A node needs at least what those before it need: the sum orders the groups.
        ranks = np.argsort(np.maximum(distinct, -len(needs)).sum(axis=1), kind="stable")
        rank = np.empty(len(ranks), dtype=np.int64)
        rank[ranks] = np.arange(len(ranks))
        group = rank[group.reshape(-1)]
        self.needs = distinct[ranks]
        self.nodes = graph.order[np.argsort(group[graph.order], kind="stable")]
        self.groups = np.searchsorted(group[self.nodes], np.arange(len(ranks) + 1))
        self.closing = np.array([(group[node], graph.phi[node]) for node in program.closing])
        widths = np.array([pool.servers for pool in program.pools])
        pool_of_stage = np.array([stage.pool for stage in program.stages])
        self.width = widths[pool_of_stage[[node.stage for node in program.nodes]]]
        self.place = np.empty(len(self.nodes), dtype=np.int64)
        self.place[self.nodes] = np.cumsum(self.width[self.nodes]) - self.width[self.nodes]
        self.marks: list[int] = []
        self.more: list[tuple[int, ...]] = []
        self.mark_of: dict[tuple[int, str, int], int] = {}
        self.outputs: list[list[tuple[int, int, int]]] = [[] for _ in program.nodes]
        self.starts: dict[int, int] = {}
        self.size = int(self.width.sum())

    def plan(self) -> Plan:
        """Return the finished tables."""
        program = self.program
        rows = np.full((len(self.nodes), COLUMNS), -1, dtype=np.int32)
        previous = {v: u for o in program.orders for (u, _), (v, _) in pairwise([o[-1], *o])}
        rows[:, WIDTH] = self.width[self.nodes]
        rows[:, ENDS] = self.place[self.nodes]
        rows[:, PREVIOUS] = self.place[[previous[node] for node in self.nodes.tolist()]]
        rows[:, PHI] = self.phi[self.nodes]
        for row, node in enumerate(self.nodes.tolist()):
            self._inputs(rows[row], node)
        mark_count = program.micro_batches + len(self.mark_of) + program.micro_batches
        for j, node in enumerate(program.closing):
            mark = mark_count - program.micro_batches + j
            self.outputs[node].append((mark, 0, self._delay(node, program.closing_delay)))
        flat: list[tuple[int, int, int]] = []
        for row, node in enumerate(self.nodes.tolist()):
            rows[row, OUT_FROM], rows[row, OUT_TO] = len(flat), len(flat) + len(self.outputs[node])
            rows[row, STARTS] = self.starts.get(node, -1)
            rows[row, KIND] = _kind(rows[row])
            flat += self.outputs[node]
        return Plan(
            program=program,
            nodes=self.nodes,
            rows=rows,
            marks=np.array(self.marks, dtype=np.int32),
            outputs=np.array(flat, dtype=np.int32).reshape(-1, 3),
            more=np.array(self.more, dtype=np.int32).reshape(-1, 5),
            groups=self.groups,
            needs=self.needs,
            closing=self.closing,
            size=self.size,
            mark_count=mark_count,
        )

    def _inputs(self, row: Int32s, index: int) -> None:
        """Fill in what a node waits for and where its durations are."""
        node = self.program.nodes[index]
        bounds = self.program.slot_bounds
        row[DURATIONS] = node.micro_batch * bounds[-1][1] + bounds[node.slot][0]
        row[VECTOR_DELAY] = self._delay(index, None)
        row[MARK_FROM], row[MORE_FROM] = len(self.marks), len(self.more)
        if node.gated:
            self.marks.append(node.micro_batch)
        width = self.width[index]
        for link in node.inputs:
            sources = self.width[link.node]
            if link.wiring == "all" or width == 1 or sources == 1:
                self.marks.append(self._mark(link))
            elif (
                sources == width and row[VECTOR] < 0 and link.when == "end" and not link.steps_back
            ):
                row[VECTOR] = self.place[link.node]
                row[VECTOR_DELAY] = self._delay(link.node, link.delay)
            else:
                self.more.append(self._vector(link, sources, width))
        row[MARK_TO], row[MORE_TO] = len(self.marks), len(self.more)
        if row[MORE_TO] > row[MORE_FROM] and row[VECTOR] >= 0:
            # The further inputs are gathered in one vector of their own; it replaces this one.
            self.more.append((row[VECTOR], 1, 1, 0, row[VECTOR_DELAY]))
            row[MORE_TO] += 1

    def _mark(self, link: Link) -> int:
        """Return the mark that a barrier over all servers of a link's source sets."""
        delay = self._delay(link.node, link.delay)
        key = link.node, link.when, delay
        if key not in self.mark_of:
            self.mark_of[key] = mark = self.program.micro_batches + len(self.mark_of)
            self.outputs[link.node].append((mark, int(link.when == "start"), delay))
        return self.mark_of[key]

    def _vector(self, link: Link, sources: int, width: int) -> tuple[int, ...]:
        """Return the row of `more` for a link from server to server or block to block."""
        if link.steps_back and link.delay is not None:
            raise InexactError(
                f"{_name(self.program, link.node)} has a delay to single servers of the next step"
            )
        if sources % width and width % sources:
            raise InexactError(
                f"{sources} servers of {_name(self.program, link.node)} do not form blocks for "
                f"the {width} that wait for them"
            )
        place = int(self.place[link.node])
        if link.when == "start":
            if link.node not in self.starts:
                self.starts[link.node] = self.size
                self.size += int(sources)
            place = self.starts[link.node]
        gathers, spreads = max(int(sources // width), 1), max(int(width // sources), 1)
        return place, gathers, spreads, link.steps_back, self._delay(link.node, link.delay)

    def _delay(self, node: int, delay: int | None) -> int:
        """Return the place of a delay of a node's micro-batch; of the constant 0 for None."""
        count = len(self.program.delays)
        if delay is None:
            return self.program.micro_batches * count
        return self.program.nodes[node].micro_batch * count + delay


def _kind(row: Int32s) -> int:
    if row[MORE_TO] > row[MORE_FROM]:
        return GATHERING
    marking = row[OUT_TO] > row[OUT_FROM] or row[STARTS] >= 0
    if row[VECTOR] < 0:
        return MARKING if marking else PLAIN
    return JOINED_MARKING if marking else JOINED


def _name(program: Program, node: int) -> str:
    stage, _slot, layer, micro_batch, *_ = program.nodes[node]
    return f"{program.stages[stage].name} of layer {layer}, micro-batch {micro_batch}"

"""Tables: a Program as flat arrays that a compiled loop can walk.

The loop keeps a vector of ends for each node (one value per server) and scalar *marks*: gates and
boundaries of the micro-batches' steps, and the last end or start of each node that is waited for
as a barrier. The start of a node is the maximum of

- the end of its predecessor in the servers' order, server by server,
- a mark, and a vector (plus a delay), for nearly all nodes all they wait for,
- further inputs, listed in `more`.

Its end then sets marks: one for its end and one for its start, or those listed in `outputs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.engines.maxplus.graph import Graph, Ints
from sim.engines.program import Link, Program
from sim.foundation.errors import SimError

Int32s = NDArray[np.int32]

# Columns of `Plan.rows`, one row a node: 64 bytes.
WIDTH, ENDS, PREVIOUS, DURATIONS, VECTOR, VECTOR_DELAY, MARK, END_MARK = range(8)
END_DELAY, START_MARK, KIND, PHI, MORE_FROM, MORE_TO, OUT_FROM, OUT_TO = range(8, 16)
COLUMNS = 16

# Kinds of nodes: without marks to set, with an end mark and a start mark to set, with lists.
PLAIN, MARKING, GENERAL = range(3)

# Kinds of outputs: a mark of the last end, a mark of the last start, a vector of the starts.
LAST_END, LAST_START, STARTS = range(3)


class InexactError(SimError):
    """The recurrence could not give the event engine's times; the message says why."""


@dataclass(frozen=True)
class Plan:
    """The tables of a program."""

    program: Program
    nodes: Ints
    """Node of the program by row; rows are in evaluation order."""
    rows: Int32s
    """One row a node, with the columns above."""
    more: Int32s
    """(place, sources a target, targets a source, steps back, delay); no sources: a mark."""
    outputs: Int32s
    """(kind, mark or place, delay)."""
    groups: Ints
    """First row of each group, and the end."""
    needs: Ints
    """By group and micro-batch: step boundary needed, relative to the period."""
    closing: Ints
    """By micro-batch: (group, phi) of the node that closes its step."""
    size: int
    """Values in all vectors."""
    mark_count: int
    """Marks: the gates first, then one that stays 0, one that no one reads, those of the nodes,
    and the step boundaries."""

    @property
    def boundary_marks(self) -> int:
        """First mark that is a step boundary."""
        return self.mark_count - self.program.micro_batches

    @property
    def delay_count(self) -> int:
        """Delays of all micro-batches; the delay after the last is always 0."""
        return self.program.micro_batches * len(self.program.delays)


class TableBuilder:
    """Collects the tables of a plan."""

    def __init__(self, program: Program, graph: Graph, needs: Ints) -> None:
        self.program = program
        self.phi = graph.phi.tolist()
        distinct, group = np.unique(needs, axis=0, return_inverse=True)
        # A node needs at least what those before it need: the sum orders the groups.
        ranks = np.argsort(np.maximum(distinct, -len(needs)).sum(axis=1), kind="stable")
        group = np.argsort(ranks)[group.reshape(-1)]
        self.needs = distinct[ranks]
        self.nodes = graph.order[np.argsort(group[graph.order], kind="stable")]
        self.groups = np.searchsorted(group[self.nodes], np.arange(len(ranks) + 1))
        self.closing = np.array([(group[node], graph.phi[node]) for node in program.closing])
        servers = [program.pools[stage.pool].servers for stage in program.stages]
        self.width = [servers[node.stage] for node in program.nodes]
        in_order = np.array(self.width)[self.nodes]
        places = np.empty(len(self.nodes), dtype=np.int64)
        places[self.nodes] = np.cumsum(in_order) - in_order
        self.place: list[int] = places.tolist()
        self.size = sum(self.width)
        m = program.micro_batches
        self.nothing, self.unread, self.mark_count = m, m + 1, m + 2
        self.no_delay = m * len(program.delays)
        self.mark_of: dict[tuple[int, str, int], int] = {}
        self.starts_of: dict[int, int] = {}
        self.outputs: list[list[tuple[int, int, int]]] = [[] for _ in program.nodes]
        self.more: list[tuple[int, int, int, int, int]] = []

    def plan(self) -> Plan:
        """Return the finished tables."""
        program = self.program
        previous = {v: u for o in program.orders if o for (u, _), (v, _) in pairwise([o[-1], *o])}
        nodes: list[int] = self.nodes.tolist()
        rows = [self._inputs(node, previous[node]) for node in nodes]
        first_boundary = self.mark_count
        self.mark_count += program.micro_batches
        for j, node in enumerate(program.closing):
            delay = self._delay(node, program.closing_delay)
            self.outputs[node].append((LAST_END, first_boundary + j, delay))
        listed: list[tuple[int, int, int]] = []
        for row, node in zip(rows, nodes, strict=True):
            self._set_outputs(row, self.outputs[node], listed)
        return Plan(
            program=program,
            nodes=self.nodes,
            rows=np.array(rows, dtype=np.int32).reshape(-1, COLUMNS),
            more=np.array(self.more, dtype=np.int32).reshape(-1, 5),
            outputs=np.array(listed, dtype=np.int32).reshape(-1, 3),
            groups=self.groups,
            needs=self.needs,
            closing=self.closing,
            size=self.size,
            mark_count=self.mark_count,
        )

    def _inputs(self, index: int, previous: int) -> list[int]:
        """Return the row of a node with all but its outputs."""
        node = self.program.nodes[index]
        bounds = self.program.slot_bounds
        width = self.width[index]
        vector, vector_delay, mark = self.place[previous], self.no_delay, self.nothing
        joined = False
        if node.gated:
            mark = node.micro_batch
        more_from = len(self.more)
        for link in node.inputs:
            sources = self.width[link.node]
            alike = link.wiring == "each" and sources == width and link.when == "end"
            if alike and not joined and not link.steps_back:
                joined = True
                vector = self.place[link.node]
                vector_delay = self._delay(link.node, link.delay)
            elif link.wiring == "each" and width > 1 and sources > 1:
                self.more.append(self._vector(link, sources, width))
            elif mark == self.nothing:
                mark = self._mark(link)
            else:
                self.more.append((self._mark(link), 0, 1, 0, self.no_delay))
        kind = PLAIN if len(self.more) == more_from else GENERAL
        durations = node.micro_batch * bounds[-1][1] + bounds[node.slot][0]
        begin = [width, self.place[index], self.place[previous], durations, vector, vector_delay]
        marks = [mark, self.unread, self.no_delay, self.unread]
        return [*begin, *marks, kind, self.phi[index], more_from, len(self.more), 0, 0]

    def _set_outputs(
        self, row: list[int], wanted: list[tuple[int, int, int]], listed: list[tuple[int, int, int]]
    ) -> None:
        """Fill in what a node sets: in the row if it has room, else in the list."""
        ends = [(mark, delay) for kind, mark, delay in wanted if kind == LAST_END]
        starts = [
            mark for kind, mark, delay in wanted if (kind, delay) == (LAST_START, self.no_delay)
        ]
        if row[KIND] == GENERAL or len(wanted) > len(ends[:1]) + len(starts[:1]):
            row[KIND], row[OUT_FROM] = GENERAL, len(listed)
            listed += wanted
            row[OUT_TO] = len(listed)
        elif wanted:
            row[KIND] = MARKING
            row[END_MARK], row[END_DELAY] = ends[0] if ends else (self.unread, self.no_delay)
            row[START_MARK] = starts[0] if starts else self.unread

    def _mark(self, link: Link) -> int:
        """Return the mark that a barrier over all servers of a link's source sets."""
        delay = self._delay(link.node, link.delay)
        key = link.node, link.when, delay
        if key not in self.mark_of:
            self.mark_of[key] = self.mark_count
            kind = LAST_START if link.when == "start" else LAST_END
            self.outputs[link.node].append((kind, self.mark_count, delay))
            self.mark_count += 1
        return self.mark_of[key]

    def _vector(self, link: Link, sources: int, width: int) -> tuple[int, int, int, int, int]:
        """Return the row of `more` for a link from server to server or block to block."""
        name = node_name(self.program, link.node)
        if link.steps_back and link.delay is not None:
            raise InexactError(f"{name} has a delay to single servers of the next step")
        if sources % width and width % sources:
            raise InexactError(f"{sources} servers of {name} do not form blocks for {width}")
        place = self.place[link.node]
        if link.when == "start":
            if link.node not in self.starts_of:
                self.starts_of[link.node] = self.size
                self.outputs[link.node].append((STARTS, self.size, self.no_delay))
                self.size += sources
            place = self.starts_of[link.node]
        gathers, spreads = max(sources // width, 1), max(width // sources, 1)
        return place, gathers, spreads, link.steps_back, self._delay(link.node, link.delay)

    def _delay(self, node: int, delay: int | None) -> int:
        """Return the place of a delay of a node's micro-batch; of the constant 0 for None."""
        if delay is None:
            return self.no_delay
        return self.program.nodes[node].micro_batch * len(self.program.delays) + delay


def node_name(program: Program, node: int) -> str:
    """Return what a node is called in a message."""
    stage, _slot, layer, micro_batch, *_ = program.nodes[node]
    return f"{program.stages[stage].name} of layer {layer}, micro-batch {micro_batch}"

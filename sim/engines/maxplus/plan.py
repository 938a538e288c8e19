"""Plan: how to evaluate a Program as a recurrence, or why that would not be exact.

Nodes are evaluated group by group. A group holds the nodes of a period that need the same step
boundaries: group g of period p may be evaluated as soon as, for every micro-batch j, the boundary
that begins step p + needs[g, j] has been answered.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.engines.maxplus.graph import NEVER, DeadlockError, Graph, Ints
from sim.engines.maxplus.tables import InexactError, Plan, TableBuilder, node_name
from sim.engines.program import KEPT, Program


@lru_cache(maxsize=KEPT)
def plan(program: Program) -> Plan:
    """Return the tables of `program`. Raises InexactError, with the reason in one line."""
    _check_orders(program)
    try:
        graph, ends_only = _graph(program)
    except DeadlockError:
        raise InexactError("its static order is deadlocked") from None
    needs = _needs(program, graph)
    _check_closings(program, graph, ends_only)
    return TableBuilder(program, graph, needs).plan()


def _check_orders(program: Program) -> None:
    """Refuse a program that does not run each node once a step or looks two steps back."""
    ordered = sorted(node for order in program.orders for node, _ in order)
    if ordered != list(range(len(program.nodes))):
        raise InexactError("a node is not run exactly once in a step")
    for v, node in enumerate(program.nodes):
        for link in node.inputs:
            if link.steps_back > 1:
                raise InexactError(f"{node_name(program, v)} waits for more than one step back")


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
        raise InexactError(f"{node_name(program, node)} does not wait for its own step boundary")
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
            raise InexactError(f"{node_name(program, int(np.argmax(loose)))} may outlast its step")
        reached = graph.latest_after(seed, np.zeros(1, dtype=np.int64))
        steps_ahead = reached + graph.phi - graph.phi[closing]
        for v, link in ((v, link) for v, node in enumerate(program.nodes) for link in node.inputs):
            if own[link.node] == j and steps_ahead[v] < link.steps_back:
                raise InexactError(
                    f"{node_name(program, link.node)} may come again before "
                    f"{node_name(program, v)} has begun"
                )

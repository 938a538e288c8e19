"""Graph: the periodic graph of a program's nodes, and the order in which to evaluate them.

Vertices are the nodes of one step. An edge u → v with `shift` d says that v in step s waits for u
in step s − d; d may be negative, since a server may run micro-batch 0's next step before
micro-batch 1 ends its own. Each vertex gets an offset `phi`: its instance of step p + phi belongs
to period p, such that every edge comes from the same period or from `back` periods earlier. The
edges with back = 0 must not form a circuit, or the program is deadlocked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engines.jit import compiled

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

# More than any number of periods, and still harmless in a sum.
NEVER = 1 << 40


class DeadlockError(ValueError):
    """A node waits for itself."""


@dataclass(frozen=True)
class Graph:
    """A periodic graph and its evaluation order."""

    order: Ints
    """Vertices in an order that respects all edges inside a period."""
    phi: Ints
    source: Ints
    target: Ints
    back: Ints

    @classmethod
    def of(cls, vertices: int, source: Ints, target: Ints, shift: Ints) -> Graph:
        """Return the graph of the given edges. Raises DeadlockError."""
        phi = np.zeros(vertices, dtype=np.int64)
        if not _settle(source, target, shift, phi):
            raise DeadlockError
        back = shift + phi[source] - phi[target]
        now = back == 0
        order = _topological(vertices, source[now], target[now])
        if len(order) < vertices:
            raise DeadlockError
        return cls(order, phi, source, target, back)

    def latest_before(self, seeds: Ints, values: Ints, edges: Flags | None = None) -> Ints:
        """Return, by vertex, the largest (value − periods passed) among the seeds on its past.

        −NEVER or less where no seed leads there; `edges` restricts the ways.
        """
        return self._spread(self.source, self.target, self.order, seeds, values, edges)

    def latest_after(self, seeds: Ints, values: Ints, edges: Flags | None = None) -> Ints:
        """Return, by vertex, the largest (value − periods passed) among the seeds it leads to."""
        return self._spread(self.target, self.source, self.order[::-1], seeds, values, edges)

    def _spread(
        self,
        source: Ints,
        target: Ints,
        order: Ints,
        seeds: Ints,
        values: Ints,
        edges: Flags | None,
    ) -> Ints:
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        chosen = np.arange(len(source)) if edges is None else np.flatnonzero(edges)
        chosen = chosen[np.argsort(place[target[chosen]], kind="stable")]
        best = np.full(len(order), -NEVER)
        best[seeds] = values
        _relax(source[chosen], target[chosen], self.back[chosen], best)
        return best


@compiled("boolean(int64[::1], int64[::1], int64[::1], int64[::1])")
def _settle(source: Ints, target: Ints, shift: Ints, phi: Ints) -> bool:
    """Lower `phi` until no edge comes from a later period; False if that never ends."""
    for _ in range(len(phi) + 1):
        settled = True
        for e in range(len(source)):
            latest = phi[source[e]] + shift[e]
            if phi[target[e]] > latest:
                phi[target[e]] = latest
                settled = False
        if settled:
            return True
    return False


@compiled("int64[::1](int64, int64[::1], int64[::1])")
def _topological(vertices: int, source: Ints, target: Ints) -> Ints:
    """Return the vertices in order (Kahn), chains kept together; fewer if there is a circuit."""
    first = np.zeros(vertices + 1, dtype=np.int64)
    missing = np.zeros(vertices, dtype=np.int64)
    for e in range(len(source)):
        first[source[e] + 1] += 1
        missing[target[e]] += 1
    fill = np.zeros(vertices + 1, dtype=np.int64)
    for v in range(vertices):
        first[v + 1] += first[v]
        fill[v + 1] = first[v + 1]
    follows = np.empty(len(source), dtype=np.int64)
    for e in range(len(source)):
        follows[fill[source[e]]] = target[e]
        fill[source[e]] += 1
    stack = np.empty(vertices, dtype=np.int64)
    order = np.empty(vertices, dtype=np.int64)
    top = done = 0
    for v in range(vertices - 1, -1, -1):
        if missing[v] == 0:
            stack[top] = v
            top += 1
    while top:
        top -= 1
        v = stack[top]
        order[done] = v
        done += 1
        for k in range(first[v + 1] - 1, first[v] - 1, -1):
            w = follows[k]
            missing[w] -= 1
            if missing[w] == 0:
                stack[top] = w
                top += 1
    return order[:done]


@compiled("void(int64[::1], int64[::1], int64[::1], int64[::1])")
def _relax(source: Ints, target: Ints, back: Ints, best: Ints) -> None:
    """Raise `best` along the edges until nothing changes; no circuit raises itself."""
    settled = False
    while not settled:
        settled = True
        for e in range(len(source)):
            value = best[source[e]] - back[e]
            if value > best[target[e]]:
                best[target[e]] = value
                settled = False

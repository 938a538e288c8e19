"""Program: what a deployment compiles to, and all that an engine needs to know.

A program has pools of servers (GPUs, NIC directions, NVLink domains). A *stage* runs on every
server of its pool; a *node* is one stage of one layer for one micro-batch. Every server of a pool
walks the same static order of nodes, step after step. A node starts on a server when the server
has reached it and its inputs are there. How long it takes is not part of the program: the
deployment hands out `Times` for a micro-batch whenever that micro-batch begins a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Wiring = Literal["each", "all"]
When = Literal["end", "start"]
PoolKind = Literal["gpu", "nic", "nvlink", "network"]
Way = Literal["", "in", "out"]

# Programs that are kept, with their plans: the points of a sweep often differ in load alone.
KEPT = 16


class Pool(NamedTuple):
    """A group of like servers that walk the same order."""

    name: str
    kind: PoolKind
    servers: int
    side: str = ""
    """Pools of one side stand for the same devices."""
    way: Way = ""
    """Direction of a link that has a server for each."""


class Stage(NamedTuple):
    """A kind of task and the pool it runs on."""

    name: str
    pool: int
    way: Way = ""
    """Direction of a transfer; empty: not a transfer."""


class Link(NamedTuple):
    """An input of a node.

    `each`: server i waits for the source's server i, or for its block of servers where the pools
    differ in size. `all`: every server waits for all servers of the source (a barrier). `start`
    links are satisfied when the source starts, which lets a transfer cut through two NICs.
    `steps_back` = 1 takes the source from the step before (nothing to wait for in the first).
    """

    node: int
    wiring: Wiring
    when: When = "end"
    delay: int | None = None
    steps_back: int = 0


class Node(NamedTuple):
    """One stage of one layer for one micro-batch, on every server of the stage's pool."""

    stage: int
    slot: int
    layer: int
    micro_batch: int
    inputs: tuple[Link, ...]
    gated: bool
    """Waits for the step boundary of its micro-batch."""


class Times(NamedTuple):
    """Durations of one step of one micro-batch."""

    values: NDArray[np.int64]
    """Nanoseconds by slot, one value per server of the slot's pool, slot after slot."""
    bounds: tuple[tuple[int, int], ...]
    """Where each slot's values are."""
    delays_ns: tuple[int, ...]
    """Latencies that occupy no server, in the order of `Program.delays`."""

    @property
    def rows(self) -> list[NDArray[np.int64]]:
        """Nanoseconds by slot."""
        return [self.values[first:last] for first, last in self.bounds]


@dataclass(frozen=True, eq=False)
class Program:
    """Servers, static task order and dependencies of one decode step, repeated for ever."""

    pools: tuple[Pool, ...]
    stages: tuple[Stage, ...]
    layer_kinds: tuple[int, ...]
    """Kind of each layer; the tail (LM head) is one more layer with a kind of its own."""
    delays: tuple[str, ...]
    nodes: tuple[Node, ...]
    orders: tuple[tuple[tuple[int, int], ...], ...]
    """Per pool: (node, step offset) in the order of one period. Period p runs step p + offset."""
    closing: tuple[int, ...]
    """Per micro-batch: the node whose end on all servers closes the step."""
    closing_delay: int
    """Index of the delay between that end and the step boundary (the host gap)."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches in flight."""
        return len(self.closing)

    @property
    def slots(self) -> int:
        """Length of `Times.rows`."""
        return len(self.stages) * (max(self.layer_kinds) + 1)

    def slot(self, stage: int, kind: int) -> int:
        """Return the index in `Times.rows` of a stage in a kind of layer."""
        return stage * self._kinds + kind

    def pool_of(self, node: Node) -> Pool:
        return self.pools[self.stages[node.stage].pool]

    def laps(self, pool: int) -> tuple[list[int], list[int]]:
        """Return the nodes a server of `pool` runs at first, and those that it then repeats."""
        order = self.orders[pool]
        offsets = [offset for _, offset in order]
        first = [
            node
            for period in range(-max(offsets, default=0), -min(offsets, default=0))
            for node, offset in order
            if period + offset >= 0
        ]
        return first, [node for node, _ in order]

    def times(
        self, rows: Mapping[tuple[str, int], ArrayLike], delays_ns: Mapping[str, int]
    ) -> Times:
        """Return Times from durations by (stage name, layer kind); what is not named is 0 ns."""
        delays = tuple(int(delays_ns[name]) for name in self.delays)
        return Times(self.values(rows), self.slot_bounds, delays)

    def values(self, rows: Mapping[tuple[str, int], ArrayLike], *loads: int) -> NDArray[np.int64]:
        """Return `Times.values` from such durations, of `loads` along the first axes if any."""
        values = np.zeros((*loads, self.slot_bounds[-1][1]), dtype=np.int64)
        self._fill(values, rows)
        return values

    def with_rows(self, times: Times, rows: Mapping[tuple[str, int], ArrayLike]) -> Times:
        """Return `times` with other durations for some (stage name, layer kind)."""
        values = times.values.copy()
        self._fill(values, rows)
        return times._replace(values=values)

    def _fill(self, values: NDArray[np.int64], rows: Mapping[tuple[str, int], ArrayLike]) -> None:
        for (name, kind), row in rows.items():
            first, last = self.slot_bounds[self.slot(self._stage_index[name], kind)]
            values[..., first:last] = row

    def row(self, times: Times, stage: str, kind: int) -> NDArray[np.int64]:
        """Return the durations of a stage in a kind of layer, by server."""
        first, last = self.slot_bounds[self.slot(self._stage_index[stage], kind)]
        return times.values[first:last]

    def busy_ns(self, times: Times) -> NDArray[np.int64]:
        """Return the ns each server works in one step of a micro-batch with `times`.

        Servers are in the order of the pools.
        """
        return self.busy_of(times.values)

    def busy_of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the same for one or many `Times.values`, along the last axis."""
        in_order, first, uses = self._by_server
        return np.add.reduceat(values[..., in_order] * uses, first, axis=-1)

    def slowest_of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the time of the slowest server in each slot, for one or many `Times.values`."""
        first = [first for first, _ in self.slot_bounds]
        return np.maximum.reduceat(values, first, axis=-1)

    def layer_mean_of(self, slowest: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return, by stage, the time of its slowest server in one layer, averaged over layers.

        `slowest` are times by slot, of one or many steps.
        """
        spent = slowest * self._layer_uses
        total = spent.reshape(*slowest.shape[:-1], len(self.stages), -1).sum(axis=-1)
        mean = total / (len(self.layer_kinds) - 1)
        return {name: mean[..., index] for name, index in self._stage_index.items()}

    @cached_property
    def work(self) -> NDArray[np.int64]:
        """By slot: its first value, the one after the last, their first server, and its uses."""
        first = np.cumsum([0, *(pool.servers for pool in self.pools)])
        pools = np.repeat([stage.pool for stage in self.stages], self._kinds)
        return np.column_stack([np.array(self.slot_bounds), first[pools], self._slot_uses])

    @cached_property
    def _by_server(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Places of `Times.values` server by server, where those of each begin, and their uses.

        Each server begins with the first place, which it does not use.
        """
        begin, end, at, uses = self.work.T
        every = np.arange(sum(pool.servers for pool in self.pools))
        server = np.concatenate([every, *map(np.arange, at, at + end - begin)])
        place = np.concatenate([0 * every, np.arange(end[-1])])
        used = np.concatenate([0 * every, np.repeat(uses, end - begin)])
        in_order = np.argsort(server, kind="stable")
        first = np.searchsorted(server[in_order], every)
        return place[in_order], first, used[in_order]

    @cached_property
    def slot_bounds(self) -> tuple[tuple[int, int], ...]:
        """First value, and the one after the last, of each slot in `Times.values`."""
        widths = [self.pools[stage.pool].servers for stage in self.stages]
        ends = np.cumsum(np.repeat([0, *widths], [1] + [self._kinds] * len(widths))).tolist()
        return tuple(pairwise(ends))

    @cached_property
    def _kinds(self) -> int:
        return max(self.layer_kinds) + 1

    @cached_property
    def _stage_index(self) -> dict[str, int]:
        return {stage.name: index for index, stage in enumerate(self.stages)}

    @cached_property
    def _slot_uses(self) -> NDArray[np.int64]:
        """How often a step of a micro-batch runs each slot."""
        slots = [node.slot for node in self.nodes if node.micro_batch == 0]
        return np.bincount(slots, minlength=len(self.slot_bounds))

    @cached_property
    def _layer_uses(self) -> NDArray[np.int64]:
        """The same without the tail."""
        uses = self._slot_uses.reshape(len(self.stages), -1).copy()
        uses[:, self.layer_kinds[-1]] = 0
        return uses.reshape(-1)


@dataclass
class ProgramBuilder:
    """Collects pools, stages and nodes; `build` freezes them into a Program."""

    layer_kinds: tuple[int, ...]
    """Kind of each layer; the tail's kind is added after the last."""
    micro_batches: int
    delays: tuple[str, ...]
    pools: list[Pool] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    """Of stages, by name."""
    nodes: list[Node] = field(default_factory=list)
    ids: dict[tuple[str, int, int], int] = field(default_factory=dict)
    orders: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """Number of layers without the tail; also the tail's layer index."""
        return len(self.layer_kinds)

    def pool(self, name: str, kind: PoolKind, servers: int, side: str = "", way: Way = "") -> int:
        """Add a pool and return its index; without `side` it is a side of its own."""
        self.pools.append(Pool(name, kind, servers, side or name, way))
        return len(self.pools) - 1

    def stage(self, name: str, pool: int, way: Way = "") -> None:
        """Add a stage that runs on `pool`."""
        self.places[name] = len(self.stages)
        self.stages.append(Stage(name, pool, way))

    def node(
        self,
        stage: str,
        layer: int,
        micro_batch: int,
        inputs: list[Link],
        gated: bool = False,
    ) -> int:
        """Add a node and return its id. The tail is `layer` = number of layers."""
        index = self.places[stage]
        tail_kind = max(self.layer_kinds) + 1
        kind = self.layer_kinds[layer] if layer < self.layers else tail_kind
        slot = index * (tail_kind + 1) + kind
        self.nodes.append(Node(index, slot, layer, micro_batch, tuple(inputs), gated))
        self.ids[stage, layer, micro_batch] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def link(
        self,
        stage: str,
        layer: int,
        micro_batch: int,
        wiring: Wiring,
        when: When = "end",
        delay: str | None = None,
        steps_back: int = 0,
    ) -> Link:
        """Return a link from a node that is already there."""
        index = None if delay is None else self.delays.index(delay)
        return Link(self.ids[stage, layer, micro_batch], wiring, when, index, steps_back)

    def wait(self, key: tuple[str, int, int], link: Link) -> None:
        """Add one more input to the node of (stage, layer, micro-batch)."""
        node = self.nodes[self.ids[key]]
        self.nodes[self.ids[key]] = node._replace(inputs=(*node.inputs, link))

    def order(self, pool: int, nodes: list[tuple[tuple[str, int, int], int]]) -> None:
        """Set the order of `pool`: ((stage, layer, micro-batch), step offset) of one period."""
        self.orders[pool] = [(self.ids[key], offset) for key, offset in nodes]

    def build(self, closing_stage: str, closing_delay: str) -> Program:
        """Return the program; the end of `closing_stage` in the tail closes a step."""
        tail_kind = max(self.layer_kinds) + 1
        return Program(
            pools=tuple(self.pools),
            stages=tuple(self.stages),
            layer_kinds=(*self.layer_kinds, tail_kind),
            delays=self.delays,
            nodes=tuple(self.nodes),
            orders=tuple(tuple(self.orders[pool]) for pool in range(len(self.pools))),
            closing=tuple(
                self.ids[closing_stage, self.layers, j] for j in range(self.micro_batches)
            ),
            closing_delay=self.delays.index(closing_delay),
        )

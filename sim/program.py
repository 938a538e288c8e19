"""Program: what a deployment compiles to, and all that an engine needs to know.

A program has pools of servers (GPUs, NIC directions, NVLink domains). A *stage* runs on every
server of its pool; a *node* is one stage of one layer for one micro-batch. Every server of a pool
walks the same static order of nodes, step after step. A node starts on a server when the server
has reached it and its inputs are there. How long it takes is not part of the program: the
deployment hands out `Times` for a micro-batch whenever that micro-batch begins a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Wiring = Literal["each", "all"]
When = Literal["end", "start"]


class Pool(NamedTuple):
    """A group of like servers that walk the same order."""

    name: str
    kind: Literal["gpu", "nic", "nvlink", "network"]
    servers: int


class Stage(NamedTuple):
    """A kind of task and the pool it runs on."""

    name: str
    pool: int


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

    rows: tuple[NDArray[np.int64], ...]
    """Nanoseconds by slot; each row has one value per server of the slot's pool."""
    delays_ns: tuple[int, ...]
    """Latencies that occupy no server, in the order of `Program.delays`."""


@dataclass(frozen=True)
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

    def slot(self, stage: int, kind: int) -> int:
        """Return the index in `Times.rows` of a stage in a kind of layer."""
        return stage * (max(self.layer_kinds) + 1) + kind

    def walk(self, pool: int) -> Iterator[tuple[int, int]]:
        """Yield (node, step) for ever, in the order in which a server of `pool` runs them."""
        order = self.orders[pool]
        period = -max((offset for _, offset in order), default=0)
        while order:
            for node, offset in order:
                if period + offset >= 0:
                    yield node, period + offset
            period += 1

    def times(
        self, rows: Mapping[tuple[str, int], ArrayLike], delays_ns: Mapping[str, int]
    ) -> Times:
        """Return Times from durations by (stage name, layer kind); what is not named is 0 ns."""
        kinds = max(self.layer_kinds) + 1
        table = []
        for stage in self.stages:
            width = self.pools[stage.pool].servers
            for kind in range(kinds):
                row = np.zeros(width, dtype=np.int64)
                row[:] = rows.get((stage.name, kind), 0)
                table.append(row)
        return Times(tuple(table), tuple(int(delays_ns[name]) for name in self.delays))

    def busy_ns(self, times: Times) -> list[NDArray[np.int64]]:
        """Return, per pool, the ns each server works in one step of a micro-batch with `times`."""
        busy = [np.zeros(pool.servers, dtype=np.int64) for pool in self.pools]
        for (stage, slot), uses in self._slot_uses.items():
            busy[self.stages[stage].pool] += uses * times.rows[slot]
        return busy

    def layer_mean_ns(self, times: Times) -> dict[str, float]:
        """Return, by stage, the time of its slowest server in one layer, averaged over layers."""
        total = dict.fromkeys((stage.name for stage in self.stages), 0.0)
        tail = self.layer_kinds[-1]
        for (stage, slot), uses in self._slot_uses.items():
            if slot != self.slot(stage, tail):
                total[self.stages[stage].name] += uses * float(times.rows[slot].max())
        return {name: ns / (len(self.layer_kinds) - 1) for name, ns in total.items()}

    @cached_property
    def _slot_uses(self) -> dict[tuple[int, int], int]:
        uses: dict[tuple[int, int], int] = {}
        for node in self.nodes:
            if node.micro_batch == 0:
                key = node.stage, node.slot
                uses[key] = uses.get(key, 0) + 1
        return uses


@dataclass
class ProgramBuilder:
    """Collects pools, stages and nodes; `build` freezes them into a Program."""

    layer_kinds: tuple[int, ...]
    """Kind of each layer; the tail's kind is added after the last."""
    micro_batches: int
    delays: tuple[str, ...]
    pools: list[Pool] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    ids: dict[tuple[str, int, int], int] = field(default_factory=dict)
    orders: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """Number of layers without the tail; also the tail's layer index."""
        return len(self.layer_kinds)

    def pool(
        self, name: str, kind: Literal["gpu", "nic", "nvlink", "network"], servers: int
    ) -> int:
        """Add a pool and return its index."""
        self.pools.append(Pool(name, kind, servers))
        return len(self.pools) - 1

    def stage(self, name: str, pool: int) -> None:
        """Add a stage that runs on `pool`."""
        self.stages.append(Stage(name, pool))

    def node(
        self, stage: str, layer: int, micro_batch: int, inputs: list[Link], gated: bool = False
    ) -> int:
        """Add a node and return its id. The tail is `layer` = number of layers."""
        index = next(i for i, known in enumerate(self.stages) if known.name == stage)
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

"""Scheduler: who is in flight. Admission, KV growth and completion at step boundaries (DESIGN §4).

Both engines call the same `boundary`; nothing here knows how long anything takes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.errors import InfeasibleError
from sim.kvcache import KvLayout
from sim.layers import Batch
from sim.units import gigabytes
from sim.workload import ClosedLoop, Requests, Workload, stationary_sample

Ints = NDArray[np.int64]


class Waiting(NamedTuple):
    """A request in the queue. `age` tokens of it are decoded already (stationary start)."""

    request: int
    arrival_ns: int
    prompt: int
    output: int
    age: int
    reserved_bytes: int
    """KV of prompt and whole output."""


class Ledger:
    """What is known of every request that was admitted, one entry of each column per request."""

    COLUMNS = (
        *("micro_batch", "gpu", "arrival_ns", "admitted_ns", "first_token_ns", "last_token_ns"),
        *("prompt", "output", "age", "entered", "finished", "reserved_bytes"),
    )

    def __init__(self) -> None:
        self._table = np.full((len(self.COLUMNS), 1024), -1, dtype=np.int64)

    def column(self, name: str) -> Ints:
        """Return a column by request number; −1 where nothing is known."""
        column: Ints = self._table[self.COLUMNS.index(name)]
        return column

    def enter(self, requests: list[int], rows: list[tuple[int, ...]]) -> None:
        """Note requests as they are admitted, in the order of the columns."""
        while requests[-1] >= self._table.shape[1]:
            self._table = np.concatenate([self._table, np.full_like(self._table, -1)], axis=1)
        self._table[:, requests] = np.array(rows, dtype=np.int64).T


class InFlight:
    """The requests of one micro-batch in the order in which they were admitted.

    Nothing is counted up from step to step: contexts and ages follow from `steps`.
    """

    def __init__(self, gpus: int, ledger: Ledger) -> None:
        self.steps = 0
        """Steps that the micro-batch has ended."""
        self.held = np.zeros(gpus, dtype=np.int64)
        """Requests on each GPU."""
        self.ctx = np.zeros(gpus, dtype=np.int64)
        """Context tokens on each GPU."""
        self.fresh = np.empty(0, dtype=np.int64)
        """Requests that have not emitted a token in this run."""
        self._ledger = ledger
        self.request: Ints = np.empty(0, dtype=np.int64)
        self.gpu: Ints = self.request
        self._ctx_at_start: Ints = self.request
        """Context less the steps of the micro-batch."""
        self._last_step: Ints = self.request

    @property
    def contexts(self) -> Ints:
        """Context tokens of each request."""
        return self._ctx_at_start + self.steps

    @property
    def decoded(self) -> Ints:
        """Tokens decoded so far of each request."""
        return self.contexts - self.prompt

    @property
    def prompt(self) -> Ints:
        """Prompt tokens of each request."""
        return self._of("prompt")

    @property
    def output(self) -> Ints:
        """Output tokens of each request."""
        return self._of("output")

    @property
    def arrival_ns(self) -> Ints:
        """When each request arrived."""
        return self._of("arrival_ns")

    @property
    def admitted_ns(self) -> Ints:
        """When each request was admitted."""
        return self._of("admitted_ns")

    def _of(self, column: str) -> Ints:
        values: Ints = self._ledger.column(column)[self.request]
        return values

    def __len__(self) -> int:
        return len(self.request)

    def step(self) -> Ints:
        """End a step: every request emits a token. Return the requests that leave with it."""
        self.steps += 1
        self.ctx += self.held
        stays = self._last_step != self.steps
        leaving = np.flatnonzero(~stays)
        gone: Ints = self.request[leaving]
        if len(gone):
            np.subtract.at(self.held, self.gpu[leaving], 1)
            np.subtract.at(self.ctx, self.gpu[leaving], self._ctx_at_start[leaving] + self.steps)
            self._keep(np.flatnonzero(stays))
        return gone

    def add(self, requests: Ints) -> None:
        """Let requests in that the ledger knows."""
        self.fresh = requests
        column = self._ledger.column
        gpu, age = column("gpu")[requests], column("age")[requests]
        ctx = column("prompt")[requests] + age
        np.add.at(self.held, gpu, 1)
        np.add.at(self.ctx, gpu, ctx)
        self.request = np.concatenate([self.request, requests])
        self.gpu = np.concatenate([self.gpu, gpu])
        self._ctx_at_start = np.concatenate([self._ctx_at_start, ctx - self.steps])
        last_step = self.steps + column("output")[requests] - age
        self._last_step = np.concatenate([self._last_step, last_step])

    def _keep(self, chosen: Ints) -> None:
        self.request, self.gpu = self.request[chosen], self.gpu[chosen]
        self._ctx_at_start, self._last_step = self._ctx_at_start[chosen], self._last_step[chosen]


@dataclass(frozen=True)
class Emission:
    """What a step boundary saw of the step that ended there."""

    tokens: int
    """Tokens emitted: one for each request in the micro-batch."""
    continuing: int
    """How many of them had emitted one before, so that a gap between tokens ended here."""
    finished: Ints
    """Requests that emitted their last token."""


class Scheduler:
    """Requests in flight and in the queue, over all micro-batches and attention GPUs."""

    def __init__(
        self,
        workload: Workload,
        seed: int,
        gpus: int,
        micro_batches: int,
        layout: KvLayout,
        kv_capacity_bytes: float,
        requests_in_flight: int | None,
    ) -> None:
        self.gpus = gpus
        self.micro_batches = micro_batches
        self.layout = layout
        self.kv_capacity_bytes = kv_capacity_bytes
        self.reserved_bytes = np.zeros(gpus, dtype=np.int64)
        self.ledger = Ledger()
        self.flights = [InFlight(gpus, self.ledger) for _ in range(micro_batches)]
        self.waiting: deque[Waiting] = deque()
        self._closed = isinstance(workload.arrivals, ClosedLoop)
        self._requests = Requests(workload, seed)
        self._next = 0
        if self._closed:
            assert requests_in_flight is not None
            self._queue(0, *stationary_sample(workload, seed, requests_in_flight))

    def in_flight(self) -> int:
        """Return the number of requests in all micro-batches."""
        return sum(len(flight) for flight in self.flights)

    def next_arrival_ns(self) -> int | None:
        """Return when the next request arrives; None if none will, or in a closed loop."""
        return None if self._closed else self._requests.arrival_ns(self._next)

    def emit(self, micro_batch: int, now_ns: int) -> Emission:
        """Let every request of the micro-batch emit one token; the finished ones leave.

        In a closed loop each finished request is replaced at once, at the end of the queue.
        """
        flight = self.flights[micro_batch]
        tokens, fresh = len(flight), flight.fresh
        finished = flight.step()
        if len(fresh):
            self.ledger.column("first_token_ns")[fresh] = now_ns
            flight.fresh = fresh[:0]
        if len(finished):
            self.ledger.column("last_token_ns")[finished] = now_ns
            self.ledger.column("finished")[finished] = 1
            gpu = self.ledger.column("gpu")[finished]
            np.subtract.at(self.reserved_bytes, gpu, self.ledger.column("reserved_bytes")[finished])
            if self._closed:
                self._queue_next(now_ns, len(finished))
        return Emission(tokens, tokens - len(fresh), finished)

    def admit(self, micro_batch: int, now_ns: int) -> None:
        """Let waiting requests enter the micro-batch: first come, first served.

        A micro-batch takes at most its share of all requests present, and a GPU at most its share
        of the micro-batch, so that both stay even: the fullest GPU sets the pace, and one request
        over a tile of rows costs a tile. Each request goes to the GPU with the least KV of this
        micro-batch among those with room for it and its whole output; the head of the queue waits
        if none has.

        Raises InfeasibleError for a request that no empty GPU could hold.
        """
        while (arrival := self.next_arrival_ns()) is not None and arrival <= now_ns:
            self._queue_next(arrival, 1)
        if not self.waiting:
            return
        present = self.in_flight() + len(self.waiting)
        flight = self.flights[micro_batch]
        share = -(-(present - micro_batch) // self.micro_batches)
        room = share - len(flight)
        slots = -(-share // self.gpus) - flight.held
        open_gpus = np.flatnonzero(slots > 0)
        gpus: list[int] = open_gpus.tolist()
        reserved = dict(zip(gpus, self.reserved_bytes[open_gpus].tolist(), strict=True))
        least = list(zip(flight.ctx[open_gpus].tolist(), gpus, strict=True))
        heapify(least)
        requests: list[int] = []
        rows: list[tuple[int, ...]] = []
        while self.waiting and len(rows) < room:
            head = self.waiting[0]
            need = head.reserved_bytes
            if need > self.kv_capacity_bytes:
                raise InfeasibleError(
                    f"a request of {head.prompt} + {head.output} tokens needs {gigabytes(need)} of "
                    f"KV, an attention GPU has {gigabytes(self.kv_capacity_bytes)}: shorten the "
                    "context or use a narrower KV format"
                )
            full = []
            while least and reserved[least[0][1]] + need > self.kv_capacity_bytes:
                full.append(heappop(least))
            if not least:
                break
            self.waiting.popleft()
            ctx, gpu = least[0]
            reserved[gpu] += need
            slots[gpu] -= 1
            if slots[gpu] > 0:
                heapreplace(least, (ctx + head.prompt + head.age, gpu))
            else:
                heappop(least)
            for other in full:
                heappush(least, other)
            never = -1
            when = (head.arrival_ns, now_ns, never, never)
            sizes = (head.prompt, head.output, head.age, flight.steps)
            requests.append(head.request)
            rows.append((micro_batch, gpu, *when, *sizes, 0, need))
        if rows:
            self.reserved_bytes[gpus] = [reserved[gpu] for gpu in gpus]
            self.ledger.enter(requests, rows)
            flight.add(np.array(requests))

    def batch(self, micro_batch: int) -> Batch:
        """Return requests and context tokens per GPU of a micro-batch."""
        flight = self.flights[micro_batch]
        kv_tokens: dict[int | None, Ints] = {None: flight.ctx.copy()}
        for window in self.layout.bytes_per_token:
            if window is not None:
                seen = np.bincount(flight.gpu, np.minimum(flight.contexts, window), self.gpus)
                kv_tokens[window] = np.rint(seen).astype(np.int64)
        return Batch(flight.held.copy(), kv_tokens)

    def kv_bytes(self) -> NDArray[np.float64]:
        """Return bytes of KV blocks in use on each GPU."""
        used = np.zeros(self.gpus)
        for flight in self.flights:
            held = self.layout.request_bytes(flight.contexts)
            used += np.bincount(flight.gpu, held, self.gpus)
        return used

    def _queue_next(self, arrival_ns: int, count: int) -> None:
        """Put the next requests of the workload at the end of the queue."""
        lengths = [self._requests.lengths(self._next + i) for i in range(count)]
        prompt, output = np.array(lengths, dtype=np.int64).T
        self._queue(arrival_ns, prompt, output, np.zeros(count, dtype=np.int64))

    def _queue(self, arrival_ns: int, prompt: Ints, output: Ints, age: Ints) -> None:
        needs = self.layout.request_bytes(prompt + output).astype(np.int64)
        columns = (prompt.tolist(), output.tolist(), age.tolist(), needs.tolist())
        for request, row in enumerate(zip(*columns, strict=True), self._next):
            self.waiting.append(Waiting(request, arrival_ns, *row))
        self._next += len(needs)

"""Scheduler: who is in flight. Admission, KV growth and completion at step boundaries (DESIGN §4).

Both engines lead to the same calls; nothing here knows how long anything takes. Requests are
numbered in the order in which they queue and enter in that order, so that the queue is a range of
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.arrivals import ClosedLoop
from sim.errors import InfeasibleError
from sim.flights import (
    AGE,
    ARRIVAL,
    FIRST_TOKEN,
    LEDGER,
    OUTPUT,
    PROMPT,
    RESERVED,
    TOO_LARGE,
    Flight,
    Floats,
    Ints,
)
from sim.kvcache import KvLayout
from sim.layers import Batch
from sim.lengths import stationary_sample
from sim.units import gigabytes
from sim.workload import Requests, Workload


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
        self.flights = [Flight(j, gpus) for j in range(micro_batches)]
        self._closed = isinstance(workload.arrivals, ClosedLoop)
        self._requests = Requests(workload, seed)
        self._ledger = np.full((len(LEDGER), 1024), -1, dtype=np.int64)
        self._drawn = 0
        self._queued = 0
        """Requests that have arrived."""
        self._entered = 0
        """Requests that have been admitted."""
        if self._closed:
            assert requests_in_flight is not None
            self._write(0, *stationary_sample(workload.law, seed, requests_in_flight))
            self._arrive(requests_in_flight, 0)

    def column(self, name: str) -> Ints:
        """Return a column of the ledger by request; −1 where nothing is known yet."""
        return self._ledger[LEDGER.index(name), : self._drawn]

    def columns(self, requests: Ints) -> dict[str, Ints]:
        """Return all that the ledger has of some requests."""
        return dict(zip(LEDGER, self._ledger[:, requests], strict=True))

    def waiting(self) -> int:
        """Return how many requests have arrived and not been admitted."""
        return self._queued - self._entered

    def in_flight(self) -> int:
        """Return the number of requests in all micro-batches."""
        return sum(len(flight) for flight in self.flights)

    def next_arrival_ns(self) -> int | None:
        """Return when the next request arrives; None if none will, or in a closed loop."""
        if self._closed or not self._draw(self._queued + 1):
            return None
        return int(self._ledger[ARRIVAL, self._queued])

    def emit(self, micro_batch: int, now_ns: int) -> Emission:
        """Let every request of the micro-batch emit one token; the finished ones leave.

        In a closed loop each finished request is replaced at once, at the end of the queue.
        """
        flight = self.flights[micro_batch]
        tokens = len(flight)
        first, last = flight.fresh
        self._ledger[FIRST_TOKEN, first:last] = now_ns
        flight.fresh = (0, 0)
        finished = flight.step(now_ns, self.reserved_bytes, self._ledger)
        if self._closed and len(finished):
            self._arrive(len(finished), now_ns)
        return Emission(tokens, tokens - (last - first), finished)

    def admit(self, micro_batch: int, now_ns: int) -> None:
        """Let waiting requests enter the micro-batch: first come, first served.

        A micro-batch takes at most its share of all requests present, and a GPU at most its share
        of the micro-batch, so that both stay even: the fullest GPU sets the pace, and one request
        over a tile of rows costs a tile. Each request goes to the GPU with the least KV of this
        micro-batch among those with room for it and its whole output; the head of the queue waits
        if none has.

        Raises InfeasibleError for a request that no empty GPU could hold.
        """
        if not self._closed:
            self._arrive_until(now_ns)
        if not self.waiting():
            return
        flight = self.flights[micro_batch]
        present = self.in_flight() + self.waiting()
        share = -(-(present - micro_batch) // self.micro_batches)
        first = self._entered
        last = min(self._queued, first + max(share - len(flight), 0))
        most_per_gpu = -(-share // self.gpus)
        limits = most_per_gpu, now_ns, self.kv_capacity_bytes
        entered = flight.enter(first, last, *limits, self.reserved_bytes, self._ledger)
        if entered == TOO_LARGE:
            raise self._too_large(first, last)
        self._entered += entered

    def batch(self, micro_batch: int) -> Batch:
        """Return requests and context tokens per GPU of a micro-batch."""
        flight = self.flights[micro_batch]
        kv_tokens: dict[int | None, Ints] = {None: flight.ctx.copy()}
        for window in self.layout.bytes_per_token:
            if window is not None:
                kv_tokens[window] = flight.seen(window)
        return Batch(flight.held.copy(), kv_tokens)

    def kv_bytes(self) -> Floats:
        """Return bytes of KV blocks in use on each GPU."""
        used = np.zeros(self.gpus)
        for flight in self.flights:
            flight.add_kv_bytes(self.layout, used)
        return used

    def _arrive(self, count: int, now_ns: int) -> None:
        """Put the next requests of a closed loop at the end of the queue."""
        self._draw(self._queued + count)
        self._ledger[ARRIVAL, self._queued : self._queued + count] = now_ns
        self._queued += count

    def _arrive_until(self, now_ns: int) -> None:
        """Put the requests that have arrived by now at the end of the queue."""
        while (arrival_ns := self.next_arrival_ns()) is not None and arrival_ns <= now_ns:
            known = self._ledger[ARRIVAL, self._queued : self._drawn]
            self._queued += int(np.searchsorted(known, now_ns, side="right"))

    def _draw(self, count: int) -> bool:
        """Draw requests until `count` are known; return False if the workload has fewer."""
        while self._drawn < count:
            block = self._requests.block(self._drawn)
            if block is None:
                return False
            prompt, output, arrival_ns = block
            self._write(self._drawn, prompt, output, np.zeros_like(prompt))
            if arrival_ns is not None:
                self._ledger[ARRIVAL, self._drawn - len(prompt) : self._drawn] = arrival_ns
        return True

    def _write(self, first: int, prompt: Ints, output: Ints, age: Ints) -> None:
        """Note the sizes of the requests from `first` on."""
        last = first + len(prompt)
        while last > self._ledger.shape[1]:
            more = np.full_like(self._ledger, -1)
            self._ledger = np.concatenate([self._ledger, more], axis=1)
        sizes = self._ledger[:, first:last]
        sizes[PROMPT], sizes[OUTPUT], sizes[AGE] = prompt, output, age
        sizes[RESERVED] = self.layout.request_bytes(prompt + output)
        self._drawn = last

    def _too_large(self, first: int, last: int) -> InfeasibleError:
        needs = self._ledger[RESERVED, first:last]
        request = first + int(np.argmax(needs > self.kv_capacity_bytes))
        prompt, output = self._ledger[PROMPT, request], self._ledger[OUTPUT, request]
        return InfeasibleError(
            f"a request of {prompt} + {output} tokens needs {gigabytes(needs[request - first])} of "
            f"KV, an attention GPU has {gigabytes(self.kv_capacity_bytes)}: shorten the "
            "context or use a narrower KV format"
        )

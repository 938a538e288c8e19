"""Scheduler: who is in flight. Admission, KV growth and completion at step boundaries (DESIGN §4).

Both engines call the same `boundary`; nothing here knows how long anything takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sim.errors import InfeasibleError
from sim.kvcache import KvLayout
from sim.layers import Batch
from sim.units import gigabytes
from sim.workload import ClosedLoop, Requests, Workload, stationary_sample

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Waiting:
    """A request in the queue. `age` tokens of it are decoded already (stationary start)."""

    request: int
    arrival_ns: int
    prompt: int
    output: int
    age: int


@dataclass
class InFlight:
    """The requests of one micro-batch, one entry of each array per request."""

    request: Ints
    gpu: Ints
    arrival_ns: Ints
    admitted_ns: Ints
    first_token_ns: Ints
    prompt: Ints
    output: Ints
    decoded: Ints
    """Tokens decoded so far."""
    observed: Ints
    """Tokens decoded in this run: less than `decoded` where the run began mid-way."""
    reserved_bytes: Ints

    def select(self, chosen: NDArray[np.bool_]) -> InFlight:
        """Return the chosen entries."""
        return InFlight(**{name: values[chosen] for name, values in vars(self).items()})

    def extend(self, other: InFlight) -> InFlight:
        """Return these entries followed by `other`'s."""
        pairs = ((name, values, getattr(other, name)) for name, values in vars(self).items())
        return InFlight(**{name: np.concatenate([a, b]) for name, a, b in pairs})

    def __len__(self) -> int:
        return len(self.request)


def _in_flight(rows: Sequence[Sequence[int]]) -> InFlight:
    table = np.array(rows, dtype=np.int64).reshape(-1, len(fields(InFlight)))
    return InFlight(*table.T.copy())


@dataclass(frozen=True)
class Emission:
    """What a step boundary saw of the step that ended there."""

    tokens: int
    """Tokens emitted: one for each request in the micro-batch."""
    continuing: int
    """How many of them had emitted one before, so that a gap between tokens ended here."""
    finished: InFlight
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
        self.flights = [_in_flight([]) for _ in range(micro_batches)]
        self.waiting: deque[Waiting] = deque()
        self._closed = isinstance(workload.arrivals, ClosedLoop)
        self._requests = Requests(workload, seed)
        self._next = 0
        if self._closed:
            assert requests_in_flight is not None
            drawn = stationary_sample(workload, seed, requests_in_flight)
            for prompt, output, age in zip(*drawn, strict=True):
                self._queue(0, int(prompt), int(output), int(age))

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
        flight.decoded += 1
        flight.observed += 1
        flight.first_token_ns[flight.observed == 1] = now_ns
        done = flight.decoded >= flight.output
        finished = flight.select(done)
        if len(finished):
            self.flights[micro_batch] = flight.select(~done)
            np.subtract.at(self.reserved_bytes, finished.gpu, finished.reserved_bytes)
            if self._closed:
                for _ in range(len(finished)):
                    prompt, output = self._requests.lengths(self._next)
                    self._queue(now_ns, prompt, output, 0)
        return Emission(len(flight), int((flight.observed > 1).sum()), finished)

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
            prompt, output = self._requests.lengths(self._next)
            self._queue(arrival, prompt, output, 0)
        present = self.in_flight() + len(self.waiting)
        flight = self.flights[micro_batch]
        share = -(-(present - micro_batch) // self.micro_batches)
        room = share - len(flight)
        slots = -(-share // self.gpus) - np.bincount(flight.gpu, minlength=self.gpus)
        load = np.bincount(flight.gpu, flight.prompt + flight.decoded, self.gpus)
        entering: list[tuple[int, ...]] = []
        while self.waiting and len(entering) < room:
            head = self.waiting[0]
            need = int(self.layout.request_bytes(head.prompt + head.output))
            if need > self.kv_capacity_bytes:
                raise InfeasibleError(
                    f"a request of {head.prompt} + {head.output} tokens needs {gigabytes(need)} of "
                    f"KV, an attention GPU has {gigabytes(self.kv_capacity_bytes)}: shorten the "
                    "context or use a narrower KV format"
                )
            fits = (slots > 0) & (self.reserved_bytes + need <= self.kv_capacity_bytes)
            if not fits.any():
                break
            gpu = int(np.argmin(np.where(fits, load, np.inf)))
            self.waiting.popleft()
            self.reserved_bytes[gpu] += need
            slots[gpu] -= 1
            load[gpu] += head.prompt + head.age
            never = -1
            times = (head.arrival_ns, now_ns, never)
            entering.append(
                (head.request, gpu, *times, head.prompt, head.output, head.age, 0, need)
            )
        if entering:
            self.flights[micro_batch] = flight.extend(_in_flight(entering))

    def batch(self, micro_batch: int) -> Batch:
        """Return requests and context tokens per GPU of a micro-batch."""
        flight = self.flights[micro_batch]
        ctx = flight.prompt + flight.decoded
        kv_tokens = {
            window: self._sum(flight.gpu, ctx if window is None else np.minimum(ctx, window))
            for window in {None, *self.layout.bytes_per_token}
        }
        return Batch(np.bincount(flight.gpu, minlength=self.gpus), kv_tokens)

    def kv_bytes(self) -> NDArray[np.float64]:
        """Return bytes of KV blocks in use on each GPU."""
        used = np.zeros(self.gpus)
        for flight in self.flights:
            held = self.layout.request_bytes(flight.prompt + flight.decoded)
            used += np.bincount(flight.gpu, held, self.gpus)
        return used

    def _queue(self, arrival_ns: int, prompt: int, output: int, age: int) -> None:
        self.waiting.append(Waiting(self._next, arrival_ns, prompt, output, age))
        self._next += 1

    def _sum(self, gpu: Ints, values: Ints) -> Ints:
        return np.rint(np.bincount(gpu, values, self.gpus)).astype(np.int64)

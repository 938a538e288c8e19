"""Scheduler: who is in flight. Admission, KV growth and completion at step boundaries (DESIGN §4).

Both engines lead to the same calls; nothing here knows how long a step takes. Requests are numbered
in the order in which they arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim.decoding.acceptance import Law, law_of
from sim.decoding.micro_batch import MicroBatch
from sim.decoding.micro_batch_loops import BALANCINGS, TOO_LARGE, Floats, Ints
from sim.decoding.request_queue import RequestQueue
from sim.decoding.request_table import (
    AGE,
    ARRIVAL,
    HOME,
    KEPT,
    MICRO_BATCH,
    OUTPUT,
    PROMPT,
    WHOLE,
    RequestTable,
)
from sim.decoding.resting import IdleLaw
from sim.deployments.batch import Batch
from sim.deployments.kvcache import KvLayout, Transfer
from sim.foundation.errors import InfeasibleError
from sim.foundation.nanoseconds import whole_ns
from sim.foundation.streams import stream
from sim.foundation.units import NS_PER_S, gigabytes
from sim.inputs.admission import Admission, Recompute, Swap, Watermark, share_of
from sim.inputs.arrivals import ClosedLoop
from sim.inputs.lengths import stationary_sample
from sim.inputs.speculation import Speculation
from sim.inputs.workload import Requests, Workload

# A request that gave way: what is known of it and of where it was, and of how it went on. Times
# are −1 until they are known.
PREEMPTIONS = (
    *("request", "micro_batch", "gpu", "preempted_ns", "context_tokens", "restored_ns"),
    "token_ns",
)

# More requests than any run has.
_NO_LIMIT = 1 << 32


class Emission(NamedTuple):
    """What a step boundary saw of the step that ended there."""

    tokens: int
    """Tokens emitted: one for each request that took the step, and its accepted drafts."""
    requests: int
    """Requests that took the step."""
    continuing: int
    """How many of them had a step before this one, so that a gap between tokens of its length ended
    here."""
    at_once: int
    """Accepted drafts of these requests: tokens that came with another, without a gap."""
    finished: Ints
    """Requests that emitted their last token."""
    resting: int = 0
    """Requests that sat the step out."""
    late: int = 0
    """Requests whose gap between tokens ended here after they had sat out steps."""
    late_ns: int = 0
    """These gaps, summed."""


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
        admission: Admission,
        transfer: Transfer | None = None,
        speculation: Speculation | None = None,
        max_running_requests: int | None = None,
    ) -> None:
        self.gpus = gpus
        self.layout = layout
        self.kv_capacity_bytes = kv_capacity_bytes
        most = _NO_LIMIT if max_running_requests is None else max_running_requests
        self._most = gpus * most
        """Requests on all GPUs."""
        self.running = np.zeros(gpus, dtype=np.int64)
        """Requests on each GPU."""
        self.used_bytes = np.zeros(gpus, dtype=np.int64)
        """KV that requests claim on each GPU."""
        idle: IdleLaw | None = None
        if admission.idle_step_share is not None:
            draws = np.uint64(stream(seed, "idle steps").integers(1 << 63))
            idle = IdleLaw(float(admission.idle_step_share), draws)
        self.micro_batches = [MicroBatch(j, gpus, layout, idle) for j in range(micro_batches)]
        self._closed = isinstance(workload.arrivals, ClosedLoop)
        self._requests = Requests(workload, seed)
        self._table = RequestTable(layout, self._requests.count)
        self._queue = RequestQueue()
        self._last_arrival_ns = -1
        """Of the requests that are drawn, in an open loop."""
        self._queued = 0
        """Requests of a closed loop that have arrived."""
        self._transfer = transfer
        self._law: Law | None = None
        if speculation is not None:
            self._law = law_of(speculation, seed)
        self._policy = admission.kv
        self._row = admission.row(gpus)
        share = self._policy.share if isinstance(self._policy, Watermark) else 1.0
        key = np.uint64(stream(seed, "placement").integers(1 << 63))
        grows = isinstance(self._policy, Watermark)
        shared = most, share * kv_capacity_bytes, kv_capacity_bytes, grows
        self._limits = (*shared, BALANCINGS[admission.gpu], key)
        self._preemptions: list[list[int]] = []
        self._paused: dict[int, int] = {}
        """The last preemption of each request that has not emitted a token since."""
        if self._closed:
            assert requests_in_flight is not None
            sample = stationary_sample(workload.law, seed, requests_in_flight)
            self._table.write(*sample)
            self._arrive(requests_in_flight, 0, there=True)

    def column(self, name: str) -> Ints:
        """Return a column by request; −1 where nothing is known yet."""
        return self._table.column(name)

    def columns(self, requests: Ints) -> dict[str, Ints]:
        """Return all that is known of some requests."""
        return self._table.columns(requests)

    def preemptions(self) -> dict[str, Ints]:
        """Return the table of preemptions, in the order in which they happened."""
        table = np.array(self._preemptions, dtype=np.int64).reshape(-1, len(PREEMPTIONS))
        return dict(zip(PREEMPTIONS, table.T, strict=True))

    def waiting(self) -> int:
        """Return how many requests might enter if there were room."""
        return len(self._queue)

    def in_flight(self) -> int:
        """Return the number of requests in all micro-batches."""
        return sum(map(len, self.micro_batches))

    def next_arrival_ns(self) -> int | None:
        """Return when the next request comes to the queue; None if none will."""
        while True:
            comes_ns = self._queue.next_ns()
            certain = comes_ns is not None and comes_ns <= self._last_arrival_ns
            if self._closed or certain or not self._draw():
                return comes_ns

    def emit(self, micro_batch: int, now_ns: int) -> Emission:
        """Let every request of the micro-batch emit its tokens; the finished ones leave.

        In a closed loop each finished request is replaced at once, at the end of the queue. Where
        KV is claimed as it grows, the youngest requests of a GPU without room for all give way.
        """
        batch = self.micro_batches[micro_batch]
        table, beginning = self._table.values, batch.fresh
        resting = batch.rest(table)
        late = late_ns = 0
        if batch.resting is not None:
            beginning = batch.resting.beginning(beginning, table)
            late, late_ns = batch.resting.late(batch.held, beginning, now_ns, table)
        requests, fresh = len(batch) - resting, len(beginning)
        accepted = of_fresh = 0
        if self._law is not None:
            accepted, of_fresh = batch.accept(self._law, table)
        if self._paused:
            self._resumed(beginning, now_ns)
        finished = batch.step(now_ns, self.running, self.used_bytes, self._table.values)
        if self._closed and len(finished):
            self._arrive(len(finished), now_ns)
        if isinstance(self._policy, Watermark):
            state = self.running, self.used_bytes, self._table.values
            gone = batch.make_room(now_ns, self.kv_capacity_bytes, *state)
            if len(gone):
                self._preempt(gone, now_ns, self._policy)
        tokens = requests + accepted
        seen = tokens, requests, requests - fresh - late, accepted - of_fresh, finished
        return Emission(*seen, resting, late, late_ns)

    def admit(self, micro_batch: int, now_ns: int) -> None:
        """Let waiting requests enter the micro-batch: first come, first served.

        A micro-batch takes at most its share of all requests present, so that all stay even. Which
        GPU takes a request is `Admission.gpu`'s to say; by default one takes at most its share of
        the micro-batch, since the fullest GPU sets the pace and one request over a tile of rows
        costs a tile. The head of the queue waits if no GPU has room for its KV.

        Raises InfeasibleError for a request that no empty GPU could hold.
        """
        while not self._closed and self._last_arrival_ns <= now_ns and self._draw():
            pass
        self._queue.pass_to(now_ns)
        if not len(self._queue):
            return
        batch = self.micro_batches[micro_batch]
        present = min(self.in_flight() + self.waiting(), self._most)
        share = share_of(present, micro_batch, len(self.micro_batches), self._row)
        requests = self._queue.head(max(share - len(batch), 0))
        limits = (-(-share // self.gpus), *self._limits)
        state = self.running, self.used_bytes, self._table.values
        entered = batch.enter(requests, now_ns, limits, *state)
        if entered == TOO_LARGE:
            raise self._too_large(requests)
        self._queue.leave(entered)

    def batch(self, micro_batch: int) -> Batch:
        """Return requests and context tokens per GPU of a micro-batch, on GPUs that do not rest."""
        batch = self.micro_batches[micro_batch]
        kv_tokens: dict[int | None, Ints] = {None: batch.ctx.copy()}
        for window in self.layout.bytes_per_token:
            if window is not None:
                kv_tokens[window] = batch.seen(window)
        if batch.resting is None or not batch.resting.gpus.any():
            return Batch(batch.held.copy(), kv_tokens)
        takes = ~batch.resting.gpus
        return Batch(batch.held * takes, {of: seen * takes for of, seen in kv_tokens.items()})

    def emitted_ns(self, ended_ns: Sequence[int]) -> Ints:
        """Return when each GPU's requests last emitted (micro-batches × GPUs).

        `ended_ns` is when each micro-batch's last step ended.
        """
        found = np.repeat(np.array(ended_ns)[:, np.newaxis], self.gpus, axis=1)
        for batch, last_ns in zip(self.micro_batches, found, strict=True):
            if batch.resting is not None:
                rested = batch.resting.since_ns >= 0
                last_ns[rested] = batch.resting.since_ns[rested]
        return found

    def kv_bytes(self) -> Floats:
        """Return bytes of KV blocks in use on each GPU."""
        used = np.zeros(self.gpus)
        for batch in self.micro_batches:
            batch.add_kv_bytes(used)
        return used

    def _resumed(self, requests: Ints, now_ns: int) -> None:
        """Note the first tokens, since they gave way, of requests that came in again."""
        for request in requests.tolist():
            if request in self._paused:
                self._preemptions[self._paused.pop(request)][-1] = now_ns

    def _preempt(self, requests: Ints, now_ns: int, policy: Watermark) -> None:
        """Send requests that gave way to where they get their KV back."""
        known = self._table.values[:, requests]
        contexts = known[PROMPT] + known[AGE] + known[KEPT]
        back_ns = now_ns + _restored_ns(policy.preemption, contexts, self.layout)
        rows = (requests, known[MICRO_BATCH], known[HOME], contexts, back_ns)
        for request, micro_batch, gpu, context, back in zip(
            *(r.tolist() for r in rows), strict=True
        ):
            self._paused[request] = len(self._preemptions)
            self._preemptions.append([request, micro_batch, gpu, now_ns, context, back, -1])
            self._queue.send_away(request, back)

    def _arrive(self, count: int, now_ns: int, there: bool = False) -> None:
        """Let the next requests of a closed loop arrive, their KV being `there` already or not."""
        first, last = self._queued, self._queued + count
        while self._table.count < last:
            self._draw()
        self._table.values[ARRIVAL, first:last] = now_ns
        self._queued = last
        self._expect(np.arange(first, last), there)

    def _draw(self) -> bool:
        """Draw another block of requests; return False if the workload has none."""
        first = self._table.count
        block = self._requests.block(first)
        if block is None:
            return False
        prompt, output, arrival_ns = block
        self._table.write(prompt, output)
        if arrival_ns is not None:
            self._table.values[ARRIVAL, first : self._table.count] = arrival_ns
            self._last_arrival_ns = int(arrival_ns[-1])
            self._expect(np.arange(first, self._table.count))
        return True

    def _expect(self, requests: Ints, there: bool = False) -> None:
        """Put requests in the queue for the time at which their KV is there."""
        comes_ns = self._table.values[ARRIVAL, requests]
        if self._transfer is not None and not there:
            kv_bytes = self.layout.moved_bytes(self._table.values[PROMPT, requests])
            time_ns = kv_bytes / self._transfer.bytes_per_s * NS_PER_S
            comes_ns = comes_ns + whole_ns(time_ns, "a KV transfer") + self._transfer.latency_ns
        self._queue.expect(requests, comes_ns)

    def _too_large(self, requests: Ints) -> InfeasibleError:
        needs = self._table.values[WHOLE, requests]
        at = int(np.argmax(needs > self.kv_capacity_bytes))
        prompt, output = self._table.values[[PROMPT, OUTPUT], requests[at]]
        return InfeasibleError(
            f"a request of {prompt} + {output} tokens needs {gigabytes(needs[at])} of "
            f"KV, an attention GPU has {gigabytes(self.kv_capacity_bytes)}: shorten the "
            "context or use a narrower KV format"
        )


def _restored_ns(how: Recompute | Swap, contexts: Ints, layout: KvLayout) -> Ints:
    """Return how long it takes until requests that gave way have their KV back, ns."""
    if isinstance(how, Recompute):
        seconds = contexts / float(how.tokens_per_s)
    else:
        # Out to the host, and back.
        seconds = 2 * layout.moved_bytes(contexts) / float(how.bytes_per_s)
    return whole_ns(seconds * NS_PER_S, "bringing KV back")

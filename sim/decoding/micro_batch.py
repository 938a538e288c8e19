"""Micro-batch: its requests, in the order in which they were admitted.

Nothing is counted up from step to step but the KV that requests claim: contexts and ages follow
from the steps that the micro-batch has ended.
"""

from __future__ import annotations

import numpy as np

from sim.decoding import micro_batch_loops
from sim.decoding.acceptance import Law, accept
from sim.decoding.micro_batch_loops import (
    CTX_AT_START,
    GPU,
    REQUEST,
    Floats,
    Ints,
    Limits,
    sizes_of,
)
from sim.decoding.request_table import HOME
from sim.decoding.resting import IdleLaw, Resting
from sim.deployments.kvcache import KvLayout

_ROWS = 5
_LEAST_ROOM = 64
_NONE = np.empty(0, dtype=np.int64)


class MicroBatch:
    def __init__(
        self, micro_batch: int, gpus: int, layout: KvLayout, idle: IdleLaw | None = None
    ) -> None:
        self.micro_batch = micro_batch
        self.steps = 0
        """Steps that the micro-batch has ended."""
        self.held = np.zeros(gpus, dtype=np.int64)
        """Requests on each GPU."""
        self.ctx = np.zeros(gpus, dtype=np.int64)
        """Context tokens on each GPU."""
        self.fresh = _NONE
        """Requests that have emitted nothing since they came in."""
        self.resting = None if idle is None else Resting(gpus, idle)
        """GPUs that sit steps out; None if none ever does."""
        self._awake = np.zeros(gpus, dtype=np.bool_)
        self._layout = sizes_of(layout)
        self._turn = np.zeros(1, dtype=np.int64)
        self._rows = np.empty((_ROWS, _LEAST_ROOM), dtype=np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def request(self) -> Ints:
        """Number of each request."""
        return self._rows[REQUEST, : self._count]

    @property
    def gpu(self) -> Ints:
        """GPU of each request."""
        return self._rows[GPU, : self._count]

    @property
    def contexts(self) -> Ints:
        """Context tokens of each request."""
        return self._rows[CTX_AT_START, : self._count] + self.steps

    def rest(self, table: Ints) -> int:
        """Let requests of resting GPUs go through the step that ends; return how many they are."""
        if self.resting is None:
            return 0
        return self.resting.shift(self._rows[:, : self._count], self.ctx, table)

    def accept(self, law: Law, table: Ints) -> tuple[int, int]:
        """Let the step that ends accept drafts; return how many, and how many of first steps."""
        resting = self._awake if self.resting is None else self.resting.gpus
        where = self._rows, self._count, self.steps + 1, resting
        return accept(*where, self.ctx, table, law)

    def step(self, now_ns: int, running: Ints, used_bytes: Ints, table: Ints) -> Ints:
        """End a step: requests of GPUs that took it emit a token. Return those that leave."""
        self.steps += 1
        gone = np.empty(self._count, dtype=np.int64)
        last = len(self.fresh) if self.resting is None else self._count
        where = self._rows, self._count, last, self.steps, now_ns
        state = self.held, self.ctx, running, used_bytes
        left = micro_batch_loops.emit(*where, *state, table, gone)
        self._count -= left
        still = _NONE
        if self.resting is not None:
            still = self.fresh[self.resting.gpus[table[HOME, self.fresh]]]
            self.resting.end()
        self.fresh = still
        return gone[:left]

    def make_room(
        self, now_ns: int, capacity_bytes: float, running: Ints, used_bytes: Ints, table: Ints
    ) -> Ints:
        """Claim KV for the next step of every request. Return those that give way, as they lay.

        The youngest of a GPU give way, one after the other, until the others' KV fits.
        """
        micro_batch_loops.grow(self._rows, self._count, self.steps, self._layout, used_bytes)
        gone = np.empty(self._count, dtype=np.int64)
        state = self.held, self.ctx, running, used_bytes
        where = self._rows, self._count, self.steps
        left = micro_batch_loops.give_way(*where, now_ns, capacity_bytes, *state, table, gone)
        self._count -= left
        return gone[:left]

    def enter(
        self,
        requests: Ints,
        now_ns: int,
        limits: Limits,
        running: Ints,
        used_bytes: Ints,
        table: Ints,
    ) -> int:
        """Let requests in, in order, as far as there is room.

        Returns how many entered, or TOO_LARGE if one of them fits on no GPU.
        """
        room = self._rows.shape[1]
        if self._count + len(requests) > room:
            wider = np.empty((_ROWS, 2 * (self._count + len(requests))), dtype=np.int64)
            wider[:, : self._count] = self._rows[:, : self._count]
            self._rows = wider
        where = self._rows, self._count, self.steps, self.micro_batch, requests, now_ns
        state = self._turn, self.held, self.ctx, running, used_bytes
        still = self.fresh
        entered = micro_batch_loops.enter(*where, limits, self._layout, *state, table)
        if entered > 0:
            self._count += entered
            self.fresh = requests[:entered]
            if self.resting is not None:
                self.fresh = np.concatenate([still, self.fresh])
                self.resting.begin(requests[:entered], now_ns, table)
        return entered

    def seen(self, window: int) -> Ints:
        """Return the context tokens on each GPU that a layer with this window reads."""
        seen = np.zeros_like(self.ctx)
        micro_batch_loops.add_seen(self._rows, self._count, self.steps, window, seen)
        return seen

    def add_kv_bytes(self, used: Floats) -> None:
        """Add the bytes of KV blocks in use on each GPU to `used`."""
        micro_batch_loops.add_kv_bytes(self._rows, self._count, self.steps, self._layout, used)

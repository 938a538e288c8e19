"""Flights: the requests of each micro-batch, and the compiled loops over them at a step boundary.

Nothing is counted up from step to step: contexts and ages follow from the steps that the
micro-batch has ended. Importing this module imports Numba.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.compiled import compiled
from sim.kvcache import KvLayout

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Rows of a flight, one column a request, in the order in which they were admitted.
REQUEST, GPU, CTX_AT_START, LAST_STEP = range(4)

# Columns of the ledger of all requests, one entry a request; −1 where nothing is known yet.
LEDGER = (
    *("micro_batch", "gpu", "arrival_ns", "admitted_ns", "first_token_ns", "last_token_ns"),
    *("prompt", "output", "age", "entered", "finished", "reserved_bytes"),
)
MICRO_BATCH, HOME, ARRIVAL, ADMITTED, FIRST_TOKEN, LAST_TOKEN = range(6)
PROMPT, OUTPUT, AGE, ENTERED, FINISHED, RESERVED = range(6, 12)

TOO_LARGE = -1

_NO_WINDOW = np.iinfo(np.int64).max
_LEAST_ROOM = 64


@compiled("int64(int64[:, ::1], int64, int64, int64, int64[::1], int64[::1], int64[::1], "
          "int64[:, ::1], int64[::1])")  # fmt: skip
def _leave(
    flight: Ints,
    count: int,
    step: int,
    now_ns: int,
    held: Ints,
    ctx: Ints,
    reserved_bytes: Ints,
    ledger: Ints,
    gone: Ints,
) -> int:
    """Take out the requests whose last step has ended, note them in `gone`; return how many."""
    kept = left = 0
    for i in range(count):
        request, gpu = flight[REQUEST, i], flight[GPU, i]
        if flight[LAST_STEP, i] == step:
            held[gpu] -= 1
            ctx[gpu] -= flight[CTX_AT_START, i] + step
            reserved_bytes[gpu] -= ledger[RESERVED, request]
            ledger[LAST_TOKEN, request] = now_ns
            ledger[FINISHED, request] = 1
            gone[left] = request
            left += 1
        else:
            if left:
                for row in range(4):
                    flight[row, kept] = flight[row, i]
            kept += 1
    return left


@compiled("int64(int64[:, ::1], int64, int64, int64, int64, int64, int64, int64, float64, "
          "int64[::1], int64[::1], int64[::1], int64[:, ::1])")  # fmt: skip
def _enter(
    flight: Ints,
    count: int,
    step: int,
    micro_batch: int,
    first: int,
    last: int,
    most_per_gpu: int,
    now_ns: int,
    capacity_bytes: float,
    held: Ints,
    ctx: Ints,
    reserved_bytes: Ints,
    ledger: Ints,
) -> int:
    """Let requests `first` to `last` in, as far as there is room; return how many entered.

    Returns TOO_LARGE if the next request would not fit on an empty GPU.
    """
    for request in range(first, last):
        need = ledger[RESERVED, request]
        if need > capacity_bytes:
            return TOO_LARGE
        home = -1
        for gpu in range(len(held)):
            fits = held[gpu] < most_per_gpu and reserved_bytes[gpu] + need <= capacity_bytes
            if fits and (home < 0 or ctx[gpu] < ctx[home]):
                home = gpu
        if home < 0:
            return request - first
        age = ledger[AGE, request]
        context = ledger[PROMPT, request] + age
        held[home] += 1
        ctx[home] += context
        reserved_bytes[home] += need
        place = count + request - first
        flight[REQUEST, place], flight[GPU, place] = request, home
        flight[CTX_AT_START, place] = context - step
        flight[LAST_STEP, place] = step + ledger[OUTPUT, request] - age
        ledger[MICRO_BATCH, request], ledger[HOME, request] = micro_batch, home
        ledger[ADMITTED, request], ledger[ENTERED, request] = now_ns, step
        ledger[FINISHED, request] = 0
    return last - first


@compiled("void(int64[:, ::1], int64, int64, int64[::1], float64[::1], float64, int64, "
          "float64[::1])")  # fmt: skip
def _add_kv_bytes(
    flight: Ints,
    count: int,
    step: int,
    windows: Ints,
    bytes_per_token: Floats,
    state_bytes: float,
    block_tokens: int,
    used: Floats,
) -> None:
    """Add the bytes of the KV blocks of every request to those of its GPU."""
    for i in range(count):
        total = state_bytes
        for w in range(len(windows)):
            seen = min(flight[CTX_AT_START, i] + step, windows[w])
            blocks = (seen + block_tokens - 1) // block_tokens
            total += blocks * block_tokens * bytes_per_token[w]
        used[flight[GPU, i]] += total


@compiled("void(int64[:, ::1], int64, int64, int64, int64[::1])")
def _add_seen(flight: Ints, count: int, step: int, window: int, seen: Ints) -> None:
    """Add the context tokens of every request inside `window` to those of its GPU."""
    for i in range(count):
        seen[flight[GPU, i]] += min(flight[CTX_AT_START, i] + step, window)


class Flight:
    """The requests of one micro-batch in the order in which they were admitted."""

    def __init__(self, micro_batch: int, gpus: int) -> None:
        self.micro_batch = micro_batch
        self.steps = 0
        """Steps that the micro-batch has ended."""
        self.held = np.zeros(gpus, dtype=np.int64)
        """Requests on each GPU."""
        self.ctx = np.zeros(gpus, dtype=np.int64)
        """Context tokens on each GPU."""
        self.fresh = (0, 0)
        """First and last (excluded) of the requests that have not emitted a token in this run."""
        self._table = np.empty((4, _LEAST_ROOM), dtype=np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def request(self) -> Ints:
        """Number of each request."""
        return self._table[REQUEST, : self._count]

    @property
    def gpu(self) -> Ints:
        """GPU of each request."""
        return self._table[GPU, : self._count]

    @property
    def contexts(self) -> Ints:
        """Context tokens of each request."""
        return self._table[CTX_AT_START, : self._count] + self.steps

    def step(self, now_ns: int, reserved_bytes: Ints, ledger: Ints) -> Ints:
        """End a step: every request emits a token. Return the requests that leave with it."""
        self.steps += 1
        self.ctx += self.held
        gone = np.empty(self._count, dtype=np.int64)
        state = self.held, self.ctx, reserved_bytes
        left = _leave(self._table, self._count, self.steps, now_ns, *state, ledger, gone)
        self._count -= left
        return gone[:left]

    def enter(
        self,
        first: int,
        last: int,
        most_per_gpu: int,
        now_ns: int,
        capacity_bytes: float,
        reserved_bytes: Ints,
        ledger: Ints,
    ) -> int:
        """Let requests `first` to `last` (excluded) in, in order, as far as there is room.

        Each goes to the GPU with the least context among those with fewer than `most_per_gpu`
        requests and room for all of its KV. Returns how many entered, or TOO_LARGE.
        """
        room = self._table.shape[1]
        if self._count + last - first > room:
            wider = np.empty((4, 2 * (self._count + last - first)), dtype=np.int64)
            wider[:, : self._count] = self._table[:, : self._count]
            self._table = wider
        where = self._table, self._count, self.steps, self.micro_batch
        state = self.held, self.ctx, reserved_bytes
        entered = _enter(*where, first, last, most_per_gpu, now_ns, capacity_bytes, *state, ledger)
        if entered > 0:
            self._count += entered
            self.fresh = first, first + entered
        return entered

    def seen(self, window: int) -> Ints:
        """Return the context tokens on each GPU that a layer with this window reads."""
        seen = np.zeros_like(self.ctx)
        _add_seen(self._table, self._count, self.steps, window, seen)
        return seen

    def add_kv_bytes(self, layout: KvLayout, used: Floats) -> None:
        """Add the bytes of KV blocks in use on each GPU to `used`."""
        per_token = layout.bytes_per_token
        windows = np.array([_NO_WINDOW if w is None else w for w in per_token], dtype=np.int64)
        each = np.array(list(per_token.values()))
        shape = windows, each, layout.state_bytes, layout.block_tokens
        _add_kv_bytes(self._table, self._count, self.steps, *shape, used)

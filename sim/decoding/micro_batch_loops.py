"""Micro-batch loops: what is compiled of a step boundary, over the requests of a micro-batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.decoding.request_table import (
    ADMITTED,
    AGE,
    ENTERED,
    FINISHED,
    FIRST_TOKEN,
    HOME,
    KEPT,
    LAST_TOKEN,
    MICRO_BATCH,
    OUTPUT,
    PROMPT,
    TURNS,
    WHOLE,
)
from sim.deployments.kvcache import KvLayout
from sim.engines.jit import compiled
from sim.inputs.admission import Balancing

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Rows of a micro-batch, one column a request, in the order in which they were admitted.
REQUEST, GPU, CTX_AT_START, LAST_STEP, HELD_BYTES = range(5)

TOO_LARGE = -1

_NO_WINDOW = np.iinfo(np.int64).max

# Windows, bytes a token by window, bytes of states, tokens a block, tokens a step writes.
_LAYOUT = "Tuple((int64[::1], float64[::1], float64, int64, int64))"
Sizes = tuple[Ints, Floats, float, int, int]


def sizes_of(layout: KvLayout) -> Sizes:
    """Return a layout of KV as the compiled loops read it."""
    bytes_per_token, state_bytes = layout.counted()
    windows = [_NO_WINDOW if window is None else window for window in bytes_per_token]
    each = np.array(list(bytes_per_token.values()), dtype=np.float64)
    tokens = layout.block_tokens, layout.step_tokens
    return np.array(windows, dtype=np.int64), each, state_bytes, *tokens


# What bounds an admission: requests of the micro-batch on a GPU, and of all micro-batches; KV of a
# GPU up to which requests are let in, and all of its KV, bytes; whether a request claims KV as it
# grows; the balancing's code, and the key of its draws.
_LIMITS = "Tuple((int64, int64, float64, float64, boolean, int64, uint64))"
Limits = tuple[int, int, float, float, bool, int, np.uint64]

KV_AND_REQUESTS, LEAST_KV, LEAST_REQUESTS, ROUND_ROBIN, POWER_OF_TWO = range(5)
BALANCINGS: dict[Balancing, int] = {
    "kv_and_requests": KV_AND_REQUESTS,
    "least_kv": LEAST_KV,
    "least_requests": LEAST_REQUESTS,
    "round_robin": ROUND_ROBIN,
    "power_of_two": POWER_OF_TWO,
}


@compiled(f"float64[::1](int64[::1], int64, {_LAYOUT})")
def _kv_bytes(tokens: Ints, more: int, layout: Sizes) -> Floats:
    """Return the bytes of requests of `tokens` + `more` in whole blocks, as KvLayout has it."""
    windows, bytes_per_token, state_bytes, block_tokens, _step_tokens = layout
    block, one = np.uint64(block_tokens), np.uint64(1)
    is_power = block & (block - one) == 0  # of two, as in most engines: no division at all
    total = np.empty(len(tokens))
    total[:] = state_bytes
    for w in range(len(windows)):
        for i in range(len(tokens)):
            # Unsigned: Numba makes a signed division a long one.
            whole = np.uint64(min(tokens[i] + more, windows[w]) + block_tokens - 1)
            beyond = whole & (block - one) if is_power else whole % block
            total[i] += np.int64(whole - beyond) * bytes_per_token[w]
    return total


@compiled("int64(int64[:, ::1], int64, int64, int64, int64, int64[::1], int64[::1], "
          "int64[::1], int64[::1], int64[:, ::1], int64[::1])")  # fmt: skip
def emit(
    batch: Ints,
    count: int,
    fresh: int,
    step: int,
    now_ns: int,
    held: Ints,
    ctx: Ints,
    running: Ints,
    used_bytes: Ints,
    table: Ints,
    gone: Ints,
) -> int:
    """Let requests emit a token; those that emit for the first time are among the last `fresh`.

    Requests that rest in this step come in, as it were, when it ends (`sim.decoding.resting`).

    Takes out the requests whose last step has ended, notes them in `gone`; returns how many.
    """
    for gpu in range(len(held)):
        ctx[gpu] += held[gpu]
    for i in range(count - fresh, count):
        request = batch[REQUEST, i]
        if table[FIRST_TOKEN, request] < 0 and table[ENTERED, request] < step:
            table[FIRST_TOKEN, request] = now_ns
    kept = left = 0
    for i in range(count):
        if batch[LAST_STEP, i] == step:
            request, gpu = batch[REQUEST, i], batch[GPU, i]
            held[gpu] -= 1
            running[gpu] -= 1
            ctx[gpu] -= batch[CTX_AT_START, i] + step
            used_bytes[gpu] -= batch[HELD_BYTES, i]
            table[LAST_TOKEN, request] = now_ns
            table[FINISHED, request] = 1
            gone[left] = request
            left += 1
        else:
            if left:
                for row in range(5):
                    batch[row, kept] = batch[row, i]
            kept += 1
    return left


@compiled(f"void(int64[:, ::1], int64, int64, {_LAYOUT}, int64[::1])")
def grow(batch: Ints, count: int, step: int, layout: Sizes, used_bytes: Ints) -> None:
    """Let every request claim KV for the tokens that its next step writes."""
    claims = _kv_bytes(batch[CTX_AT_START, :count], step + layout[4], layout)
    for i in range(count):
        claimed = np.int64(claims[i])
        used_bytes[batch[GPU, i]] += claimed - batch[HELD_BYTES, i]
        batch[HELD_BYTES, i] = claimed


@compiled("int64(int64[:, ::1], int64, int64, int64, float64, int64[::1], int64[::1], "
          "int64[::1], int64[::1], int64[:, ::1], int64[::1])")  # fmt: skip
def give_way(
    batch: Ints,
    count: int,
    step: int,
    now_ns: int,
    capacity_bytes: float,
    held: Ints,
    ctx: Ints,
    running: Ints,
    used_bytes: Ints,
    table: Ints,
    gone: Ints,
) -> int:
    """Take out the youngest requests of GPUs without room for all, note them; return how many."""
    youngest = np.empty(len(held), dtype=np.int64)
    left = 0
    while True:
        youngest[:] = -1
        found = False
        for i in range(count - left):
            gpu = batch[GPU, i]
            if used_bytes[gpu] > capacity_bytes and batch[REQUEST, i] > youngest[gpu]:
                youngest[gpu] = batch[REQUEST, i]
                found = True
        if not found:
            return left
        kept = 0
        for i in range(count - left):
            request, gpu = batch[REQUEST, i], batch[GPU, i]
            if youngest[gpu] == request:
                held[gpu] -= 1
                running[gpu] -= 1
                ctx[gpu] -= batch[CTX_AT_START, i] + step
                used_bytes[gpu] -= batch[HELD_BYTES, i]
                table[KEPT, request] += step - table[ENTERED, request]
                table[TURNS, request] += step - table[ENTERED, request]
                table[ENTERED, request] = -1
                table[LAST_TOKEN, request] = now_ns
                gone[left + i - kept] = request
            else:
                for row in range(5):
                    batch[row, kept] = batch[row, i]
                kept += 1
        left = count - kept


@compiled("uint64(uint64, uint64)")
def drawn(key: np.uint64, counter: np.uint64) -> np.uint64:
    """Return 64 random bits that depend on nothing but key and counter (SplitMix64)."""
    z = key + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled("Tuple((int64, int64))(uint64, int64, int64)")
def _drawn_pair(key: np.uint64, request: int, count: int) -> tuple[np.int64, np.int64]:
    """Return two different numbers below `count`, drawn for a request; twice 0 if it is 1."""
    counter = np.uint64(2 * request)
    one = np.int64(drawn(key, counter) % np.uint64(count))
    if count == 1:
        return one, one
    away = drawn(key, counter + np.uint64(1)) % np.uint64(count - 1)
    return one, (one + 1 + np.int64(away)) % count


@compiled("boolean(int64, int64, float64, float64)")
def _has_room(used_bytes: int, need: int, limit_bytes: float, capacity_bytes: float) -> bool:
    """Return whether a GPU with `used_bytes` of KV lets a request in that claims `need` more.

    An empty GPU goes beyond the limit, up to its capacity: else a long request would never enter.
    """
    return used_bytes + need <= limit_bytes or (used_bytes == 0 and need <= capacity_bytes)


@compiled("int64(int64, uint64, int64, int64, boolean[::1], int64[::1], int64[::1], int64)")
def _chosen_gpu(
    balancing: int,
    key: np.uint64,
    request: int,
    rooms: int,
    open_to: NDArray[np.bool_],
    held: Ints,
    ctx: Ints,
    turn: int,
) -> int:
    """Return which of the `rooms` GPUs that are open to a request takes it.

    `held` and `ctx` are requests and context tokens of the micro-batch on each GPU, `turn` is the
    GPU after the last one chosen. Of equals the first is taken.
    """
    gpus = len(held)
    one = other = np.int64(0)
    if balancing == POWER_OF_TWO:
        one, other = _drawn_pair(key, request, rooms)
    load = held if balancing == LEAST_REQUESTS else ctx
    best, seen = -1, -1
    for step in range(gpus):
        gpu = (turn + step) % gpus if balancing == ROUND_ROBIN else step
        if not open_to[gpu]:
            continue
        seen += 1
        if balancing == ROUND_ROBIN:
            return gpu
        if balancing == POWER_OF_TWO and seen not in (one, other):
            continue
        if best < 0 or load[gpu] < load[best]:
            best = gpu
    return best


@compiled("int64(int64[:, ::1], int64, int64, int64, int64[::1], int64, "
          f"{_LIMITS}, {_LAYOUT}, int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], "
          "int64[:, ::1])")  # fmt: skip
def enter(
    batch: Ints,
    count: int,
    step: int,
    micro_batch: int,
    requests: Ints,
    now_ns: int,
    limits: Limits,
    layout: Sizes,
    turn: Ints,
    held: Ints,
    ctx: Ints,
    running: Ints,
    used_bytes: Ints,
    table: Ints,
) -> int:
    """Let requests in, in order, as far as there is room; return how many entered.

    `running` are the requests on each GPU, over all micro-batches. Returns TOO_LARGE if one that
    comes to the head would not fit on an empty GPU.
    """
    most_per_gpu, most_running, limit_bytes, capacity_bytes, grows, balancing, key = limits
    even = balancing == KV_AND_REQUESTS
    open_to = np.empty(len(held), dtype=np.bool_)
    for place in range(len(requests)):
        request = requests[place]
        need = table[WHOLE, request]
        if need > capacity_bytes:
            return TOO_LARGE
        age = table[AGE, request] + table[KEPT, request]
        context = table[PROMPT, request] + age
        if grows:
            need = np.int64(_kv_bytes(np.array([context]), layout[4], layout)[0])
        rooms = 0
        for gpu in range(len(held)):
            open_to[gpu] = (
                running[gpu] < most_running
                and (not even or held[gpu] < most_per_gpu)
                and _has_room(used_bytes[gpu], need, limit_bytes, capacity_bytes)
            )
            rooms += open_to[gpu]
        if rooms == 0:
            return place
        home = _chosen_gpu(balancing, key, request, rooms, open_to, held, ctx, turn[0])
        turn[0] = (home + 1) % len(held)
        held[home] += 1
        ctx[home] += context
        running[home] += 1
        used_bytes[home] += need
        at = count + place
        batch[REQUEST, at], batch[GPU, at] = request, home
        batch[CTX_AT_START, at] = context - step
        batch[LAST_STEP, at] = step + table[OUTPUT, request] - age
        batch[HELD_BYTES, at] = need
        if table[ADMITTED, request] < 0:
            table[ADMITTED, request] = now_ns
        table[MICRO_BATCH, request], table[HOME, request] = micro_batch, home
        table[ENTERED, request], table[FINISHED, request] = step, 0
    return len(requests)


@compiled(f"void(int64[:, ::1], int64, int64, {_LAYOUT}, float64[::1])")
def add_kv_bytes(batch: Ints, count: int, step: int, layout: Sizes, used: Floats) -> None:
    """Add the bytes of the KV blocks of every request to those of its GPU."""
    sizes = _kv_bytes(batch[CTX_AT_START, :count], step, layout)
    for i in range(count):
        used[batch[GPU, i]] += sizes[i]


@compiled("UniTuple(int64, 2)(float64[::1])")
def mean_and_most(used: Floats) -> tuple[int, int]:
    """Return the mean and the most of bytes, rounded down; those of whole blocks sum exactly."""
    total = most = 0.0
    for each in used:
        total += each
        most = max(most, each)
    return int(total / len(used)), int(most)


@compiled("void(int64[:, ::1], int64, int64, int64, int64[::1])")
def add_seen(batch: Ints, count: int, step: int, window: int, seen: Ints) -> None:
    """Add the context tokens of every request inside `window` to those of its GPU."""
    for i in range(count):
        seen[batch[GPU, i]] += min(batch[CTX_AT_START, i] + step, window)

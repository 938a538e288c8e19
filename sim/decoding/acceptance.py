"""Acceptance: how many drafts of a request its next step accepts, drawn by request and step.

A draw depends on the request and on how many steps it has had, never on where it runs or with whom:
deployments that are compared see the same tokens accepted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.decoding.micro_batch_loops import CTX_AT_START, GPU, LAST_STEP, REQUEST, drawn
from sim.decoding.request_table import ENTERED, KEPT, TURNS
from sim.engines.jit import compiled
from sim.foundation.streams import stream
from sim.inputs.speculation import RecordedAcceptance, Speculation, read_accepted

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Shares of steps that accept at least 1, 2, … drafts; recorded steps, if the law is a recording;
# the key of the draws.
_LAW = "Tuple((float64[::1], int64[::1], uint64))"
Law = tuple[Floats, Ints, np.uint64]


def law_of(speculation: Speculation, seed: int) -> Law:
    """Return a law of acceptance as the compiled loops read it."""
    shares = np.array(speculation.acceptance.shares(speculation.drafts))
    recorded = np.empty(0, dtype=np.int64)
    if isinstance(speculation.acceptance, RecordedAcceptance):
        recorded = read_accepted(speculation.acceptance.path, speculation.drafts).copy()
    return shares, recorded, np.uint64(stream(seed, "acceptance").integers(1 << 63))


@compiled(f"int64({_LAW}, int64, int64)")
def _accepted(law: Law, request: int, turn: int) -> np.int64:
    """Return how many drafts a request's step number `turn` accepts, its output aside."""
    shares, recorded, key = law
    own = drawn(key, np.uint64(request))
    if len(recorded):
        first = np.int64(own % np.uint64(len(recorded)))
        return np.int64(recorded[(first + turn) % len(recorded)])
    chance = np.float64(drawn(own, np.uint64(turn)) >> np.uint64(11)) * 2.0**-53
    count = np.int64(0)
    for share in shares:
        count += chance < share
    return count


@compiled(f"UniTuple(int64, 2)(int64[:, ::1], int64, int64, boolean[::1], int64[::1], "
          f"int64[:, ::1], {_LAW})")  # fmt: skip
def accept(
    batch: Ints,
    count: int,
    step: int,
    resting: NDArray[np.bool_],
    ctx: Ints,
    table: Ints,
    law: Law,
) -> tuple[int, int]:
    """Add the accepted drafts that come with the tokens of `step`, up to the end of each output.

    Returns how many there are, of all requests and of those whose first step it is since they came
    in. Requests of `resting` GPUs have no step.
    """
    every = first = 0
    for i in range(count):
        rest = batch[LAST_STEP, i] - step
        if rest <= 0 or resting[batch[GPU, i]]:
            continue
        request = batch[REQUEST, i]
        turn = step - 1 - table[ENTERED, request] + table[TURNS, request]
        more = min(_accepted(law, request, turn), rest)
        # As if as many steps were over already.
        batch[CTX_AT_START, i] += more
        batch[LAST_STEP, i] -= more
        table[KEPT, request] += more
        ctx[batch[GPU, i]] += more
        every += more
        if table[ENTERED, request] == step - 1:
            first += more
    return every, first


@compiled(f"void(int64[::1], int64[::1], int64[::1], int64[::1], {_LAW}, int64[::1])")
def emitted(requests: Ints, rest: Ints, first: Ints, last: Ints, law: Law, tokens: Ints) -> None:
    """Fill in the tokens of each request in its steps from number `first` up to before `last`.

    `rest` is what it has to emit from its step 0 on.
    """
    for i in range(len(requests)):
        total = before = np.int64(0)
        for turn in range(last[i]):
            if turn == first[i]:
                before = total
            total = min(total + 1 + _accepted(law, requests[i], turn), rest[i])
        tokens[i] = total - (before if first[i] < last[i] else total)

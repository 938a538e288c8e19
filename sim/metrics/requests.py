"""Requests: what each request saw: its TPOT and its wait.

The TPOT of a request is the time from its first to its last token over the tokens less one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.decoding.run import Run
from sim.foundation.units import NS_PER_MS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Chosen = NDArray[np.bool_]

_NEEDED = ("request", "tokens_in_run", "first_token_ns")


def tpot_ms(run: Run, cut: int) -> Floats:
    """Return the TPOT of every row of `run.requests` over its tokens after the warm-up, ms.

    A closed loop is watched for a while in which long requests neither begin nor end: their TPOT
    is that of the tokens seen. NaN for requests with fewer than two tokens after the cut. With
    speculation, all tokens of its first step are a request's first one: a gap has to end. One that
    gave way has the TPOT of all of its tokens, the pauses between them included.
    """
    result = np.full(len(run.requests["request"]), np.nan)
    paused = np.zeros(len(result), dtype=np.bool_)
    if run.preemptions is not None:
        paused = np.isin(run.requests["request"], run.preemptions["request"])
        lived = (run.requests["last_token_ns"] - run.requests["first_token_ns"])[paused]
        gaps = run.requests["tokens_in_run"][paused] - 1
        result[paused] = lived / np.where(gaps > 0, gaps, np.nan) / NS_PER_MS
    for micro_batch in range(run.program.micro_batches):
        ends = run.steps["end_ns"][run.steps["micro_batch"] == micro_batch]
        if len(ends) <= cut:
            continue
        chosen = (run.requests["micro_batch"] == micro_batch) & ~paused
        first = np.maximum(run.requests["first_token_ns"][chosen], ends[max(cut - 1, 0)])
        last = run.requests["last_token_ns"][chosen]
        steps = np.searchsorted(ends, first) + 1, np.searchsorted(ends, last) + 1
        tokens = tokens_between(run, chosen, ends, *steps)
        gaps = np.where(tokens > 0, tokens, np.nan)
        result[chosen] = (last - first) / gaps / NS_PER_MS
    return result


def queue_ms(run: Run) -> Floats:
    """Return the wait of every row of `run.requests` from arrival to admission, ms.

    NaN for the requests that a closed loop starts with: they are found in flight.
    """
    wait = (run.requests["admitted_ns"] - run.requests["arrival_ns"]) / NS_PER_MS
    return np.where(run.requests["arrival_ns"] > 0, wait, np.nan)


def without_gap(run: Run) -> Chosen:
    """Return which requests have no gap between tokens, so that no TPOT can be asked of them."""
    requests = run.requests
    alone: Chosen = requests["output_tokens"] == 1
    if run.scenario.speculation is not None:
        at_once = requests["first_token_ns"] == requests["last_token_ns"]
        alone = alone | ((requests["finished"] == 1) & at_once)
    return alone


def tokens_between(run: Run, chosen: Chosen, ends: Ints, first: Ints, last: Ints) -> Ints:
    """Return the tokens of requests of a micro-batch in its steps `first` up to before `last`.

    `ends` are the ends of all of its steps. With speculation the draws of acceptance are repeated:
    no run keeps what every request emitted in every step.
    """
    if run.scenario.speculation is None:
        return last - first
    # Imported here: it imports Numba.
    from sim.decoding.acceptance import emitted, law_of

    law = law_of(run.scenario.speculation, run.scenario.simulation.seed)
    requests = {name: run.requests[name][chosen] for name in _NEEDED}
    begun = np.searchsorted(ends, requests["first_token_ns"])
    turns = [np.maximum(of - begun, 0) for of in (first, last)]
    tokens = np.empty(len(begun), dtype=np.int64)
    emitted(requests["request"], requests["tokens_in_run"], turns[0], turns[1], law, tokens)
    return tokens

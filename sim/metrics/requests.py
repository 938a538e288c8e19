"""Requests: the TPOT and the wait of each request.

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

    In a closed loop a long request may neither begin nor end during the run: its TPOT is that of
    the tokens seen. NaN for requests with fewer than two tokens after the cut. With speculation,
    all tokens of a request's first step count as its first one. A preempted request has the TPOT of
    all its tokens, pauses included, and so has every request where GPUs sit steps out.
    """
    result = np.full(len(run.requests["request"]), np.nan)
    paused = np.full(len(result), run.scenario.admission.idle_step_share is not None)
    if run.preemptions is not None:
        paused |= np.isin(run.requests["request"], run.preemptions["request"])
    if paused.any():
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

    NaN for the requests that a closed loop starts with: they never waited.
    """
    wait = (run.requests["admitted_ns"] - run.requests["arrival_ns"]) / NS_PER_MS
    return np.where(run.requests["arrival_ns"] > 0, wait, np.nan)


def without_gap(run: Run) -> Chosen:
    """Return which requests have no gap between tokens, and so no TPOT."""
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

"""SLO: which requests met their targets, how much work that is, and whether the SLO is met.

A request meets its targets on its own: its TPOT is within `slo.tpot_ms` and, where one is given,
its wait within `slo.queue_ms`. Whether a scenario meets its SLO is another question (`verdict`):
of the mean or a percentile, and of the share of requests that met their targets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.decoding.run import Run
from sim.foundation.units import NS_PER_S
from sim.inputs.scenario import Slo
from sim.metrics.requests import Chosen, queue_ms, tokens_between, tpot_ms, without_gap

# Figures of requests in time. A deployment that falls further and further behind has none: its
# values would only depend on the length of the run.
IN_TIME = ("slo_attainment", "goodput_requests_per_s", "goodput_tgs")

UNSTABLE = "more requests arrive than can be served"


class Goodput(NamedTuple):
    """The share and the rate of requests in time."""

    attainment: float | None
    """Share of requests that met all targets; None if none was judged."""
    requests_per_s: float
    """Requests that met all targets, per second."""
    tokens_per_s: float
    """Output tokens of these requests, per second."""


def goodput(run: Run, cut: int, measured: Chosen) -> Goodput:
    """Return the goodput over the rows `measured` of `run.steps`.

    `cut` is how many leading steps of each micro-batch are warm-up. Attainment is that of the
    requests seen in these steps; in an open loop, of all that arrived after the warm-up.

    A request counts for the share of its output that it emitted in these steps, so that a short run
    counts a part of a long request. A request whose second token is still to come is not judged;
    its tokens count as the judged ones do on average. A target that does not apply to a request is
    met: TPOT if the output is one token, the wait if a closed loop starts with the request.
    """
    slo, steps, requests = run.scenario.slo, run.steps, run.requests
    tpot, output = tpot_ms(run, cut if run.is_closed() else 0), requests["output_tokens"]
    met = ~(tpot > slo.tpot_ms)
    if slo.queue_ms is not None:
        met &= ~(queue_ms(run) > slo.queue_ms)
    judged = ~np.isnan(tpot) | without_gap(run)
    tokens_per_s = requests_per_s = 0.0
    for micro_batch in range(run.program.micro_batches):
        mine = requests["micro_batch"] == micro_batch
        counted = measured & (steps["micro_batch"] == micro_batch)
        if not counted.any():
            judged[mine] = False
            continue
        every, ends = (steps["end_ns"][of] for of in (steps["micro_batch"] == micro_batch, counted))
        span_s = (ends[-1] - steps["start_ns"][counted][0]) / NS_PER_S
        first = np.searchsorted(ends, requests["first_token_ns"][mine])
        last = np.searchsorted(ends, requests["last_token_ns"][mine], side="right")
        before = np.searchsorted(every, ends[0])
        tokens = tokens_between(run, mine, every, before + first, before + last)
        # A preempted request was not in all of these steps.
        tokens = np.minimum(tokens, requests["tokens_in_run"][mine])
        judged[mine] &= tokens > 0
        good = met[mine][judged[mine]]
        tokens_per_s += _good(tokens, judged[mine], good) / span_s
        requests_per_s += _good(tokens / output[mine], judged[mine], good) / span_s
    if not run.is_closed():
        judged = late_arrivals(run, cut) & (~np.isnan(tpot) | without_gap(run))
    attainment = float(met[judged].mean()) if judged.any() else None
    return Goodput(attainment, requests_per_s, tokens_per_s)


def late_arrivals(run: Run, cut: int) -> Chosen:
    """Return which requests of an open loop arrived after the warm-up; at least the later half.

    Chosen by arrival, not by admission: an overloaded deployment fails just the requests that wait
    beyond the last arrival.
    """
    arrival_ns, steps = run.requests["arrival_ns"], run.steps
    warm_ns = steps["end_ns"][steps["step"] < cut].max(initial=0)
    late: Chosen = arrival_ns >= min(warm_ns, arrival_ns.max() // 2)
    return late


def _good(work: NDArray[Any], judged: Chosen, good: Chosen) -> float:
    """Return all work times the good share of the judged work."""
    known = work[judged].sum()
    return float(work.sum() * work[judged][good].sum() / known) if known else 0.0


def verdict(
    slo: Slo,
    tpot: float | None,
    queue: float | None,
    attainment: float | None,
    stable: bool | None = None,
) -> dict[str, Any]:
    """Return the latency target, the figures it is held against, and whether and why not it is met.

    `tpot` and `queue` are the figures that the SLO asks for, mean or percentile, ms. A queue that
    does not exist is no wait; an unknown TPOT meets nothing, but for answers of one token. Nothing
    is met by a deployment that is not `stable` (None: one of a closed loop).
    """
    of = named(slo.tpot_percentile)
    missed = [UNSTABLE] * (stable is False)
    if tpot is not None:
        missed += [f"{of}TPOT {tpot:.1f} ms exceeds {slo.tpot_ms:g} ms"] * (tpot > slo.tpot_ms)
    elif attainment is None and not missed:
        # Where requests were judged without one, none had a gap between tokens: nothing to miss.
        missed.append(f"no {of}TPOT")
    if slo.queue_ms is not None and queue is not None and queue > slo.queue_ms:
        of = named(slo.queue_percentile)
        missed.append(f"{of}queueing {queue:.1f} ms exceeds {slo.queue_ms:g} ms")
    share = attainment or 0.0
    if slo.attainment is not None and share < slo.attainment and stable is not False:
        missed.append(f"attainment {share:.4g} is below {slo.attainment:g}")
    return {
        "slo_tpot_ms": slo.tpot_ms,
        "slo_tpot_found_ms": tpot,
        "slo_queue_found_ms": queue,
        "slo_met": not missed,
        "slo_missed": "; ".join(missed),
    }


def criterion(slo: Slo) -> str:
    asked = [f"{named(slo.tpot_percentile) or 'mean '}TPOT within {slo.tpot_ms:g} ms"]
    if slo.queue_ms is not None:
        of = named(slo.queue_percentile) or "mean "
        asked.append(f"{of}queueing within {slo.queue_ms:g} ms")
    if slo.attainment is not None:
        asked.append(f"{slo.attainment:.4g} of the requests each within their targets")
    return ", ".join(asked)


def named(percentile: float | None) -> str:
    """Return `p99 ` for 99; nothing for the mean."""
    return "" if percentile is None else f"p{percentile:g} "

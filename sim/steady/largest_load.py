"""Largest load: how many requests a deployment serves within its memory and a TPOT."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sim.deployments.deployment import Deployment
from sim.foundation.units import NS_PER_MS
from sim.steady.state import Load, SteadyState, under_load

# Where a search for a batch begins.
_TYPICAL_BATCH = 32


def fullest(deployment: Deployment, tpot_ms: float, free: Collection[str] = ()) -> SteadyState:
    """Return the steady state of the largest load that meets a TPOT and whose KV fits.

    The load is the number of requests on each attention GPU; where no load meets the TPOT, it is 1.
    `free` is that of `under_load`.
    """
    found: dict[int, SteadyState] = {}
    known: dict[int, Load] = {}
    gpus = deployment.attention_gpus

    def tpot_ns(each: int) -> float:
        found[each] = under_load(deployment, each * gpus, free, known)
        return found[each].tpot_ns

    m, most = deployment.micro_batches, max(most_fitting(deployment), 1)
    return found[max(largest_load(tpot_ns, tpot_ms * NS_PER_MS, most, m, _TYPICAL_BATCH), 1)]


def most_fitting(deployment: Deployment) -> int:
    """Return the largest load that memory and the engine allow, requests on each attention GPU."""
    expected, memory = deployment.expected, deployment.kv_memory()
    fitting = int(memory.kv_capacity_bytes() / expected.claimed_bytes())
    return min(fitting, deployment.scenario.memory.max_running_requests or fitting)


def largest_load(
    value: Callable[[int], float], limit: float, most: int, micro_batches: int, guess: int
) -> int:
    """Return the largest load from 1 to `most` whose value is at most `limit`; 0 if none.

    Whole batches come first, beginning with a batch of `guess`. Then come the loads up to the next
    batch, in which some micro-batches have one request more on each GPU.
    """
    whole = largest(lambda batch: value(batch * micro_batches), limit, most // micro_batches, guess)
    low = whole * micro_batches
    high = min(low + micro_batches, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if value(middle) <= limit else (low, middle)
    return low


def largest(value: Callable[[int], float], limit: float, most: int, guess: int) -> int:
    """Return the largest whole number from 1 to `most` whose value is at most `limit`; 0 if none.

    Values must be positive and rise. The search follows the line through the two latest values, and
    halves the range whenever the line has done no better.
    """
    low, high, trial = 0, most + 1, min(max(guess, 1), max(most, 1))
    known: list[tuple[int, float]] = []
    while high - low > 1:
        width = high - low
        found = value(trial)
        low, high = (trial, high) if found <= limit else (low, trial)
        known = [*known[-1:], (trial, found)]
        if len(known) == 1:
            # The first guess takes half of the value not to depend on the number.
            trial = int(trial * (2 * limit / found - 1))
        elif known[0][1] != found:
            (first, before), slope = known[0], (found - known[0][1]) / (trial - known[0][0])
            trial = first + int((limit - before) / slope) if slope > 0 else low + (high - low) // 2
        else:
            trial = 2 * trial if found <= limit else trial // 2
        if low and high <= most and 2 * (high - low) > width and len(known) == 2:
            trial = trial if low < trial < high else low + (high - low) // 2
        trial = min(max(trial, low + 1), high - 1)
    return low

"""Steady state: what a frozen load makes of a deployment, by the bound engine, in milliseconds.

Every micro-batch holds its share of the requests, all of mean context, spread evenly over the
attention GPUs, for ever. Servers of one pool then do the same at the same time, so one of each
stands for all; where they differ (a request more on some GPUs, the hottest experts on one FFN
instance) the slowest sets the pace. Nothing waits for requests and no context is longer than
another: a simulation is slower by what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from sim.decoding.step_times import left_out
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.deployments.layers import Ns
from sim.engines.bound import BoundEngine
from sim.engines.program import KEPT, Program, Times
from sim.foundation.errors import InfeasibleError
from sim.foundation.units import NS_PER_MS, NS_PER_S, NS_PER_US
from sim.inputs.admission import share_of
from sim.inputs.scenario import Scenario
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE, by_status
from sim.metrics.catalogue import METRICS
from sim.metrics.goodput import verdict
from sim.metrics.physical import check_step, checked

# Where a search for a batch begins.
_TYPICAL_BATCH = 32


@dataclass(frozen=True)
class Steady:
    """The steady state of a deployment under a frozen load."""

    site: Deployment
    requests: int
    """Requests in flight."""
    program: Program
    """One server of each pool."""
    times: tuple[Times, ...]
    """Durations of a step of each micro-batch."""
    step_ns: Fraction
    """Time per step."""
    usage_ns: Floats
    """Kernel time by status of its look-up."""

    @property
    def tpot_ns(self) -> float:
        """The TPOT of every request, ns."""
        return float(self.step_ns) / self.site.scenario.tokens_per_step()

    @property
    def engine_note(self) -> str:
        """What of the scenario the bound leaves out; empty if nothing."""
        return left_out(self.site.scenario)

    def figures(self) -> dict[str, Any]:
        """Return the figures of the catalogue that a steady state has; the others are None."""
        site, scenario = self.site, self.site.scenario
        tpot_ms = self.tpot_ns / NS_PER_MS
        per_s = self.requests / (self.tpot_ns / NS_PER_S)
        figures: dict[str, Any] = {
            "scenario": scenario.name,
            "deployment": scenario.deployment.kind,
            "model": scenario.model,
            **dict.fromkeys(metric.name for metric in METRICS),
            "gpus": scenario.gpu_count(),
            "requests_in_flight": float(self.requests),
            "tpot_ms_mean": tpot_ms,
            "tgs": per_s / scenario.gpu_count(),
            "tokens_per_s_per_user": 1e3 / tpot_ms,
            "t_step_ms": float(self.step_ns) / NS_PER_MS,
        }
        rent = site.usd_per_hour()
        if rent is not None:
            figures["usd_per_1m_tokens"] = rent / 3600 / per_s * 1e6
        # Those of an empty micro-batch are no times of a layer.
        values = np.array([times.values for times in self.times if times.values.any()])
        delays_ns = np.array([list(site.delays_ns().values())] * len(values))
        of_layer = site.layer_ns(self.program, values, delays_ns)
        for column, time in of_layer.items():
            figures[f"{column}_us"] = float(time.mean()) / NS_PER_US
        busy = self.program.busy_of(values).sum(axis=0) / float(self.step_ns)
        pools = self.program.pools
        figures["utilisation"] = {p.name: float(b) for p, b in zip(pools, busy, strict=True)}
        capacity = site.kv_memory().kv_capacity_bytes()
        held = site.expected.held_bytes() * self.requests / site.attention_gpus
        figures["kv_occupancy"] = held / capacity if capacity else 0.0
        total = float(self.usage_ns.sum())
        for status, spent_ns in by_status(self.usage_ns).items():
            figures[f"{status}_share"] = spent_ns / total if total else 0.0
        if scenario.speculation is not None:
            emitted = scenario.tokens_per_step()
            figures["tokens_per_step"] = emitted
            figures["drafts_of_use_share"] = (emitted - 1) / scenario.speculation.drafts
        figures["measured_steps"] = 0
        figures["replications"] = 1
        alike = float(tpot_ms <= scenario.slo.tpot_ms)
        check_step(scenario, float(self.step_ns), self.requests, site.micro_batches)
        found = verdict(scenario.slo, tpot_ms, None, alike)
        return checked(figures | {"engine": "bound"} | found)


def steady_state(scenario: Scenario) -> Steady:
    """Return the steady state of a closed loop. Raises InfeasibleError if the shape cannot run."""
    site = compile_deployment(scenario)
    in_flight = site.expected.in_flight()
    if in_flight is None:
        raise InfeasibleError("an open loop has no steady state of a fixed load")
    return steady(site, in_flight)


def steady(
    site: Deployment,
    requests: int,
    free: Collection[str] = (),
    known: dict[int, _Load] | None = None,
) -> Steady:
    """Return the steady state with `requests` in flight, shared out as admission does.

    Stages and delays in `free` take no time, as if what they need were without limits. `known`
    remembers, from call to call with the same site and `free`, what loads of a micro-batch take.
    """
    known = {} if known is None else known
    m, row = site.micro_batches, site.scenario.admission.row(site.attention_gpus)
    shares = [share_of(requests, micro_batch, m, row) for micro_batch in range(m)]
    loads = [_load(site, share, free, known) for share in shares]
    program = site.one_of_each(loads[0].rows)
    times = {share: program.times(*known[share][:2]) for share in set(shares)}
    in_turn = tuple(times[share] for share in shares)
    usage_ns = sum((load.usage_ns for load in loads), NO_USAGE)
    step_ns = _engine(program).step_ns(list(in_turn))
    return Steady(site, requests, program, in_turn, step_ns, usage_ns)


class _Load(NamedTuple):
    """What a micro-batch takes under a load."""

    slowest: dict[tuple[str, int], Ns]
    """Durations by (stage, layer kind) of the slowest server."""
    delays_ns: dict[str, int]
    rows: dict[tuple[str, int], Ns]
    """Durations of all servers."""
    usage_ns: Floats


def _load(site: Deployment, requests: int, free: Collection[str], known: dict[int, _Load]) -> _Load:
    if requests in known:
        return known[requests]
    rows, usage_ns = site.durations(site.expected.batch_of(requests))
    rows = {key: np.zeros_like(ns) if key[0] in free else ns for key, ns in rows.items()}
    delays_ns = {
        name: ns if requests and name not in free else 0 for name, ns in site.delays_ns().items()
    }
    slowest = {key: ns.max() for key, ns in rows.items()} if requests else {}
    return known.setdefault(requests, _Load(slowest, delays_ns, rows, usage_ns))


def fullest(site: Deployment, tpot_ms: float, free: Collection[str] = ()) -> Steady:
    """Return the steady state of the largest load that meets a TPOT and whose KV fits.

    The load is the number of requests on each attention GPU; the steady state is that of one where
    none meets the TPOT. `free` is that of `steady`.
    """
    found: dict[int, Steady] = {}
    known: dict[int, _Load] = {}

    def tpot_ns(each: int) -> float:
        found[each] = steady(site, each * site.attention_gpus, free, known)
        return found[each].tpot_ns

    m, most = site.micro_batches, max(most_fitting(site), 1)
    return found[max(largest_load(tpot_ns, tpot_ms * NS_PER_MS, most, m, _TYPICAL_BATCH), 1)]


def most_fitting(site: Deployment) -> int:
    """Return the largest load that memory and the engine allow, requests on each attention GPU."""
    fitting = int(site.kv_memory().kv_capacity_bytes() / site.expected.claimed_bytes())
    return min(fitting, site.scenario.memory.max_running_requests or fitting)


def largest_load(
    value: Callable[[int], float], limit: float, most: int, micro_batches: int, guess: int
) -> int:
    """Return the largest load from 1 to `most` whose value is at most `limit`; 0 if none.

    Whole batches are looked for first, beginning with a batch of `guess`; then the loads up to the
    next one, of which some micro-batches have one more a GPU.
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

    Values are positive and taken to rise. The search follows the line through the two latest ones,
    and halves the range whenever that has not done better.
    """
    low, high, trial = 0, most + 1, min(max(guess, 1), max(most, 1))
    known: list[tuple[int, float]] = []
    while high - low > 1:
        width = high - low
        found = value(trial)
        low, high = (trial, high) if found <= limit else (low, trial)
        known = [*known[-1:], (trial, found)]
        if len(known) == 1:
            # Half of a value is taken to be there without the number.
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


@lru_cache(maxsize=KEPT)
def _engine(program: Program) -> BoundEngine:
    return BoundEngine(program)

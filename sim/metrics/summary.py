"""Metrics: the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.decoding.run import Run
from sim.decoding.step_table import FILL_STEPS, at_once, requests_of, rested, step_gaps_ns
from sim.deployments.host import mean_host_us
from sim.foundation.estimates import (
    BATCHES,
    half_width,
    independent_half_width,
    percentile_interval,
    warm_up,
    weighted_percentile,
)
from sim.foundation.units import NS_PER_MS, NS_PER_S, NS_PER_US
from sim.inputs.scenario import Scenario
from sim.metrics import requests
from sim.metrics.physical import check_run, checked
from sim.metrics.slo import IN_TIME, goodput, verdict
from sim.metrics.stability import is_stable


def cut_steps(run: Run) -> int:
    """Return how many leading steps of each micro-batch are warm-up: the fill, then MSER-5.

    With arrivals from outside, the drain after the last one tells nothing of it.
    """
    numbers, gaps = step_gaps_ns({name: of[_fed(run)] for name, of in run.steps.items()})
    numbers, gaps = numbers[numbers >= FILL_STEPS], gaps[numbers >= FILL_STEPS]
    last = int(run.steps["step"].max())
    return min(int(numbers[warm_up(gaps)]), last) if len(numbers) else min(FILL_STEPS, last)


def measured_steps(run: Run, cut: int) -> NDArray[np.bool_]:
    """Return which rows of `run.steps` count: those after the warm-up.

    With arrivals from outside, those after the last arrival do not: a system that runs empty.
    """
    measured: NDArray[np.bool_] = run.steps["step"] >= cut
    fed = measured & _fed(run)
    return fed if fed.any() else measured


def _fed(run: Run) -> NDArray[np.bool_]:
    """Return which rows of `run.steps` ended while requests were still to arrive."""
    if run.is_closed():
        return np.ones(len(run.steps["step"]), dtype=np.bool_)
    fed: NDArray[np.bool_] = run.steps["end_ns"] <= run.requests["arrival_ns"].max()
    return fed


def summary(run: Run) -> dict[str, Any]:
    """Return every figure of the catalogue with the scenario's name and verdicts, ready for JSON.

    A figure that does not exist (a price on a card without one, a TPOT of one-token answers, the
    share of requests in time where ever more of them wait) is None. So are those of doubt, which is
    a scenario's and not a run's: `sim.doubt_of` adds them.
    """
    cut = cut_steps(run)
    scenario, steps = run.scenario, run.steps
    gpus = scenario.gpu_count()
    measured = measured_steps(run, cut)
    gap_ns = (steps["end_ns"] - steps["previous_end_ns"]).astype(np.float64)
    gaps, weights = gap_ns[measured], steps["continuing"][measured].astype(np.float64)
    if scenario.speculation is not None:
        together = at_once(steps)[measured].astype(np.float64)
        gaps, weights = np.append(gaps, np.zeros(len(gaps))), np.append(weights, together)
    late, late_ns = (of[measured].astype(np.float64) for of in rested(steps))
    if late.any():
        after = late_ns[late > 0] / late[late > 0]
        gaps, weights = np.append(gaps, after), np.append(weights, late[late > 0])
    if run.preemptions is not None:
        pauses = _pauses_ns(run, int(steps["end_ns"][measured].min()))
        gaps, weights = np.append(gaps, pauses), np.append(weights, np.ones(len(pauses)))
    tpot_ms = request_tpot_ms(run, cut)
    per_s = _tokens_per_s(run, measured)
    _numbers, step_gaps = step_gaps_ns({name: of[measured] for name, of in steps.items()})
    queue_ms = requests.queue_ms(run)
    queue_ms = queue_ms[~np.isnan(queue_ms)]
    in_turn = requests.tpot_ms(run, cut)
    tail = None if run.is_closed() else percentile_interval(in_turn[~np.isnan(in_turn)], 99)
    stable = is_stable(run)
    good = goodput(run, cut, measured)
    kernel_ns = sum(run.usage_ns.values())
    figures: dict[str, Any] = {
        "scenario": scenario.name,
        "deployment": scenario.deployment.kind,
        "model": scenario.model,
        "gpus": gpus,
        "requests_in_flight": _requests_in_flight(run, measured),
        "tpot_ms_mean": _mean(tpot_ms),
        "tpot_ms_p50": _percentile(tpot_ms, 50),
        "tpot_ms_requests_p90": _percentile(tpot_ms, 90),
        "tpot_ms_p99": _percentile(tpot_ms, 99),
        "tpot_ms_p99_low": tail and tail[0],
        "tpot_ms_p99_high": tail and tail[1],
        "tpot_ci95_ms": _finite(half_width(step_gaps) / NS_PER_MS),
        "tpot_ms_p10": None,
        "tpot_ms_p90": None,
        "tpot_device_ms": None,
        "itl_ms_p50": _itl_ms(gaps, weights, 50),
        "itl_ms_p99": _itl_ms(gaps, weights, 99),
        "queue_ms_mean": _mean(queue_ms),
        "queue_ms_p99": _percentile(queue_ms, 99),
        "tgs": per_s / gpus,
        "tgs_ci95": _finite(_rate_half_width(run, measured) / gpus),
        "tgs_p10": None,
        "tgs_p90": None,
        "stable": stable,
        "slo_attainment": good.attainment,
        "goodput_requests_per_s": good.requests_per_s,
        "goodput_tgs": good.tokens_per_s / gpus,
        "tokens_per_s_per_user": 1e3 / tpot_ms.mean() if len(tpot_ms) else None,
        "usd_per_1m_tokens": usd_per_1m_tokens(run.usd_per_hour, per_s),
        "t_step_ms": float((steps["end_ns"] - steps["start_ns"])[measured].mean()) / NS_PER_MS,
        "utilisation": utilisation(run, cut),
        "kv_occupancy": _kv_occupancy(run, measured),
        "measured_steps": int(steps["step"].max()) + 1 - cut,
        "replications": 1,
    }
    for column, values in run.layer_ns.items():
        busy = measured & (steps["tokens"] > 0)
        figures[f"{column}_us"] = float(values[busy].mean()) / NS_PER_US if busy.any() else 0.0
    for status, spent in run.usage_ns.items():
        figures[f"{status}_share"] = spent / kernel_ns if kernel_ns else 0.0
    figures["tpot_device_ms"] = device_tpot_ms(scenario, figures)
    if run.preemptions is not None:
        figures |= preemption_figures(run)
    if scenario.speculation is not None:
        figures |= speculation_figures(run, measured)
    figures["engine"] = run.engine
    slo = scenario.slo
    asked = _of(tpot_ms, slo.tpot_percentile), _of(queue_ms, slo.queue_percentile)
    if stable is False:
        figures |= dict.fromkeys(IN_TIME)
    check_run(run)
    return checked(figures | verdict(slo, *asked, good.attainment, stable))


def device_tpot_ms(scenario: Scenario, figures: Mapping[str, Any]) -> float | None:
    """Return the mean TPOT less the share of a step in which the host alone works, ms."""
    wall_ms = figures["tpot_ms_mean"]
    if wall_ms is None:
        return None
    share = mean_host_us(scenario) / 1e3 / figures["t_step_ms"]
    return float(wall_ms * (1 - min(share, 1.0)))


def usd_per_1m_tokens(usd_per_hour: float | None, tokens_per_s: float) -> float | None:
    """Return the rent of a million tokens; None without a price or tokens."""
    if usd_per_hour is None or tokens_per_s <= 0:
        return None
    return usd_per_hour / 3600 / tokens_per_s * 1e6


def _pauses_ns(run: Run, since_ns: int) -> NDArray[np.float64]:
    """Return the pauses of preempted requests that ended after `since_ns`."""
    assert run.preemptions is not None
    table = run.preemptions
    ended = table["token_ns"] >= since_ns
    return (table["token_ns"] - table["preempted_ns"])[ended].astype(np.float64)


def preemption_figures(run: Run) -> dict[str, Any]:
    """Return how often requests were preempted in the whole run, and how long they paused.

    A pause is the gap between two tokens around a preemption.
    """
    assert run.preemptions is not None
    preempted = np.unique(run.preemptions["request"])
    return {
        "preemptions": len(run.preemptions["request"]),
        "preempted_share": len(preempted) / len(run.requests["request"]),
        "preemption_ms_mean": _mean(_pauses_ns(run, 0) / NS_PER_MS),
    }


def speculation_figures(run: Run, measured: NDArray[np.bool_]) -> dict[str, Any]:
    """Return tokens per request and step, and the share of drafts that were accepted.

    Drafts beyond the end of an output count as rejected.
    """
    assert run.scenario.speculation is not None
    tokens = run.steps["tokens"][measured].sum()
    stepped = requests_of(run.steps)[measured].sum()
    emitted = float(tokens / stepped) if stepped else None
    drafts = run.scenario.speculation.drafts
    return {
        "tokens_per_step": emitted,
        "drafts_of_use_share": None if emitted is None else (emitted - 1) / drafts,
    }


def request_tpot_ms(run: Run, cut: int) -> NDArray[np.float64]:
    """Return the TPOT of the requests that have one, micro-batch after micro-batch, ms."""
    found = requests.tpot_ms(run, cut)[np.argsort(run.requests["micro_batch"], kind="stable")]
    return found[~np.isnan(found)]


def utilisation(run: Run, cut: int) -> dict[str, float]:
    """Return the mean busy share of the servers of each pool after the warm-up."""
    shares = server_utilisation(run, cut)
    result, first = {}, 0
    for pool in run.program.pools:
        result[pool.name] = float(shares[first : first + pool.servers].mean())
        first += pool.servers
    return result


def server_utilisation(run: Run, cut: int) -> NDArray[np.float64]:
    """Return the busy share of each server after the warm-up, in the order of the pools."""
    last = min(
        int(run.steps["step"][run.steps["micro_batch"] == j].max())
        for j in range(run.program.micro_batches)
    )
    # Whole rows only, of which each stands for one step but in runs of very many.
    rows = slice(-(-cut // run.busy_steps), (last + 1) // run.busy_steps)
    span = _span_ns(run, rows.start * run.busy_steps, rows.stop * run.busy_steps - 1)
    busy: NDArray[np.float64] = run.busy_ns[rows].sum(axis=0) / span
    return np.minimum(busy, 1.0)


def _span_ns(run: Run, cut: int, last: int) -> float:
    """Return the mean time over micro-batches from the start of step `cut` to the end of `last`."""
    steps = run.steps
    begun = steps["start_ns"][steps["step"] == cut].mean()
    ended = steps["end_ns"][steps["step"] == last].mean()
    return float(ended - begun)


def _tokens_per_s(run: Run, measured: NDArray[np.bool_]) -> float:
    """Return output tokens per second: tokens of whole steps over the time they took."""
    total = 0.0
    for micro_batch in range(run.program.micro_batches):
        mine = (run.steps["micro_batch"] == micro_batch) & measured
        if mine.any():
            ends = run.steps["end_ns"][mine]
            begun = run.steps["start_ns"][mine][0]
            total += run.steps["tokens"][mine].sum() / (ends[-1] - begun) * NS_PER_S
    return float(total)


def _rate_half_width(run: Run, measured: NDArray[np.bool_]) -> float:
    """Return the 95 % half-width of output tokens per second, by batches of whole steps."""
    numbers = np.unique(run.steps["step"][measured])
    size = len(numbers) // BATCHES
    if size < 1:
        return float("inf")
    batches = numbers[len(numbers) - size * BATCHES :].reshape(BATCHES, size)
    rates = [_tokens_per_s(run, measured & np.isin(run.steps["step"], batch)) for batch in batches]
    return independent_half_width(np.array(rates))


def _requests_in_flight(run: Run, measured: NDArray[np.bool_]) -> float:
    """Return the mean number of requests decoding, weighed by time."""
    steps, total = run.steps, 0.0
    requests = requests_of(steps) + steps.get("resting", 0)
    for micro_batch in range(run.program.micro_batches):
        mine = (steps["micro_batch"] == micro_batch) & measured
        if mine.any():
            length = (steps["end_ns"] - steps["start_ns"])[mine]
            span = steps["end_ns"][mine][-1] - steps["start_ns"][mine][0]
            total += float((requests[mine] * length).sum() / span)
    return total


def _kv_occupancy(run: Run, measured: NDArray[np.bool_]) -> float:
    seen = measured & (run.steps["micro_batch"] == 0)
    if not seen.any() or run.kv_capacity_bytes == 0:
        return 0.0
    return float(run.steps["kv_bytes_mean"][seen].mean() / run.kv_capacity_bytes)


def _itl_ms(
    gaps: NDArray[np.float64], weights: NDArray[np.float64], percent: float
) -> float | None:
    if not weights.any():
        return None
    return weighted_percentile(gaps, weights, percent) / NS_PER_MS


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _percentile(values: NDArray[np.float64], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None


def _of(values: NDArray[np.float64], percent: float | None) -> float | None:
    return _mean(values) if percent is None else _percentile(values, percent)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None

"""Steady summary: the figures of a steady state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.foundation.units import NS_PER_MS, NS_PER_S, NS_PER_US
from sim.kernels.timed import by_status
from sim.metrics.catalogue import METRICS
from sim.metrics.physical import check_step, checked
from sim.metrics.slo import verdict
from sim.metrics.summary import device_tpot_ms, usd_per_1m_tokens
from sim.steady.state import SteadyState


@dataclass(frozen=True)
class SteadyFigures:
    """What a user and an operator see of a steady state."""

    tpot_ms: float
    tgs: float
    """Output tokens per second and GPU, all GPUs counted."""
    usd_per_1m_tokens: float | None
    """None if a card has no price."""


def steady_figures(state: SteadyState) -> SteadyFigures:
    per_s = state.requests / (state.tpot_ns / NS_PER_S)
    usd = usd_per_1m_tokens(state.deployment.usd_per_hour(), per_s)
    gpus = state.deployment.scenario.gpu_count()
    return SteadyFigures(state.tpot_ns / NS_PER_MS, per_s / gpus, usd)


def steady_summary(state: SteadyState) -> dict[str, Any]:
    """Return the figures of the catalogue that a steady state has; the others are None.

    Raises ImpossibleFigureError if one beats the hardware.
    """
    deployment, scenario = state.deployment, state.deployment.scenario
    seen = steady_figures(state)
    figures: dict[str, Any] = {
        "scenario": scenario.name,
        "deployment": scenario.deployment.kind,
        "model": scenario.model,
        **dict.fromkeys(metric.name for metric in METRICS),
        "gpus": scenario.gpu_count(),
        "requests_in_flight": float(state.requests),
        "tpot_ms_mean": seen.tpot_ms,
        "tgs": seen.tgs,
        "tokens_per_s_per_user": 1e3 / seen.tpot_ms,
        "usd_per_1m_tokens": seen.usd_per_1m_tokens,
        "t_step_ms": float(state.step_ns) / NS_PER_MS,
    }
    figures["tpot_device_ms"] = device_tpot_ms(scenario, figures)
    # Those of an empty micro-batch are no times of a layer.
    values = np.array([times.values for times in state.times if times.values.any()])
    delays_ns = np.array([list(deployment.delays_ns.values())] * len(values))
    of_layer = deployment.layer_ns(state.program, state.program.slowest_of(values), delays_ns)
    for column, time in of_layer.items():
        figures[f"{column}_us"] = float(time.mean()) / NS_PER_US
    busy = state.program.busy_of(values).sum(axis=0) / float(state.step_ns)
    pools = state.program.pools
    figures["utilisation"] = {p.name: float(b) for p, b in zip(pools, busy, strict=True)}
    capacity = deployment.kv_memory().kv_capacity_bytes()
    held = deployment.expected.held_bytes * state.requests / deployment.attention_gpus
    figures["kv_occupancy"] = held / capacity if capacity else 0.0
    total = float(state.usage_ns.sum())
    for status, spent_ns in by_status(state.usage_ns).items():
        figures[f"{status}_share"] = spent_ns / total if total else 0.0
    if scenario.speculation is not None:
        emitted = scenario.tokens_per_step()
        figures["tokens_per_step"] = emitted
        figures["drafts_of_use_share"] = (emitted - 1) / scenario.speculation.drafts
    figures["measured_steps"] = 0
    figures["replications"] = 1
    figures["engine"] = "bound"
    alike = float(seen.tpot_ms <= scenario.slo.tpot_ms)
    check_step(scenario, float(state.step_ns), state.requests, state.micro_batches)
    return checked(figures | verdict(scenario.slo, seen.tpot_ms, None, alike))

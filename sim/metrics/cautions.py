"""Cautions: what to know before trusting the figures of a scenario, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from sim.deployments.afd.ffn import spread_over
from sim.deployments.weights import moe_ffns
from sim.inputs import cards
from sim.inputs.deployment import Afd, FfnSide
from sim.inputs.routing import PowerLaw
from sim.inputs.scenario import Part, Scenario
from sim.kernels import cores, kernel_table, ops, served

# What every figure leaves out; said once wherever figures size something.
SCOPE = "decoding only; prefill is not included"

# A tail that is so near to the mean, relatively, has nothing random in it.
_NO_TAIL = 1e-3

# Nine measured shapes of masked experts, each predicted from the others (docs/calibration.md).
_BORROWED = "6 % off in the median, 12 % on average and 30 % at the 90th percentile"


def cautions(
    scenario: Scenario, figures: Mapping[str, Any], asks_percentile: bool = False
) -> list[str]:
    """Return the cautions about a scenario and its figures, always in the same order.

    `asks_percentile` says that a search asked for a percentile of TPOT, if the scenario does not.
    """
    asks_percentile |= scenario.slo.tpot_percentile is not None
    return [
        *_overload(figures),
        *_tail(scenario, figures, asks_percentile),
        *_guessed(figures),
        *_software(scenario),
        *_routing(scenario),
        *_formats(scenario),
        *_experts(scenario),
        *_graphs(scenario, figures),
        *_context(scenario),
    ]


def _overload(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures["stable"] is False:
        yield (
            "unstable: more requests arrive than the deployment can serve, so the queue grows "
            "during the whole run; lower the rate or add GPUs"
        )


def _tail(scenario: Scenario, figures: Mapping[str, Any], asks_percentile: bool) -> Iterator[str]:
    mean, p99 = figures["tpot_ms_mean"], figures["tpot_ms_p99"]
    if figures["engine"] == "bound":
        alike = asks_percentile
    else:
        alike = p99 is not None and p99 <= mean * (1 + _NO_TAIL) and _is_calm(scenario)
    if alike:
        yield (
            "p99 TPOT equals the mean: nothing in the scenario is random that changes a step; "
            "noise or arrivals of an open loop give a tail"
        )


def _is_calm(scenario: Scenario) -> bool:
    """Return whether arrivals, noise, routing and drafts leave all steps alike."""
    return (
        scenario.workload.arrivals.kind == "closed"
        and scenario.noise is None
        and scenario.speculation is None
        and scenario.routing.per_step is None
    )


def _guessed(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures["extrapolated_share"] + figures["uncalibrated_share"] > 0.5:
        yield (
            "more than half of the kernel time is extrapolated or uncalibrated: the times are "
            "rough until these kernels are measured"
        )


def _software(scenario: Scenario) -> Iterator[str]:
    measured_on = scenario.software.measured_on
    if measured_on is None or measured_on == scenario.model:
        return
    model = cards.model(scenario.model)
    if cards.model(measured_on).name != model.name:
        yield f"the software figures were measured on {measured_on}, the model is {model.name}"


def _routing(scenario: Scenario) -> Iterator[str]:
    """Tell the imbalance that is assumed, and how far served traffic may be from it."""
    routing, served = scenario.routing, scenario.software.routing_imbalance
    if not isinstance(routing, PowerLaw):
        return
    placed = ", placed by EPLB" if routing.eplb else ""
    known = ""
    if served is not None and served.low is not None and served.high is not None:
        known = f"; of served traffic {served.low:g} to {served.high:g}"
    yield f"popularities of experts follow a power law of {routing.alpha:g}{placed}{known}"


def _formats(scenario: Scenario) -> Iterator[str]:
    """Name the format that is multiplied where weights or the cache have another."""
    precision = scenario.precision
    widened = {part: ops.WIDENED.get(precision.of(part)) for part in get_args(Part)}
    for part, multiplied in (widened | {"kv": cores.WIDENED.get(precision.kv)}).items():
        if multiplied is not None:
            given = precision.kv if part == "kv" else precision.of(part)
            yield (
                f"{part} in {given} is multiplied in {multiplied}; where no kernel was measured in "
                f"{given}, its time is uncalibrated"
            )


def _experts(scenario: Scenario) -> Iterator[str]:
    """Tell where masked experts were not measured at the shape of the model, and how far off."""
    deployment = scenario.deployment
    side = deployment.ffn if isinstance(deployment, Afd) else deployment
    model, dtype = cards.model(scenario.model), scenario.precision.of("experts")
    card = cards.accelerator(side.accelerator)
    table = kernel_table.load(card, cards.calibration(side.accelerator))
    measured = table.has_format("moe", served.MASKED, served.measured_as(dtype))
    if side.moe_kernel != served.MASKED or not measured:
        return
    for ffn in moe_ffns(model):
        slices = spread_over(side, ffn).slices if isinstance(side, FfnSide) else 1
        columns = ffn.expert_intermediate / slices
        op = ops.moe(dtype, model.hidden, columns, 1, 1, card.gemm_tile_rows)
        curve, own = table.serving(op)
        if curve is not None and not own:
            yield (
                f"no one measured masked experts of {model.hidden} x {columns:g} on {card.name}: "
                f"they are timed with the efficiency of {curve.key}; such times were {_BORROWED}"
            )


def _graphs(scenario: Scenario, figures: Mapping[str, Any]) -> Iterator[str]:
    graphs, deployment = scenario.software.graphs, scenario.deployment
    if graphs is None:
        return
    each = figures["requests_in_flight"] / deployment.attention_gpus().ranks
    if each / deployment.micro_batches > graphs.largest_batch:
        yield (
            f"more requests on a GPU than the largest CUDA graph takes, {graphs.largest_batch:g}: "
            f"every step takes {graphs.beyond:g} times as long; software.graphs.largest_batch"
        )


def _context(scenario: Scenario) -> Iterator[str]:
    model, longest = cards.model(scenario.model), scenario.workload.law.longest_context()
    if model.max_context_tokens is not None and longest > model.max_context_tokens:
        yield (
            f"contexts of up to {longest:,} tokens are longer than the {model.max_context_tokens:,}"
            f" of {model.name}"
        )

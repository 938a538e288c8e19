"""Physical: what no deployment can beat, and the check that no figure of a run does.

A step of a micro-batch reads the attention weights of a GPU and the KV of its requests, and
multiplies every token with the weights that are active for it. No kernel is timed below the peak
of its card, so no step is shorter than that. Whatever a run says against it is a mistake of the
simulator or of its input, and must not leave as a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sim.decoding.run import Run
from sim.decoding.step_table import requests_of
from sim.foundation.errors import ImpossibleFigureError
from sim.foundation.identity import kept_by_identity
from sim.foundation.units import DTYPE_BYTES, NS_PER_S
from sim.inputs import cards
from sim.inputs.hardware import Accelerator
from sim.inputs.model import ModelCard
from sim.inputs.scenario import Scenario

# Figures that are a part of a whole; the names of all others say their unit.
_SHARES = ("slo_attainment", "preempted_share", "drafts_of_use_share")
_ABOVE_ONE = 1 + 1e-9
# Each kernel rounds to whole ns. A layer times at most 32 kernels, and 32 more lie around it.
_KERNELS_OF_A_LAYER = 32


class Floor(NamedTuple):
    """Lower bounds on the time of a step of one micro-batch, ns."""

    any_ns: float
    """Of a step that holds a request: attention weights of a GPU through its memory."""
    request_ns: float
    """For each request: FLOPs of a token on all GPUs, or KV through all attention memory."""
    rounding_ns: float
    """What whole nanoseconds may take off a step."""


def floor(scenario: Scenario, ctx: float) -> Floor:
    """Return the least time of a step whose requests have at least `ctx` context tokens each."""
    model, precision = cards.model(scenario.model), scenario.precision
    tp = scenario.deployment.attention_gpus().tp
    attention, gpus, o_proj_tp, peak_flops_per_s = _machines(scenario)
    least = _least_work(model, precision.kv, tp, o_proj_tp, ctx)
    hbm = float(attention.hbm_bytes_per_s)
    request_s = max(2 * least.macs / peak_flops_per_s, least.kv_bytes / (gpus * hbm))
    weights = least.elements * DTYPE_BYTES[precision.of("attention")]
    weights += least.outputs * DTYPE_BYTES[precision.of("o_proj")]
    return Floor(
        weights / hbm * NS_PER_S,
        request_s * NS_PER_S,
        _rounding_ns(model, scenario),
    )


class _Work(NamedTuple):
    """What a step does at least."""

    elements: float
    """Attention weights that a GPU reads, without those of output projections."""
    outputs: float
    """Weights of output projections that it reads."""
    macs: float
    """Of a token, on all GPUs."""
    kv_bytes: float
    """Of a request."""


@kept_by_identity
def _least_work(model: ModelCard, kv: str, tp: int, o_proj_tp: int, ctx: float) -> _Work:
    each = model.cut(tp)
    hidden, elements, outputs, kv_bytes = model.hidden, 0.0, 0.0, 0.0
    macs = float(model.vocab * hidden)
    for layer, count in model.layer_counts.items():
        kind = model.attention[layer.attention]
        part = each.attention[layer.attention]
        *whole, output = (*part.before_core(hidden), *part.after_core(hidden))
        outputs += count * output._replace(k=output.k // o_proj_tp).weights()
        elements += count * sum(product.weights() for product in whole)
        kv_bytes += count * kind.read_bytes(kv, ctx)
        macs += count * kind.weights(hidden)
        ffn = model.found_ffn(layer)
        macs += 0 if ffn is None else count * ffn.active_weights(hidden)
    return _Work(elements, outputs, macs, kv_bytes)


def _machines(scenario: Scenario) -> tuple[Accelerator, int, int, float]:
    """Return attention card, attention GPUs, GPUs that share an output projection, all FLOP/s."""
    gpus_by_card = scenario.deployment.gpus_by_card()
    peak = sum(_peak(cards.accelerator(name)) * gpus for name, gpus in gpus_by_card)
    attention = scenario.deployment.attention_gpus()
    return cards.accelerator(attention.accelerator), attention.gpus, attention.o_proj_tp, peak


def _peak(card: Accelerator) -> float:
    return max(float(peak) for peak in card.flops_per_s.values())


def _rounding_ns(model: ModelCard, scenario: Scenario) -> float:
    drafts = scenario.speculation.drafts if scenario.speculation is not None else 0
    return 0.5 * _KERNELS_OF_A_LAYER * (len(model.layer_sequence) + drafts + 1)


def check_step(scenario: Scenario, step_ns: float, requests: float, micro_batches: int) -> None:
    """Raise ImpossibleFigureError if a steady step of all micro-batches beats the hardware."""
    least = floor(scenario, 0)
    least_ns = max(least.any_ns, requests * least.request_ns) - micro_batches * least.rounding_ns
    if least_ns > step_ns * _ABOVE_ONE:
        _refuse("t_step_ms", step_ns / 1e6, f"at least {least_ns / 1e6:.6g}")


def check_run(run: Run) -> None:
    """Raise ImpossibleFigureError if a step took less than the hardware allows.

    Nor may all steps together: micro-batches share GPUs. With noise on tasks nothing is checked,
    since its factors are the user's.
    """
    scenario, steps = run.scenario, run.steps
    if scenario.noise is not None and scenario.noise.tasks:
        return
    least = floor(scenario, float(run.requests["prompt_tokens"].min()))
    requests = requests_of(steps)
    took_ns = (steps["end_ns"] - steps["start_ns"]).astype(np.float64)
    least_ns = np.where(requests > 0, np.maximum(least.any_ns, requests * least.request_ns), 0.0)
    beaten = least_ns - least.rounding_ns > took_ns * _ABOVE_ONE
    if beaten.any():
        at = int(np.argmax(beaten))
        _refuse("t_step_ms", took_ns[at] / 1e6, f"at least {least_ns[at] / 1e6:.6g}")
    span_ns = float(steps["end_ns"].max() - steps["start_ns"].min())
    work_ns = float(requests.sum() * least.request_ns) - len(requests) * least.rounding_ns
    if work_ns > span_ns * _ABOVE_ONE:
        most = requests.sum() / (work_ns / NS_PER_S) / scenario.gpu_count()
        _refuse("tgs", requests.sum() / (span_ns / NS_PER_S), f"at most {most:.6g}")


def checked(figures: dict[str, Any], signed: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return `figures` if they are finite, and not negative but for those of names in `signed`.

    Shares and utilisations are at most 1. Raises ImpossibleFigureError with the figure's name.
    """
    for name, value in _numbers(figures, ""):
        if 0 <= value <= 1:
            continue  # right for any figure
        if not math.isfinite(value):
            _refuse(name, value, "finite")
        if value < 0 and name not in signed:
            _refuse(name, value, "at least 0")
        is_share = name in _SHARES or name.startswith("utilisation.") or name.endswith("_share")
        if is_share and value > _ABOVE_ONE:
            _refuse(name, value, "at most 1")
    return figures


def _numbers(figures: Mapping[str, Any], front: str) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, int | float):
            if not isinstance(value, bool):
                yield f"{front}{name}", float(value)
        elif isinstance(value, Mapping):
            yield from _numbers(value, f"{front}{name}.")


def _refuse(name: str, value: float, expected: str) -> None:
    raise ImpossibleFigureError(
        f"{name} is {value:.6g}, which no deployment of these GPUs can reach: expected {expected}; "
        "this is a bug of afdsim or a wrong figure on a card"
    )

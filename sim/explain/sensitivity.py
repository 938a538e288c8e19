"""Sensitivity: how TPOT and TGS move when one thing gets a tenth faster or slower.

All are differences between two exact eigenvalues in the same static order. A stage's durations, or
a delay, are scaled as they are. A bandwidth or a compute peak is scaled on the hardware card and
every kernel is timed again, so a kernel gains as much as its calibrated roofline says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from sim.engines.program import Program, Times
from sim.inputs import cards
from sim.inputs.hardware import Accelerator
from sim.inputs.sourced import Sourced
from sim.steady.state import SteadyState

CHANGE = Fraction(1, 10)

_KV_FORMATS = ("bf16", "fp8", "nvfp4")

CardPart = Literal["compute", "hbm", "scale_up", "nic"]


@dataclass(frozen=True)
class Effect:
    """Relative changes; 0.1 is 10 % more."""

    tpot: float
    tgs: float


@dataclass(frozen=True)
class Sensitivity:
    """The effects of making one quantity 10 % larger and 10 % smaller."""

    of: str
    """Stage, delay, or part of a card and its side."""
    quantity: Literal["time", "speed"]
    """What is scaled: the time of a stage or delay, or the speed of a part of a card."""
    larger: Effect
    smaller: Effect


@dataclass(frozen=True)
class KvFormat:
    """The effect of another format of the KV cache on the same load, whether it fits or not."""

    kv: str
    effect: Effect


def kv_sensitivities(state: SteadyState) -> tuple[KvFormat, ...]:
    """Return the effects of the other formats of KV that the attention card has units for."""
    site = state.deployment
    precision, card = site.scenario.precision, site.core_timer.table.accelerator
    kinds = [site.model.attention[layer.attention] for layer in site.model.layer_counts]
    present = {kind.cache_dtype(precision.kv) for kind in kinds if kind.kept_elements()}
    found = []
    for kv in _KV_FORMATS:
        if present and present != {kv} and (kv == "bf16" or kv in card.flops_per_s):
            other = site.with_precision(precision.replaced(kv=kv))
            ratio = float(state.step_ns_with(other.times(state.batch)) / state.step_ns)
            found.append(KvFormat(kv, Effect(ratio - 1, 1 / ratio - 1)))
    return tuple(found)


def stage_sensitivities(state: SteadyState) -> tuple[Sensitivity, ...]:
    """Return the sensitivities to the time of each stage and delay."""
    program = state.program
    names = [*(stage.name for stage in program.stages), *program.delays]

    def scaled_by(name: str) -> Callable[[Fraction], Times]:
        return lambda factor: scaled(program, state.times[0], name, factor)

    return tuple(_sensitivity(state, name, "time", scaled_by(name)) for name in names)


def card_sensitivities(state: SteadyState) -> tuple[Sensitivity, ...]:
    """Return the sensitivities to each part of the hardware cards, by side where there are two.

    A transfer is as slow as the slower of its two ends, so the NICs of all sides change together,
    and so do scale-up links that carry the transfers.
    """
    return tuple(_sensitivity(state, name, "speed", timed_on) for name, timed_on in _cards(state))


def scaled(program: Program, times: Times, name: str, factor: Fraction) -> Times:
    """Return `times` with the durations of one stage or delay scaled, in whole ns."""
    values = times.values.copy()
    of_stage = program.slots // len(program.stages)
    for slot, (first, last) in enumerate(times.bounds):
        if program.stages[slot // of_stage].name == name:
            values[first:last] = np.rint(values[first:last] * float(factor))
    delays = zip(program.delays, times.delays_ns, strict=True)
    delays_ns = tuple(round(ns * factor) if delay == name else ns for delay, ns in delays)
    return times._replace(values=values, delays_ns=delays_ns)


def faster(card: Accelerator, part: CardPart, factor: float) -> Accelerator:
    """Return `card` with one of its speeds multiplied; unchanged if it has no such part."""

    def times(speed: Sourced) -> Sourced:
        return Sourced(speed * factor, speed.source)

    node = card.node
    if part == "compute":
        peaks = {dtype: times(peak) for dtype, peak in card.flops_per_s.items()}
        return card.model_copy(update={"flops_per_s": peaks})
    if part == "hbm":
        return card.model_copy(update={"hbm_bytes_per_s": times(card.hbm_bytes_per_s)})
    if part == "scale_up":
        changed = {"scale_up_bytes_per_s": times(node.scale_up_bytes_per_s)}
    elif node.nic_bytes_per_s is None:
        return card
    else:
        changed = {"nic_bytes_per_s": times(node.nic_bytes_per_s)}
    return card.model_copy(update={"node": node.model_copy(update=changed)})


_TITLES: dict[CardPart, str] = {
    "compute": "FLOP/s",
    "hbm": "HBM bandwidth",
    "scale_up": "scale-up bandwidth",
    "nic": "NIC bandwidth",
}


def _cards(state: SteadyState) -> Iterator[tuple[str, Callable[[Fraction], Times]]]:
    site = state.deployment

    def timed(part: CardPart, sides: tuple[str, ...]) -> Callable[[Fraction], Times]:
        def on(factor: Fraction) -> Times:
            other = site.on_cards(lambda card: faster(card, part, float(factor)), sides)
            return other.times(state.batch)

        return on

    together = "nic", cards.fabric(site.scenario.deployment.fabric).medium
    for part, title in _TITLES.items():
        if part in together or len(site.sides) == 1:
            yield title, timed(part, tuple(site.sides))
            continue
        for side in site.sides:
            yield f"{title} of {side} GPUs", timed(part, (side,))


def _sensitivity(
    state: SteadyState,
    name: str,
    quantity: Literal["time", "speed"],
    changed: Callable[[Fraction], Times],
) -> Sensitivity:
    effects = []
    for factor in (1 + CHANGE, 1 - CHANGE):
        ratio = float(state.step_ns_with(changed(factor)) / state.step_ns)
        effects.append(Effect(ratio - 1, 1 / ratio - 1))
    return Sensitivity(name, quantity, *effects)

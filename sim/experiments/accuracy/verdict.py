"""Verdict: predicted against measured, row by row and group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sim.doubt.interval import Doubt
from sim.doubt.residual import left_over
from sim.doubt.spread import SteadyLoad, StepSpread, spread
from sim.experiments.accuracy.points import OperatingPoint, read_points
from sim.experiments.accuracy.setup import Setup, setup
from sim.experiments.accuracy.stages import JudgedStage
from sim.foundation.errors import SimError
from sim.foundation.units import NS_PER_MS
from sim.inputs.scenario import Scenario
from sim.kernels.timed import by_status
from sim.steady.state import SteadyState, steady_state, under_load

# Batches per GPU at which bands begin.
_BANDS = (1, 16, 64, 128)

# The host's time, which kernels alone do not have.
_HOST = ("host",)

PERCENTILES = ("p05_ms", "p10_ms", "p90_ms", "p95_ms")


@dataclass(frozen=True)
class Prediction:
    """What a scenario gives on both clocks."""

    wall_ms: float
    device_ms: float
    """Without the time in which the host alone works."""
    calibrated_share: float
    """Share of kernel time from inside measured ranges."""
    spread: StepSpread
    """Of the row's own clock."""


@dataclass(frozen=True)
class Judged:
    """A row and what became of it."""

    setup: Setup
    prediction: Prediction | None
    why_not: str

    @property
    def point(self) -> OperatingPoint:
        return self.setup.point

    @property
    def predicted_ms(self) -> float | None:
        """The prediction of the row's own clock."""
        if self.prediction is None:
            return None
        seen = self.prediction
        return seen.device_ms if self.point.clock == "device" else seen.wall_ms

    @property
    def error(self) -> float | None:
        """Predicted over measured, less 1."""
        predicted, measured = self.predicted_ms, self.point.measured_ms
        return None if predicted is None or measured is None else predicted / measured - 1

    @cached_property
    def doubt(self) -> Doubt | None:
        """What is not known of the row, and what was left of predictions of its engine."""
        if self.prediction is None:
            return None
        rest = left_over(self.setup.validated().software.profile)
        return Doubt(self.prediction.spread, rest)

    @property
    def percentiles_ms(self) -> tuple[float, float, float, float] | None:
        """The 5th, 10th, 90th and 95th percentile of the prediction; None without one."""
        if self.doubt is None or self.predicted_ms is None:
            return None
        p05, p10, p90, p95 = self.doubt.percentiles()
        ms = self.predicted_ms
        return p05 * ms, p10 * ms, p90 * ms, p95 * ms

    def as_dict(self) -> dict[str, Any]:
        point, seen, ends = self.point, self.prediction, self.percentiles_ms
        return {
            "id": point.id,
            **groups_of(point),
            "grade": point.grade or None,
            "requests_per_gpu": point.requests_per_gpu,
            "context_tokens": point.context_tokens_mean,
            "clock": point.clock or None,
            "measured_ms": point.measured_ms,
            "predicted_ms": self.predicted_ms,
            **dict(zip(PERCENTILES, ends or (None,) * len(PERCENTILES), strict=True)),
            "error": self.error,
            "predicted_wall_ms": None if seen is None else seen.wall_ms,
            "predicted_device_ms": None if seen is None else seen.device_ms,
            "calibrated_share": None if seen is None else seen.calibrated_share,
            "expressible": seen is not None,
            "why_not": self.why_not or None,
            "assumptions": list(self.setup.assumptions),
            "left_out": list(self.setup.left_out),
        }


@dataclass(frozen=True)
class Errors:
    """How far predictions of a group lie off."""

    group: str
    value: str
    rows: int
    expressible: int
    median: float | None
    """Of the absolute error."""
    p90: float | None
    bias: float | None
    """The mean error."""


GROUPS: Mapping[str, Callable[[OperatingPoint], str]] = {
    "framework": lambda point: point.framework or "unknown",
    "card": lambda point: point.hardware_attention or "unknown",
    "model": lambda point: point.model,
    "format": lambda point: point.weight_format_experts or "unknown",
    "batch": lambda point: batch_band(point.requests_per_gpu),
    "deployment": lambda point: point.deployment or "unknown",
}


def _clock(point: OperatingPoint) -> str:
    return point.clock or "unknown"


def groups_of(point: OperatingPoint) -> dict[str, str]:
    """Return the value of each group that a row belongs to."""
    return {name: value(point) for name, value in GROUPS.items()}


def batch_band(requests: float | None) -> str:
    """Return the band of a batch per GPU: `1–15`, …, `128 and more`."""
    if requests is None:
        return "unknown"
    for first, following in pairwise(_BANDS):
        if requests < following:
            return f"{first}–{following - 1}"
    return f"{_BANDS[-1]} and more"


def judge_points(path: str | Path, software: str | None = None) -> list[Judged]:
    """Return the verdict on every row of a file. Raises ScenarioError with every mistake of it.

    `software` is a profile to take for all rows instead of their framework's.
    """
    return [judge_row(setup(point, software)) for point in read_points(path)]


def judge_row(made: Setup) -> Judged:
    """Return the verdict on a row. A shape that cannot run is not expressible."""
    if made.scenario is None:
        return Judged(made, None, made.why_not)
    try:
        return Judged(made, predicted(made.validated(), made.point.clock), "")
    except SimError as error:
        return Judged(made, None, "; ".join(str(error).splitlines()))


def predicted(scenario: Scenario, clock: str = "") -> Prediction:
    """Return the steady state of a closed loop on both clocks: exact for its batch and context.

    Raises InfeasibleError if the shape cannot run.
    """
    state = steady_state(scenario)
    usage, total = by_status(state.usage_ns), float(state.usage_ns.sum())
    device = under_load(state.deployment, int(state.requests), free=_HOST)
    calibrated = usage["calibrated"] / total if total else 0.0
    load = SteadyLoad(state.deployment, int(state.requests))
    varied = spread(load, scenario.simulation.seed, free=_HOST if clock == "device" else ())
    return Prediction(_tpot_ms(state), _tpot_ms(device), calibrated, varied)


def _tpot_ms(state: SteadyState) -> float:
    return state.tpot_ns / NS_PER_MS


def errors(rows: Iterable[Judged]) -> list[Errors]:
    """Return the errors over all rows, by clock, and of every group."""
    rows = list(rows)
    found = [summed("all", "", rows)]
    keys: dict[str, Callable[[OperatingPoint], str]] = {
        "clock": _clock,
        "framework and clock": lambda point: f"{GROUPS['framework'](point)}, {_clock(point)}",
        **GROUPS,
    }
    for name, key in keys.items():
        values = dict.fromkeys(sorted({key(row.point) for row in rows}, key=in_order))
        for value in values:
            members = [row for row in rows if key(row.point) == value]
            found.append(summed(name, value, members))
    return found


def summed(group: str, value: str, rows: Sequence[Judged | JudgedStage]) -> Errors:
    error = np.array([row.error for row in rows if row.error is not None])
    if not len(error):
        return Errors(group, value, len(rows), 0, None, None, None)
    size = np.abs(error)
    median, p90 = float(np.median(size)), float(np.quantile(size, 0.9))
    return Errors(group, value, len(rows), len(error), median, p90, float(error.mean()))


def stage_errors(rows: Sequence[JudgedStage]) -> list[Errors]:
    """Return the errors over all rows and of every stage by grade, those of grade A in any case."""
    found = [summed("all", "", rows)]
    keys = dict.fromkeys((row.point.grade, row.point.stage) for row in rows)
    for grade, stage in sorted(keys):
        members = [row for row in rows if (row.point.grade, row.point.stage) == (grade, stage)]
        each = summed(f"grade {grade}" if grade else "", stage, members)
        found += [each] if each.expressible or grade == "A" else []
    return found


def in_order(value: str) -> tuple[int, str]:
    """Sort bands by their first number, words by letters."""
    digits = value.split("–")[0].split(" ")[0]
    return (int(digits), "") if digits.isdecimal() else (10**9, value)

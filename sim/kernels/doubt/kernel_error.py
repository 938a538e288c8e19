"""Kernel error: how far the time of a look-up may be off, as a log standard deviation.

A time has three kinds of doubt, each of its own:

- Inside its range a curve errs as on points that it had not seen. The table states the mean of
  these errors; errors are taken as normal in log time, whose standard deviation is √(π/2) times
  their mean.
- Outside, it errs more with every octave (`beyond`).
- A curve of a relative, of another card, or of the format that weights are widened to errs by what
  such curves were off where the kernel was measured as well.

They are added as independent ones, and are never more than the error of the card's default
efficiency, which asks no measurement. The figures are measured on the shipped tables
(`python -m sim.calibration.errors`) and lie in `hardware/doubt/kernel-errors.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sim.foundation.errors import CalibrationError
from sim.inputs import cards, csv_columns
from sim.kernels.curve import Curve, work_of
from sim.kernels.ops import Floats

FILE = "kernel-errors.csv"
COLUMNS = ("op", "kind", "log_sd", "points", "curves")
KINDS = ("inside", "beyond", "derived", "borrowed", "foreign", "uncalibrated")
ANY = "any"
"""Stands for ops that have no figure of their own."""

_SD_OF_MEAN_ERROR = math.sqrt(math.pi / 2)
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class ErrorLaw:
    """How far times of one op may be off: log standard deviations."""

    inside: float
    """Where the held-out error of a curve is not known."""
    beyond: float
    """For each octave outside of the range of a curve."""
    derived: float
    """On the curve of a like card."""
    borrowed: float
    """On the curve of a relative."""
    foreign: float
    """On a curve of the format that weights or a cache are widened to."""
    uncalibrated: float
    """At the card's default efficiency; nothing else is less sure."""


def log_sd(curve: Curve, at: Mapping[str, Floats], own: bool, foreign: bool) -> Floats:
    """Return the log standard deviation of look-ups at the coordinates `at`, in their shape.

    The curve is its `own` or borrowed, and may be `foreign`: of the format that is multiplied.
    """
    law = law_of(curve.op)
    squares = _inside(curve, law) ** 2
    if curve.is_derived:
        squares += law.derived**2
    if foreign:
        squares += law.foreign**2
    elif not own:
        squares += law.borrowed**2
    away = law.beyond * octaves_outside(curve, at)
    return np.asarray(np.minimum(np.sqrt(squares + away**2), law.uncalibrated))


def uncalibrated_log_sd(op: str) -> float:
    """Return the log standard deviation of kernels of `op` at the card's default efficiency."""
    return law_of(op).uncalibrated


def octaves_outside(curve: Curve, at: Mapping[str, Floats]) -> Floats:
    """Return how many doublings coordinates lie outside of the range of a curve, 0 inside.

    Axes are at right angles to each other; work past the most of one measurement counts where it
    is farther. Axes without coordinates do not count.
    """
    squares, coordinates = np.zeros(()), {}
    for name, nodes in curve.axes:
        if name in at:
            coordinates[name] = np.maximum(at[name], _TINY)
            x = np.log2(coordinates[name])
            away = np.maximum(x - np.log2(nodes[-1]), np.log2(nodes[0]) - x)
            squares = squares + np.maximum(away, 0.0) ** 2
    if not coordinates:
        return np.asarray(squares)
    if len(coordinates) < len(curve.axes):
        return np.asarray(np.sqrt(squares))
    over = np.log2(work_of(coordinates)) - math.log2(curve.most_work)
    return np.maximum(np.sqrt(squares), over)


def _inside(curve: Curve, law: ErrorLaw) -> float:
    return law.inside if math.isnan(curve.mape) else curve.mape * _SD_OF_MEAN_ERROR


def law_of(op: str) -> ErrorLaw:
    """Return the errors of `op`. Raises CalibrationError if their file is missing or malformed."""
    path = cards.doubt(FILE)
    if path is None:
        raise CalibrationError(f"no file {cards.DOUBT}/{FILE}: python -m sim.calibration.errors")
    laws = _laws(path)
    return laws.get(op, laws[ANY])


@lru_cache(maxsize=8)
def _laws(path: Path) -> Mapping[str, ErrorLaw]:
    problems: list[str] = []
    found: dict[str, dict[str, float]] = {}
    for place, row in csv_columns.rows(str(path), COLUMNS, problems):
        value = csv_columns.number(row["log_sd"])
        if row["kind"] not in KINDS or not value >= 0:
            problems.append(f"{place}: should have a kind of {', '.join(KINDS)} and a log_sd")
        found.setdefault(row["op"], {})[row["kind"]] = value
    csv_columns.raise_any(str(path), problems)
    pooled = found.get(ANY, {})
    if set(pooled) != set(KINDS):
        raise CalibrationError(f"{path}: {ANY} should have the kinds {', '.join(KINDS)}")
    return {op: ErrorLaw(**{**pooled, **own}) for op, own in found.items()}

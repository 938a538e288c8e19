"""Kernel error: how far the time of a look-up may be off, as a log standard deviation.

Four kinds of error are added as independent ones:

- What points that a curve had not seen were off (`inside`). The table states the mean of these
  errors; errors are taken as normal in log time, so that their standard deviation is √(π/2) times
  their mean. A step asks most curves at one shape and load over and over, and then the whole error
  of that point is common to its launches. It asks products of several shapes, held out whole:
  their errors partly cancel, and a `share` is left.
- What a second measurement of the same kernels is off as a whole (`common`), by other clocks,
  versions and benchmarks: points held out of one measurement do not show it.
- What each octave outside of the range adds (`beyond`), by axis.
- What a stand-in is off: the curve of a like card (`derived`), of another shape, kernel or number
  format.

Without a curve, long launches are off by what the card's default efficiency is, and short ones by
what a launch takes at least besides. The figures are measured on the shipped tables
(`python -m sim.calibration.errors`) and lie in `hardware/doubt/kernel-errors.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from sim.foundation.errors import CalibrationError
from sim.inputs import cards, csv_columns
from sim.kernels import served
from sim.kernels.curve import Curve, work_of
from sim.kernels.ops import Floats, Op

FILE = "kernel-errors.csv"
COLUMNS = ("op", "kind", "axis", "value", "points", "curves")
Relation = Literal["shape", "kernel", "format"]
BEYOND = "beyond"
KINDS = (
    *("share", "inside", "common", "derived"),
    *("shape", "kernel", "format", "uncalibrated", "launch"),
)
ANY = "any"
"""Stands for ops and axes that have no figure of their own."""
WORK = "work"
"""The axis of the product of coordinates that make up one launch."""

SD_OF_MEAN_ERROR = math.sqrt(math.pi / 2)
# No doubt is larger than a factor of ten: nothing could be told from a figure that may be off more.
_MOST = math.log(10)
# Their squares are added.
_MOST_VALUE = 1e6
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class ErrorLaw:
    """How far times of one op may be off: log standard deviations, but for `share` and `launch`."""

    share: float
    """What of the error inside of a range counts."""
    inside: float
    """Where the held-out error of a curve is not known."""
    common: float
    """From one measurement of a kernel to the next."""
    derived: float
    """On the curve of a like card."""
    shape: float
    """On the curve of another shape, or of what else the same kernel ran under."""
    kernel: float
    """On the curve of another kernel."""
    format: float
    """On the curve of another number format."""
    uncalibrated: float
    """At the card's default efficiency, of long launches."""
    launch: float
    """What a launch takes beyond its default time, µs."""
    beyond: Mapping[str, float]
    """For each octave outside of the range, by axis."""


def log_sd(curve: Curve, op: Op, own: bool) -> Floats:
    """Return the log standard deviation of the look-ups of `op` on a curve, in their shape.

    The curve is its `own` or stands in.
    """
    law = law_of(op.name)
    inside = law.inside if math.isnan(curve.mape) else curve.mape * SD_OF_MEAN_ERROR
    squares = (law.share * inside) ** 2 + law.common**2
    if curve.is_derived:
        squares += law.derived**2
    kind = None if own else relation(curve, op.name, op.kernel, op.dtype)
    if kind is not None:
        squares += getattr(law, kind) ** 2
    return np.minimum(np.sqrt(squares + _beyond(curve, op.axes, law.beyond)), _MOST)


def uncalibrated_log_sd(op: str, time_us: Floats) -> Floats:
    """Return the log standard deviation of times at the card's default efficiency, µs.

    Short launches are off by what a launch takes at least, which an efficiency does not know.
    """
    law = law_of(op)
    launches = np.divide(law.launch, time_us, out=np.zeros_like(time_us), where=time_us > 0)
    return np.minimum(np.hypot(law.uncalibrated, np.log1p(launches)), _MOST)


def relation(curve: Curve, op: str, kernel: str, dtype: str) -> Relation:
    """Return what a curve that stands in differs in from what is asked for, the worst first."""
    if curve.dtype != dtype:
        return "format"
    names = (kernel, *served.engines(op, kernel))
    alike = {served.engine(name) for name in names}
    return "shape" if served.engine(curve.kernel) in alike else "kernel"


def outside(curve: Curve, at: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return how many octaves coordinates lie outside of the range of a curve, by axis.

    Among them the work past the most of one measurement. Axes without coordinates do not count.
    """
    found, coordinates = {}, {}
    for name, nodes in curve.axes:
        if name in at:
            coordinates[name] = np.maximum(at[name], _TINY)
            x = np.log2(coordinates[name])
            away = np.maximum(x - math.log2(nodes[-1]), math.log2(nodes[0]) - x)
            found[name] = np.maximum(away, 0.0)
    if coordinates and len(coordinates) == len(curve.axes):
        over = np.log2(np.maximum(work_of(coordinates), _TINY)) - math.log2(curve.most_work)
        found[WORK] = np.maximum(over, 0.0)
    return found


def _beyond(curve: Curve, at: Mapping[str, Floats], slopes: Mapping[str, float]) -> Floats:
    """Return the square of what the distance adds.

    Axes are independent of each other. Work is their product, and counts where it is farther.
    """
    squares, work = np.zeros(()), np.zeros(())
    for name, octaves in outside(curve, at).items():
        square = (slopes.get(name, slopes[ANY]) * octaves) ** 2
        squares, work = (squares, square) if name == WORK else (squares + square, work)
    return np.maximum(squares, work)


def law_of(op: str) -> ErrorLaw:
    """Return the errors of `op`. Raises CalibrationError if their file is missing or malformed."""
    path = cards.doubt(FILE)
    if path is None:
        raise CalibrationError(f"no file {cards.DOUBT}/{FILE}: python -m sim.calibration.errors")
    known = path.stat()
    laws = _laws(path, known.st_mtime_ns, known.st_size)
    return laws.get(op, laws[ANY])


@lru_cache(maxsize=8)
def _laws(path: Path, _changed_ns: int, _size: int) -> Mapping[str, ErrorLaw]:
    problems: list[str] = []
    figures: dict[str, dict[str, float]] = {ANY: {}}
    slopes: dict[str, dict[str, float]] = {ANY: {}}
    for place, row in csv_columns.rows(str(path), COLUMNS, problems):
        value, op, kind = csv_columns.number(row["value"]), row["op"], row["kind"]
        if kind not in (*KINDS, BEYOND) or not 0 <= value <= _MOST_VALUE:
            kinds = ", ".join((*KINDS, BEYOND))
            told = f"should have a kind of {kinds} and a value from 0 to {_MOST_VALUE:,.0f}"
            problems.append(f"{place}: {told}")
        if kind == BEYOND:
            slopes.setdefault(op, {})[row["axis"]] = value
        else:
            figures.setdefault(op, {})[kind] = value
    csv_columns.raise_any(str(path), problems)
    if set(figures[ANY]) != set(KINDS) or ANY not in slopes[ANY]:
        raise CalibrationError(f"{path}: {ANY} should have the kinds {', '.join(KINDS)}")
    return {
        op: ErrorLaw(
            **{**figures[ANY], **figures.get(op, {})},
            beyond={**slopes[ANY], **slopes.get(op, {})},
        )
        for op in {*figures, *slopes}
    }

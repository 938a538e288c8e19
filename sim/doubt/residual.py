"""What is left: how far predictions lay off measured operating points, beyond what is declared.

A prediction's interval is the spread of its draws, widened by a term for what no source declares
(`log_sd`) and by a factor that makes intervals cover: the split-conformal quantile of measured
errors over such widths, by group. Groups are software profiles; a profile with too few measured
points, or none, takes the widest. `afdsim accuracy results/accuracy/points.csv --residuals
hardware/doubt/residuals.csv` fits the table; docs/doubt.md says what it assumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Literal

from sim.foundation.errors import CalibrationError
from sim.inputs import cards, csv_columns

FILE = "residuals.csv"
COLUMNS = ("group", "rows", "log_sd", "shared", "factor_80", "factor_90")
WIDEST = "any"
"""The group of profiles without enough measured points."""

# More than a factor of ten is known of nothing; wider intervals reach past what a float holds.
_MOST_LOG_SD, _MOST_FACTOR = math.log(10), 100.0

Level = Literal[80, 90]
LEVELS: tuple[Level, ...] = (80, 90)


def normal_width(level: Level) -> float:
    """Return half the width of the central interval of a normal law, in standard deviations."""
    return NormalDist().inv_cdf(0.5 + level / 200)


@dataclass(frozen=True)
class LeftOver:
    """What is left of a group of predictions."""

    group: str
    rows: int
    """Measured points that it was fitted to."""
    log_sd: float
    """Log standard deviation of what no source declares."""
    shared: float
    """Share of its variance that predictions of one engine, card and model have in common."""
    factor_80: float
    factor_90: float
    """Factors on the width of 80 and 90 % intervals: 1 where declared doubt is as large as errors
    were."""

    def factor(self, level: Level) -> float:
        return self.factor_80 if level == 80 else self.factor_90


def left_over(profile: str | None) -> LeftOver:
    """Return what is left of predictions under a software profile, or of none.

    Raises CalibrationError if the table is missing or malformed.
    """
    path = cards.doubt(FILE)
    if path is None:
        raise CalibrationError(f"no file {cards.DOUBT}/{FILE}: docs/doubt.md says how to make it")
    known = path.stat()
    table = _table(path, known.st_mtime_ns, known.st_size)
    return table.get(profile or WIDEST, table[WIDEST])


@lru_cache(maxsize=8)
def _table(path: Path, _changed_ns: int, _size: int) -> Mapping[str, LeftOver]:
    problems: list[str] = []
    found: dict[str, LeftOver] = {}
    for place, row in csv_columns.rows(str(path), COLUMNS, problems):
        figures = [csv_columns.number(row[name]) for name in COLUMNS[1:]]
        most = (math.inf, _MOST_LOG_SD, 1.0, _MOST_FACTOR, _MOST_FACTOR)
        if not all(0 <= each <= limit for each, limit in zip(figures, most, strict=True)):
            problems.append(
                f"{place}: should hold numbers from 0 on, log_sd at most {_MOST_LOG_SD:.1f}, "
                f"shared at most 1, factors at most {_MOST_FACTOR:g}"
            )
            continue
        rows, *others = figures
        found[row["group"]] = LeftOver(row["group"], int(rows), *others)
    csv_columns.raise_any(str(path), problems)
    if WIDEST not in found:
        raise CalibrationError(f"{path}: needs a row of the group {WIDEST}")
    return found

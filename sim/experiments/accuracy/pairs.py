"""Pairs: how much more one measured deployment yields than another, measured and predicted.

What decides between AFD and EP is the difference of two rows, in which errors that both share
cancel. The yield of a row is output tokens/s/GPU over all GPUs, each on its own clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.experiments.accuracy.verdict import Judged
from sim.foundation.errors import did_you_mean
from sim.foundation.printable import excerpt
from sim.inputs import csv_columns

COLUMNS = ("first", "second")


@dataclass(frozen=True)
class JudgedPair:
    """Two rows. Leads are of the first over the second, as a share; None if unknown."""

    first: Judged
    second: Judged
    measured: float | None
    predicted: float | None

    @property
    def same_sign(self) -> bool | None:
        if self.measured is None or self.predicted is None:
            return None
        return (self.measured > 0) == (self.predicted > 0)

    def as_dict(self) -> dict[str, Any]:
        return {
            "first": self.first.point.id,
            "second": self.second.point.id,
            "measured_lead": self.measured,
            "predicted_lead": self.predicted,
            "same_sign": self.same_sign,
        }


def judge(path: str | Path, rows: Sequence[Judged]) -> list[JudgedPair]:
    """Return the verdict on each pair of ids in a file with the columns first and second.

    Raises ScenarioError with every mistake: file, line and column.
    """
    known = {row.point.id: row for row in rows}
    problems: list[str] = []
    found = []
    for place, row in csv_columns.rows(str(path), COLUMNS, problems):
        for column in COLUMNS:
            if row[column] not in known:
                remedy = did_you_mean(row[column], known)
                told = f"no row has the id '{excerpt(row[column])}'; {remedy}"
                problems.append(f"{place}: {column}: {told}")
        if row["first"] in known and row["second"] in known:
            first, second = known[row["first"]], known[row["second"]]
            measured = _lead(first, first.point.measured_ms, second, second.point.measured_ms)
            predicted = _lead(first, first.predicted_ms, second, second.predicted_ms)
            found.append(JudgedPair(first, second, measured, predicted))
    csv_columns.raise_any(str(path), problems)
    return found


def _lead(
    first: Judged, first_ms: float | None, second: Judged, second_ms: float | None
) -> float | None:
    one, other = first.point.requests_per_gpu, second.point.requests_per_gpu
    if first_ms is None or second_ms is None or one is None or other is None:
        return None
    return one / first_ms / (other / second_ms) - 1

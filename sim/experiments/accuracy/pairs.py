"""Pairs: how much more one measured deployment yields than another, measured and predicted.

What decides between AFD and EP is the difference of two rows, in which errors that both share
cancel. The yield of a row is output tokens/s/GPU over all GPUs, each on its own clock. Both rows
draw what is not known with one seed, so that what they share cancels in the interval of their lead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.doubt.margin import Margin, are_alike, margin
from sim.experiments.accuracy.verdict import Judged
from sim.foundation.errors import did_you_mean
from sim.foundation.printable import excerpt
from sim.inputs import csv_columns

COLUMNS = ("first", "second")
PERCENTILES = tuple(f"predicted_lead_{end}" for end in ("p05", "p10", "p90", "p95"))


@dataclass(frozen=True)
class JudgedPair:
    """Two rows. Leads are of the first over the second, as a share; None if unknown."""

    first: Judged
    second: Judged
    measured: float | None
    predicted: float | None
    margin: Margin | None
    """The predicted lead with what is not known of it."""

    @property
    def percentiles(self) -> tuple[float, float, float, float] | None:
        """The predicted lead at its 5th, 10th, 90th and 95th percentile."""
        return None if self.margin is None else self.margin.percentiles()

    @property
    def first_yields_more(self) -> float | None:
        """The probability that the first yields more."""
        return None if self.margin is None else self.margin.probability(0.0)

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
            **dict(zip(PERCENTILES, self.percentiles or (None,) * 4, strict=True)),
            "first_yields_more": self.first_yields_more,
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
            doubt = _margin(first, second, predicted)
            found.append(JudgedPair(first, second, measured, predicted, doubt))
    csv_columns.raise_any(str(path), problems)
    return found


def _lead(
    first: Judged, first_ms: float | None, second: Judged, second_ms: float | None
) -> float | None:
    one, other = first.point.requests_per_gpu, second.point.requests_per_gpu
    if first_ms is None or second_ms is None or one is None or other is None:
        return None
    return one / first_ms / (other / second_ms) - 1


def _margin(first: Judged, second: Judged, lead: float | None) -> Margin | None:
    if lead is None or first.doubt is None or second.doubt is None:
        return None
    scenarios = first.setup.validated(), second.setup.validated()
    same = first.point.id == second.point.id
    return margin(lead, first.doubt, second.doubt, same=same, alike=are_alike(*scenarios))

"""Operating points: a CSV file of what others have measured, one row a point.

An empty cell is unknown. Text that stands for a choice (a model, a framework, how many drafts) is
kept as written; `sim/experiments/accuracy/setup.py` reads it. docs/accuracy.md describes the
columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from sim.foundation.errors import ScenarioError, did_you_mean
from sim.foundation.printable import excerpt
from sim.inputs import csv_columns

CLOCKS = ("device", "wall", "served TPOT")
GRADES = ("A", "B", "C")
DEPLOYMENTS = ("ep", "afd", "tp")
BATCH_IS = ("exact", "upper_bound", "derived")

# Without these there is no operating point.
_NEEDED = (
    *("id", "model", "hardware_attention", "gpus_attention", "deployment"),
    *("requests_per_gpu", "context_tokens_mean", "clock"),
)
_NUMBERS = (
    *("requests_per_gpu", "context_tokens_mean", "measured_tpot_ms", "measured_tgs"),
    "batch_littles_law",
)
_COUNTS = ("gpus_attention", "gpus_ffn")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "clock": CLOCKS,
    "grade": GRADES,
    "deployment": DEPLOYMENTS,
    "batch_is": BATCH_IS,
}


@dataclass(frozen=True)
class OperatingPoint:
    """A row. Numbers are None and texts empty where the row does not know."""

    place: str
    """`file:line`."""
    id: str
    grade: str
    model: str
    hardware_attention: str
    hardware_ffn: str
    gpus_attention: int | None
    gpus_ffn: int | None
    """Under EP these are the same GPUs."""
    deployment: str
    attention_parallel: str
    expert_parallel: str
    redundant_experts: str
    micro_batches_or_overlap: str
    framework: str
    framework_version: str
    weight_format_attention: str
    weight_format_experts: str
    kv_format: str
    routing: str
    mtp: str
    requests_per_gpu: float | None
    """Requests in decoding over all GPUs of the deployment."""
    batch_is: str
    context_tokens_mean: float | None
    isl: str
    osl: str
    measured_tpot_ms: float | None
    measured_tgs: float | None
    """Output tokens per second and GPU, all GPUs counted."""
    clock: str
    """device: sum of kernel times of a step; wall: a step; served TPOT: as a client sees it."""
    uncertainty_note: str
    source: str
    batch_littles_law: float | None
    near_duplicate_group: str
    new: str

    @property
    def gpus(self) -> int | None:
        """GPUs of the deployment."""
        if self.deployment != "afd" or self.gpus_attention is None:
            return self.gpus_attention
        return None if self.gpus_ffn is None else self.gpus_attention + self.gpus_ffn

    @property
    def measured_ms(self) -> float | None:
        """The measured TPOT, or that of the tokens per second and GPU if those alone are known."""
        if self.measured_tpot_ms is not None:
            return self.measured_tpot_ms
        if self.measured_tgs is None or self.requests_per_gpu is None:
            return None
        return 1e3 * self.requests_per_gpu / self.measured_tgs


COLUMNS = tuple(field.name for field in fields(OperatingPoint) if field.name != "place")


def read_points(path: str | Path) -> list[OperatingPoint]:
    """Return the points of a file, in its order.

    Raises ScenarioError with every mistake: file, line and column. A column that a point can do
    without may be missing.
    """
    problems: list[str] = []
    found: list[OperatingPoint] = []
    lines: dict[str, str] = {}
    for place, row in csv_columns.rows(str(path), _NEEDED, problems):
        if not found and not problems:
            problems += _strangers(place, row)
        point = _point(place, row, problems)
        if point.id in lines:
            told = f"'{excerpt(point.id)}' stands at {lines[point.id]} already"
            problems.append(f"{place}: id: {told}; give each row an id of its own")
        lines.setdefault(point.id, place)
        found.append(point)
    if not found and not problems:
        problems.append(f"{path}: has no rows; write an operating point under the header")
    csv_columns.raise_any(str(path), problems)
    return found


def _strangers(place: str, row: Mapping[str, str]) -> list[str]:
    file = place.rpartition(":")[0]
    return [
        f"{file}: unknown column '{excerpt(name)}'; {did_you_mean(name, COLUMNS)}"
        for name in row
        if name not in COLUMNS
    ]


def _point(place: str, row: Mapping[str, str], problems: list[str]) -> OperatingPoint:
    values: dict[str, object] = {name: row.get(name, "") for name in COLUMNS}

    def wrong(column: str, expected: str) -> None:
        problems.append(f"{place}: {column}: {expected} (got '{excerpt(row[column])}')")

    if not row["id"]:
        problems.append(f"{place}: id: is empty; name the row")
    for name in (*_NUMBERS, *_COUNTS):
        text = row.get(name, "")
        value: float | None = None
        if text and name in _COUNTS:
            value = csv_columns.whole(text)
            if value is None or value < 1:
                wrong(name, "should be a whole number above 0, or empty")
        elif text:
            value = csv_columns.number(text)
            if math.isnan(value) or value <= 0:
                wrong(name, "should be a number above 0, or empty")
        values[name] = value
    for name, known in _CHOICES.items():
        if values[name] and values[name] not in known:
            wrong(name, f"should be {', '.join(known)}, or empty")
    return OperatingPoint(place=place, **values)  # type: ignore[arg-type]  # by name, as declared


def matching(points: list[OperatingPoint], name: str) -> OperatingPoint:
    """Return the point of an id. Raises ScenarioError with the nearest id."""
    known = {point.id: point for point in points}
    if name not in known:
        raise ScenarioError(f"no row has the id '{excerpt(name)}'; {did_you_mean(name, known)}")
    return known[name]

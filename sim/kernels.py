"""KernelTable: how long a kernel takes on a card, by the calibrated roofline of DESIGN §3.

    latency = overhead + max(FLOPs / (peak · e_c), bytes / (bandwidth · e_m))

The efficiencies e_c and e_m come from the card's calibration rows, interpolated in log space
along the row's axis; outside the rows the nearest one holds and the look-up counts as
extrapolated. An operation without rows reaches the card's default efficiency and counts as
uncalibrated.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.errors import CalibrationError
from sim.hardware import Accelerator
from sim.ops import Floats, Op
from sim.units import NS_PER_S, NS_PER_US

SCHEMA = "afdsim-calibration 1"
COLUMNS = ("op", "dtype", "key", "axis", "at", "overhead_us", "e_c", "e_m", "source")

Status = Literal["calibrated", "extrapolated", "uncalibrated"]
_STATUSES: tuple[Status, ...] = ("calibrated", "extrapolated", "uncalibrated")


@dataclass(frozen=True)
class Row:
    """One measured operating point of a kernel: its efficiency at one value of an axis."""

    op: str
    dtype: str
    key: str
    axis: str
    at: float
    overhead_us: float
    e_c: float
    e_m: float
    source: str


class KernelTable:
    """The kernel times of one accelerator. Each look-up adds to `usage_ns` by its status."""

    def __init__(
        self, accelerator: Accelerator, rows: Sequence[Row] = (), sha256: str = ""
    ) -> None:
        self.accelerator = accelerator
        self.rows = tuple(rows)
        self.sha256 = sha256
        self.usage_ns: dict[Status, float] = dict.fromkeys(_STATUSES, 0.0)
        self._curves: dict[tuple[str, str, str], list[Row]] = {}
        for row in rows:
            self._curves.setdefault((row.op, row.dtype, row.key), []).append(row)
        for curve in self._curves.values():
            curve.sort(key=lambda row: row.at)

    def duration_ns(self, op: Op, uses: int = 1) -> NDArray[np.int64]:
        """Return the time of `op` in whole ns, one value per GPU; zero work takes no time.

        `uses` is how often the look-up will be spent in a step (the layers it stands for): it
        weighs the look-up in `usage_ns`.
        """
        curve = self._curves.get((op.name, op.dtype, op.key))
        e_c: Floats | float
        e_m: Floats | float
        overhead_us: Floats | float
        inside: NDArray[np.bool_] | None = None
        if curve is None:
            e_c = e_m = float(self.accelerator.default_efficiency)
            overhead_us = 0.0
        else:
            at = op.axes[curve[0].axis]
            known = np.array([row.at for row in curve])
            log_at = np.log(np.maximum(at, np.finfo(float).tiny))
            e_c = np.exp(np.interp(log_at, np.log(known), np.log([row.e_c for row in curve])))
            e_m = np.exp(np.interp(log_at, np.log(known), np.log([row.e_m for row in curve])))
            overhead_us = np.interp(log_at, np.log(known), [row.overhead_us for row in curve])
            inside = (at >= known[0]) & (at <= known[-1])
        compute_s = op.flops / (self.accelerator.peak_flops_per_s(op.dtype) * np.minimum(e_c, 1.0))
        memory_s = op.bytes / (self._bytes_per_s(op) * np.minimum(e_m, 1.0))
        busy = (op.flops > 0) | (op.bytes > 0)
        roofline_ns = np.maximum(compute_s, memory_s) * NS_PER_S
        exact_ns = np.where(busy, roofline_ns + np.asarray(overhead_us) * NS_PER_US, 0.0)
        duration = np.rint(exact_ns).astype(np.int64)
        self._count(duration, inside, uses)
        return duration

    def _bytes_per_s(self, op: Op) -> float:
        if op.medium == "hbm":
            return float(self.accelerator.hbm_bytes_per_s)
        if op.medium == "scale_up":
            return float(self.accelerator.node.scale_up_bytes_per_s)
        nic = self.accelerator.node.nic_bytes_per_s_per_gpu()
        if nic is None:
            raise CalibrationError(
                f"{self.accelerator.name} has no NICs on its card: {op.name} cannot leave the node"
            )
        return nic

    def _count(
        self, duration: NDArray[np.int64], inside: NDArray[np.bool_] | None, uses: int
    ) -> None:
        total = float(duration.sum()) * uses
        if inside is None:
            self.usage_ns["uncalibrated"] += total
            return
        calibrated = float(np.where(inside, duration, 0).sum()) * uses
        self.usage_ns["calibrated"] += calibrated
        self.usage_ns["extrapolated"] += total - calibrated


def load(accelerator: Accelerator, path: Path | None) -> KernelTable:
    """Return the kernel table of `accelerator` from the CSV at `path` (None: no rows).

    Raises CalibrationError with file and line if the table is malformed.
    """
    if path is None:
        return KernelTable(accelerator)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: cannot be read: {error}") from None
    lines = text.splitlines()
    if not lines or lines[0] != f"# {SCHEMA}":
        raise CalibrationError(f"{path}:1: the first line should be '# {SCHEMA}'")
    reader = csv.DictReader(lines[1:])
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise CalibrationError(f"{path}:2: the columns should be {','.join(COLUMNS)}")
    rows = [_row(record, f"{path}:{line}") for line, record in enumerate(reader, start=3)]
    return KernelTable(accelerator, rows, hashlib.sha256(content).hexdigest())


def _row(record: dict[str, str], place: str) -> Row:
    if None in record or None in record.values():
        raise CalibrationError(f"{place}: should have {len(COLUMNS)} columns")
    numbers = {}
    for column in ("at", "overhead_us", "e_c", "e_m"):
        try:
            numbers[column] = float(record[column])
        except ValueError:
            raise CalibrationError(
                f"{place}: {column} should be a number (got {record[column]!r})"
            ) from None
    if not (numbers["at"] > 0 and numbers["overhead_us"] >= 0):
        raise CalibrationError(f"{place}: at should be positive and overhead_us not negative")
    if not (0 < numbers["e_c"] <= 1 and 0 < numbers["e_m"] <= 1):
        raise CalibrationError(f"{place}: e_c and e_m should lie in (0, 1], none beats the peak")
    if not record["source"]:
        raise CalibrationError(f"{place}: a row needs its source")
    return Row(
        op=record["op"],
        dtype=record["dtype"],
        key=record["key"],
        axis=record["axis"],
        source=record["source"],
        **numbers,
    )

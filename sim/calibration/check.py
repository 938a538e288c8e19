"""How well tables predict measurements: modelled against measured, grouped for a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.calibration import families
from sim.calibration.attention.blocks import apart
from sim.calibration.measurement_files import read_all
from sim.calibration.measurements import GPUS, Measurement
from sim.inputs import cards
from sim.kernels import hottest_rank, kernel_table, served
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import MASKED_TILE_ROWS, Floats

TableOf = Callable[[str], KernelTable | None]


@dataclass(frozen=True)
class TableCheck:
    """Measurements of one kernel in one file, and what the table says for each."""

    file: str
    gpu: str
    op: str
    dtype: str
    kernel: str
    regime: str
    points: int
    in_range: int
    """Points inside the range in which the curve is calibrated."""
    mape: float | None
    """Mean absolute error, a fraction; None if the card has no curve for the kernel."""
    p50: float | None
    p90: float | None
    bias: float | None
    """Mean signed error, a fraction: positive if the model is slower than measured."""
    measured_us: Floats = field(repr=False)
    modelled_us: Floats = field(repr=False)
    """NaN where no curve is known."""
    peak_us: Floats = field(repr=False)
    """What the card's physical peak would take."""

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if not name.endswith("_us")}


def check_tables(
    measurements: Iterable[Path], tables: Path | None = None, by_range: bool = False
) -> list[TableCheck]:
    """Return how well tables predict the measurements in CSV files: as `compare` does.

    `by_range` keeps points inside the range of a curve apart from those outside. `tables` is a
    folder of tables, NAME.csv for the card NAME; by default those that runs use. Raises
    CalibrationError for measurements or a table that is wrong.
    """

    @cache
    def table(name: str) -> KernelTable | None:
        path = cards.calibration(name) if tables is None else tables / f"{name}.csv"
        if path is None or not path.is_file() or name not in cards.names(cards.ACCELERATORS):
            return None
        return kernel_table.load(cards.accelerator(name), path)

    return compare(read_all(measurements), table, by_range)


def compare(
    measurements: Sequence[Measurement], table_of: TableOf, by_range: bool = False
) -> list[TableCheck]:
    """Return one comparison per file, GPU, operation, format, kernel and regime, in file order.

    With `by_range`, up to two: of points inside the range of a curve, then of those outside.
    """
    found: dict[tuple[str, ...], list[Measurement]] = {}
    for row in measurements:
        kernel = row.measured_kernel or row.kernel
        place = (Path(row.path).name, row.gpu, row.form, row.label, kernel, row.regime)
        found.setdefault(place, []).append(row)
    return [
        one
        for place, rows in found.items()
        for one in _comparisons(place, rows, table_of, by_range)
    ]


def _comparisons(
    place: tuple[str, ...], rows: Sequence[Measurement], table_of: TableOf, by_range: bool
) -> Iterator[TableCheck]:
    names = GPUS.get(rows[0].gpu, (rows[0].gpu,))
    table = table_of(names[0])
    rows = rows if table is None else apart(rows, table)
    beside = np.array([row.beside_us for row in rows])
    measured = beside + [row.latency_us for row in rows]
    modelled = np.full(len(rows), np.nan)
    peak = np.full(len(rows), np.nan)
    inside = np.zeros(len(rows), dtype=np.bool_)
    if table is not None:
        by_kernel: dict[families.MeasuredKernel, list[int]] = {}
        for index, row in enumerate(rows):
            by_kernel.setdefault(families.kernel_of(row), []).append(index)
        for kernel, at in by_kernel.items():
            predicted = predict(table, kernel, [rows[index] for index in at])
            modelled[at], inside[at], peak[at] = predicted
        modelled, peak = modelled + beside, peak + beside
    parts = [inside, ~inside] if by_range else [np.ones(len(rows), dtype=np.bool_)]
    for part in parts:
        if part.any():
            yield _comparison(place, measured[part], modelled[part], peak[part], inside[part])


def _comparison(
    place: tuple[str, ...],
    measured: Floats,
    modelled: Floats,
    peak: Floats,
    inside: NDArray[np.bool_],
) -> TableCheck:
    known = np.isfinite(modelled)
    error = modelled[known] / measured[known] - 1
    size = np.abs(error) if known.any() else None
    file, gpu, op, dtype, name, regime = place
    return TableCheck(
        file=file,
        gpu=gpu,
        op="moe" if op == "moe_hottest" else op,
        dtype=dtype,
        kernel=name,
        regime=regime,
        points=len(measured),
        in_range=int(inside.sum()),
        mape=None if size is None else float(size.mean()),
        p50=None if size is None else float(np.median(size)),
        p90=None if size is None else float(np.quantile(size, 0.9)),
        bias=None if size is None else float(error.mean()),
        measured_us=measured,
        modelled_us=modelled,
        peak_us=peak,
    )


def predict(
    table: KernelTable, kernel: families.MeasuredKernel, rows: Sequence[Measurement]
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Return modelled µs (NaN: no curve), whether in range, and µs at the card's peak."""
    if kernel.op == "moe_hottest":
        return _hottest(table, kernel, rows)
    if kernel.op not in families.FAMILIES:
        nothing = np.full(len(rows), np.nan)
        return nothing, np.zeros(len(rows), dtype=np.bool_), nothing
    op = families.build(table.accelerator, kernel, families.coordinates(rows))
    peak = np.maximum(*table.peak_us(op))
    curve, exact = table.serving(op)
    if curve is None or (op.medium != "hbm" and not exact):
        return np.full(len(rows), np.nan), np.zeros(len(rows), dtype=np.bool_), peak
    time, inside = table.time_us(op, curve)
    return time, inside & exact, peak


def _hottest(
    table: KernelTable, kernel: families.MeasuredKernel, rows: Sequence[Measurement]
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Return the time of the hottest rank under a drawn load, on the kernel of even loads."""
    fixed = dict(kernel.fixed)
    hidden, intermediate = int(float(fixed["hidden"])), float(fixed["intermediate"])
    masked = kernel.kernel == served.MASKED
    tile_rows = MASKED_TILE_ROWS if masked else float(table.accelerator.gemm_tile_rows)
    modelled, inside, peak = [], [], []
    for row in rows:
        at = {name: int(value) for name, value in row.at}
        loads = hottest_rank.hottest_loads(
            str(fixed["load"]),
            at["tokens"],
            hottest_rank.Held(at["experts"], at["ep"]),
            int(float(fixed["topk"])),
        )
        op = hottest_rank.rank_op(
            kernel.dtype, hidden, intermediate, loads, kernel.kernel, tile_rows
        )
        curve, exact = table.serving(op)
        peak.append(float(np.maximum(*table.peak_us(op)).mean()))
        if curve is None:
            modelled.append(np.nan)
            inside.append(False)
            continue
        time, within = table.time_us(op, curve)
        modelled.append(float(time.mean()))
        inside.append(bool(within.all()) and exact)
    return np.array(modelled), np.array(inside), np.array(peak)

"""Measure how far look-ups are off on the shipped tables: `python -m sim.calibration.errors`.

Writes hardware/doubt/kernel-errors.csv and prints it as the table of docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sim.calibration.errors.nodes import Nodes
from sim.calibration.errors.trials import (
    ShippedTable,
    Tried,
    beyond,
    borrowed,
    common,
    uncalibrated,
)
from sim.inputs import cards
from sim.kernels.doubt.kernel_error import ANY, BEYOND, COLUMNS, FILE, KINDS, SD_OF_MEAN_ERROR
from sim.kernels.ops import Floats
from sim.kernels.table_file import read

# Standard deviations to the 80th percentile of the absolute error of a normal law: a figure is such
# that 80 % of errors lie where a normal law of this figure has them, whatever the tails.
_PERCENTILE, _DEVIATIONS = 0.8, 1.2816
# Curves below which an op takes the figure of all.
_FEWEST = 6
# What of the error inside of a range counts. Products of a step have as many shapes that errors of
# whole shapes come down to √Σw² of their shares w of the time: 0.4 to 0.7 in the shipped scenarios.
_SHARES = {ANY: 1.0, "gemm": 0.6}
# A collective's curve is put on the slower link of a like card at the link's full rate; of 200 GB/s
# of H800, NCCL reaches 160 (DeepSeek-V3 technical report, §3.2.2).
_LINK = ("collective", math.log(200 / 160))


class ErrorFigure(NamedTuple):
    """A line of the file."""

    op: str
    kind: str
    axis: str
    value: float
    points: int
    curves: int


def spread(errors: Sequence[Floats]) -> float:
    """Return the standard deviation that the 80th percentile tells; curves weigh alike."""
    away = np.abs(np.concatenate(errors))
    weights = np.concatenate([np.full(len(of), 1 / len(of)) for of in errors])
    order = np.argsort(away)
    upto = np.cumsum(weights[order]) / weights.sum()
    return float(away[order][np.searchsorted(upto, _PERCENTILE)]) / _DEVIATIONS


def reduced(trials: Iterable[Tried]) -> list[ErrorFigure]:
    """Return the figure of each op, kind and axis that enough curves tell of, and those of all.

    The latter are medians over ops, and over axes where an axis is of one op alone.
    """
    found: dict[tuple[str, str, str], list[Floats]] = {}
    for one in trials:
        found.setdefault((one.op, one.kind, one.axis), []).append(one.errors)
    rows = []
    for (op, kind, axis), errors in found.items():
        if len(errors) >= _FEWEST:
            points = sum(map(len, errors))
            value = round(_figure(kind, errors), 3)
            rows.append(ErrorFigure(op, kind, axis, value, points, len(errors)))
    rows += [_derived(row) for row in rows if row.kind == "common"]
    shares = [ErrorFigure(op, "share", "", share, 0, 0) for op, share in _SHARES.items()]
    places = {(row.kind, row.axis) for row in rows}
    places |= {(kind, ANY) for kind, axis in places if axis}
    return sorted([*rows, *shares, *(_of_all(rows, *place) for place in places)], key=_order)


def _figure(kind: str, errors: Sequence[Floats]) -> float:
    if kind in ("inside", "launch"):
        return float(np.median(errors))
    if kind == "common":
        return math.sqrt(float(np.mean(np.square(errors))))
    return spread(errors)


def _derived(row: ErrorFigure) -> ErrorFigure:
    """Return what a like card's curve is off: two measurements, and the link of a collective."""
    op, link = _LINK
    value = math.hypot(math.sqrt(2) * row.value, link if row.op == op else 0.0)
    return row._replace(kind="derived", value=round(value, 3))


def _of_all(rows: Sequence[ErrorFigure], kind: str, axis: str) -> ErrorFigure:
    of = [row for row in rows if row.kind == kind and axis in (row.axis, ANY)]
    value = round(float(np.median([row.value for row in of])), 3)
    points, curves = sum(row.points for row in of), sum(row.curves for row in of)
    return ErrorFigure(ANY, kind, axis, value, points, curves)


def _order(row: ErrorFigure) -> tuple[bool, str, int, str]:
    return row.op != ANY, row.op, (*KINDS, BEYOND).index(row.kind), row.axis


def inside(table: ShippedTable) -> Iterable[Tried]:
    """Yield the held-out error of each curve that has one."""
    for one in table.own:
        if not math.isnan(one.curve.mape):
            log_sd = np.array([one.curve.mape * SD_OF_MEAN_ERROR])
            yield Tried(one.curve.op, "inside", "", log_sd)


def shipped() -> Mapping[str, ShippedTable]:
    """Return the tables of all cards."""
    paths = sorted(cards.packaged(cards.CALIBRATION).glob("*.csv"))
    return {
        path.stem: ShippedTable(
            cards.accelerator(path.stem), {curve.identity: curve for curve in read(path)[0]}
        )
        for path in paths
    }


def trials(tables: Mapping[str, ShippedTable]) -> Iterable[Tried]:
    """Yield all that tables tell of errors."""
    by_op: dict[str, list[Nodes]] = {}
    for table in tables.values():
        yield from inside(table)
        yield from borrowed(table)
        yield from uncalibrated(table)
        for one in table.own:
            by_op.setdefault(one.curve.op, []).append(one)
    yield from common(tables)
    for nodes in by_op.values():
        yield from beyond(nodes)


def text(figures: Iterable[ErrorFigure]) -> str:
    """Return the file of figures."""
    lines = ["# Log standard deviations; launches in µs. Made by python -m sim.calibration.errors"]
    lines.append(",".join(COLUMNS))
    lines += [",".join((*row[:3], f"{row.value:.3f}", *map(str, row[4:]))) for row in figures]
    return "\n".join(lines) + "\n"


def markdown(figures: Iterable[ErrorFigure]) -> str:
    """Return the figures as a table, an op a line: hundredths of the logarithm; launches in µs."""
    by_op: dict[str, dict[tuple[str, str], str]] = {}
    for row in figures:
        shown = row.value if row.kind == "launch" else 100 * row.value
        by_op.setdefault(row.op, {})[row.kind, row.axis] = f"{shown:.0f}"
    lines = [f"| op | {' | '.join(KINDS)} | an octave beyond |", "|---" * (len(KINDS) + 2) + "|"]
    for op, found in by_op.items():
        axes = [f"{axis} {value}" for (kind, axis), value in found.items() if kind == BEYOND]
        cells = [found.get((kind, ""), "") for kind in KINDS]
        lines.append(f"| {' | '.join((op, *cells, ', '.join(axes)))} |")
    return "\n".join(lines)


def main() -> None:
    """Write the file and print the table."""
    figures = reduced(trials(shipped()))
    (cards.packaged(cards.DOUBT) / FILE).write_text(text(figures), encoding="utf-8")
    print(markdown(figures))


if __name__ == "__main__":
    main()

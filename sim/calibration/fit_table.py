"""Fitting a table: measurement files become curves, merged into those that a card has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.calibration.attention.blocks import apart
from sim.calibration.compose import composed
from sim.calibration.families import kernel_of
from sim.calibration.fit import Fit, fit, impossible, own
from sim.calibration.framework_files import ONE_OF_SEVERAL
from sim.calibration.measurement_files import read_all
from sim.calibration.measurements import GPUS, Measurement
from sim.calibration.merge import Change, changes, merge, narrower
from sim.foundation.errors import CalibrationError
from sim.inputs import cards
from sim.inputs.hardware import Accelerator
from sim.kernels import served
from sim.kernels.kernel_table import load
from sim.kernels.table_file import read, write

_ROUNDING = 0.001  # by which files differ that hold the same measurement


@dataclass(frozen=True)
class FittedTable:
    """A calibration table that was written, and how it came about."""

    path: Path
    fit: Fit
    curves: int
    base: Path | None
    """Table that the curves were merged into."""
    changes: list[Change]
    narrower: list[str]
    """Kernels measured less widely than before."""
    impossible: list[str]
    """Measurements left out, faster than the card's peak."""


def fit_table(
    measurements: Iterable[Path],
    accelerator: str,
    out: Path,
    *,
    replace: bool = False,
    like: str | None = None,
    like_ops: Iterable[str] = (),
    skip_impossible: bool = False,
) -> FittedTable:
    """Fit the kernels of a card to measurement files and write its table to `out`.

    The curves are merged into the table at `out`, or the card's own, unless `replace`. `like` is a
    card whose kernels (of `like_ops`) fill what was not measured. Raises CalibrationError for
    measurements that are wrong, faster than the card's peak, or too few; ScenarioError for an
    unknown card.
    """
    card = cards.accelerator(accelerator)
    other = None if like is None else cards.accelerator(like)
    rows = without_repeats(read_all(measurements))
    ops = frozenset(like_ops)
    rows += [] if _has_masked(rows, card, other, ops) else composed(rows, card)
    rows = apart(rows, load(card, out if out.is_file() else cards.calibration(card.name)))
    rows = rows if other is None else apart(rows, load(other, cards.calibration(other.name)))
    wrong = _impossible(rows, [each for each in (card, other) if each is not None])
    if wrong and not skip_impossible:
        raise CalibrationError("\n".join(wrong.values()))
    base = None if replace else out if out.is_file() else cards.calibration(card.name)
    old = () if base is None else read(base)[0]
    rows = [row for row in rows if row.place not in wrong]
    fitted = fit(rows, card, other, ops)
    if not fitted.curves:
        raise CalibrationError("\n".join(["nothing could be fitted", *fitted.left_out]))
    curves = merge(old, fitted.curves)
    write(curves, out)
    return FittedTable(
        out,
        fitted,
        len(curves),
        base,
        changes(old, curves),
        narrower(old, curves),
        list(wrong.values()),
    )


def _has_masked(
    rows: Iterable[Measurement], card: Accelerator, other: Accelerator | None, ops: frozenset[str]
) -> bool:
    """Return whether masked experts were measured on a card, or on the one that lends it these."""
    lends = other is not None and (not ops or "moe" in ops)
    names = [card.name, *([other.name] if lends and other else [])]
    masked = (row for row in rows if (row.op, row.kernel) == ("moe", served.MASKED))
    return any(gpu in names for row in masked for gpu in GPUS.get(row.gpu, (row.gpu,)))


def without_repeats(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements without what others make superfluous.

    That is what another file holds too, rounded otherwise, and all but the fastest of several
    frameworks' kernels where one name stands for them.
    """
    kept: dict[tuple[object, ...], list[Measurement]] = {}
    for row in rows:
        known = kept.setdefault((row.gpu, kernel_of(row), row.at), [])
        if row.regime == ONE_OF_SEVERAL:
            known[:] = [min([*known, row], key=lambda one: one.latency_us)]
        elif not any(_repeats(row, one) for one in known):
            known.append(row)
    return [row for rows in kept.values() for row in rows]


def _repeats(row: Measurement, other: Measurement) -> bool:
    return row.path != other.path and abs(row.latency_us / other.latency_us - 1) < _ROUNDING


def _impossible(rows: Sequence[Measurement], accelerators: Sequence[Accelerator]) -> dict[str, str]:
    """Return what is wrong with each row that beats the peak of its card, by its place."""
    wrong: dict[str, str] = {}
    for card in accelerators:
        members = own(rows, card.name)
        for times, index in impossible(members, card) if members else ():
            row = members[index]
            wrong[row.place] = (
                f"{row.place}: {row.latency_us:g} µs is {times:.2f} times faster than the peak of"
                f" {card.name} ({row.op}, {row.source})"
            )
    return wrong

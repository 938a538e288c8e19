"""Published: measured comparisons of both sides, beside what a study says of the same place."""

from __future__ import annotations

from collections.abc import Sequence

from sim.study.schema import MeasuredMargin, Study
from sim.study.verdicts import JudgedCell
from sim.sweeps.points import Row


def at(study: Study, judged: JudgedCell) -> list[MeasuredMargin]:
    """Return what was measured at the place of a cell."""
    return [each for each in study.published if each.place == judged.cell.place]


def compared(
    study: Study, cells: Sequence[JudgedCell]
) -> list[tuple[MeasuredMargin, JudgedCell | None]]:
    """Return all measured comparisons, each with its cell if the study has it."""
    return [
        (each, next((cell for cell in cells if cell.cell.place == each.place), None))
        for each in study.published
    ]


def agreement(measured: MeasuredMargin, judged: JudgedCell | None) -> str:
    """Return in a word or two whether a study leads to the side that was measured to lead."""
    if judged is None:
        return "no cell"
    if judged.margin is None:
        return "not finished" if judged.verdict is None else "one side alone"
    return "same side" if judged.margin * measured.margin > 0 else "other side"


def is_inside(measured: MeasuredMargin, judged: JudgedCell | None) -> bool | None:
    """Return whether what was measured lies in the 90 % interval of a cell's margin."""
    if judged is None or judged.doubt is None:
        return None
    low, high = judged.doubt.interval(90)
    return low <= measured.margin <= high


def rows(study: Study, cells: Sequence[JudgedCell]) -> list[Row]:
    """Return one row per measured comparison."""
    return [
        {
            **{name: measured.place.get(name) for name in study.dimensions},
            "what": measured.what,
            "measured_margin": measured.margin,
            "margin": None if judged is None else judged.margin,
            "verdict": None if judged is None else judged.verdict,
            "agreement": agreement(measured, judged),
            "inside_90": is_inside(measured, judged),
            "source": measured.source,
        }
        for measured, judged in compared(study, cells)
    ]

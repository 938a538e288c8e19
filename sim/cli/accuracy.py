"""The verb accuracy: measured operating points against what is predicted for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import AsJson, Table, say, show
from sim.foundation import json_text

if TYPE_CHECKING:
    from sim.experiments.accuracy.verdict import Errors, Judged


def accuracy(
    points: Annotated[Path, typer.Argument(metavar="POINTS", help="CSV file of measured points.")],
    as_json: AsJson = False,
    shown: Annotated[
        str | None,
        typer.Option("--show", metavar="ID", help="Print the scenario of a row, as YAML."),
    ] = None,
) -> None:
    """Predict measured operating points and compare: error by row and by group.

    Example: afdsim accuracy results/accuracy/points.csv
    """
    from sim.experiments.accuracy.verdict import errors, judge

    if shown is not None:
        _show(points, shown)
        return
    found = judge(points)
    if as_json:
        rows = [row.as_dict() for row in found]
        print(json_text.dumps(rows, indent=2, ensure_ascii=False))
        return
    show(_rows(found))
    _tell(found)
    show(_groups(errors(found)))


def _show(points: Path, name: str) -> None:
    from sim.experiments.accuracy.points import matching, read
    from sim.experiments.accuracy.setup import setup

    print(setup(matching(read(points), name)).yaml(), end="")


def _rows(found: list[Judged]) -> Table:
    shown = Table(
        ["row", "clock", "measured ms", "predicted ms", "error", "calibrated"],
        "operating points",
    )
    for row in found:
        measured, predicted, seen = row.point.measured_ms, row.predicted_ms, row.prediction
        shown.add_row(
            row.point.id,
            row.point.clock,
            "–" if measured is None else f"{measured:.2f}",
            "–" if predicted is None else f"{predicted:.2f}",
            _percent(row.error, signed=True),
            "–" if seen is None else f"{seen.calibrated_share:.0%}",
        )
    return shown


def _tell(found: list[Judged]) -> None:
    """Print why rows are not predicted, each reason once."""
    reasons: dict[str, list[str]] = {}
    for row in found:
        if row.why_not:
            reasons.setdefault(row.why_not, []).append(row.point.id)
    for why, ids in reasons.items():
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        say(f"not expressed: {', '.join(ids[:3])}{more}: {why}")


def _groups(found: list[Errors]) -> Table:
    shown = Table(
        ["group", "value", "rows", "predicted", "median |error|", "P90", "bias"],
        "error by group",
    )
    for each in found:
        shown.add_row(
            each.group,
            each.value,
            str(each.rows),
            str(each.expressible),
            _percent(each.median),
            _percent(each.p90),
            _percent(each.bias, signed=True),
        )
    return shown


def _percent(share: float | None, signed: bool = False) -> str:
    if share is None:
        return "–"
    text = f"{100 * share:+.1f} %" if signed else f"{100 * share:.1f} %"
    return text.replace("-", "−")

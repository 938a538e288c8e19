"""The verb accuracy: measured operating points against what is predicted for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import AsJson, Table, say, show
from sim.foundation import json_text

if TYPE_CHECKING:
    from sim.experiments.accuracy.pairs import JudgedPair
    from sim.experiments.accuracy.verdict import Errors, Judged


def accuracy(
    points: Annotated[
        Path | None, typer.Argument(metavar="POINTS", help="CSV file of measured points.")
    ] = None,
    stages: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV file of measured times of stages, instead."),
    ] = None,
    as_json: AsJson = False,
    shown: Annotated[
        str | None,
        typer.Option("--show", metavar="ID", help="Print the scenario of a row, as YAML."),
    ] = None,
    software: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Profile for all rows instead of their framework's."),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw predicted against measured on an HTML page."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV of row ids, first and second: compare their yield."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows as CSV.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Put the tables into a Markdown file, between its marks."
        ),
    ] = None,
    residuals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Fit what is left of predictions, for intervals, and write it."
        ),
    ] = None,
) -> None:
    """Predict measured operating points and compare: error by row and by group.

    Example: afdsim accuracy results/accuracy/points.csv
    """
    from sim.experiments.accuracy.verdict import errors, judge_points

    if stages is not None:
        _check_alone(points, shown, software, picture, pairs, residuals)
        _stages(stages, as_json, table, report)
        return
    if points is None:
        raise typer.BadParameter("give POINTS or --stages FILE", param_hint="POINTS")
    if shown is not None:
        _show(points, shown, software)
        return
    found = judge_points(points, software)
    if residuals is not None:
        _fit(residuals, found)
    compared = _pairs(pairs, found)
    rows = [row.as_dict() for row in found]
    if picture is not None:
        _draw(picture, found, points.name)
    if table is not None:
        _write(table, rows)
    if report is not None:
        _report(report, found, compared)
    if as_json:
        print(json_text.dumps(rows, indent=2, ensure_ascii=False))
        return
    show(_rows(found))
    _tell((row.point.id, row.why_not) for row in found)
    show(_groups(errors(found)))
    if compared:
        show(_leads(compared))


def _check_alone(points: Path | None, *others: object) -> None:
    """Refuse what does not go with --stages."""
    if points is not None:
        raise typer.BadParameter("give POINTS or --stages FILE", param_hint="POINTS")
    if any(other is not None for other in others):
        told = "only --json, --table and --report go with it"
        raise typer.BadParameter(told, param_hint="--stages")


def _fit(path: Path, found: list[Judged]) -> None:
    from sim.experiments.accuracy import intervals

    intervals.write(path, intervals.fitted(found))
    say(f"wrote {path}")


def _draw(path: Path, found: list[Judged], name: str) -> None:
    from sim.pictures.accuracy_page import write_page

    write_page(path, found, name)
    say(f"wrote {path}")


def _report(path: Path, found: list[Judged], compared: list[JudgedPair]) -> None:
    from sim.pictures import accuracy_page as pages

    pages.write_between_marks(path, "accuracy", pages.report_sections(found))
    if compared:
        pages.write_between_marks(path, "pairs", [pages.pair_section(compared)])
    say(f"wrote the tables of {path}")


def _pairs(path: Path | None, found: list[Judged]) -> list[JudgedPair]:
    if path is None:
        return []
    from sim.experiments.accuracy.pairs import judge

    return judge(path, found)


def _leads(found: list[JudgedPair]) -> Table:
    from sim.pictures.accuracy_page import pair_section

    section = pair_section(found)
    shown = Table(section.head, section.text)
    for cells in section.rows:
        shown.add_row(*cells)
    return shown


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    from sim.experiments.accuracy import rows_file

    rows_file.write(path, rows)
    say(f"wrote {path}")


def _stages(path: Path, as_json: bool, table: Path | None, report: Path | None) -> None:
    from sim.experiments.accuracy.stages import judge
    from sim.experiments.accuracy.verdict import stage_errors

    found = judge(path)
    rows = [row.as_dict() for row in found]
    if table is not None:
        _write(table, rows)
    if report is not None:
        from sim.pictures.accuracy_page import stage_sections, write_between_marks

        write_between_marks(report, "stages", stage_sections(found))
        say(f"wrote the tables of {report}")
    if as_json:
        print(json_text.dumps(rows, indent=2, ensure_ascii=False))
        return
    shown = Table(["row", "stage", "tokens", "measured µs", "predicted µs", "error"], "stages")
    for row in found:
        if row.predicted_us is not None:
            times = (f"{row.point.measured_us:.1f}", f"{row.predicted_us:.1f}")
            error = _percent(row.error, signed=True)
            shown.add_row(row.point.id, row.point.stage, row.point.batch, *times, error)
    show(shown)
    _tell((row.point.id, row.why_not) for row in found)
    show(_groups(stage_errors(found)))


def _show(points: Path, name: str, software: str | None) -> None:
    from sim.experiments.accuracy.points import matching, read_points
    from sim.experiments.accuracy.setup import setup

    print(setup(matching(read_points(points), name), software).yaml(), end="")


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


def _tell(rows: Iterable[tuple[str, str]]) -> None:
    """Print why rows are not predicted, each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, why in rows:
        if why:
            reasons.setdefault(why.replace(f"{name}:1:1: ", ""), []).append(name)
    for why, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        say(f"not expressed: {', '.join(names[:3])}{more}: {why}")


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

"""The verbs about calibration: fit a table, check tables, draw them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.foundation import json_text
from sim.foundation.errors import CalibrationError
from sim.foundation.printable import printable

if TYPE_CHECKING:
    from sim.calibration.fit import Fit, HeldOut
    from sim.calibration.merge import Change

app = typer.Typer(
    help="Fit kernel latencies to measurements, and check tables against them.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Files = Annotated[
    list[Path], typer.Argument(metavar="MEASUREMENTS…", help="CSV files of the shared form.")
]
Tables = Annotated[
    Path | None,
    typer.Option("--tables", metavar="DIR", help="Tables to check; default: the shipped tables."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command()
def fit(
    measurements: Files,
    accelerator: Annotated[str, typer.Option("--accelerator", help="Card to calibrate.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Table to write.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Write only fitted curves; keep no other curve.")
    ] = False,
    like: Annotated[
        str | None, typer.Option("--like", help="Card whose kernels fill what was not measured.")
    ] = None,
    like_op: Annotated[
        list[str] | None, typer.Option("--like-op", help="Fill only this op; may be repeated.")
    ] = None,
    skip_impossible: Annotated[
        bool, typer.Option(help="Leave out, and name, points faster than the card's peak.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fit kernels of one accelerator, and report their held-out error.

    The curves are merged into the table at --out, or, where there is none, into the accelerator's
    own: kernels that were measured anew replace theirs, the others stay.

    Example: afdsim calibrate fit gemm.csv moe.csv --accelerator h100-sxm --out h100-sxm.csv
    """
    from sim.calibration.fit_table import fit_table

    made = fit_table(
        measurements,
        accelerator,
        out,
        replace=replace,
        like=like,
        like_ops=like_op or (),
        skip_impossible=skip_impossible,
    )
    for text in made.impossible:
        _say(f"left out: {text}")
    _report(made.fit, as_json)
    for text in made.fit.left_out:
        _say(f"left out: {text}")
    for text in made.narrower:
        _say(f"measured less widely than before, the rest is extrapolated: {text}")
    _tell(made.changes)
    merged = "" if made.base is None else f", merged with {made.base}"
    _say(f"{out}: {made.curves} curves{merged}")


def _tell(found: Sequence[Change]) -> None:
    """Print what became of the curves of a table on stderr."""
    lines = [("", "op", "kernel", "dtype", "curves", "points")]
    for one in found:
        points = f"{one.points_before} → {one.points}" if one.what == "replaced" else one.points
        lines.append((one.what, one.op, one.kernel, one.dtype, str(one.curves), str(points)))
    for line in _aligned(lines):
        _say(line)


@app.command()
def check(
    measurements: Files,
    tables: Tables = None,
    by_range: Annotated[
        bool,
        typer.Option("--by-range", help="Points inside and outside a curve's range apart."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare tables with measurement files: error per file, GPU, op, dtype, kernel and regime.

    Example: afdsim calibrate check gemm.csv --json
    """
    from sim.calibration.check import check_tables

    found = [one.as_dict() for one in check_tables(measurements, tables, by_range)]
    _print(found, as_json)


@app.command()
def plot(
    measurements: Files,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="HTML page to write.")],
    tables: Tables = None,
) -> None:
    """Draw modelled against measured times and the roofline, per card and op, as HTML.

    Example: afdsim calibrate plot gemm.csv --out gemm.html
    """
    from sim.calibration.check import check_tables
    from sim.pictures.check_page import write

    found = check_tables(measurements, tables)
    if all(one.mape is None for one in found):
        names = ", ".join(map(str, measurements))
        raise CalibrationError(f"{names}: no table models any of these kernels: nothing to draw")
    write(found, out)
    _say(f"{out}: written")


@app.command()
def software(
    points: Annotated[Path, typer.Argument(metavar="POINTS", help="CSV file of measured points.")],
    profile: Annotated[str, typer.Option("--profile", help="Software profile to start from.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Software card to write.")],
    as_json: AsJson = False,
) -> None:
    """Fit the unmeasured figures of a software profile to rows of its framework.

    Figures that the rows do not identify are refused and keep the profile's value.

    Example: afdsim calibrate software points.csv --profile sglang --out mine.yaml
    """
    from sim.experiments.accuracy.points import read_points
    from sim.experiments.accuracy.software_fit import fit_software, write

    found = fit_software(read_points(points), profile, _say)
    records = [
        {
            "figure": one.of.name,
            "unit": one.of.unit,
            "before": f"{one.before:g}",
            "value": f"{one.value:.4g}",
            "low": f"{one.low:.4g}",
            "high": f"{one.high:.4g}",
        }
        for one in found.fitted
    ]
    _print(records, as_json)
    for name, why in found.refused.items():
        _say(f"refused: {name}: {why}")
    for name, why in found.left_out.items():
        _say(f"left out: {name}: {why}")
    before, after = 100 * found.error_before, 100 * found.error
    _say(f"{found.rows} rows: median |error| {before:.1f} % before, {after:.1f} % after")
    write(out, found, points.name)
    _say(f"{out}: written; name it in a scenario: software: {out}")


def _report(fitted: Fit, as_json: bool) -> None:
    """Print the held-out error per op, number format, kernel and regime."""
    import numpy as np

    found: dict[tuple[str, ...], list[HeldOut]] = {}
    for trial in fitted.trials:
        row = trial.row
        place = (row.op, row.label or row.dtype, row.kernel, row.regime)
        found.setdefault(place, []).append(trial)
    records = []
    for (op, dtype, kernel, regime), trials in sorted(found.items()):
        error = np.array([trial.error for trial in trials])
        size = np.abs(error)
        record: dict[str, Any] = {"op": op, "dtype": dtype, "kernel": kernel, "regime": regime}
        record |= {"held_out": len(trials), "mape": float(size.mean())}
        record |= {"p50": float(np.median(size)), "p90": float(np.quantile(size, 0.9))}
        records.append(record | {"bias": float(error.mean())})
    _print(records, as_json)


def _print(records: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print records on stdout: as JSON, or as aligned text with errors in percent."""
    if as_json:
        print(json_text.dumps(json_text.without_nan(records), indent=2))
        return
    if not records:
        return
    lines = [list(records[0])]
    lines += [[_cell(value) for value in record.values()] for record in records]
    print(*_aligned(lines), sep="\n")


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if isinstance(value, float) else str(value)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)

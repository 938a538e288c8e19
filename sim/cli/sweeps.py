"""The verbs about many points: sweep and plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import (
    AsJson,
    OwnWorkers,
    Prices,
    Scheduler,
    Settings,
    Table,
    assignments,
    job_bar,
    number,
    own_or_cluster,
    say,
    say_notes,
    show,
    usd,
    warn,
    width,
)
from sim.cli.textplot import pareto_text
from sim.foundation import json_text
from sim.foundation.errors import EXIT_FAILED_POINTS, EXIT_INFEASIBLE, EXIT_OK
from sim.parallel import signals

# Rows of a front in the terminal; sweep.csv has them all.
_SHOWN_PER_FAMILY = 10
_SHOWN_REASONS = 10

if TYPE_CHECKING:
    from sim.sweeps.points import Row


def sweep(
    name: Annotated[str, typer.Argument(help="Sweep: a name in scenarios/sweeps/ or a path.")],
    setting: Settings = None,
    price: Prices = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Directory to keep; default: results/runs/NAME."),
    ] = None,
    workers: OwnWorkers = None,
    scheduler: Scheduler = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run points again that failed before.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each point runs.")] = False,
    engine: Annotated[
        str | None,
        typer.Option(metavar="ENGINE", help="Engine of all points: bound, recurrence or event."),
    ] = None,
) -> None:
    """Run the points of a sweep that are not finished, print the Pareto front and make a page.

    Example: afdsim sweep step3-vs-dsv3
    """
    from sim.inputs.naming import folder_name
    from sim.metrics.cautions import SCOPE
    from sim.pictures.draw import draw
    from sim.results.files import RUNS
    from sim.sweeps import folder as folders
    from sim.sweeps import sweep as sweeps

    chosen = [] if engine is None else [f"simulation.engine={engine}"]
    loaded = sweeps.load(name, [*assignments(setting, price), *chosen])
    if loaded.left_out:
        total = loaded.left_out + len(loaded.points)
        say(f"{loaded.left_out} of {total} combinations are left out by constraints")
    say_notes(point.scenario.workload for point in loaded.points)
    folder = out or RUNS / "-".join([folder_name(loaded.sweep.name), *([engine] if engine else [])])
    with own_or_cluster(workers, scheduler) as pool:
        result = folders.run(
            loaded,
            folder,
            pool,
            retry_failed=retry_failed,
            explain=explain,
            watch=job_bar,
            tell=say,
        )
        rows, warnings = result.rows, result.warnings
        with signals.postponed():
            if rows:
                draw(result)
    warn(warnings)
    if as_json:
        place = str(folder) if rows else None
        told = {"directory": place, "scope": SCOPE, "warnings": warnings, "points": rows}
        told |= {name: result.described[name] for name in ("fronts", "refused")}
        print(json_text.dumps(told, ensure_ascii=False, indent=2))
    elif rows:
        _print_front(rows)
    if rows:
        saved = f"saved {len(rows)} of {len(result.points)} points"
        say(f"{saved} in {folder}; open {folder}/report.html")
    raise typer.Exit(_sweep_code(rows, result.stopped))


def _sweep_code(rows: list[dict[str, Any]], stopped: signals.Stopped | None) -> int:
    _say_refusals(rows)
    if stopped:
        say("interrupted")
        return stopped.exit_code
    if any(row["status"] == "failed" for row in rows):
        return EXIT_FAILED_POINTS
    if not any(row.get("slo_met") for row in rows):
        say("no point meets its SLO")
        return EXIT_INFEASIBLE
    return EXIT_OK


def _say_refusals(rows: list[Row]) -> None:
    """Say why points were refused or failed, each reason once."""
    from sim.sweeps.refusals import refusals

    groups = refusals(rows)
    for group in groups[:_SHOWN_REASONS]:
        count = group["points"]
        say(f"{count:,} point{'s' * (count > 1)} {group['status']}: {group['reason']}")
    if more := groups[_SHOWN_REASONS:]:
        count = sum(group["points"] for group in more)
        say(f"{count:,} points refused or failed for {len(more)} other reasons; see column reason")


def _print_front(rows: list[dict[str, Any]]) -> None:
    from sim.metrics.cautions import SCOPE
    from sim.sweeps.labels import labels
    from sim.sweeps.points import front

    families = dict.fromkeys(row["family"] for row in rows if row["status"] == "ok")
    best = {row["point"] for row in front(rows)}
    told = dict(zip((row["point"] for row in rows), labels(rows), strict=True))
    columns = ["family", "shape", "GPUs", "in flight", "TPOT ms", "±", "tokens/s/user"]
    columns += ["tokens/s/GPU", "USD/1M", "SLO", "overall"]
    title = f"Pareto front of each family (up to {_SHOWN_PER_FAMILY} points)"
    shown = Table(columns, title)
    for family in families:
        for row in _some(front(rows, family)):
            shown.add_row(
                family,
                told[row["point"]],
                str(row["gpus"]),
                f"{row['requests_in_flight']:,.0f}",
                f"{row['tpot_ms_mean']:.1f}",
                "–" if row["tpot_ci95_ms"] is None else f"{row['tpot_ci95_ms']:.2f}",
                f"{row['tokens_per_s_per_user']:.1f}",
                f"{row['tgs']:,.0f}",
                usd(row["usd_per_1m_tokens"]),
                "unstable" if row["stable"] is False else number(row["slo_met"]),
                "*" if row["point"] in best else "",
            )
    shown.leave_out("USD/1M")
    show(shown, SCOPE)
    show(pareto_text(rows, width()))


def _some(rows: list[Row]) -> list[Row]:
    """Return the first, the last and some rows between, as many as people read."""
    if len(rows) <= _SHOWN_PER_FAMILY:
        return rows
    steps = _SHOWN_PER_FAMILY - 1
    return [rows[round(step * (len(rows) - 1) / steps)] for step in range(steps + 1)]


def plot(
    results: Annotated[list[Path], typer.Argument(help="Directories of sweeps.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="HTML page to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Make the page of one or more finished sweeps again, one over the other.

    Example: afdsim plot results/runs/step3-vs-dsv3 --out both.html
    """
    from sim.pictures import draw

    say(f"wrote {draw.plot(results, out)}")

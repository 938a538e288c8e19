"""The verbs about many points: sweep and plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import (
    AsJson,
    Settings,
    Table,
    number,
    progress,
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

if TYPE_CHECKING:
    from sim.parallel.processes import Workers
    from sim.sweeps.points import Outcome, Point, Row
    from sim.sweeps.session import Session
    from sim.sweeps.sweep import Loaded, Sweep


def sweep(
    name: Annotated[str, typer.Argument(help="Sweep: a name in scenarios/sweeps/ or a path.")],
    setting: Settings = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Directory to keep; default: results/runs/NAME."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one per core.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers run the points."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run points again that failed before.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each point that runs why it does.")
    ] = False,
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
    from sim.results.files import RUNS
    from sim.sweeps import sweep as sweeps
    from sim.sweeps.cautions import about_points
    from sim.sweeps.session import Session
    from sim.sweeps.store import Store

    if workers and scheduler:
        raise typer.BadParameter("give --workers or --scheduler", param_hint="--scheduler")
    chosen = [] if engine is None else [f"simulation.engine={engine}"]
    loaded = sweeps.load(name, [*(setting or ()), *chosen])
    if loaded.left_out:
        total = loaded.left_out + len(loaded.points)
        say(f"{loaded.left_out} of {total} combinations are left out by constraints")
    say_notes(point.scenario.workload for point in loaded.points)
    folder = out or RUNS / "-".join([folder_name(loaded.sweep.name), *([engine] if engine else [])])
    with _workers(workers, scheduler) as pool, Store(folder, loaded.sweep.name) as store:
        session, stopped = Session(store, retry_failed=retry_failed), None
        why = store.why if explain else None
        points = loaded.points if loaded.sweep.refine is None else []
        try:
            if loaded.sweep.refine is None:
                _run(session, points, pool, why)
            else:
                points = _explore(loaded, session, pool, why)
        except signals.Stopped as signal:
            stopped = signal
            pool.stop(now=True)
            points = points or sorted(session.asked, key=lambda point: point.index)
        with signals.postponed():
            rows = session.rows(points)
            warnings = about_points(points, rows)
            if rows:
                _save_sweep(loaded, points, rows, warnings, folder)
    warn(warnings)
    if as_json:
        saved = str(folder) if rows else None
        told = {"directory": saved, "scope": SCOPE, "warnings": warnings, "points": rows}
        print(json_text.dumps(told, ensure_ascii=False, indent=2))
    elif rows:
        _print_front(rows)
    if rows:
        say(f"saved {len(rows)} of {len(points)} points in {folder}; open {folder}/report.html")
    raise typer.Exit(_sweep_code(rows, stopped))


def _workers(processes: int | None, scheduler: str | None) -> Workers:
    import os

    from sim.parallel import processes as workers

    if scheduler:
        return workers.cluster(scheduler)
    return workers.local(processes or len(os.sched_getaffinity(0)))


def _run(
    session: Session, points: Sequence[Point], pool: Workers, why: Callable[[Point], str] | None
) -> None:
    runs = session.missing(points)
    taken = len(points) - len(runs)
    if taken:
        say(f"{taken} of {len(points)} points are taken over, {len(runs)} run")
    if why is not None:
        for point in runs:
            say(f"point {point.index} ({_label(point)}) runs: {why(point)}")
    if runs:
        with _Progress(len(runs), taken) as shown:
            session.run(points, pool, shown.advance)


def _explore(
    loaded: Loaded, session: Session, pool: Workers, why: Callable[[Point], str] | None
) -> list[Point]:
    from sim.parallel.processes import Failure
    from sim.sweeps import refine

    def screen(points: Sequence[Point]) -> list[refine.Place | None]:
        found = {point.index: place for point, place in pool.run(refine.bound_place, points)}
        places = [found[point.index] for point in points]
        return [None if isinstance(place, Failure) else place for place in places]

    def simulate(points: Sequence[Point]) -> list[Row]:
        _run(session, points, pool, why)
        return session.rows(points)

    points = refine.explore(loaded, screen, simulate)
    grid = sum(point.index < len(loaded.points) for point in points)
    say(
        f"{grid} of {len(loaded.points)} points of the grid can reach a front; "
        f"{len(points) - grid} were added between them"
    )
    return points


def _label(point: Point) -> str:
    return ", ".join([point.family, *(f"{path}={v}" for path, v in point.settings.items())])


def _sweep_code(rows: list[dict[str, Any]], stopped: signals.Stopped | None) -> int:
    counts = {status: sum(r["status"] == status for r in rows) for status in ("refused", "failed")}
    if any(counts.values()):
        say(f"{counts['refused']} points refused, {counts['failed']} failed; see column reason")
    if stopped:
        say("interrupted")
        return stopped.exit_code
    if counts["failed"]:
        return EXIT_FAILED_POINTS
    if not any(row.get("slo_met") for row in rows):
        say("no point meets its SLO")
        return EXIT_INFEASIBLE
    return EXIT_OK


class _Progress:
    """A progress bar on stderr with rate and estimated time to go."""

    def __init__(self, total: int, taken: int) -> None:
        self.bar = progress(
            "points",
            "{task.fields[rate]:.1f}/s",
            "{task.fields[taken]} taken over",
            "{task.fields[failed]} failed",
        )
        self.task = self.bar.add_task("points", total=total, taken=taken, failed=0, rate=0.0)
        self.failed = 0

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, outcome: Outcome) -> None:
        self.failed += outcome["status"] == "failed"
        (task,) = self.bar.tasks
        rate = (task.completed + 1) / max(task.elapsed or 0.0, 0.1)
        self.bar.update(self.task, advance=1, failed=self.failed, rate=rate)


def _save_sweep(
    loaded: Loaded, ran: Sequence[Point], rows: list[Row], warnings: list[str], folder: Path
) -> None:
    from sim.metrics.cautions import SCOPE
    from sim.pictures import sweep_page
    from sim.results import files as results
    from sim.results import provenance
    from sim.sweeps import points

    sweep: Sweep = loaded.sweep

    def fill(target: Path) -> None:
        results.write_table(target / "sweep", points.columns(rows))
        resolved = [provenance.resolved(point.scenario) for point in ran]
        used = {name for point in ran for name in point.scenario.deployment.accelerators()}
        scenarios = {point.index: point.scenario for point in ran}
        for row in rows:
            if row.get("batch") is not None:  # found by a search: its load is the row's
                found = scenarios[row["point"]].with_batch(round(row["requests_in_flight"]))
                scenarios[row["point"]] = found
        described = {
            **provenance.provenance(),
            "sweep": sweep.model_dump(mode="json"),
            "scenarios_sha256": provenance.sha256(resolved),
            "points": len(ran),
            "finished": len(rows),
            "scope": SCOPE,
            "warnings": warnings,
            "calibration": provenance.calibration_of(sorted(used)),
            "best": sweep_page.best_scenarios(rows, scenarios),
        }
        results.write_json(target / "run.json", described)
        pipelines = sweep_page.pipelines(rows, scenarios)
        sweep_page.write_pipelines(target, pipelines)
        source = sweep_page.Source(sweep.name, rows, sweep.published, described, pipelines)
        sweep_page.write(target / "report.html", [source])

    results.replace_files(folder, fill)


def _print_front(rows: list[dict[str, Any]]) -> None:
    from sim.metrics.cautions import SCOPE
    from sim.sweeps.labels import differences
    from sim.sweeps.points import front

    families = dict.fromkeys(row["family"] for row in rows if row["status"] == "ok")
    best = {row["point"] for row in front(rows)}
    told = dict(zip((row["point"] for row in rows), differences(rows), strict=True))
    columns = ["family", "shape", "settings", "GPUs", "in flight", "TPOT ms", "±", "tokens/s/user"]
    columns += ["tokens/s/GPU", "USD/1M", "SLO", "overall"]
    title = f"Pareto front of each family (up to {_SHOWN_PER_FAMILY} points)"
    shown = Table(columns, title)
    for family in families:
        for row in _some(front(rows, family)):
            shown.add_row(
                family,
                row["shape"],
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
    from sim.pictures import sweep_page
    from sim.results.files import replace_file

    sources = [sweep_page.read(folder) for folder in results]
    replace_file(out, lambda path: sweep_page.write(path, sources))
    say(f"wrote {out}")

"""The verbs about many points: sweep and plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli.text import AsJson, Out, Settings, console, number, say, table, usd
from sim.cli.textplot import pareto_text
from sim.errors import EXIT_FAILED_POINTS, EXIT_INFEASIBLE, EXIT_INTERRUPTED, EXIT_OK


def sweep(
    name: Annotated[str, typer.Argument(help="Sweep: a name in scenarios/sweeps/ or a path.")],
    setting: Settings = None,
    as_json: AsJson = False,
    out: Out = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one per core.")
    ] = None,
) -> None:
    """Run every point of a sweep, print the Pareto front and make a page of all points.

    Example: afdsim sweep step3-vs-dsv3
    """
    import os

    from sim import sweeps
    from sim.results import RUNS

    loaded, points = sweeps.load(name, setting or ())
    folder = out or RUNS / loaded.name
    processes = workers or len(os.sched_getaffinity(0))
    folder.parent.mkdir(parents=True, exist_ok=True)
    journal = folder.with_name(f".{folder.name}-{os.getpid()}.jsonl")
    stopped = False
    with _Progress(len(points)) as progress:
        try:
            rows = sweeps.run(points, processes, journal, progress.advance)
        except sweeps.Interrupted as interrupt:
            rows, stopped = interrupt.rows, True
    saved = _save_sweep(loaded, points, rows, folder) if rows else None
    journal.unlink(missing_ok=True)
    if as_json:
        print(json.dumps({"directory": str(saved), "points": rows}, ensure_ascii=False, indent=2))
    else:
        _print_front(rows)
    if saved is not None:
        say(f"saved {len(rows)} of {len(points)} points in {saved}; open {saved}/report.html")
    raise typer.Exit(_sweep_code(rows, stopped))


def _sweep_code(rows: list[dict[str, Any]], stopped: bool) -> int:
    counts = {status: sum(r["status"] == status for r in rows) for status in ("refused", "failed")}
    if any(counts.values()):
        say(f"{counts['refused']} points refused, {counts['failed']} failed; see column reason")
    if stopped:
        say("interrupted")
        return EXIT_INTERRUPTED
    if counts["failed"]:
        return EXIT_FAILED_POINTS
    if not any(row.get("slo_met") for row in rows):
        say("no point meets its SLO")
        return EXIT_INFEASIBLE
    return EXIT_OK


class _Progress:
    """A progress bar on stderr with the estimated time to go."""

    def __init__(self, total: int) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        self.bar = rich_progress.Progress(
            rich_progress.TextColumn("points"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("to go"),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[failed]} failed"),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("points", total=total, failed=0)
        self.failed = 0

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, row: dict[str, Any]) -> None:
        """Count one finished point."""
        self.failed += row["status"] == "failed"
        self.bar.update(self.task, advance=1, failed=self.failed)


def _save_sweep(loaded: Any, points: list[Any], rows: list[dict[str, Any]], folder: Path) -> Path:
    from sim import report, results, sweeps

    def fill(target: Path) -> None:
        results.write_table(target / "sweep", sweeps.columns(rows))
        resolved = [results.resolved(point.scenario) for point in points]
        used = sorted({name for point in points for name in sweeps.accelerators(point.scenario)})
        described = {
            **results.provenance(),
            "sweep": loaded.model_dump(mode="json"),
            "scenarios_sha256": results.sha256(resolved),
            "points": len(points),
            "finished": len(rows),
            "calibration": results.calibration_of(used),
            "best": report.best_scenarios(rows, {point.index: point.scenario for point in points}),
        }
        results.write_json(target / "run.json", described)
        source = report.Source(loaded.name, rows, loaded.published, described)
        report.write(target / "report.html", [source])

    return results.fresh_directory(folder, fill)


def _print_front(rows: list[dict[str, Any]]) -> None:
    from sim.sweeps import front

    families = dict.fromkeys(row["family"] for row in rows if row["status"] == "ok")
    best = {row["point"] for row in front(rows)}
    columns = ["family", "shape", "GPUs", "in flight", "TPOT ms", "±", "tokens/s/user"]
    columns += ["tokens/s/GPU", "USD/1M", "SLO", "overall"]
    shown = table(columns, "Pareto front of each family")
    for family in families:
        for row in front(rows, family):
            shown.add_row(
                family,
                row["shape"],
                str(row["gpus"]),
                f"{row['requests_in_flight']:,.0f}",
                f"{row['tpot_ms_mean']:.1f}",
                "–" if row["tpot_ci95_ms"] is None else f"{row['tpot_ci95_ms']:.2f}",
                f"{row['tokens_per_s_per_user']:.1f}",
                f"{row['tgs']:,.0f}",
                usd(row["usd_per_1m_tokens"]),
                number(row["slo_met"]),
                "*" if row["point"] in best else "",
            )
    screen = console()
    screen.print(shown)
    screen.print(pareto_text(rows, screen.width))


def plot(
    results: Annotated[list[Path], typer.Argument(help="Directories of sweeps.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="HTML page to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Make the page of one or more finished sweeps again, one over the other.

    Example: afdsim plot results/runs/step3-vs-dsv3 --out both.html
    """
    from sim import report

    sources = [report.read(folder) for folder in results]
    temporary = out.with_name(f".{out.name}.part")
    report.write(temporary, sources)
    temporary.replace(out)
    say(f"wrote {out}")

"""A sweep in its directory: what is missing runs, and its tables are written."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.inputs.naming import folder_name
from sim.inputs.scenario import Scenario
from sim.metrics.cautions import SCOPE
from sim.parallel import processes, signals
from sim.parallel.processes import Failure, Workers
from sim.results.files import RUNS, replace_files, write_json
from sim.results.provenance import calibration_of, provenance, resolved, sha256
from sim.results.tables import write_table
from sim.sweeps import doubts, refine, sweep
from sim.sweeps.cautions import about_points, counted
from sim.sweeps.doubts import PointDoubt
from sim.sweeps.labels import fronts
from sim.sweeps.points import Point, Row, best_rows, columns, row, together
from sim.sweeps.refusals import refusals
from sim.sweeps.runner import Runner, Watch, unwatched
from sim.sweeps.store import Store
from sim.sweeps.sweep import LoadedSweep

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SweepResult:
    """A sweep and what is finished of it, as its directory holds it."""

    folder: Path
    loaded: LoadedSweep
    points: list[Point]
    """Points that were to be simulated."""
    rows: list[Row]
    """Of the finished ones, in their order."""
    warnings: list[str]
    described: dict[str, Any]
    """Content of run.json."""
    stopped: signals.Stopped | None = None
    """The signal that ended the sweep early."""

    def table(self) -> pandas.DataFrame:
        """Return one row per finished point, the columns of sweep.csv."""
        import pandas

        return pandas.DataFrame(columns(self.rows))

    def scenarios(self) -> dict[int, Scenario]:
        """Return the scenarios by point, those that searched their batch with the batch found."""
        return _scenarios(self.points, self.rows)


def run_sweep(
    name: str | Path,
    overrides: Iterable[str] = (),
    out: Path | None = None,
    workers: int | None = None,
    *,
    retry_failed: bool = False,
) -> SweepResult:
    """Run the points of a sweep that its directory does not hold, and write its tables there.

    `out` is results/runs/NAME by default, `workers` one process per core. Call it again to resume.
    Raises ScenarioError for a wrong sweep, StoreError if the directory cannot be used. A script
    calls it under `if __name__ == "__main__":`, since the workers import the script.
    """
    loaded = sweep.load(name, overrides)
    with processes.local(workers or processes.cores()) as pool:
        folder = out or RUNS / folder_name(loaded.sweep.name)
        return run(loaded, folder, pool, retry_failed=retry_failed)


def run(
    loaded: LoadedSweep,
    folder: Path,
    pool: Workers,
    *,
    retry_failed: bool = False,
    explain: bool = False,
    watch: Watch = unwatched,
    tell: Callable[[str], None] = lambda text: None,
) -> SweepResult:
    """Run what is missing of a sweep on `pool`; `explain` tells of each point why it runs.

    A signal that is heard ends it early: what is finished is written, and `stopped` is set.
    """
    with Store(folder, loaded.sweep.name) as store:
        sitting = _Sitting(loaded, store, Runner(store, retry_failed=retry_failed), pool, watch)
        points, stopped = loaded.points if loaded.sweep.refine is None else [], None
        try:
            if loaded.sweep.refine is None:
                sitting.run_points(points, explain, tell)
            else:
                points = refine.explore(
                    loaded,
                    lambda points: _places(points, pool),
                    lambda points: sitting.simulated(points, explain, tell),
                )
                grid = sum(point.index < len(loaded.points) for point in points)
                tell(
                    f"{grid} of {len(loaded.points)} points of the grid can reach a front; "
                    f"{len(points) - grid} were added between them"
                )
            sitting.run_doubts(points)
        except signals.Stopped as signal:
            stopped = signal
            pool.stop(now=True)
            points = points or sorted(sitting.asked, key=lambda point: point.index)
        with signals.postponed():
            rows, warnings = sitting.told(points)
            described = _described(loaded, points, rows, warnings)
            if rows:
                replace_files(folder, lambda target: _write(target, rows, described))
    return SweepResult(folder, loaded, points, rows, warnings, described, stopped)


class _Sitting:
    """Points and their doubts on their way through a runner."""

    def __init__(
        self, loaded: LoadedSweep, store: Store, runner: Runner, pool: Workers, watch: Watch
    ) -> None:
        self.asked: list[Point] = []
        """Points that were to run."""
        self._doubts: list[PointDoubt] = []
        """Asked of finished points; none where the sitting ended before."""
        self._seed = loaded.seed
        self._store = store
        self._runner = runner
        self._pool = pool
        self._watch = watch

    def run_points(
        self, points: Sequence[Point], explain: bool, tell: Callable[[str], None]
    ) -> None:
        """Run what is missing of `points`; `explain` tells of each why it runs."""
        self.asked.extend(points)
        runs = self._runner.missing(points)
        taken = len(points) - len(runs)
        if taken:
            tell(f"{taken} of {len(points)} points are taken over, {len(runs)} run")
        for point in runs if explain else ():
            tell(f"point {point.index} ({_label(point)}) runs: {self._store.why(point)}")
        if runs:
            with self._watch("points", len(runs), taken) as progress:
                self._runner.run(runs, self._pool, progress)

    def simulated(
        self, points: Sequence[Point], explain: bool, tell: Callable[[str], None]
    ) -> list[Row]:
        self.run_points(points, explain, tell)
        return self._rows(points)

    def run_doubts(self, points: Sequence[Point]) -> None:
        """Find how sure the figures of finished points are, where that is not known yet."""
        finished = self._runner.finished(points)
        self._doubts = doubts.asked_of(finished, self._runner.key, self._seed)
        missing = self._runner.missing(self._doubts)
        taken = len(self._doubts) - len(missing)
        if missing:
            with self._watch("doubt", len(missing), taken) as progress:
                self._runner.run(missing, self._pool, progress)

    def told(self, points: Sequence[Point]) -> tuple[list[Row], list[str]]:
        """Return the rows of finished points, and what to know before trusting them."""
        rows = self._rows(points)
        found = self._runner.finished(self._doubts)
        warnings = [*about_points(points, rows), *counted(doubts.cautions(found))]
        return list(doubts.with_doubt(rows, found)), warnings

    def _rows(self, points: Sequence[Point]) -> list[Row]:
        return [row(point, outcome) for point, outcome in self._runner.finished(points)]


def _places(points: Sequence[Point], pool: Workers) -> list[refine.Place | None]:
    alike: dict[Hashable, list[Point]] = {}
    for point in points:
        alike.setdefault(point.likeness(), []).append(point)
    found: dict[int, refine.Place | None] = {}
    for asked, places in pool.run(refine.bound_places, together(alike.values())):
        told = [None] * len(asked) if isinstance(places, Failure) else places
        found |= {point.index: place for point, place in zip(asked, told, strict=True)}
    return [found[point.index] for point in points]


def _label(point: Point) -> str:
    return ", ".join([point.family, *(f"{path}={v}" for path, v in point.settings.items())])


def _scenarios(points: Sequence[Point], rows: Sequence[Row]) -> dict[int, Scenario]:
    scenarios = {point.index: point.scenario for point in points}
    for each in rows:
        if each.get("batch") is not None:  # found by a search: its load is the row's
            in_flight = round(each["requests_in_flight"])
            scenarios[each["point"]] = scenarios[each["point"]].with_batch(in_flight)
    return scenarios


def _described(
    loaded: LoadedSweep, points: Sequence[Point], rows: Sequence[Row], warnings: list[str]
) -> dict[str, Any]:
    scenarios = _scenarios(points, rows)
    used = {name for point in points for name in point.scenario.deployment.accelerators()}
    return {
        **provenance(),
        "sweep": loaded.sweep.model_dump(mode="json"),
        "scenarios_sha256": sha256([resolved(point.scenario) for point in points]),
        "points": len(points),
        "finished": len(rows),
        "scope": SCOPE,
        "warnings": warnings,
        "calibration": calibration_of(sorted(used)),
        "fronts": fronts(rows),
        "refused": refusals(rows),
        "best": {
            family: resolved(scenarios[best["point"]]) for family, best in best_rows(rows).items()
        },
    }


def _write(target: Path, rows: list[Row], described: dict[str, Any]) -> None:
    write_table(target / "sweep", columns(rows))
    write_json(target / "run.json", described)

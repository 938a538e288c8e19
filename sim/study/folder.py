"""A study in its directory: what is missing runs, and its tables are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.inputs.naming import folder_name
from sim.parallel import processes, signals
from sim.parallel.processes import Workers
from sim.results.files import RUNS, replace_files, write_json
from sim.results.provenance import calibration_of, provenance, resolved, sha256
from sim.results.tables import write_table
from sim.study import cells, published, verdicts
from sim.study.cells import LoadedStudy, named_cards
from sim.study.doubts import doubt_jobs, known_doubts
from sim.study.jobs import StudyJobs
from sim.study.schema import Study
from sim.study.verdicts import JudgedCell
from sim.sweeps.points import Row, columns
from sim.sweeps.runner import Runner, Watch, unwatched
from sim.sweeps.store import Job, Store

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class StudyResult:
    """A study and its verdicts, as its directory holds them."""

    folder: Path
    study: Study
    cells: list[JudgedCell]
    described: dict[str, Any]
    """Content of run.json."""
    failures: list[str]
    """What went wrong with jobs; they run again next time."""
    stopped: signals.Stopped | None = None
    """The signal that ended the study early."""

    def rows(self) -> list[Row]:
        """Return one row per cell and side."""
        return verdicts.rows(self.study, self.cells)

    def table(self) -> pandas.DataFrame:
        """Return one row per cell and side, the columns of study.csv."""
        import pandas

        return pandas.DataFrame(columns(self.rows()))


def run_study(
    name: str | Path,
    overrides: Iterable[str] = (),
    out: Path | None = None,
    workers: int | None = None,
    *,
    only: Iterable[str] = (),
) -> StudyResult:
    """Run the jobs of a study that its directory does not hold, and write its tables there.

    `only` are `DIMENSION=VALUE`, `out` is results/runs/NAME by default, `workers` one process per
    core. Call it again to resume. Raises ScenarioError for a wrong study, StoreError if the
    directory cannot be used. With more than one worker call it under
    `if __name__ == "__main__":`.
    """
    loaded = cells.load(name, overrides, only)
    with processes.local(workers or processes.cores()) as pool:
        return run(loaded, out or RUNS / folder_name(loaded.study.name), pool)


def run(
    loaded: LoadedStudy, folder: Path, pool: Workers, *, watch: Watch = unwatched
) -> StudyResult:
    """Run what is missing of a study on `pool`.

    A signal that is heard ends it early: what is finished is written, and `stopped` is set.
    """
    stopped = None
    with Store(folder, loaded.study.name) as store:
        runner = Runner(store, retry_failed=True)
        jobs = StudyJobs(loaded, runner)

        def do(title: str, jobs: Sequence[Job]) -> None:
            missing = len(runner.missing(jobs))
            with watch(title, missing, len(jobs) - missing) as progress:
                runner.run(jobs, pool, progress)

        try:
            do("best shapes", jobs.searches)
            do("paired runs", jobs.comparisons())
            do("doubt", doubt_jobs(jobs, runner))
        except signals.Stopped as signal:
            stopped = signal
            pool.stop(now=True)
        with signals.postponed():
            doubts = known_doubts(doubt_jobs(jobs, runner), runner)
            judged = [
                verdicts.judge(loaded.study, result, doubts.get(result.cell.index))
                for result in jobs.results()
            ]
            described = _described(loaded, judged)
            replace_files(folder, lambda target: _write(target, loaded.study, judged, described))
            failures = jobs.failures()
    return StudyResult(folder, loaded.study, judged, described, failures, stopped)


def _described(loaded: LoadedStudy, judged: Sequence[JudgedCell]) -> dict[str, Any]:
    scenarios = [each for cell in loaded.cells for of in cell.sides for each in named_cards(of)]
    used = {name for scenario in scenarios for name in scenario.deployment.accelerators()}
    return {
        **provenance(),
        "study": loaded.study.model_dump(mode="json"),
        "scenarios_sha256": sha256([resolved(each) for each in scenarios]),
        "cells": len(judged),
        "finished": sum(each.verdict is not None for each in judged),
        "calibration": calibration_of(sorted(used)),
        "verdicts": dict(verdicts.counts(judged)),
    }


def _write(
    target: Path, study: Study, judged: Sequence[JudgedCell], described: dict[str, Any]
) -> None:
    write_table(target / "study", columns(verdicts.rows(study, judged)))
    mechanisms = verdicts.mechanism_rows(judged)
    if mechanisms:
        write_table(target / "mechanisms", columns(mechanisms))
    measured = published.rows(study, judged)
    if measured:
        write_table(target / "published", columns(measured))
    write_json(target / "run.json", described)

"""Contests: the work of a study as jobs, each done once and kept in the store.

First the champions of all cells are found, side by side; then they meet, and every counterfactual
is tried. A job's key is the hash of all that its outcome depends on, so a study goes on where it
was stopped, and a changed card or shape runs only what depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sim.parallel.processes import Failure, Workers
from sim.results.provenance import resolved, sha256
from sim.study.best_shapes import champion
from sim.study.cells import Cell, Loaded, named_cards
from sim.study.paired_runs import changed, duel, limits, loaded
from sim.study.schema import Counterfactual, Settings, Shortlist, Study
from sim.sweeps.points import Outcome, failed
from sim.sweeps.store import Inputs, Store, read_by


class Job(Protocol):
    """A part of a study."""

    @property
    def cell(self) -> Cell:
        """The cell that it is about."""

    @property
    def family(self) -> str:
        """What kind of job it is."""

    @property
    def settings(self) -> dict[str, Any]:
        """Which one of them."""

    def inputs(self) -> Inputs:
        """Return what the outcome depends on, as plain data."""

    def outcome(self) -> Outcome:
        """Do the work and return what came out, as plain data."""


@dataclass(frozen=True)
class FindChampion:
    """The search for the best shape of one side in a cell."""

    cell: Cell
    side: int
    screen: Settings
    shortlist: Shortlist

    @property
    def family(self) -> str:
        """What kind of job it is."""
        return "champion"

    @property
    def settings(self) -> dict[str, Any]:
        """Which one of them."""
        return {**self.cell.place, "side": self.cell.sides[self.side].side}

    def inputs(self) -> Inputs:
        """Return what the outcome depends on, as plain data."""
        shapes = self.cell.sides[self.side]
        made_of: Inputs = {"files": {}, "calibration": {}}
        for scenario in named_cards(shapes):
            read = read_by(scenario)
            made_of["files"] |= read["files"]
            made_of["calibration"] |= read["calibration"]
            made_of["afdsim"] = read["afdsim"]
        return made_of | {
            "scenario": resolved(shapes.first),
            "axes": [axis.model_dump() for axis in shapes.axes],
            "constraints": list(shapes.constraints),
            "screen": self.screen,
            "shortlist": self.shortlist.model_dump(),
            "priced": self.cell.priced,
        }

    def outcome(self) -> Outcome:
        """Do the work and return what came out, as plain data."""
        shapes = self.cell.sides[self.side]
        return champion(shapes, self.screen, self.shortlist, self.cell.priced)


@dataclass(frozen=True)
class Meet:
    """What becomes of the two champions of a cell: their duel, or a counterfactual."""

    cell: Cell
    champions: tuple[Outcome, Outcome]
    keys: tuple[str, str]
    """Keys of the champions: what they are depends on nothing else."""
    study: Study
    change: Counterfactual | None = None

    @property
    def family(self) -> str:
        """What kind of job it is."""
        return "duel" if self.change is None else f"counterfactual {self.change.name}"

    @property
    def settings(self) -> dict[str, Any]:
        """Which one of them."""
        return dict(self.cell.place)

    def inputs(self) -> Inputs:
        """Return what the outcome depends on, as plain data."""
        pairs = {"pairs": self.study.pairs}
        what = pairs if self.change is None else self.change.model_dump()
        return {"champions": list(self.keys), "what": what}

    def outcome(self) -> Outcome:
        """Do the work and return what came out, as plain data."""
        sides, priced = self.cell.sides, self.cell.priced
        both = list(zip(sides, self.champions, strict=True))
        if self.change is None:
            scenarios = [loaded(shapes.first, found) for shapes, found in both]
            found = duel(scenarios[0], scenarios[1], self.study.pairs, priced)
            return found | {"limits": [limits(each, self.study.screen) for each in scenarios]}
        changes = self.change.sides
        return {
            "yields": [
                changed(shapes, found, changes.get(shapes.side), self.study, priced)
                for shapes, found in both
            ]
        }


@dataclass
class Result:
    """What is known of a cell."""

    cell: Cell
    champions: list[Outcome | None]
    duel: Outcome | None = None
    yields: dict[str, list[float]] | None = None
    """What both sides yield in each counterfactual."""


Progress = Callable[[Job, Outcome | None], None]
"""Called with each job that is finished; with None for one that was taken over."""


class Contests:
    """One sitting of a study: jobs that the store holds are taken over, the others run."""

    def __init__(self, loaded: Loaded, store: Store) -> None:
        self._loaded = loaded
        self._store = store
        self.failures: list[str] = []
        """What went wrong with jobs, in words; they run again next time."""

    def champions(self) -> list[FindChampion]:
        """Return the jobs of the first round."""
        study = self._loaded.study
        return [
            FindChampion(cell, side, study.screen, study.shortlist)
            for cell in self._loaded.cells
            for side in range(2)
        ]

    def meetings(self) -> list[Meet]:
        """Return the jobs of the second round: of cells in which both sides have a champion."""
        study, found = self._loaded.study, self.champions()
        jobs = []
        for first, second in zip(found[::2], found[1::2], strict=True):
            keys = sha256(first.inputs()), sha256(second.inputs())
            a, b = (self._store.outcome(key) for key in keys)
            if a is not None and b is not None and a["status"] == b["status"] == "ok":
                made_of = first.cell, (a, b), keys, study
                tried = [c for c in study.counterfactuals if c.concerns(first.cell.place)]
                jobs += [Meet(*made_of, each) for each in (None, *tried)]
        return jobs

    def run(self, jobs: Sequence[Job], workers: Workers, progress: Progress) -> None:
        """Do what is missing of `jobs`; each finished one is kept before `progress` is called.

        Raises StoreError if it cannot be kept.
        """
        missing = []
        for job in jobs:
            if self._store.outcome(sha256(job.inputs())) is None:
                missing.append(job)
            else:
                progress(job, None)
        for job, result in workers.run(_work, missing):
            outcome = failed(result.reason) if isinstance(result, Failure) else result
            if outcome.get("status") == "failed":
                self.failures.append(f"{job.cell.name()}, {job.family}: {outcome['reason']}")
            else:
                self._store.keep(job, job.inputs(), outcome)
            progress(job, outcome)

    def results(self) -> list[Result]:
        """Return what is known of each cell, in the order of the study."""
        jobs = self.champions()
        results = {
            first.cell.index: Result(first.cell, [self._kept(first), self._kept(second)])
            for first, second in zip(jobs[::2], jobs[1::2], strict=True)
        }
        for meeting in self.meetings():
            result, kept = results[meeting.cell.index], self._kept(meeting)
            if kept is None:
                continue
            if meeting.change is None:
                result.duel = kept
            else:
                result.yields = {**(result.yields or {}), meeting.change.name: kept["yields"]}
        return list(results.values())

    def _kept(self, job: Job) -> Outcome | None:
        return self._store.outcome(sha256(job.inputs()))


def _work(job: Job) -> Outcome:
    """Do a job, on a worker; a failure is an outcome too."""
    try:
        return job.outcome()
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}")

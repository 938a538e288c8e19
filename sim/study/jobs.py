"""The jobs of a study, each done once and kept in the store.

First the best shapes of all cells are found, side by side; then they run in pairs, and every
counterfactual is tried. A job's key is the hash of all that its outcome depends on, so a study goes
on where it was stopped, and a changed card or shape runs only what depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sim.results.provenance import resolved, sha256
from sim.study.best_shapes import best_shapes
from sim.study.cells import Cell, LoadedStudy, named_cards
from sim.study.paired_runs import at_its_batch, changed, limits, paired_runs
from sim.study.schema import Counterfactual, Study
from sim.sweeps.inputs import Inputs, read_by
from sim.sweeps.points import Outcome
from sim.sweeps.runner import Runner


@dataclass(frozen=True)
class BestShapesJob:
    """The search for the best shapes of one side in a cell."""

    cell: Cell
    side: int
    study: Study
    family: str = "best shapes"

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.cell.place, "side": self.cell.sides[self.side].side}

    def inputs(self) -> Inputs:
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
            "built": shapes.built.model_dump() if shapes.built else None,
            "screen": self.study.screen,
            "screen_again": self.study.screen_again,
            "shortlist": self.study.shortlist.model_dump(),
            "priced": self.cell.priced,
        }

    def outcome(self) -> Outcome:
        shapes = self.cell.sides[self.side]
        return best_shapes(shapes, self.study, self.cell.priced)


@dataclass(frozen=True)
class PairedRunsJob:
    """The best shapes of a cell in pairs, or what they yield in a counterfactual."""

    cell: Cell
    searches: tuple[BestShapesJob, BestShapesJob]
    best: tuple[Outcome, Outcome]
    """What the searches found."""
    study: Study
    change: Counterfactual | None = None

    @property
    def family(self) -> str:
        return "paired runs" if self.change is None else f"counterfactual {self.change.name}"

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.cell.place)

    def inputs(self) -> Inputs:
        """Return the keys of the searches, which all else follows from, and what is done."""
        pairs = {"pairs": self.study.pairs}
        what = pairs if self.change is None else self.change.model_dump()
        return {"best_shapes": [sha256(each.inputs()) for each in self.searches], "what": what}

    def outcome(self) -> Outcome:
        sides, priced = self.cell.sides, self.cell.priced
        both = list(zip(sides, self.best, strict=True))
        if self.change is None:
            entries = [best["searched"][0] for best in self.best]
            scenarios = [at_its_batch(shapes.first, best) for shapes, best in both]
            found = paired_runs(scenarios, entries, self.study, priced)
            found["limits"] = [limits(each, self.study.fine_screen) for each in scenarios]
            return {"status": "ok", **found}
        yields = [changed(shapes, best, self.change, self.study, priced) for shapes, best in both]
        return {"status": "ok", "yields": yields}


@dataclass
class CellResult:
    """What is known of a cell."""

    cell: Cell
    best: list[Outcome | None]
    """The best shapes of both sides, None where they are not found yet."""
    paired: Outcome | None = None
    yields: dict[str, list[float]] | None = None
    """What both sides yield in each counterfactual."""


class StudyJobs:
    """The jobs of a study and what the runner knows of them. Those that failed run again."""

    def __init__(self, loaded: LoadedStudy, runner: Runner) -> None:
        study = loaded.study
        self._study = study
        self._runner = runner
        self.searches = [
            BestShapesJob(cell, side, study) for cell in loaded.cells for side in range(2)
        ]
        """Jobs of the first round: two a cell."""

    def comparisons(self) -> list[PairedRunsJob]:
        """Return the jobs of the second round: of cells in which both sides have a best shape."""
        jobs = []
        for first, second in zip(self.searches[::2], self.searches[1::2], strict=True):
            a, b = self._known(first), self._known(second)
            if a is not None and b is not None and a["status"] == b["status"] == "ok":
                tried = [c for c in self._study.counterfactuals if c.concerns(first.cell.place)]
                jobs += [
                    PairedRunsJob(first.cell, (first, second), (a, b), self._study, each)
                    for each in (None, *tried)
                ]
        return jobs

    def results(self) -> list[CellResult]:
        """Return what is known of each cell, in the order of the study."""
        results = {
            first.cell.index: CellResult(first.cell, [self._known(first), self._known(second)])
            for first, second in zip(self.searches[::2], self.searches[1::2], strict=True)
        }
        for job in self.comparisons():
            result, known = results[job.cell.index], self._known(job)
            if known is None:
                continue
            if job.change is None:
                result.paired = known
            else:
                result.yields = {**(result.yields or {}), job.change.name: known["yields"]}
        return list(results.values())

    def failures(self) -> list[str]:
        """Return what went wrong with jobs, in words."""
        jobs: list[BestShapesJob | PairedRunsJob] = [*self.searches, *self.comparisons()]
        return [
            f"{job.cell.name()}, {job.family}: {outcome['reason']}"
            for job, outcome in self._runner.finished(jobs)
            if outcome["status"] == "failed"
        ]

    def _known(self, job: BestShapesJob | PairedRunsJob) -> Outcome | None:
        outcome = self._runner.outcome(job)
        return None if outcome is None or outcome["status"] == "failed" else outcome

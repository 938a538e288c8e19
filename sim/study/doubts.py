"""Doubts: what the margin of a cell rests on, and how sure it is who yields more.

The third round of a study: the best shapes of both sides under the same draws of all that is not
known (`sim/doubt`). Chance is in the paired runs, doubt is here. What decides the outcomes of the
other rounds is none of this module's: new tables of doubt run this round alone again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sim.doubt.interval import Doubt
from sim.doubt.margin import DoubtPart, Margin, in_doubt
from sim.results.provenance import sha256
from sim.results.sources import digest
from sim.study.jobs import PairedRunsJob, StudyJobs
from sim.study.paired_runs import at_its_batch
from sim.sweeps.doubts import error_tables
from sim.sweeps.inputs import Inputs
from sim.sweeps.points import Outcome
from sim.sweeps.runner import Runner

_CODE = ("sim.study.doubts",)


@dataclass(frozen=True)
class DoubtJob:
    """The doubt in the margin of a cell."""

    paired: PairedRunsJob
    margin: float
    """Of the paired runs."""

    family = "doubt"

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.paired.cell.place)

    def inputs(self) -> Inputs:
        """Return the key of the paired runs, the tables of doubt, and the code that reads them."""
        return {
            "paired": sha256(self.paired.inputs()),
            "files": error_tables(),
            "afdsim": {"sha256": digest(_CODE)},
        }

    def outcome(self) -> Outcome:
        study, sides = self.paired.study, self.paired.cell.sides
        scenarios = [
            at_its_batch(shapes.first, best).with_settings(study.fine_screen)
            for shapes, best in zip(sides, self.paired.best, strict=True)
        ]
        found = in_doubt(self.margin, scenarios[0], scenarios[1])
        sides_doubts = [_factors(each) for each in (found.first, found.second)]
        return {"status": "ok", "margin": _plain(found.margin), "tpot": sides_doubts}


def doubt_jobs(jobs: StudyJobs, runner: Runner) -> list[DoubtJob]:
    """Return the jobs of the third round: of cells whose paired runs are finished."""
    paired = [job for job in jobs.comparisons() if job.change is None]
    return [
        DoubtJob(job, outcome["margin"])
        for job, outcome in runner.finished(paired)
        if outcome["status"] == "ok"
    ]


def known_doubts(jobs: Sequence[DoubtJob], runner: Runner) -> dict[int, Outcome]:
    """Return the outcomes of the third round by the index of their cell."""
    return {
        job.paired.cell.index: outcome
        for job, outcome in runner.finished(jobs)
        if outcome["status"] == "ok"
    }


def margin_of_plain(plain: dict[str, Any], value: float | None = None) -> Margin:
    """Return the margin of a stored outcome; `value` in its place, as in a counterfactual."""
    return Margin(
        value=plain["value"] if value is None else value,
        factors=np.array(plain["factors"]),
        factor={80: plain["factor_80"], 90: plain["factor_90"]},
        log_sd=plain["log_sd"],
        parts=tuple(DoubtPart(**part) for part in plain["parts"]),
    )


def _plain(margin: Margin) -> dict[str, Any]:
    return {
        "value": margin.value,
        "factors": [float(each) for each in margin.factors],
        "factor_80": margin.factor[80],
        "factor_90": margin.factor[90],
        "log_sd": margin.log_sd,
        "parts": [asdict(part) for part in margin.parts],
    }


def _factors(doubt: Doubt) -> list[float]:
    """Return the factors on TPOT between which it lies in 80 of 100 cases."""
    return [float(each) for each in doubt.interval(80)]

"""Draw: the page of a result, beside its tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sim.pictures import study_page, sweep_page
from sim.results.files import replace_file
from sim.study.folder import StudyResult
from sim.sweeps.folder import SweepResult


def draw(result: SweepResult | StudyResult) -> Path:
    """Write report.html into the directory of a sweep or study and return its path.

    Raises StoreError if it cannot be written.
    """
    if isinstance(result, SweepResult):
        return sweep_page.draw(result)
    return study_page.draw(result)


def plot(folders: Iterable[str | Path], out: str | Path = "report.html") -> Path:
    """Write one page about finished sweeps, one over the other, and return its path.

    Raises ScenarioError if a directory holds no finished sweep, StoreError if the page cannot be
    written.
    """
    sources = [sweep_page.read(Path(folder)) for folder in folders]
    replace_file(Path(out), lambda path: sweep_page.write(path, sources))
    return Path(out)

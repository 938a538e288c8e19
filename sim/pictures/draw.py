"""Draw: the page of a result, beside its tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sim.results.files import replace_file
from sim.study.folder import StudyResult
from sim.sweeps.folder import SweepResult

_PACKAGE = Path(__file__).parents[1]


def draw(result: SweepResult | StudyResult) -> Path:
    """Write report.html into the directory of a sweep or study and return its path.

    The page of a sweep stays while it is newer than the tables and than afdsim. Raises StoreError
    if it cannot be written.
    """
    # Imported here: Plotly takes longer than to see that a page is new.
    if isinstance(result, StudyResult):
        from sim.pictures import study_page

        return study_page.draw(result)
    page = result.folder / "report.html"
    if not _is_new(page):
        from sim.pictures import sweep_page

        sweep_page.draw(result)
    return page


def _is_new(page: Path) -> bool:
    """Return whether the page of a sweep was drawn after all that it is made of was written."""
    tables = [page.with_name(name) for name in ("run.json", "sweep.csv", "sweep.parquet")]
    kept = [page, page.with_name("pipelines.json")]
    if not all(path.is_file() for path in [*tables, *kept]):
        return False
    code = (path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".html", ".css", ".js"))
    return page.stat().st_mtime_ns > max(path.stat().st_mtime_ns for path in [*tables, *code])


def plot(folders: Iterable[str | Path], out: str | Path = "report.html") -> Path:
    """Write one page about finished sweeps, one over the other, and return its path.

    Raises ScenarioError if a directory holds no finished sweep, StoreError if the page cannot be
    written.
    """
    from sim.pictures import sweep_page

    sources = [sweep_page.read(Path(folder)) for folder in folders]
    replace_file(Path(out), lambda path: sweep_page.write(path, sources))
    return Path(out)

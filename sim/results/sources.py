"""Sources: the modules that decide an outcome, found by following their imports.

A stored outcome is used again as long as these do not change. Pages, pictures and verbs are not
among them: they show what was simulated.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_ENTRIES = (
    *("sim.experiments.largest_batch", "sim.experiments.replications"),
    *("sim.metrics.steady_summary", "sim.steady.state"),
    *("sim.doubt.interval", "sim.study.best_shapes", "sim.study.paired_runs"),
)
"""What a worker calls for a point of a sweep and for the jobs of a study."""
_ALONE = ("sim.sweeps.points", "sim.sweeps.doubts", "sim.study.jobs")
"""They put those calls together; their other imports keep what came out."""

# To parse the modules would take each worker a fifth of a second.
_IMPORT = re.compile(
    rb"^[ ]*(?:from|import) (sim(?:\.[\w.]+)?)\b(?: import (\([^)]*\)|[^\n]*))?", re.M
)
_NAME = re.compile(rb"\w+")


@cache
def digest(entries: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of the modules that decide an outcome: of points and jobs by default.

    Else of what is reached from `entries` by way of imports.
    """
    found = hashlib.sha256()
    for path in outcome_modules(entries).values():
        found.update(path.read_bytes())
    return found.hexdigest()


def outcome_modules(entries: tuple[str, ...] = ()) -> dict[str, Path]:
    """Return the modules that the outcome of a point or a job comes from, sorted by name.

    Of another outcome, those that are reached from its `entries`.
    """
    reached = {name: path for name in _ALONE if (path := _path(name)) and not entries}
    ahead = list(entries or _ENTRIES)
    while ahead:
        name = ahead.pop()
        path = None if name in reached else _path(name)
        if path is not None:
            reached[name] = path
            ahead += [other for other in _imported(path.read_bytes()) if other != "sim"]
    return dict(sorted(reached.items()))


def _path(name: str) -> Path | None:
    """Return the file of a module of the package, None if `name` is something else."""
    stem = _PACKAGE.joinpath(*name.split(".")[1:])
    places = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in places if path.is_file()), None)


def _imported(source: bytes) -> Iterator[str]:
    """Yield what may be modules of the package among the imports of a file, in functions as well.

    The package itself only names what others may use; what it imports is no part of an outcome.
    """
    for origin, names in _IMPORT.findall(source):
        yield origin.decode()
        yield from (f"{origin.decode()}.{name.decode()}" for name in _NAME.findall(names))

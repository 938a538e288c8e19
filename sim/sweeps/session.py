"""A session: rounds of points that go through the workers into the store, each point once.

with Store(folder, sweep.name) as store, workers.local(2) as pool:
    session = Session(store)
    rows = session.run(points, pool)
    rows += session.run(further_points, pool)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sim.parallel.processes import Failure, Workers
from sim.results.provenance import sha256
from sim.sweeps.points import Outcome, Point, Row, failed, outcome, row
from sim.sweeps.store import Inputs, Store, changes, inputs


class _Job(NamedTuple):
    point: Point
    inputs: Inputs


class Session:
    """One sitting of a sweep. Points that the store holds are taken over, the others run."""

    def __init__(self, store: Store, *, retry_failed: bool = False) -> None:
        """Take points that failed in earlier sessions over as they are, or run them again."""
        self._store = store
        self._retry_failed = retry_failed
        self._keys: dict[int, str] = {}
        self._ran: set[str] = set()
        self.asked: list[Point] = []
        """Points that were to be run, in the order of their rounds."""

    def missing(self, points: Sequence[Point]) -> list[Point]:
        """Return the points that have to run; of points with the same scenario the first."""
        found: dict[str, Point] = {}
        for point in points:
            if self._has_to_run(self._key(point)):
                found.setdefault(self._key(point), point)
        return list(found.values())

    def run(
        self,
        points: Sequence[Point],
        workers: Workers,
        progress: Callable[[Outcome], None] = lambda outcome: None,
    ) -> list[Row]:
        """Run what is missing of `points` and return the rows of all, in their order.

        Each finished point is in the store before `progress` is called with its outcome. When this
        is ended early (Stopped, SchedulerError, StoreError), `rows` has the others.
        """
        self.asked += points
        for job, result in workers.run(_work, self._jobs(points)):
            result = failed(result.reason) if isinstance(result, Failure) else result
            self._store.keep(job.point, job.inputs, result)
            progress(result)
        return self.rows(points)

    def rows(self, points: Sequence[Point]) -> list[Row]:
        """Return the rows of those points that are finished, in their order."""
        found = [(point, self._store.outcome(self._key(point))) for point in points]
        return [row(point, result) for point, result in found if result is not None]

    def _jobs(self, points: Sequence[Point]) -> Iterator[_Job]:
        for point in points:
            key = self._key(point)
            if self._has_to_run(key):
                self._ran.add(key)
                yield _Job(point, inputs(point))
            elif key not in self._ran:
                self._store.place(point, key)

    def _key(self, point: Point) -> str:
        if point.index not in self._keys:
            self._keys[point.index] = sha256(inputs(point))
        return self._keys[point.index]

    def _has_to_run(self, key: str) -> bool:
        if key in self._ran:
            return False
        known = self._store.outcome(key)
        return known is None or (self._retry_failed and known["status"] == "failed")


def _work(job: _Job) -> Outcome:
    """Simulate a point, on a worker. One that would read other files than the sweep refuses."""
    others = changes(job.inputs, inputs(job.point))
    if others:
        return failed(f"the worker reads other files than the sweep: {', '.join(others)}")
    return outcome(job.point)

"""The runner: jobs go through the workers into the store, each once.

with Store(folder, name) as store, workers.local(2) as pool:
    runner = Runner(store)
    runner.run(jobs, pool)
    runner.run(further_jobs, pool)
    finished = runner.finished([*jobs, *further_jobs])
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

from sim.foundation.reading import held
from sim.parallel.processes import Failure, Workers
from sim.results.provenance import sha256
from sim.sweeps import doubts
from sim.sweeps.doubts import PointDoubt
from sim.sweeps.inputs import Inputs, changes
from sim.sweeps.points import Outcome, Point, attempted, failed, outcomes, together
from sim.sweeps.store import Finished, Job, Store

AnyJob = TypeVar("AnyJob", bound=Job)

Watch = Callable[[str, int, int], AbstractContextManager[Callable[[Outcome], None]]]
"""Given a title, the number of jobs to run and of those taken over, returns who is told each
outcome: a progress bar."""


def unwatched(
    _title: str, _total: int, _taken: int
) -> AbstractContextManager[Callable[[Outcome], None]]:
    return nullcontext(lambda outcome: None)


class _SentJob(NamedTuple):
    job: Job
    inputs: Inputs


class Runner:
    """One sitting of a sweep or study: jobs that the store holds are taken over, others run."""

    def __init__(self, store: Store, *, retry_failed: bool = False) -> None:
        """Take over jobs that failed in earlier sittings as they are, or run them again."""
        self._store = store
        self._retry_failed = retry_failed
        # By identity, which lasts as long as the job is kept beside its key.
        self._keys: dict[int, tuple[Job, str]] = {}
        self._inputs: dict[str, Inputs] = {}
        """Of jobs that may have to run, by key."""
        self._ran: set[str] = set()

    def missing(self, jobs: Sequence[AnyJob]) -> list[AnyJob]:
        """Return the jobs that have to run; of jobs with the same inputs the first."""
        found: dict[str, AnyJob] = {}
        with held():
            for job in jobs:
                if self._has_to_run(self.key(job)):
                    found.setdefault(self.key(job), job)
        return list(found.values())

    def run(
        self,
        jobs: Sequence[Job],
        workers: Workers,
        progress: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """Run what is missing of `jobs`.

        Each outcome is in the store before `progress` is called with it, also when this ends early
        (Stopped, SchedulerError, StoreError).
        """
        for task, result in workers.run(_work, _grouped(self._tasks(jobs))):
            found = [failed(result.reason)] * len(task) if isinstance(result, Failure) else result
            done = zip(task, found, strict=True)
            self._store.keep(
                Finished(sent.job, self.key(sent.job), sent.inputs, out) for sent, out in done
            )
            for outcome in found:
                progress(outcome)

    def finished(self, jobs: Sequence[AnyJob]) -> list[tuple[AnyJob, Outcome]]:
        """Return those jobs that are finished with their outcomes, in their order."""
        found = [(job, self.outcome(job)) for job in jobs]
        return [(job, outcome) for job, outcome in found if outcome is not None]

    def outcome(self, job: Job) -> Outcome | None:
        """Return the outcome of a job, None if it is not finished."""
        return self._store.outcome(self.key(job))

    def key(self, job: Job) -> str:
        """Return the hash of what the outcome of a job depends on."""
        if id(job) not in self._keys:
            made_of = job.inputs()
            key = sha256(made_of)
            self._keys[id(job)] = job, key
            if key not in self._ran:
                self._inputs[key] = made_of
        return self._keys[id(job)][1]

    def _tasks(self, jobs: Sequence[Job]) -> Iterator[_SentJob]:
        for job in jobs:
            key = self.key(job)
            if self._has_to_run(key):
                self._ran.add(key)
                yield _SentJob(job, self._inputs.pop(key))
            elif key not in self._ran:
                self._store.place(job, key)

    def _has_to_run(self, key: str) -> bool:
        if key in self._ran:
            return False
        known = self._store.outcome(key)
        has_to = known is None or (self._retry_failed and known["status"] == "failed")
        if not has_to:
            self._inputs.pop(key, None)
        return has_to


def _grouped(tasks: Iterable[_SentJob]) -> Iterator[list[_SentJob]]:
    """Yield jobs one by one, but those that share look-ups together with those that are alike."""
    alike: dict[Hashable, list[_SentJob]] = {}
    for task in tasks:
        job = task.job
        if isinstance(job, PointDoubt) or (isinstance(job, Point) and job.is_screened):
            alike.setdefault(job.likeness(), []).append(task)
        else:
            yield [task]
    yield from together(alike.values())


def _work(tasks: list[_SentJob]) -> list[Outcome]:
    """Do jobs, on a worker."""
    with held():
        return _outcomes(tasks)


def _outcomes(tasks: list[_SentJob]) -> list[Outcome]:
    refused = [_refused(task) for task in tasks]
    jobs = [task.job for task, why in zip(tasks, refused, strict=True) if why is None]
    done = iter(_done(jobs))
    return [next(done) if why is None else why for why in refused]


def _done(jobs: Sequence[Job]) -> list[Outcome]:
    """Return the outcomes of jobs, together where they share look-ups."""
    points = [job for job in jobs if isinstance(job, Point)]
    asked = [job for job in jobs if isinstance(job, PointDoubt)]
    if jobs and len(points) == len(jobs):
        return outcomes(points)
    if jobs and len(asked) == len(jobs):
        return doubts.outcomes(asked)
    return [attempted(job.outcome) for job in jobs]


def _refused(task: _SentJob) -> Outcome | None:
    """Return why a job is not done here: the worker would read other files than the command."""
    here = task.job.inputs()
    if here == task.inputs:
        return None
    others = ": ".join(["", *filter(None, [", ".join(changes(task.inputs, here))])])
    return failed(f"the worker reads other files than the command{others}")

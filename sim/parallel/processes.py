"""Workers: processes here, or those of a Dask cluster, that make calls side by side.

A worker may die at any moment: killed, out of memory, its machine gone. Here each process has an
executor of its own, so that it is known which call died with it and no other call is disturbed;
that call is made once more by a new process. On a cluster (`cluster.py`) the scheduler does the
same, and quick calls travel together.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sim.parallel import signals

Item = TypeVar("Item")
Result = TypeVar("Result")

# One batch runs and one waits behind it, so that a worker has no pause between two.
BATCHES_PER_WORKER = 2
# A call that two processes died with is taken to have killed them.
_MOST_DEATHS = 2


class Failure(NamedTuple):
    """What became of a call that no worker could finish."""

    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(f"{type(error).__name__}: {error}")


class Executor(Protocol):
    """Something that makes calls, a few batches at once, and says when one died with its worker."""

    def room(self) -> int:
        """Return how many batches it takes at once."""

    def batch(self) -> int:
        """Return how many calls travel together."""

    def submit(self, call: Callable[[Item], Result], items: list[Item]) -> Future[Made[Result]]: ...

    def learn(self, calls: int, spent_s: float) -> None:
        """Take note of how long a worker took for some calls."""

    def give_up(self, future: Future[Any]) -> None:
        """Take back a call whose result nobody waits for, as far as it can be."""

    def renew(self) -> bool: ...

    def failure(self, error: BaseException) -> Failure:
        """Return what the error of a call means. Raises SchedulerError if there is no going on."""

    def close(self, *, now: bool) -> None:
        """Stop; `now`: calls in flight are given up."""


class Made(NamedTuple, Generic[Result]):
    """What calls gave that travelled together."""

    results: list[Result | Failure]
    spent_s: float


def make(call: Callable[[Item], Result], items: list[Item]) -> Made[Result]:
    """Make a call for each item, on a worker."""
    begun = time.monotonic()
    return Made([_made(call, item) for item in items], time.monotonic() - begun)


def _made(call: Callable[[Item], Result], item: Item) -> Result | Failure:
    try:
        return call(item)
    except Exception as error:
        return Failure.of(error)


class Workers:
    """Workers that stay for any number of rounds; a context manager that stops them."""

    def __init__(self, executors: list[Executor]) -> None:
        self._executors = executors

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(now=kind is not None)

    def stop(self, *, now: bool) -> None:
        """Stop the workers; `now`: whatever they are at."""
        for executor in self._executors:
            executor.close(now=now)
        self._executors = []

    def run(
        self, call: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Failure]]:
        """Make `call` for each item; yield item and result as they are finished.

        Items are taken from their iterable when a worker is about to be free for them.
        """
        return _Round(self._executors, call, items).results()


@dataclass(eq=False)
class _InFlight(Generic[Item]):
    items: list[Item]
    executor: Executor
    deaths: int = 0


class _Round(Generic[Item, Result]):
    """One call for each of many items."""

    def __init__(
        self, executors: list[Executor], call: Callable[[Item], Result], items: Iterable[Item]
    ) -> None:
        self._executors, self._call, self._fresh = executors, call, iter(items)
        self._again: deque[tuple[list[Item], int]] = deque()
        """Items to send once more, and how many workers have died with them."""
        self._running: dict[Future[Made[Result]], _InFlight[Item]] = {}
        self._load: Counter[Executor] = Counter()
        # Waiting for the first of thousands of futures would look at every one each time.
        self._done: SimpleQueue[Future[Made[Result]]] = SimpleQueue()

    def results(self) -> Iterator[tuple[Item, Result | Failure]]:
        try:
            while self._fill():
                future = self._done.get()
                # A broken executor takes further batches off.
                if future in self._running:
                    yield from self._finish(future)
        finally:
            for future, each in self._running.items():
                each.executor.give_up(future)

    def _fill(self) -> bool:
        """Send what there is room for; return whether anything runs."""
        while open_ := [each for each in self._executors if self._load[each] < each.room()]:
            executor = min(open_, key=lambda one: self._load[one])
            if self._again:
                items, deaths = self._again.popleft()
            else:
                items, deaths = list(islice(self._fresh, executor.batch())), 0
            if not items:
                break
            future = executor.submit(self._call, items)
            self._running[future] = _InFlight(items, executor, deaths)
            self._load[executor] += 1
            future.add_done_callback(self._done.put)
        return bool(self._running)

    def _finish(self, future: Future[Made[Result]]) -> Iterator[tuple[Item, Result | Failure]]:
        try:
            made = future.result()
        except BrokenExecutor:
            yield from self._died(self._running[future].executor)
        except Exception as error:
            done = self._remove(future)
            reason = done.executor.failure(error)
            if len(done.items) == 1:
                yield done.items[0], reason
            else:
                self._again.extend(([item], 0) for item in done.items)
        else:
            done = self._remove(future)
            done.executor.learn(len(done.items), made.spent_s)
            yield from zip(done.items, made.results, strict=True)

    def _remove(self, future: Future[Made[Result]]) -> _InFlight[Item]:
        done = self._running.pop(future)
        self._load[done.executor] -= 1
        return done

    def _died(self, executor: Executor) -> Iterator[tuple[Item, Result | Failure]]:
        """Charge the death to the call that ran, the oldest unfinished one; repeat the others."""
        held = [future for future, each in self._running.items() if each.executor is executor]
        errors = [future.exception() for future in held]
        at_a_call = executor.renew()
        lost = []
        for future, error in zip(held, errors, strict=True):
            if isinstance(error, BrokenExecutor):
                lost.append((self._remove(future), error))
            else:
                yield from self._finish(future)
        first, error = lost[0]
        if at_a_call and not isinstance(error, _TooLateError):
            first.deaths += 1
        if first.deaths == _MOST_DEATHS:
            reason = f"a worker process died {_MOST_DEATHS} times (killed, or out of memory)"
            yield from ((item, Failure(reason)) for item in first.items)
            lost = lost[1:]
        self._again.extend((each.items, each.deaths) for each, _error in lost)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def local(count: int) -> Workers:
    """Return `count` worker processes; each is started by its first call.

    They import the calling module: a script should call this under `if __name__ == "__main__":`.
    """
    return Workers([_Process() for _ in range(count)])


class _Process:
    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._ready: Future[None]
        self._mine: set[multiprocessing.process.BaseProcess] = set()
        self._stillborn = 0

    def room(self) -> int:
        return BATCHES_PER_WORKER

    def batch(self) -> int:
        return 1

    def learn(self, calls: int, spent_s: float) -> None:
        pass

    def submit(self, call: Callable[[Item], Result], items: list[Item]) -> Future[Made[Result]]:
        if self._executor is None:
            with signals.postponed():  # a process that is told half of what it is complains
                self._executor = self._start(call)
        try:
            return self._executor.submit(make, call, items)
        except BrokenExecutor:
            late: Future[Made[Result]] = Future()
            late.set_exception(_TooLateError())
            return late

    def _start(self, call: Callable[..., object]) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        before = set(multiprocessing.active_children())
        # The process that Python starts beside them would tell whoever is killed of leaks.
        sys.warnoptions.append("ignore:resource_tracker")
        # Ctrl-C and the end of a terminal reach the whole group; a process that is born while they
        # are blocked never sees them.
        from_terminal = {signal.SIGINT, signal.SIGHUP}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, from_terminal)
        try:
            # Having started the process beside them, Python lets Ctrl-C through again.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, from_terminal)
            executor = ProcessPoolExecutor(1, context, initializer=_end_with_parent)
            self._ready = executor.submit(_import, call)
        finally:
            sys.warnoptions.remove("ignore:resource_tracker")
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._mine = set(multiprocessing.active_children()) - before
        return executor

    def give_up(self, future: Future[Any]) -> None:
        # The pool of a killed process stumbles over futures that were cancelled (Python 3.11).
        # Whoever gives up a call closes the pool next, which ends it.
        pass

    def renew(self) -> bool:
        self._executor = None
        born = self._ready.exception() is None
        self._stillborn = 0 if born else self._stillborn + 1
        return born or self._stillborn > _MOST_DEATHS

    def failure(self, error: BaseException) -> Failure:
        return Failure.of(error)

    def close(self, *, now: bool) -> None:
        if now:
            for process in self._mine:
                process.kill()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


class _TooLateError(BrokenExecutor):
    """A process had died before it was handed the call."""


def _import(_call: Callable[..., object]) -> None:
    """Be the first call of a process, which tells that it has started.

    A process imports the module of a function that it is handed, which takes longest.
    """


def _end_with_parent() -> None:
    """Let this process end when its parent is killed, which leaves no one to tell it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

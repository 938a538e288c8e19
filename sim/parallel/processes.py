"""Workers: processes here, or those of a Dask cluster, that make calls side by side.

A worker may die at any moment: killed, out of memory, its machine gone. Here each process has an
executor of its own, so that it is known which call died with it and no other call is disturbed;
that call is made once more by a new process. On a cluster the scheduler does the same.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.process
import os
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sim.foundation.errors import SchedulerError
from sim.parallel import signals

Item = TypeVar("Item")
Result = TypeVar("Result")

# One call runs and one waits behind it, so that a worker has no pause between two.
_CALLS_PER_WORKER = 2
# A call that two processes died with is taken to have killed them.
_MOST_DEATHS = 2
_CONNECT_S = 5
_ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+")
# A cluster grows and shrinks; its size is asked for again after this long.
_SIZE_KEPT_S = 5.0


class Failure(NamedTuple):
    """What became of a call that no worker could finish."""

    reason: str


class Executor(Protocol):
    """Something that makes a few calls at once and says when one died with its worker."""

    def room(self) -> int: ...

    def submit(self, call: Callable[[Item], Result], item: Item) -> Future[Result]: ...

    def give_up(self, future: Future[Any]) -> None:
        """Take back a call whose result nobody waits for, as far as it can be."""

    def renew(self) -> bool: ...

    def failure(self, error: BaseException) -> Failure:
        """Return what the error of a call means. Raises SchedulerError if there is no going on."""

    def close(self, *, now: bool) -> None:
        """Stop; `now`: calls in flight are given up."""


@dataclass(eq=False)
class _Call(Generic[Item, Result]):
    item: Item
    executor: Executor | None = None
    future: Future[Result] | None = None
    deaths: int = 0


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
        fresh = (_Call[Item, Result](item) for item in items)
        again: deque[_Call[Item, Result]] = deque()
        running: list[_Call[Item, Result]] = []
        try:
            while True:
                self._fill(call, fresh, again, running)
                if not running:
                    return
                wait([_future(each) for each in running], return_when=FIRST_COMPLETED)
                for each in [each for each in running if _future(each).done()]:
                    # A broken executor takes further calls off the list.
                    if each in running:
                        yield from self._finish(each, again, running)
        finally:
            for each in running:
                assert each.executor is not None
                each.executor.give_up(_future(each))

    def _fill(
        self,
        call: Callable[[Item], Result],
        fresh: Iterator[_Call[Item, Result]],
        again: deque[_Call[Item, Result]],
        running: list[_Call[Item, Result]],
    ) -> None:
        load = Counter(each.executor for each in running)
        while open_ := [each for each in self._executors if load[each] < each.room()]:
            each = again.popleft() if again else next(fresh, None)
            if each is None:
                return
            executor = min(open_, key=lambda one: load[one])
            each.executor, each.future = executor, executor.submit(call, each.item)
            load[executor] += 1
            running.append(each)

    def _finish(
        self,
        done: _Call[Item, Result],
        again: deque[_Call[Item, Result]],
        running: list[_Call[Item, Result]],
    ) -> Iterator[tuple[Item, Result | Failure]]:
        try:
            result = _future(done).result()
        except BrokenExecutor:
            yield from self._died(done, again, running)
        except Exception as error:
            running.remove(done)
            assert done.executor is not None
            yield done.item, done.executor.failure(error)
        else:
            running.remove(done)
            yield done.item, result

    def _died(
        self,
        done: _Call[Item, Result],
        again: deque[_Call[Item, Result]],
        running: list[_Call[Item, Result]],
    ) -> Iterator[tuple[Item, Result | Failure]]:
        """Charge the death to the call that ran, the oldest unfinished one; repeat the others."""
        executor = done.executor
        assert executor is not None
        held = [each for each in running if each.executor is executor]
        errors = [_future(each).exception() for each in held]
        at_a_call = executor.renew()
        lost = []
        for each, error in zip(held, errors, strict=True):
            if isinstance(error, BrokenExecutor):
                running.remove(each)
                lost.append(each)
            else:
                yield from self._finish(each, again, running)
        if at_a_call and not isinstance(_future(lost[0]).exception(), _TooLateError):
            lost[0].deaths += 1
        if lost[0].deaths == _MOST_DEATHS:
            reason = f"a worker process died {_MOST_DEATHS} times (killed, or out of memory)"
            yield lost.pop(0).item, Failure(reason)
        again.extend(lost)


def _future(call: _Call[Item, Result]) -> Future[Result]:
    assert call.future is not None
    return call.future


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
        return _CALLS_PER_WORKER

    def submit(self, call: Callable[[Item], Result], item: Item) -> Future[Result]:
        if self._executor is None:
            with signals.postponed():  # a process that is told half of what it is complains
                self._executor = self._start(call)
        try:
            return self._executor.submit(call, item)
        except BrokenExecutor:
            late: Future[Result] = Future()
            late.set_exception(_TooLateError())
            return late

    def _start(self, call: Callable[..., object]) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        before = set(multiprocessing.active_children())
        # Ctrl-C and the end of a terminal reach the whole group; a process that is born while they
        # are blocked never sees them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        # The process that Python starts beside them would tell whoever is killed of leaks.
        sys.warnoptions.append("ignore:resource_tracker")
        try:
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
        return Failure(f"{type(error).__name__}: {error}")

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


def cluster(address: str) -> Workers:
    """Return the workers of the Dask scheduler at `address`, e.g. tcp://127.0.0.1:8786.

    Raises SchedulerError if Dask is not installed, no scheduler answers, or it has no workers.
    """
    return Workers([_Cluster(address)])


class _Cluster:
    """All workers of a Dask scheduler."""

    def __init__(self, address: str) -> None:
        if not _ADDRESS.fullmatch(address):
            raise SchedulerError(f"{address!r} is no address; write tcp://HOST:PORT")
        try:
            import distributed
        except ImportError as error:
            raise SchedulerError(
                f"a cluster needs Dask ({error}); install it: pip install 'afdsim[cluster]'"
            ) from None
        self.address = address
        # A lost scheduler is told by an error of ours; the client would log a traceback as well.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            connect: Any = distributed.Client
            self._client = connect(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SchedulerError(
                f"no scheduler answers at {address} ({' '.join(str(error).split())}); "
                "start one: dask scheduler"
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_S)
        except OSError:
            self._client.close()
            raise SchedulerError(
                f"no worker has joined {address}; start some: dask worker {address} --nthreads 1"
            ) from None
        self._executor = self._client.get_executor(pure=False)
        self._size = 0
        self._asked_s = float("-inf")

    def room(self) -> int:
        if time.monotonic() - self._asked_s > _SIZE_KEPT_S:
            try:
                self._size = sum(self._client.nthreads().values())
            except OSError:
                raise self._lost() from None
            self._asked_s = time.monotonic()
        return _CALLS_PER_WORKER * max(self._size, 1)

    def submit(self, call: Callable[[Item], Result], item: Item) -> Future[Result]:
        future: Future[Result] = self._executor.submit(call, item)
        return future

    def give_up(self, future: Future[Any]) -> None:
        future.cancel()

    def renew(self) -> bool:
        raise self._lost()

    def failure(self, error: BaseException) -> Failure:
        from distributed import KilledWorker

        if isinstance(error, CancelledError):
            raise self._lost() from None
        if isinstance(error, KilledWorker):
            return Failure("its workers died (killed, or out of memory)")
        return Failure(f"{type(error).__name__}: {error}")

    def close(self, *, now: bool) -> None:
        self._executor.shutdown(wait=not now)
        self._client.close()

    def _lost(self) -> SchedulerError:
        return SchedulerError(f"the scheduler at {self.address} was lost; run the command again")

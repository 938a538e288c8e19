"""A Dask cluster as workers.

The scheduler takes milliseconds for a task, about as long as a point of the bound engine takes. So
calls travel in batches of about `_BATCH_S`, and as bytes, which Dask passes on without a look.
"""

from __future__ import annotations

import logging
import pickle
import re
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from sim.foundation.errors import SchedulerError
from sim.parallel.processes import (
    BATCHES_PER_WORKER,
    Failure,
    Item,
    Made,
    Result,
    Workers,
    make,
)

_CONNECT_S = 5
_ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+")
# A cluster grows and shrinks; its size is asked for again after this long.
_SIZE_KEPT_S = 5.0
# What a killed worker loses, and what the others wait for at the end.
_BATCH_S = 0.5
# The next points may take longer than the last.
_MOST_CALLS = 32


def cluster(address: str) -> Workers:
    """Return the workers of the Dask scheduler at `address`, e.g. tcp://127.0.0.1:8786.

    Raises SchedulerError if Dask is not installed, no scheduler answers, or it has no workers.
    """
    return Workers([_Cluster(address)])


def _make(packed: bytes) -> Made[Any]:
    """Make the calls of a batch, on a worker."""
    call, items = pickle.loads(packed)
    return make(call, items)


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
        # A lost scheduler is told by an error of ours; the client and its loop would log tracebacks
        # as well.
        for logger in ("distributed.client", "tornado.application"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
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
        self._calls = 1
        self._size = 0
        self._asked_s = float("-inf")

    def room(self) -> int:
        if time.monotonic() - self._asked_s > _SIZE_KEPT_S:
            try:
                self._size = sum(self._client.nthreads().values())
            except OSError:
                raise self._lost() from None
            self._asked_s = time.monotonic()
        return BATCHES_PER_WORKER * max(self._size, 1)

    def batch(self) -> int:
        return self._calls

    def learn(self, calls: int, spent_s: float) -> None:
        fitting = int(_BATCH_S * calls / max(spent_s, 1e-6))
        self._calls = max(1, min(fitting, 2 * self._calls, _MOST_CALLS))

    def submit(self, call: Callable[[Item], Result], items: list[Item]) -> Future[Made[Result]]:
        packed = pickle.dumps((call, items))
        future: Future[Made[Result]] = self._executor.submit(_make, packed)
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
        return Failure.of(error)

    def close(self, *, now: bool) -> None:
        self._executor.shutdown(wait=not now)
        self._client.close()

    def _lost(self) -> SchedulerError:
        return SchedulerError(f"the scheduler at {self.address} was lost; run the command again")

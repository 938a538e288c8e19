"""Request queue: who waits to be let in, first come first served, and who is on the way.

Requests come when their KV is there. Those that gave way stand before all others, the oldest first.
"""

from __future__ import annotations

from bisect import insort
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class RequestQueue:
    """Requests by number, in the order in which they may enter."""

    def __init__(self) -> None:
        self._request = np.empty(0, dtype=np.int64)
        self._comes_ns = np.empty(0, dtype=np.int64)
        """Both in the order of the second: who has entered, then who waits, then who will come."""
        self._entered = 0
        self._came = 0
        self._first: list[int] = []
        """Those that gave way and wait."""
        self._away: list[tuple[int, int]] = []
        """Those that gave way and whose KV is not there yet: when it will be, and who."""

    def __len__(self) -> int:
        return len(self._first) + self._came - self._entered

    def expect(self, requests: Ints, comes_ns: Ints) -> None:
        """Note when requests will come, none of them before those that came already."""
        ahead = self._entered
        request = np.concatenate([self._request[ahead:], requests])
        comes_ns = np.concatenate([self._comes_ns[ahead:], comes_ns])
        self._entered, self._came = 0, self._came - ahead
        if len(request) > len(requests) or len(requests) > 1:
            order = np.argsort(comes_ns, kind="stable")
            request, comes_ns = request[order], comes_ns[order]
        self._request, self._comes_ns = request, comes_ns

    def send_away(self, request: int, back_ns: int) -> None:
        """Let a request that gave way come back to the head of the queue at `back_ns`."""
        heappush(self._away, (back_ns, request))

    def pass_to(self, now_ns: int) -> None:
        """Let all come who come until now."""
        if self._came < len(self._comes_ns) and self._comes_ns[self._came] <= now_ns:
            later = self._comes_ns[self._came :]
            self._came += int(np.searchsorted(later, now_ns, side="right"))
        while self._away and self._away[0][0] <= now_ns:
            insort(self._first, heappop(self._away)[1])

    def next_ns(self) -> int | None:
        """Return when the next request comes, None if none is known."""
        known = [int(self._comes_ns[self._came])] if self._came < len(self._comes_ns) else []
        known += [self._away[0][0]] if self._away else []
        return min(known, default=None)

    def head(self, count: int) -> Ints:
        """Return up to `count` requests from the head of the queue."""
        first = self._first[:count]
        last = min(self._came, self._entered + count - len(first))
        others = self._request[self._entered : last]
        return np.concatenate([np.array(first, dtype=np.int64), others]) if first else others

    def leave(self, count: int) -> None:
        """Take the first `count` requests out."""
        first = min(count, len(self._first))
        del self._first[:first]
        self._entered += count - first

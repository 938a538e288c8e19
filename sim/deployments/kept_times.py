"""Kept times: durations that one number decides, asked once for each number.

In an open loop hardly any step holds the same requests on all GPUs as one before, but each GPU
holds a number of requests that some GPU has held before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.engines.jit import compiled
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE

Ints = NDArray[np.int64]

_NONE_MISSING = -1


class KeptTimes:
    """Times by number, each of some servers that stand together in several slots of a `Times`."""

    def __init__(
        self, slots: Sequence[int], servers: int, time: Callable[[int], tuple[Ints, Floats]]
    ) -> None:
        """Take the first value of each slot, the servers of a number, and what times a number.

        `time` returns the ns of each slot and the usage of these servers.
        """
        self._slots = np.array(slots, dtype=np.int64)
        self._servers = servers
        self._time = time
        self._known = np.zeros(0, dtype=np.bool_)
        self._ns = np.zeros((0, len(slots)), dtype=np.int64)
        self._usage_ns = np.zeros((0, len(NO_USAGE)))

    def fill(self, numbers: Ints, values: Ints, usage_ns: Floats) -> None:
        """Write the durations of `numbers`, one after the other, into `values` of a `Times`.

        Their usage is added to `usage_ns`.
        """
        while True:
            kept = self._known, self._ns, self._usage_ns
            missing = recall(numbers, *kept, self._slots, self._servers, values, usage_ns)
            if missing == _NONE_MISSING:
                return
            self._learn(missing)

    def _learn(self, number: int) -> None:
        more = number + 1 - len(self._known)
        if more > 0:
            more = max(more, len(self._known))
            self._known = np.pad(self._known, (0, more))
            self._ns = np.pad(self._ns, ((0, more), (0, 0)))
            self._usage_ns = np.pad(self._usage_ns, ((0, more), (0, 0)))
        self._ns[number], self._usage_ns[number] = self._time(number)
        self._known[number] = True


@compiled("int64(int64[::1], boolean[::1], int64[:, ::1], float64[:, ::1], int64[::1], int64, "
          "int64[::1], float64[::1])")  # fmt: skip
def recall(
    numbers: Ints,
    known: NDArray[np.bool_],
    ns: Ints,
    usage_ns: Floats,
    slots: Ints,
    servers: int,
    values: Ints,
    total_ns: Floats,
) -> int:
    """Write the kept times of `numbers` into `values`; or return one that is not known, else −1."""
    for place in range(len(numbers)):
        number = numbers[place]
        if number >= len(known) or not known[number]:
            return int(number)
    for place in range(len(numbers)):
        number = numbers[place]
        for slot in range(len(slots)):
            first = slots[slot] + place * servers
            for server in range(first, first + servers):
                values[server] = ns[number, slot]
        for status in range(len(total_ns)):
            total_ns[status] += usage_ns[number, status]
    return -1

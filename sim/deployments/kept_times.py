"""Kept times: durations that one number decides, asked once for each number.

In an open loop hardly any step holds the same requests on all GPUs as one before, but each GPU
holds a number of requests that some GPU has held before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engines.jit import compiled
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE

Ints = NDArray[np.int64]

_NONE_MISSING = -1

# By number whether it is known, its ns in each slot and its usage; the slots' first values; GPUs
# whose requests make a number.
_KEPT = "Tuple((boolean[::1], int64[:, ::1], float64[:, ::1], int64[::1], int64))"
Kept = tuple[NDArray[np.bool_], Ints, Floats, Ints, int]


class KeptTimes:
    """Times by number, each of some GPUs that stand together in several slots of a `Times`."""

    def __init__(
        self, slots: Sequence[int], gpus: int, time: Callable[[int], tuple[Ints, Floats]]
    ) -> None:
        """Take the first value of each slot, the GPUs that share a number, and what times it.

        A number is the requests of these neighbours together. `time` returns the ns of each slot
        and the usage of these GPUs.
        """
        self._slots = np.array(slots, dtype=np.int64)
        self._gpus = gpus
        self._time = time
        self._known = np.zeros(0, dtype=np.bool_)
        self._ns = np.zeros((0, len(slots)), dtype=np.int64)
        self._usage_ns = np.zeros((0, len(NO_USAGE)))

    def kept(self) -> Kept:
        """Return what is known as the compiled loop reads it."""
        return self._known, self._ns, self._usage_ns, self._slots, self._gpus

    def learn(self, number: int) -> None:
        """Ask for the times of a number."""
        more = number + 1 - len(self._known)
        if more > 0:
            more = max(more, len(self._known))
            self._known = np.pad(self._known, (0, more))
            self._ns = np.pad(self._ns, ((0, more), (0, 0)))
            self._usage_ns = np.pad(self._usage_ns, ((0, more), (0, 0)))
        self._ns[number], self._usage_ns[number] = self._time(number)
        self._known[number] = True


class JointTimes(NamedTuple):
    """What all GPUs decide together, kept for a load."""

    bounds: Ints
    """First value and the one after the last of each row in a `Times`, and values of the row."""
    ns: Ints
    """Row after row; one value stands for all servers."""
    usage_ns: Floats

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, Ints]], usage_ns: Floats) -> JointTimes:
        """Keep rows, each with its first value and the one after the last."""
        bounds = [(first, last, len(row)) for first, last, row in rows]
        ns = np.concatenate([np.empty(0, dtype=np.int64), *(row for _, _, row in rows)])
        return cls(np.array(bounds, dtype=np.int64).reshape(-1, 3), ns, usage_ns)


def put_together(
    requests: Ints, joint: JointTimes, parts: tuple[KeptTimes, KeptTimes], values: Ints
) -> Floats:
    """Write what is kept of `requests` into `values` of a `Times`; return its usage, ns."""
    usage_ns = joint.usage_ns.copy()
    while True:
        kept = parts[0].kept(), parts[1].kept()
        part, number = recall(requests, joint.bounds, joint.ns, *kept, values, usage_ns)
        if number == _NONE_MISSING:
            return usage_ns
        parts[part].learn(number)


@compiled("UniTuple(int64, 2)(int64[::1])")
def all_and_most(requests: Ints) -> tuple[int, int]:
    """Return the requests of all GPUs, and those of the GPU that has most."""
    total = most = np.int64(0)
    for each in requests:
        total += each
        most = max(most, each)
    return int(total), int(most)


@compiled(f"int64(int64[::1], {_KEPT})")
def _missing(requests: Ints, kept: Kept) -> int:
    """Return a number that is not known, −1 if all are."""
    known, _ns, _usage_ns, slots, gpus = kept
    if len(slots) == 0:
        return _NONE_MISSING
    for first in range(0, len(requests), gpus):
        number = np.int64(0)
        for gpu in range(first, first + gpus):
            number += requests[gpu]
        if number >= len(known) or not known[number]:
            return int(number)
    return _NONE_MISSING


@compiled(f"void(int64[::1], {_KEPT}, int64[::1], float64[::1])")
def _fill(requests: Ints, kept: Kept, values: Ints, total_ns: Floats) -> None:
    """Write the kept times into `values`, and add their usage to `total_ns`."""
    _known, ns, usage_ns, slots, gpus = kept
    if len(slots) == 0:
        return
    for first in range(0, len(requests), gpus):
        number = np.int64(0)
        for gpu in range(first, first + gpus):
            number += requests[gpu]
        for slot in range(len(slots)):
            for server in range(slots[slot] + first, slots[slot] + first + gpus):
                values[server] = ns[number, slot]
        for status in range(len(total_ns)):
            total_ns[status] += usage_ns[number, status]


@compiled(f"UniTuple(int64, 2)(int64[::1], int64[:, ::1], int64[::1], {_KEPT}, {_KEPT}, "
          "int64[::1], float64[::1])")  # fmt: skip
def recall(
    requests: Ints,
    bounds: Ints,
    joint_ns: Ints,
    one: Kept,
    other: Kept,
    values: Ints,
    total_ns: Floats,
) -> tuple[int, int]:
    """Write joint and kept times into `values`; or return a part and its number to be learnt.

    The number is −1 if nothing was missing.
    """
    missing = _missing(requests, one)
    if missing != _NONE_MISSING:
        return 0, missing
    missing = _missing(requests, other)
    if missing != _NONE_MISSING:
        return 1, missing
    at = np.int64(0)
    for row in range(len(bounds)):
        first, last, count = bounds[row, 0], bounds[row, 1], bounds[row, 2]
        for server in range(first, last):
            values[server] = joint_ns[at] if count == 1 else joint_ns[at + server - first]
        at += count
    _fill(requests, one, values, total_ns)
    _fill(requests, other, values, total_ns)
    return 0, _NONE_MISSING

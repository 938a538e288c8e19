"""Timed: the times of kernels, together with how well they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.kernels.ops import Floats

Status = Literal["calibrated", "extrapolated", "uncalibrated"]
STATUSES: tuple[Status, ...] = ("calibrated", "extrapolated", "uncalibrated")

Ints = NDArray[np.int64]

NO_USAGE = np.zeros(len(STATUSES))
NO_USAGE.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Timed:
    """Times, and the kernel time by status that they are made of.

    Usage is whole ns, so that sums are exact in any order (up to 2^53 ns, 104 days of a GPU).
    """

    ns: Ints
    """Mostly one value per GPU."""
    usage_ns: Floats = field(default_factory=lambda: NO_USAGE)
    """In the order of STATUSES; 0 where the time is no kernel's."""

    def __add__(self, other: Timed | Ints) -> Timed:
        """Return the times of one after the other."""
        if isinstance(other, Timed):
            return Timed(self.ns + other.ns, self.usage_ns + other.usage_ns)
        return Timed(self.ns + other, self.usage_ns)

    def on(self, gpus: int) -> Timed:
        """Return the same times, spent on each of `gpus` GPUs."""
        return Timed(self.ns, self.usage_ns * gpus)

    def lasting(self, ns: Ints) -> Timed:
        """Return the same kernels, which take `ns` where they run."""
        return Timed(ns, self.usage_ns)


def counted(calibrated_ns: int, extrapolated_ns: int, uncalibrated_ns: int = 0) -> Floats:
    """Return usage, ns."""
    return np.array([calibrated_ns, extrapolated_ns, uncalibrated_ns], dtype=np.float64)


def uncalibrated(ns: Ints) -> Timed:
    """Return times of kernels that no curve knows."""
    return Timed(ns, counted(0, 0, int(ns.sum())))


def by_status(usage_ns: Floats) -> Mapping[Status, float]:
    """Return usage under its names."""
    return dict(zip(STATUSES, usage_ns.tolist(), strict=True))

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
    """Loads × GPUs, of several loads at once; mostly one value per GPU otherwise."""
    usage_ns: Floats = field(default_factory=lambda: NO_USAGE)
    """In the order of STATUSES, by load; 0 where the time is no kernel's."""

    def __add__(self, other: Timed | Ints) -> Timed:
        """Return the times of one after the other."""
        if isinstance(other, Timed):
            return Timed(self.ns + other.ns, self.usage_ns + other.usage_ns)
        return Timed(self.ns + other, self.usage_ns)

    def on(self, gpus: int) -> Timed:
        """Return the same times, spent on each of `gpus` GPUs."""
        return Timed(self.ns, self.usage_ns * gpus)

    def together(self) -> Timed:
        """Return the same times, with the usage of all loads in one."""
        return Timed(self.ns, self.usage_ns.reshape(-1, len(STATUSES)).sum(axis=0))

    def lasting(self, ns: Ints) -> Timed:
        """Return the same kernels, which take `ns` where they run."""
        return Timed(ns, self.usage_ns)


def spent(ns: Ints, alike: Ints | None) -> Ints:
    """Return the time of all GPUs, by load; `alike` of them stand behind each that is given."""
    all_ns = ns if alike is None else ns * alike
    return np.asarray(all_ns.sum(axis=-1) if all_ns.ndim else all_ns)


def counted(total_ns: Ints, calibrated_ns: Ints | int) -> Floats:
    """Return the usage of kernels that a curve times, ns, given how much of it is calibrated."""
    usage_ns = np.zeros((*total_ns.shape, len(STATUSES)))
    usage_ns[..., 0] = calibrated_ns
    usage_ns[..., 1] = total_ns - calibrated_ns
    return usage_ns


def uncalibrated(ns: Ints, alike: Ints | None = None) -> Timed:
    """Return times of kernels that no curve knows."""
    usage_ns = np.zeros((*ns.shape[:-1], len(STATUSES)))
    usage_ns[..., 2] = spent(ns, alike)
    return Timed(ns, usage_ns)


def by_status(usage_ns: Floats) -> Mapping[Status, float]:
    """Return usage under its names."""
    return dict(zip(STATUSES, usage_ns.tolist(), strict=True))

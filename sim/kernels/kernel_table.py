"""KernelTable: how long a kernel takes on a card, by the calibrated roofline of DESIGN §3.

    latency = (overhead + smooth-max(FLOPs / (peak · e_c), bytes / (bandwidth · e_m))) · exp(r)

Overhead, e_c, e_m and the residual r at the shape come from the card's calibration curve; no
look-up beats the physical peak. A shape outside the curve's measured range, or a kernel that
borrows the curve of its nearest relative, counts as extrapolated. An operation without curves
reaches the card's default efficiency and counts as uncalibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.foundation.errors import CalibrationError
from sim.foundation.nanoseconds import whole_ns
from sim.foundation.units import NS_PER_S, NS_PER_US
from sim.inputs.hardware import Accelerator
from sim.kernels import served
from sim.kernels.curve import Curve, Identity
from sim.kernels.ops import Floats, Medium, Op
from sim.kernels.serving import serving
from sim.kernels.table_file import read
from sim.kernels.timed import STATUSES, Ints, Timed, counted, spent, uncalibrated

US_PER_S = NS_PER_S / NS_PER_US

# Kernels timed on whole tiles of every expert, so that their work is the padded one.
_PADDING_KERNELS = frozenset({("moe", served.MASKED)})

# Times of whole numbers below this, such as counts of requests, are kept.
_MOST_KEPT = 1 << 12

# Time and usage of no number at all.
_NOTHING = np.empty((0, 1 + len(STATUSES)), dtype=np.int64)


class KernelTable:
    """The kernel times of one accelerator; what it keeps is only there to answer sooner."""

    def __init__(
        self, accelerator: Accelerator, curves: Sequence[Curve] = (), sha256: str = ""
    ) -> None:
        self.accelerator = accelerator
        self.curves = tuple(curves)
        self.sha256 = sha256
        self._by_identity = {curve.identity: curve for curve in curves}
        self._peak: dict[tuple[str, Medium], tuple[float, float]] = {}
        self._serving: dict[Identity, tuple[Curve | None, bool]] = {}
        self._kept: dict[Hashable, Ints] = {}
        self._crowded: dict[float, KernelTable] = {}

    def without_sms(self, taken: float) -> KernelTable:
        """Return the table of kernels that lack `taken` SMs of the card.

        Their compute peak falls with the SMs; memory bandwidth and launches stay.
        """
        if taken not in self._crowded:
            card = self.accelerator.without_sms(taken)
            self._crowded[taken] = KernelTable(card, self.curves, self.sha256)
        return self._crowded[taken]

    def timed(self, op: Op, alike: Ints | None = None) -> Timed:
        """Return the time of `op`, one value per GPU; zero work takes no time.

        Usage is that of all GPUs (the last axis), `alike` of which stand behind each value.
        """
        curve, own = self.serving(op)
        if curve is None:
            ns = whole_ns(self._default_us(op) * NS_PER_US, self._named(op))
            return uncalibrated(ns, alike)
        time_us, inside = self.time_us(op, curve)
        ns = whole_ns(time_us * NS_PER_US, self._named(op))
        if self.is_foreign(op, curve):
            return uncalibrated(ns, alike)
        total = spent(ns, alike)
        if own and not inside.all():
            return Timed(ns, counted(total, spent(ns * inside, alike)))
        return Timed(ns, counted(total, total if own else 0))

    def timed_each(
        self,
        what: Hashable,
        values: ArrayLike,
        time: Callable[[Floats], Timed],
        alike: Ints | None = None,
    ) -> Timed:
        """Return `time(values)`, of which few differ: each is asked once.

        `what` names all else that the time depends on, for whoever asks the table. Usage is that of
        all GPUs (the last axis), `alike` of which stand behind each value.
        """
        given = np.asarray(values, dtype=np.float64)
        exact = np.atleast_1d(given)
        whole = exact.astype(np.int64)
        low, high = int(whole.min()), int(whole.max())
        if low >= 0 and high < _MOST_KEPT and (whole == exact).all():
            found = self._known(what, whole, low, high, time)
        else:
            found = _asked(time, exact)
        used = found[..., 1:] if alike is None else found[..., 1:] * alike[..., np.newaxis]
        ns = np.ascontiguousarray(found[..., 0]).reshape(given.shape)
        return Timed(ns, used.sum(axis=-2).astype(np.float64))

    def _known(
        self,
        what: Hashable,
        values: Ints,
        low: int,
        high: int,
        time: Callable[[Floats], Timed],
    ) -> Ints:
        """Return time and usage of whole numbers from `low` to `high`, kept by number."""
        kept = self._kept.get(what, _NOTHING)
        if high >= len(kept):
            more = np.full((2 << high.bit_length(), kept.shape[1]), -1)
            more[: len(kept)] = kept
            self._kept[what] = kept = more
        if low == high:
            if kept[low, 0] < 0:
                kept[low] = _asked(time, np.array([low], dtype=np.float64))[0]
            return kept[values]
        found = kept[values]
        if (found[..., 0] < 0).any():
            asked = np.unique(values)
            missing = asked[kept[asked, 0] < 0]
            kept[missing] = _asked(time, missing.astype(np.float64))
            found = kept[values]
        return found

    def serving(self, op: Op) -> tuple[Curve | None, bool]:
        """Return the curve that times `op` (None: uncalibrated) and whether it is its own."""
        identity = (op.name, op.kernel, op.dtype, op.key)
        if identity not in self._serving:
            self._serving[identity] = serving(self._by_identity, identity, op.medium, op.computes)
        return self._serving[identity]

    def is_told_by_curve(self, _op: Op) -> bool:
        """Return whether the curve alone says what `op` takes, so that nobody need ask here."""
        return True

    @staticmethod
    def is_foreign(op: Op, curve: Curve) -> bool:
        """Return whether a curve is of the format that `op` is widened to, not of its own."""
        return bool(op.computes) and curve.dtype != op.dtype

    def has_format(self, op: str, kernel: str, dtype: str) -> bool:
        """Return whether a kernel that serves `kernel` was measured in a number format."""
        names = (kernel, *served.engines(op, kernel))
        return any((op, name, dtype) in self._formats for name in names)

    def engines(self, op: str) -> frozenset[str]:
        """Return the kernels that were measured of an operation, whatever they ran under."""
        return frozenset(served.engine(name) for of, name, _ in self._formats if of == op)

    @cached_property
    def _formats(self) -> frozenset[tuple[str, str, str]]:
        return frozenset((curve.op, curve.kernel, curve.dtype) for curve in self.curves)

    def time_us(self, op: Op, curve: Curve) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the time of `op` on `curve`, µs, and whether each shape was in its range."""
        least_us, memory_us = self.peak_us(op)
        return curve.times_us(self.work_us(op)[0], memory_us, least_us, op.axes)

    def peak_us(self, op: Op) -> tuple[Floats, Floats]:
        """Return what `op` takes at least at the card's compute peak and bandwidth, µs each."""
        flops_per_us, bytes_per_us = self._peaks(op)
        return op.least_flops() / flops_per_us, op.bytes / bytes_per_us

    def work_us(self, op: Op) -> tuple[Floats, Floats]:
        """Return compute and memory time at peak of the work the roofline sees, µs each."""
        flops_per_us, bytes_per_us = self._peaks(op)
        is_padded = (op.name, op.kernel) in _PADDING_KERNELS
        return (op.flops if is_padded else op.least_flops()) / flops_per_us, op.bytes / bytes_per_us

    def _named(self, op: Op) -> str:
        parts = (op.name, op.kernel, op.dtype, op.key)
        return f"{'/'.join(filter(None, parts))} on {self.accelerator.name}"

    def _peaks(self, op: Op) -> tuple[float, float]:
        """Return the card's FLOPs and bytes per µs for an op's number format and medium."""
        kind = (op.computes or op.dtype, op.medium)
        if kind not in self._peak:
            flops_per_s = self.accelerator.peak_flops_per_s(op.computes or op.dtype)
            moved_per_s = bytes_per_s(self.accelerator, op.medium)
            self._peak[kind] = (flops_per_s / US_PER_S, moved_per_s / US_PER_S)
        return self._peak[kind]

    def _default_us(self, op: Op) -> Floats:
        flops_per_us, bytes_per_us = self._peaks(op)
        least_us = np.maximum(op.flops / flops_per_us, op.bytes / bytes_per_us)
        return np.asarray(least_us / float(self.accelerator.default_efficiency))


def bytes_per_s(accelerator: Accelerator, medium: Medium) -> float:
    """Return the bandwidth of a medium of a card, B/s. Raises CalibrationError without NICs."""
    if medium == "hbm":
        return float(accelerator.hbm_bytes_per_s)
    if medium == "scale_up":
        return float(accelerator.node.scale_up_bytes_per_s)
    nic = accelerator.node.nic_bytes_per_s_per_gpu()
    if nic is None:
        raise CalibrationError(
            f"{accelerator.name} has no NICs on its card: its GPUs cannot leave the node"
        )
    return nic


# Scenarios of one process share the tables of their cards, and what these keep.
_TABLES: dict[tuple[int, str], KernelTable] = {}


def load(accelerator: Accelerator, path: Path | None) -> KernelTable:
    """Return the kernel table of `accelerator` from the CSV at `path` (None: no curves).

    Raises CalibrationError with file and line if the table is malformed.
    """
    if path is None:
        return KernelTable(accelerator)
    curves, sha256 = read(path)
    # A table holds its card, so that no other one takes its identity.
    key = id(accelerator), sha256
    if key not in _TABLES:
        _TABLES[key] = KernelTable(accelerator, curves, sha256)
    return _TABLES[key]


def _asked(time: Callable[[Floats], Timed], values: Floats) -> Ints:
    """Return the time of each of `values` and its usage by status, along a last axis."""
    timed = time(values[..., np.newaxis])
    found = np.empty((*values.shape, 1 + len(STATUSES)), dtype=np.int64)
    found[..., :1], found[..., 1:] = timed.ns, timed.usage_ns
    return found

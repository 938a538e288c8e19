"""KernelTable: how long a kernel takes on a card, by the calibrated roofline of DESIGN §3.

    latency = (overhead + smooth-max(FLOPs / (peak · e_c), bytes / (bandwidth · e_m))) · exp(r)

Overhead, e_c, e_m and the residual r at the shape come from the card's calibration curve; no
look-up beats the physical peak. A shape outside the curve's measured range, or a kernel that
borrows the curve of its nearest relative, counts as extrapolated. An operation without curves
reaches the card's default efficiency and counts as uncalibrated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.foundation.errors import CalibrationError
from sim.foundation.nanoseconds import too_long, whole_ns
from sim.foundation.units import NS_PER_S, NS_PER_US
from sim.inputs.hardware import Accelerator
from sim.kernels import served
from sim.kernels.curve import Curve, Identity
from sim.kernels.ops import Floats, Medium, Op
from sim.kernels.table_file import read

Status = Literal["calibrated", "extrapolated", "uncalibrated"]
STATUSES: tuple[Status, ...] = ("calibrated", "extrapolated", "uncalibrated")

Ints = NDArray[np.int64]

US_PER_S = NS_PER_S / NS_PER_US

# Kernels timed on whole tiles of every expert, so that their work is the padded one.
_PADDING_KERNELS = frozenset({("moe", served.MASKED)})


# Values below this are counted where distinct ones are looked for; as many make a table.
_MOST_COUNTED = 1 << 12

# Times that are kept for each card, and what tables of one card and calibration share.
_MOST_KEPT = 1 << 16
_SHARED: dict[tuple[int, str], tuple[Accelerator, dict[Any, Any], dict[Any, Any]]] = {}


class _Line(NamedTuple):
    """The cores of one attention over any context, by the requests of a GPU."""

    curve: Curve | None
    """None: none is along batch and kv_len."""
    exact: bool
    """Whether the curve is its own."""
    work_us: Floats
    """Compute time, and the two of `peak_us`, without context and for each token (2 × 3 × n)."""


class KernelTable:
    """The kernel times of one accelerator. Each look-up adds to `usage_ns` by its status."""

    def __init__(
        self, accelerator: Accelerator, curves: Sequence[Curve] = (), sha256: str = ""
    ) -> None:
        self.accelerator = accelerator
        self.curves = tuple(curves)
        self.sha256 = sha256
        self.usage_ns: dict[Status, float] = dict.fromkeys(STATUSES, 0.0)
        self._by_identity = {curve.identity: curve for curve in curves}
        self._peak: dict[tuple[str, Medium], tuple[float, float]] = {}
        self._serving: dict[Identity, tuple[Curve | None, bool]] = {}
        self._kept: dict[tuple[Hashable, float], tuple[int, dict[Status, float]]] = {}
        self._lines: dict[Hashable, _Line] = {}
        self._whole: dict[Hashable, tuple[Ints, dict[Status, float]]] = {}

    def duration_ns(self, op: Op, uses: int = 1) -> NDArray[np.int64]:
        """Return the time of `op` in whole ns, one value per GPU; zero work takes no time.

        `uses` is how often the look-up will be spent in a step (the layers it stands for): it
        weighs the look-up in `usage_ns`.
        """
        curve, exact = self.serving(op)
        if curve is None:
            duration = whole_ns(self._default_us(op) * NS_PER_US, self._named(op))
            self.usage_ns["uncalibrated"] += float(duration.sum()) * uses
            return duration
        time, inside = self.time_us(op, curve)
        duration = whole_ns(time * NS_PER_US, self._named(op))
        total = float(duration.sum()) * uses
        calibrated = float(duration[inside].sum()) * uses if exact else 0.0
        self.usage_ns["calibrated"] += calibrated
        self.usage_ns["extrapolated"] += total - calibrated
        return duration

    def each_ns(
        self, what: Hashable, values: ArrayLike, time: Callable[[float], Ints], uses: int
    ) -> Ints:
        """Return `time(value)` of each of `values`, of which few differ: each is asked once.

        `what` names all else that the time depends on. What was asked is kept, also for other
        tables of the card (see `load`); it counts as usage whenever it is used.
        """
        flat = np.asarray(values, dtype=np.float64)
        first = float(flat.flat[0])
        if (flat == first).all():
            ns, spent = self._remembered(what, first, time)
            self._add(spent, flat.size * uses)
            return np.full(flat.shape, ns)
        distinct, place, counts = _distinct(flat.tobytes(), flat.shape)
        found = [self._remembered(what, value, time) for value in distinct]
        for (_ns, spent), count in zip(found, counts, strict=True):
            self._add(spent, count * uses)
        return np.array([ns for ns, _ in found])[place].reshape(flat.shape)

    def once_ns(self, what: Hashable, time: Callable[[], Ints]) -> Ints:
        """Return `time()`, asked once for each `what` that names all it depends on.

        What was asked is kept, not to be written to; it counts as usage whenever it is used.
        """
        if what not in self._whole:
            if len(self._whole) >= _MOST_KEPT:
                self._whole.clear()
            mine, self.usage_ns = self.usage_ns, dict.fromkeys(STATUSES, 0.0)
            try:
                found = time()
                found.setflags(write=False)
                self._whole[what] = found, self.usage_ns
            finally:
                self.usage_ns = mine
        found, spent = self._whole[what]
        self._add(spent, 1)
        return found

    def _remembered(
        self, what: Hashable, value: float, time: Callable[[float], Ints]
    ) -> tuple[int, dict[Status, float]]:
        """Return the time of one value and the usage of its look-ups."""
        key = what, value
        if key not in self._kept:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            mine, self.usage_ns = self.usage_ns, dict.fromkeys(STATUSES, 0.0)
            try:
                self._kept[key] = int(time(value)), self.usage_ns
            finally:
                self.usage_ns = mine
        return self._kept[key]

    def _add(self, spent: Mapping[Status, float], times: int) -> None:
        for status, ns in spent.items():
            self.usage_ns[status] += ns * times

    def line(
        self, what: Hashable, core: Callable[[Ints, Ints], Op], requests: Ints, uses: int
    ) -> Callable[[Ints], Ints] | None:
        """Return what times an attention core by its context tokens: ns by GPU, counted as usage.

        `core` makes the op of requests and context tokens, `requests` are those of each GPU. `what`
        names all else that the op depends on. None if no curve along batch and kv_len times it.
        """
        most = int(requests.max())
        if most < _MOST_COUNTED:
            line = self._lines.get(what)
            if line is None or most >= line.work_us.shape[-1]:
                line = self._lines[what] = self._line(core, np.arange(2 << most.bit_length()))
            work_us = np.take(line.work_us, requests, axis=-1)
        else:
            line = self._line(core, requests)
            work_us = line.work_us
        curve, exact = line.curve, line.exact
        if curve is None:
            return None
        fixed_us, per_token_us = work_us
        batch = requests.astype(np.float64)

        def time(kv_tokens: Ints) -> Ints:
            times, total, measured = curve.line_ns(fixed_us, per_token_us, batch, kv_tokens)
            if total < 0:
                raise too_long(f"{'/'.join(curve.identity)} on {self.accelerator.name}", np.inf)
            calibrated = measured if exact else 0
            self.usage_ns["calibrated"] += float(calibrated * uses)
            self.usage_ns["extrapolated"] += float((total - calibrated) * uses)
            return times

        return time

    def _line(self, core: Callable[[Ints, Ints], Op], requests: Ints) -> _Line:
        """Return the line of cores of so many requests each."""
        fixed, one_token = (core(requests, np.full_like(requests, tokens)) for tokens in (0, 1))
        curve, exact = self.serving(fixed)
        if curve is None or not curve.is_of_attention():
            return _Line(None, False, np.empty((2, 3, len(requests))))
        fixed_us, one_us = (
            np.array([self.work_us(op)[0], *self.peak_us(op)[::-1]]) for op in (fixed, one_token)
        )
        return _Line(curve, exact, np.stack([fixed_us, one_us - fixed_us]))

    def usage_since(self, before: Mapping[Status, float]) -> dict[Status, float]:
        """Return what has been added to `usage_ns` since it was as `before`."""
        return {status: spent - before[status] for status, spent in self.usage_ns.items()}

    def add_usage(self, spent: Mapping[Status, float]) -> None:
        """Count look-ups again whose times were kept."""
        for status, ns in spent.items():
            self.usage_ns[status] += ns

    def serving(self, op: Op) -> tuple[Curve | None, bool]:
        """Return the curve that times `op` (None: uncalibrated) and whether it is its own."""
        identity = (op.name, op.kernel, op.dtype, op.key)
        if identity not in self._serving:
            self._serving[identity] = self._choose(identity, op.medium)
        return self._serving[identity]

    def has_format(self, op: str, kernel: str, dtype: str) -> bool:
        """Return whether a kernel that serves `kernel` was measured in a number format."""
        names = (kernel, *served.engines(op, kernel))
        return any(
            curve.op == op and curve.dtype == dtype and curve.kernel in names
            for curve in self.curves
        )

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
        kind = (op.dtype, op.medium)
        if kind not in self._peak:
            flops_per_s = self.accelerator.peak_flops_per_s(op.dtype)
            moved_per_s = bytes_per_s(self.accelerator, op.medium)
            self._peak[kind] = (flops_per_s / US_PER_S, moved_per_s / US_PER_S)
        return self._peak[kind]

    def _default_us(self, op: Op) -> Floats:
        flops_per_us, bytes_per_us = self._peaks(op)
        least_us = np.maximum(op.flops / flops_per_us, op.bytes / bytes_per_us)
        return np.asarray(least_us / float(self.accelerator.default_efficiency))

    def _choose(self, identity: Identity, medium: Medium) -> tuple[Curve | None, bool]:
        """Return the curve of `identity`, else of its nearest relative, and whether it is own."""
        op, kernel, dtype, key = identity
        for name in (kernel, *served.engines(op, kernel)):
            if (op, name, dtype, key) in self._by_identity:
                return self._by_identity[op, name, dtype, key], True
        relatives = []
        for curve in self.curves:
            if curve.op != op or (medium != "hbm" and curve.kernel != kernel):
                continue
            away = _key_distance(key, curve.key)
            # How many query heads share a KV head decides what limits attention, whatever the
            # format of the cache: there the shape comes before the format.
            first = away if op.startswith("attention") else 0.0
            strange = (curve.dtype != dtype, "/" in curve.kernel, curve.kernel != kernel)
            if away < np.inf:
                relatives.append((first, *strange, away, curve.identity))
        return (self._by_identity[min(relatives)[-1]], False) if relatives else (None, False)


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


def load(accelerator: Accelerator, path: Path | None) -> KernelTable:
    """Return the kernel table of `accelerator` from the CSV at `path` (None: no curves).

    Raises CalibrationError with file and line if the table is malformed.
    """
    if path is None:
        return KernelTable(accelerator)
    curves, sha256 = read(path)
    table = KernelTable(accelerator, curves, sha256)
    # The card is held as well, so that no other one takes its identity.
    shared = _SHARED.setdefault((id(accelerator), sha256), (accelerator, {}, {}))
    _card, table._kept, table._serving = shared
    return table


@lru_cache(maxsize=64)
def _distinct(raw: bytes, shape: tuple[int, ...]) -> tuple[list[float], Ints, list[int]]:
    """Return the distinct ones of values, where each stands, and how many there are of each.

    Several kernels in turn ask for the same. Small whole numbers, such as counts of requests, are
    counted instead of sorted.
    """
    values = np.frombuffer(raw).reshape(shape)
    whole = values.astype(np.int64)
    if (whole == values).all() and whole.min() >= 0 and whole.max() < _MOST_COUNTED:
        counts = np.bincount(whole.ravel())
        distinct = np.flatnonzero(counts)
        place = np.cumsum(counts > 0)[whole] - 1
        return [float(value) for value in distinct], place, counts[distinct].tolist()
    found, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return found.tolist(), place.reshape(shape), counts.tolist()


def _key_distance(one: str, other: str) -> float:
    """Return how far two shape keys lie apart in doublings; ∞ if they are of different kinds."""
    if one == other:
        return 0.0
    kind_one, kind_other = re.sub(r"[\d.]+", "#", one), re.sub(r"[\d.]+", "#", other)
    if kind_one != kind_other or "#" not in kind_one:
        return np.inf
    sizes = zip(re.findall(r"[\d.]+", one), re.findall(r"[\d.]+", other), strict=True)
    return sum(abs(float(np.log2(float(a) / float(b)))) for a, b in sizes)

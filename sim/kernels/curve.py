"""Curve: one calibrated kernel, a smooth-max roofline and the residual of measurements on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.kernels import cores
from sim.kernels.ops import Floats
from sim.kernels.timed import STATUSES, Ints

# Axes along which a residual fades beyond the last node: more work fills the machine, and the
# smooth roofline alone takes over. Along the others (context, bytes) an efficiency persists.
# Slowly enough that no time falls: the roofline grows faster than the residual fades.
_FADING = frozenset({"m", "batch", "states"})
_FADE_E_FOLD = 6 * float(np.log(2))  # natural-log units of the coordinate: six doublings

# Axes whose product is the work of a launch.
_WORK = frozenset({"m", "batch", "states", "kv_len", "rows", "groups", "active"})

# The slope of attention past its largest measurement is taken at this share of the longest measured
# context: there several requests make up the most work, as in serving, and the points lie close.
_TYPICAL_CONTEXT = 0.25

DERIVED = "derived from "
"""Begins the source of a curve of another card."""

Identity = tuple[str, str, str, str]


@dataclass(frozen=True)
class Curve:
    """One calibrated kernel: a smooth-max roofline and the log residual of measurements on it."""

    op: str
    kernel: str
    dtype: str
    key: str
    overhead_us: float
    """Latency of a launch with no work, µs."""
    e_c: float
    """Share of the compute peak that large work reaches."""
    e_m: float
    """Share of the medium's bandwidth that large transfers reach."""
    p: float
    """Smoothness of the maximum of compute and memory time: 1 adds them, ∞ takes the larger."""
    source: str
    """Measurements the curve was fitted to, with their numbers of points."""
    licence: str
    points: int
    """Measured points of this curve."""
    mape: float
    """Mean absolute error on held-out points by the same procedure, a fraction; NaN if unknown."""
    p90: float
    """90th percentile of that error; NaN if unknown."""
    most_work: float = np.inf
    """Largest product of M, batch, context, rows, groups and experts in one measurement."""
    axes: tuple[tuple[str, Floats], ...] = ()
    """Names and ascending nodes of the residual grid."""
    residual: Floats = field(default_factory=lambda: np.zeros(()))
    """Log of measured over roofline time at the nodes, one dimension per axis."""

    @property
    def identity(self) -> Identity:
        """Return what selects this curve: op, kernel, dtype, key."""
        return self.op, self.kernel, self.dtype, self.key

    @property
    def is_derived(self) -> bool:
        """Return whether the curve is that of a like card, not measured on its own."""
        return self.source.startswith(DERIVED)

    def times_us(
        self, compute_us: Floats, memory_us: Floats, least_us: Floats, at: Mapping[str, Floats]
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the time of launches at the coordinates `at`, µs, and whether each was measured.

        The first three are times at physical peak: of the FLOPs executed, of the bytes, and of
        the FLOPs that no kernel can save. The residual is multilinear in the logarithms of the
        coordinates. Beyond the nodes the edge holds, and past the last node of M and batch it
        fades; past the longest context the batch counts that has the same work at the longest
        context. A curve without axes holds everywhere; where an axis has no coordinate, the
        residual is 0 and out of range.

        Attention over more context tokens than the largest measurement goes on in a straight
        line: past the last overheads, time grows by bytes or FLOPs alone, at the slope that the
        curve has where it was measured to the most work.
        """
        from sim.kernels.curve_loops import times_us

        lacks = any(name not in at for name, _ in self.axes)
        arrays = (compute_us, memory_us, least_us, *(() if lacks else at.values()))
        together = np.broadcast(*arrays)
        shape, launches = together.shape, together.size
        work_us = np.empty((3, *shape))
        work_us[0], work_us[1], work_us[2] = compute_us, memory_us, least_us
        described = _CurveArrays(self, ()) if lacks else self._described
        coordinates = np.empty((len(described.names), *shape))
        for row, name in enumerate(described.names):
            coordinates[row] = at[name]
        times, inside = np.empty(launches), np.empty(launches, dtype=np.bool_)
        times_us(
            work_us.reshape(3, launches),
            coordinates.reshape(-1, launches),
            *described.arrays,
            times,
            inside,
        )
        if lacks:
            inside[:] = False
        return times.reshape(shape), inside.reshape(shape)

    def is_of_attention(self) -> bool:
        """Return whether the axes are the batch and the context of an attention core."""
        return {name for name, _ in self.axes} == {"batch", "kv_len"}

    def line_ns(
        self,
        work_us: Floats,
        at: Ints,
        requests: Ints,
        alike: Ints,
        kv_tokens: Ints,
        own: bool,
    ) -> tuple[Ints, Floats] | None:
        """Return the time of attention cores, ns, and the usage by load.

        `requests` and `kv_tokens` are those of each GPU (the last axis), `alike` of which stand
        behind each, itself alone where it is empty. `at` is its place in `work_us`: at physical
        peak the work of a core is `work_us[0]` + `kv_tokens` · `work_us[1]`, with rows as the first
        arguments of `times_us`. The curve is its `own`, or borrowed. None if a time is no time that
        can be simulated.
        """
        from sim.kernels.curve_loops import line_ns

        shape = kv_tokens.shape
        times, usage_ns = np.empty(kv_tokens.size, np.int64), np.zeros((*shape[:-1], len(STATUSES)))
        by_load = usage_ns.reshape(-1, len(STATUSES))
        place, batch, behind, tokens = (a.ravel() for a in (at, requests, alike, kv_tokens))
        if not line_ns(work_us, place, batch, behind, tokens, *self.arrays, own, times, by_load):
            return None
        return times.reshape(shape), usage_ns

    @property
    def arrays(self) -> CurveArguments:
        """What the compiled loops take of the curve."""
        return self._described.arrays

    @cached_property
    def _described(self) -> _CurveArrays:
        return _CurveArrays(self, self.axes)


# Constants, nodes, residual, layout, rates, axes of context and batch.
CurveArguments = tuple[Floats, Floats, Floats, Ints, Floats, int, int]


class _CurveArrays:
    """A curve as the arrays of `sim.kernels.curve_loops`."""

    def __init__(self, curve: Curve, axes: tuple[tuple[str, Floats], ...]) -> None:
        self.names = [name for name, _ in axes]
        counts = [len(nodes) for _, nodes in axes]
        strides = [int(np.prod(counts[a + 1 :])) for a in range(len(counts))]
        rates = [(float(n in _FADING) / _FADE_E_FOLD, float(n in _WORK)) for n in self.names]
        # A straight line along the context is for cores whose work is one.
        attention = set(self.names) >= {"kv_len", "batch"} and cores.is_linear(curve.op)
        context, batch = (self.names.index(n) if attention else -1 for n in ("kv_len", "batch"))
        longest = float(axes[context][1][-1]) if attention else 1.0
        constants = [curve.overhead_us, curve.e_c, curve.e_m, curve.p]
        constants += [float(np.log(curve.most_work)), float(np.log(longest * _TYPICAL_CONTEXT))]
        firsts = np.cumsum([0, *counts])[:-1]
        self.arrays = (
            np.array(constants),
            np.log(np.concatenate([np.empty(0), *(nodes for _, nodes in axes)])),
            np.ascontiguousarray(curve.residual if axes else np.zeros(1)).ravel(),
            np.array([firsts, counts, strides], dtype=np.int64).reshape(3, -1),
            np.array(rates).reshape(-1, 2).T.copy(),
            context,
            batch,
        )


def work_of(axes: Mapping[str, Floats]) -> Floats:
    """Return the product of the coordinates that make up the work of a launch."""
    return np.asarray(np.prod([axes[name] for name in sorted(_WORK & axes.keys())], axis=0))

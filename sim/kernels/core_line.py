"""CoreLine: the attention cores of one kind on one card, over any context.

The work of a core is linear in its context tokens, so a step asks the curve alone, without making
the operation of each GPU again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from sim.foundation.nanoseconds import too_long
from sim.kernels.curve import Curve
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats, Op
from sim.kernels.timed import Ints, Timed

# The work of GPUs with up to this many requests is kept by their number.
_MOST_KEPT = 1 << 12

_ITSELF = np.empty(0, dtype=np.int64)
"""Stands behind each GPU."""


class CoreLine:
    """Times cores by requests and context tokens of each GPU.

    `core` makes the operation of as many requests and context tokens.
    """

    def __init__(self, table: KernelTable, core: Callable[[Ints, Ints], Op]) -> None:
        self._table = table
        self._core = core
        self._kept_us = np.empty((2, 3, 0))
        empty = core(np.zeros(1, np.int64), np.zeros(1, np.int64))
        curve, self._own = table.serving(empty)
        self._foreign = curve is not None and table.is_foreign(empty, curve)
        self._curve = curve if curve is not None and curve.is_of_attention() else None

    def of(self, requests: Ints, alike: Ints | None = None) -> Callable[[Ints], Timed]:
        """Return what times the cores of `requests` by the context tokens of each GPU.

        `alike` GPUs stand behind each.
        """
        curve, core = self._curve, self._core
        if curve is None:
            return lambda kv_tokens: self._table.timed(core(requests, kv_tokens), alike)
        work_us, at = self._work_us(requests)
        behind = _ITSELF if alike is None else alike
        return partial(self._timed, curve, work_us, at, requests, behind)

    def _timed(
        self,
        curve: Curve,
        work_us: Floats,
        at: Ints,
        requests: Ints,
        alike: Ints,
        kv_tokens: Ints,
    ) -> Timed:
        found = curve.line_ns(work_us, at, requests, alike, kv_tokens, self._own)
        if found is None:
            name = f"{'/'.join(curve.identity)} on {self._table.accelerator.name}"
            raise too_long(name, np.inf)
        ns, usage_ns = found
        return Timed(ns, np.roll(usage_ns, 1, axis=-1) if self._foreign else usage_ns)

    def _work_us(self, requests: Ints) -> tuple[Floats, Ints]:
        """Return work without context and of each token (2 × 3 × …), and which is whose."""
        most = int(np.maximum.reduce(requests, axis=None))
        if most >= _MOST_KEPT:
            return self._work_of(requests.ravel()), np.arange(requests.size)
        if most >= self._kept_us.shape[-1]:
            self._kept_us = self._work_of(np.arange(2 << most.bit_length()))
        return self._kept_us, requests

    def _work_of(self, requests: Ints) -> Floats:
        fixed_us, one_us = (self._peaks_us(requests, tokens) for tokens in (0, 1))
        return np.stack([fixed_us, one_us - fixed_us])

    def _peaks_us(self, requests: Ints, tokens: int) -> Floats:
        """Return compute, memory and least compute time at the card's peak, µs (3 × GPUs)."""
        op = self._core(requests, np.full_like(requests, tokens))
        least_us, memory_us = self._table.peak_us(op)
        return np.array([self._table.work_us(op)[0], memory_us, least_us])

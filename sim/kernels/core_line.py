"""CoreLine: the attention cores of one kind on one card, over any context.

Where the work of a core is linear in its context tokens, a step asks the curve alone, without
making the operation of each GPU again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sim.foundation.errors import ScenarioError
from sim.foundation.nanoseconds import too_long
from sim.kernels.core_loops import add_cores, add_line
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats, Op
from sim.kernels.timed import Ints, Timed

# The work of GPUs with up to this many requests is kept by their number.
_MOST_KEPT = 1 << 12

_ITSELF = np.empty(0, dtype=np.int64)
"""Stands behind each GPU."""


class CoreSlots(NamedTuple):
    """Where the cores of an attention stand in a `Times`, once for each kind of layer."""

    firsts: Ints
    """First value of each slot."""
    slowdowns: Floats
    """How many times longer a slot takes beside communication."""
    uses: int
    """How often a step has such a core."""


class CoreLine:
    """Times cores by requests and context tokens of each GPU.

    `core` makes the operation of as many requests and context tokens; `linear` says whether its
    work is linear in these tokens.
    """

    def __init__(
        self, table: KernelTable, core: Callable[[Ints, Ints], Op], linear: bool = True
    ) -> None:
        self._table = table
        self._core = core
        self._kept_us = np.empty((2, 3, 0))
        empty = core(np.zeros(1, np.int64), np.zeros(1, np.int64))
        curve, self._own = table.serving(empty)
        self._foreign = curve is not None and table.is_foreign(empty, curve)
        """Whether its times count as a status less sure than those of the curve."""
        on_line = linear and curve is not None and curve.is_of_attention()
        on_line = on_line and table.is_told_by_curve(empty)
        self._curve = curve if on_line else None

    def op(self, requests: Ints, kv_tokens: Ints) -> Op:
        """Return the cores of `requests` with `kv_tokens` of context on each GPU."""
        return self._core(requests, kv_tokens)

    def timed(self, requests: Ints, kv_tokens: Ints, alike: Ints | None = None) -> Timed:
        """Return the cores of `requests` with `kv_tokens` of context on each GPU.

        `alike` GPUs stand behind each.
        """
        curve = self._curve
        if curve is None:
            return self._table.timed(self._core(requests, kv_tokens), alike)
        work_us, at = self._work_us(requests, int(np.maximum.reduce(requests, axis=None)))
        behind = _ITSELF if alike is None else alike
        found = curve.line_ns(work_us, at, requests, behind, kv_tokens, self._own)
        if found is None:
            raise self._too_long()
        ns, usage_ns = found
        return Timed(ns, np.roll(usage_ns, 1, axis=-1) if self._foreign else usage_ns)

    def add(
        self,
        requests: Ints,
        most: int,
        kv_tokens: Ints,
        slots: CoreSlots,
        values: Ints,
        usage_ns: Floats,
    ) -> float:
        """Add the same cores to `values` at `slots`, and to `usage_ns`.

        No GPU has more than `most` requests. Returns IN_TIME, or the time of a slot that no task
        may take, ns.
        """
        if self._curve is None:
            timed = self._table.timed(self._core(requests, kv_tokens))
            usage_ns += timed.usage_ns * slots.uses
            return add_cores(timed.ns, slots.firsts, slots.slowdowns, values)
        arguments = (
            *(*self._work_us(requests, most), requests, kv_tokens, *self._curve.arrays),
            *(self._own, int(self._foreign), *slots, values, usage_ns),
        )
        wrong_ns = add_line(*arguments)
        if wrong_ns == np.inf:
            raise self._too_long()
        return wrong_ns

    def _too_long(self) -> ScenarioError:
        assert self._curve is not None
        name = f"{'/'.join(self._curve.identity)} on {self._table.accelerator.name}"
        return too_long(name, np.inf)

    def _work_us(self, requests: Ints, most: int) -> tuple[Floats, Ints]:
        """Return work without context and of each token (2 × 3 × …), and which is whose."""
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

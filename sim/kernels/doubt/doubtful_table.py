"""DoubtfulTable: a kernel table of which some kinds of kernels take longer, as far as they may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.kernels.curve import Curve
from sim.kernels.doubt.kernel_error import log_sd, uncalibrated_log_sd
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats, Op


class KernelKind(NamedTuple):
    """Kernels whose times err together: those asked for under one name in one format."""

    op: str
    kernel: str
    dtype: str

    @classmethod
    def of(cls, op: Op) -> KernelKind:
        """Return the kind of an operation, whatever its shape and the curve that times it."""
        return cls(op.name, op.kernel, op.dtype)


class DoubtfulTable(KernelTable):
    """A table whose kernels of some kinds take exp(deviations · log sd) times as long.

    The log sd is that of each look-up (`kernel_error`). None is faster than the physical peak. With
    0 deviations it answers as `table` does, to the byte.
    """

    def __init__(self, table: KernelTable, deviations: Mapping[KernelKind, float]) -> None:
        """Let kinds deviate; what deviates in `table` already does so here too."""
        super().__init__(table.accelerator, (), table.sha256)
        # What only tells of cards and curves is that of the other table.
        self.curves, self._by_identity = table.curves, table._by_identity
        self._peak, self._serving = table._peak, table._serving
        known: Mapping[KernelKind, float] = {}
        if isinstance(table, DoubtfulTable):
            known = table._deviations
        self._deviations: Mapping[KernelKind, float] = {**known, **deviations}

    def time_us(self, op: Op, curve: Curve) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the time of `op` on `curve`, µs, and whether each shape was in its range."""
        time_us, inside = super().time_us(op, curve)
        if self._is_sure(op):
            return time_us, inside
        _curve, own = self.serving(op)
        return self._longer_us(op, time_us, log_sd(curve, op, own)), inside

    def _default_us(self, op: Op) -> Floats:
        time_us = super()._default_us(op)
        if self._is_sure(op):
            return time_us
        return self._longer_us(op, time_us, uncalibrated_log_sd(op.name, time_us))

    def _longer_us(self, op: Op, time_us: Floats, sd: Floats) -> Floats:
        least_us = np.maximum(*self.peak_us(op))
        return np.asarray(
            np.maximum(time_us * np.exp(self._deviations[KernelKind.of(op)] * sd), least_us)
        )

    def is_told_by_curve(self, op: Op) -> bool:
        """Return whether the curve says what `op` takes: it knows no deviations."""
        return self._is_sure(op)

    def _is_sure(self, op: Op) -> bool:
        return not self._deviations.get(KernelKind.of(op))

    def without_sms(self, taken: float) -> KernelTable:
        """Return the table of kernels that lack `taken` SMs, as doubtful as this one."""
        return DoubtfulTable(super().without_sms(taken), self._deviations)

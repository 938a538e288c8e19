"""NotingTable: a kernel table that tells of each look-up."""

from __future__ import annotations

from collections.abc import Callable

from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Op
from sim.kernels.timed import Ints, Timed

Note = Callable[[KernelTable, Op], None]
"""Takes the table that was asked, and the operation."""


class NotingTable(KernelTable):
    """A table that answers as another one does and notes what it is asked."""

    def __init__(self, table: KernelTable, note: Note) -> None:
        super().__init__(table.accelerator, table.curves, table.sha256)
        self._note = note

    def timed(self, op: Op, alike: Ints | None = None) -> Timed:
        """Note the look-up and return the time."""
        self._note(self, op)
        return super().timed(op, alike)

    def is_told_by_curve(self, _op: Op) -> bool:
        """Return False: what is not asked here cannot be noted."""
        return False

    def without_sms(self, taken: float) -> KernelTable:
        """Return the table of kernels that lack `taken` SMs, which notes as well."""
        return NotingTable(super().without_sms(taken), self._note)

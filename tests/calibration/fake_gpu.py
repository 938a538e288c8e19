"""A GPU that is not there: its kernels take a plausible time by the card's roofline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sim.calibration import families, measure
from sim.calibration.measure import Case
from sim.calibration.measurement_files import read
from sim.inputs import cards
from sim.kernels.kernel_table import KernelTable

OVERHEAD_US, SLOWNESS = 4.0, 1.4  # against the card's peak


class FakeKernel:
    """A kernel whose launches all take one time."""

    way = "a fake"

    def __init__(self, time_us: float) -> None:
        self._time_us = time_us

    def error(self) -> float:
        """Return a small error."""
        return 0.001

    def time_us(self) -> float:
        """Return the time of a launch, µs."""
        return self._time_us


class FakeGpu:
    """A backend that has every kernel, in the time that `card` makes plausible."""

    def __init__(self, gpu: str, card: str) -> None:
        self.gpu = gpu
        self._table = KernelTable(cards.accelerator(card))

    def about(self) -> Mapping[str, str]:
        """Return what stands above a file."""
        return {"device": "a fake"}

    def supports(self, case: Case) -> bool:
        """Return that the device has the kernel."""
        return bool(case.op)

    def prepare(self, case: Case) -> FakeKernel:
        """Return a kernel that takes longer than the roofline by a constant and a factor."""
        with TemporaryDirectory() as folder:
            (path,) = measure.write(measure.texts(self, [(case, 1.0)]), Path(folder))
            (row,) = read(path)
        op = families.build(
            self._table.accelerator, families.kernel_of(row), families.coordinates([row])
        )
        peak_us = float(np.maximum(*self._table.work_us(op))[0])
        return FakeKernel(OVERHEAD_US + SLOWNESS * peak_us)

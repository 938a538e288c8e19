"""Measurements of kernels: one latency each, and the checks that a line of a file passes.

Latencies are µs, sizes bytes, counts tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sim.foundation.errors import CalibrationError, did_you_mean
from sim.foundation.printable import excerpt
from sim.inputs.attention import Projection
from sim.inputs.csv_columns import number

# GPUs as measurement files call them, and the accelerator cards they calibrate.
GPUS: dict[str, tuple[str, ...]] = {
    "a100_sxm": ("a100-sxm",),
    "a800_sxm": ("a800",),
    "h100_sxm": ("h100-sxm",),
    "h200_sxm": ("h200-sxm",),
    "b200_sxm": ("b200",),
    "gb200": ("gb200",),
    "b300_sxm": ("b300",),
    "gb300": ("gb300",),
    "l40s": ("l40s",),
    "l20": ("l20",),
    "l4": ("l4",),
    "h20": ("h20",),
    "h800": ("h800",),
    # aiconfigurator ships these rows under both names.
    "hopper_unverified": ("h100-sxm", "h200-sxm"),
}

# Number formats as measurement files write them, and as calibration tables do.
DTYPES = {
    "bfloat16": "bf16",
    "half": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "nvfp4": "nvfp4",
}

# Loads under which every expert gets as much, exactly or in the mean.
EVEN_LOADS = ("uniform", "balanced")

Fixed = tuple[tuple[str, float | str], ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured latency and everything that a table needs to look it up."""

    path: str
    line: int
    gpu: str
    op: str
    kernel: str
    dtype: str
    fixed: Fixed
    """The part of the shape that selects a curve, by name."""
    at: tuple[tuple[str, float], ...]
    """Coordinates along the curve's axes, by name."""
    latency_us: float
    source: str
    form: str = ""
    """Name of the measured operation in reports."""
    label: str = ""
    """Number format as the file writes it."""
    regime: str = ""
    """Regime or load distribution that the file states for the point."""
    measured_kernel: str = ""
    """Kernel as the file names it; the table's name where it names none."""
    projections: tuple[Projection, ...] = ()
    """Projections that the latency includes besides the operation."""
    weights: str = ""
    """Number format of their weights."""
    beside_us: float = 0.0
    """What they took, where `latency_us` no longer includes it."""

    @property
    def place(self) -> str:
        """Return `file:line` of the row."""
        return f"{self.path}:{self.line}"


@dataclass
class MeasurementLine:
    """One line of a measurement file; every getter checks and raises CalibrationError."""

    path: str
    line: int
    values: dict[str, str] = field(repr=False)

    def wrong(self, message: str) -> CalibrationError:
        """Return the error that `message` is about this line."""
        return CalibrationError(f"{self.path}:{self.line}: {message}")

    def text(self, column: str) -> str:
        """Return a text that must not be empty."""
        value = self.values[column].strip()
        if not value:
            raise self.wrong(f"{column} is empty")
        return value

    def positive(self, column: str) -> float:
        """Return a finite number above zero."""
        text = self.values[column].strip()
        value = number(text)
        if not value > 0:
            unit = ", in µs and without a unit" if column.endswith("_us") else ""
            raise self.wrong(f"{column} should be a positive number{unit} (got '{excerpt(text)}')")
        return value

    def count(self, column: str, least: int = 1) -> int:
        """Return a whole number of at least `least`."""
        text = self.values[column].strip()
        value = number(text)
        if not (value >= least and value.is_integer()):
            raise self.wrong(
                f"{column} should be a whole number from {least} (got '{excerpt(text)}')"
            )
        return int(value)

    def one_of(self, column: str, known: Iterable[str]) -> str:
        """Return a text that must be one of `known`."""
        value = self.text(column)
        if value not in set(known):
            raise self.wrong(f"{column}: unknown '{excerpt(value)}'; {did_you_mean(value, known)}")
        return value

    def measurement(
        self, op: str, kernel: str, latency: str = "latency_us", **shape: Any
    ) -> Measurement:
        """Return the measurement of this line; `shape` gives dtype, fixed, at and labels."""
        return Measurement(
            path=self.path,
            line=self.line,
            gpu=self.text("gpu"),
            op=op,
            kernel=kernel,
            latency_us=self.positive(latency),
            source=self.text("source"),
            form=op,
            **shape,
        )


def columns(text: str) -> tuple[str, ...]:
    return tuple(text.split())

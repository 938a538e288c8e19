"""Measuring kernels: what to time, how a time is taken, and the files it goes to.

Nothing here imports torch: a `Backend` prepares a kernel on fresh random inputs, compares it
with a float32 reference, and times single launches; this module decides on warm-up, repetition
and the median. The files are those that `calibrate fit` reads.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from sim.foundation.errors import CalibrationError, StoreError, did_you_mean
from sim.foundation.spreadsheets import inert
from sim.kernels import served

WARM_UP = 5
REPEATS = 31
SOURCE = "afdsim:measure"

# Largest error against the float32 reference, relative to the largest reference value.
TOLERANCE = {"bfloat16": 0.02, "fp8": 0.06, "fp8_block": 0.06}


@dataclass(frozen=True)
class Case:
    """One kernel at one shape."""

    op: str
    kernel: str
    """Name under which runs ask for it (`sim.kernels.served`)."""
    dtype: str
    """Number format as measurement files write it."""
    sizes: tuple[tuple[str, int], ...]

    @property
    def shape(self) -> dict[str, int]:
        return dict(self.sizes)

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.sizes)
        return f"{self.op} {self.kernel} {self.dtype} {sizes}"


class PreparedKernel(Protocol):
    """A kernel ready to launch on its inputs."""

    way: str
    """What runs it, once it was timed."""

    def error(self) -> float:
        """Return the largest error against a float32 reference, relative to its largest value."""

    def time_us(self) -> float:
        """Return the time of one launch on inputs that are not in cache, µs."""


class Backend(Protocol):
    """A device that runs cases."""

    gpu: str
    """Name of the device in measurement files."""

    def about(self) -> Mapping[str, str]:
        """Return what to write above a file: device, clocks, versions, what is timed."""

    def supports(self, case: Case) -> bool:
        """Return whether the device has the kernel and its number format."""

    def prepare(self, case: Case) -> PreparedKernel:
        """Return the kernel of `case` on fresh random inputs; MemoryError if they do not fit."""


@dataclass(frozen=True)
class Form:
    """A measurement file: its name, its columns, and how the shape of a case fills them."""

    file: str
    dtype_column: str
    labels: Mapping[str, str]
    """Number formats that are measured, as calibration tables and as the file write them."""
    columns: tuple[str, ...]
    """Columns of the shape, in the order of the file."""
    fills: Callable[[Case], Mapping[str, object]]


def _shape(case: Case) -> Mapping[str, object]:
    return case.shape


def _experts(case: Case) -> Mapping[str, object]:
    """Return a rank that holds all experts, with one (token, expert) pair of each token."""
    shape = case.shape
    pairs, experts = shape["pairs"], shape["experts"]
    one = {"topk": 1, "tp": 1, "ep": 1}
    tokens = dict.fromkeys(("global_tokens", "tokens_per_rank", "rank0_tokens"), pairs)
    many = dict.fromkeys(("num_experts", "num_slots"), experts)
    kind = "deepep_ll_masked" if case.kernel == served.MASKED else "fused_moe"
    return {**shape, **one, **tokens, **many, "kind": kind, "distribution": "balanced"}


_CACHE = {"bf16": "bfloat16", "fp8": "fp8"}
_WEIGHTS = {"bf16": "bfloat16", "fp8": "fp8_block"}

FORMS = {
    "gemm": Form("gemm.csv", "dtype", _WEIGHTS, ("m", "n", "k"), _shape),
    "attention_gqa": Form(
        "attention_gqa.csv",
        "kv_dtype",
        _CACHE,
        ("n_q_heads", "n_kv_heads", "head_dim", "batch", "kv_len"),
        _shape,
    ),
    "attention_mla": Form(
        "attention_mla.csv",
        "kv_dtype",
        _CACHE,
        ("n_q_heads", "kv_lora", "rope", "batch", "kv_len"),
        _shape,
    ),
    "moe": Form(
        "moe.csv",
        "dtype",
        _WEIGHTS,
        (
            *("kind", "hidden", "inter", "topk", "num_experts", "num_slots", "tp", "ep"),
            *("global_tokens", "tokens_per_rank", "rank0_tokens", "distribution"),
        ),
        _experts,
    ),
}


def labels(op: str) -> Mapping[str, str]:
    """Return the number formats of `op` that are measured, and their names in files."""
    return FORMS[op].labels


def median_us(launch: Callable[[], float], warm_up: int = WARM_UP, repeats: int = REPEATS) -> float:
    """Return the median of `repeats` timed launches after `warm_up` launches, µs.

    Raises CalibrationError for a time that cannot be.
    """
    for _ in range(warm_up):
        launch()
    times = [launch() for _ in range(repeats)]
    if not all(0 < time < float("inf") for time in times):
        raise CalibrationError(f"the timer returned {min(times)} to {max(times)} µs")
    return median(times)


def measure(
    backend: Backend,
    cases: Iterable[Case],
    tell: Callable[[str], None] = lambda text: None,
    warm_up: int = WARM_UP,
    repeats: int = REPEATS,
) -> Iterator[tuple[Case, float]]:
    """Yield each case and its median time in µs; a kernel is timed only once it is correct.

    Cases that the backend lacks, or that do not fit its memory, are told and left out. Raises
    CalibrationError if a kernel's result is wrong.
    """
    for case in cases:
        if not backend.supports(case):
            tell(f"{case}: not on this device")
            continue
        try:
            kernel = backend.prepare(case)
            error, allowed = kernel.error(), TOLERANCE[case.dtype]
            if not error <= allowed:
                raise CalibrationError(
                    f"{case}: result is off by {error:.3g} (at most {allowed:g})"
                )
            time = median_us(kernel.time_us, warm_up, repeats)
        except MemoryError:
            tell(f"{case}: does not fit the device's memory")
            continue
        tell(f"{case}: {time:.2f} µs, error {error:.1e}, {kernel.way}")
        yield case, time


def texts(backend: Backend, times: Sequence[tuple[Case, float]]) -> dict[str, str]:
    """Return the measurement files by name: a commented header, then one row a case."""
    files: dict[str, str] = {}
    for op, form in FORMS.items():
        members = [(case, time) for case, time in times if case.op == op]
        if not members:
            continue
        out = io.StringIO()
        for name, value in backend.about().items():
            out.write(f"# {name}: {value}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["gpu", "kernel", form.dtype_column, *form.columns, "latency_us", "source"])
        for case, time in members:
            known = form.fills(case)
            shape = [known[name] for name in form.columns]
            row = [case.kernel, case.dtype, *shape, f"{time:.3f}", SOURCE]
            writer.writerow([inert(backend.gpu), *row])
        files[form.file] = out.getvalue()
    return files


def write(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write measurement files to `folder`, each only when it is complete; return their paths.

    Raises StoreError if one cannot be written.
    """
    paths = []
    for name, text in files.items():
        path, partial = folder / name, folder / f".{name}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            why = f"cannot be written: {error.strerror}; make room or choose another --out"
            raise StoreError(f"{path}: {why}") from None
        paths.append(path)
    return paths


def known_ops(ops: Iterable[str]) -> list[str]:
    """Return `ops`. Raises CalibrationError for one that cannot be measured."""
    for op in ops:
        if op not in FORMS:
            raise CalibrationError(f"unknown op {op!r}; {did_you_mean(op, FORMS)}")
    return list(ops)

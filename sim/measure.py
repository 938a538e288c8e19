"""Measuring kernels: what to time, how a time is taken, and the files it goes to.

Nothing here imports torch: a `Backend` prepares a kernel on fresh random inputs, compares it
with a float32 reference, and times single launches; this module decides on warm-up, repetition
and the median. The files are those that `calibrate fit` reads.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Protocol

from sim.errors import CalibrationError

WARM_UP = 5
REPEATS = 31
SOURCE = "afdsim:measure"

_TIGHT = 0.02
_LOOSE = 0.06
# Largest error against the float32 reference, relative to the largest reference value.
TOLERANCE = {"bfloat16": _TIGHT, "half": _TIGHT, "fp8": _LOOSE}


@dataclass(frozen=True)
class Case:
    """One kernel at one shape."""

    op: str
    dtype: str
    shape: Mapping[str, int]

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.shape.items())
        return f"{self.op} {self.dtype} {sizes}"


class Prepared(Protocol):
    """A kernel ready to launch on its inputs."""

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

    def prepare(self, case: Case) -> Prepared:
        """Return the kernel of `case` on fresh random inputs."""


@dataclass(frozen=True)
class Form:
    """A measurement file: its name, and how a case becomes one of its rows."""

    file: str
    dtype_column: str
    constants: Mapping[str, str]
    columns: tuple[str, ...]
    """Shape columns, in the order of the file."""


FORMS = {
    "gemm": Form("gemm.csv", "dtype", {}, ("m", "n", "k")),
    "attention_gqa": Form(
        "attention_gqa.csv",
        "kv_dtype",
        {"kernel": "afdsim_triton"},
        ("n_q_heads", "n_kv_heads", "head_dim", "batch", "kv_len"),
    ),
    "attention_mla": Form(
        "attention_mla.csv",
        "kv_dtype",
        {"kernel": "afdsim_triton"},
        ("n_q_heads", "kv_lora", "rope", "batch", "kv_len"),
    ),
    "grouped_gemm": Form(
        "grouped_gemm.csv",
        "dtype",
        {"layout": "masked", "kernel": "afdsim_bmm"},
        ("groups", "m_per_group", "n", "k"),
    ),
    "memory_bound": Form("memory_bound.csv", "dtype", {"kernel": "copy"}, ("bytes_moved",)),
}


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
) -> list[tuple[Case, float]]:
    """Return each case and its median time in µs; a kernel is timed only once it is correct.

    Cases that the backend lacks are told and left out. Raises CalibrationError if a kernel's
    result is wrong.
    """
    found = []
    for case in cases:
        if not backend.supports(case):
            tell(f"{case}: not on this device")
            continue
        kernel = backend.prepare(case)
        error, allowed = kernel.error(), TOLERANCE[case.dtype]
        if not error <= allowed:
            raise CalibrationError(f"{case}: result is off by {error:.3g} (at most {allowed:g})")
        time = median_us(kernel.time_us, warm_up, repeats)
        tell(f"{case}: {time:.2f} µs, error {error:.1e}")
        found.append((case, time))
    return found


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
        constants = list(form.constants)
        writer.writerow(
            ["gpu", *constants, form.dtype_column, *form.columns, "latency_us", "source"]
        )
        for case, time in members:
            shape = [case.shape[name] for name in form.columns]
            fixed = [form.constants[name] for name in constants]
            writer.writerow([backend.gpu, *fixed, case.dtype, *shape, f"{time:.3f}", SOURCE])
        files[form.file] = out.getvalue()
    return files


def write(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write measurement files to `folder`, each only when it is complete; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in files.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)
        paths.append(folder / name)
    return paths


def default_cases(ops: Iterable[str], tiny: bool = False) -> list[Case]:
    """Return the cases measured by default: decode shapes of the shipped models, or tiny ones."""
    wanted = set(ops)
    unknown = wanted - set(FORMS)
    if unknown:
        raise CalibrationError(
            f"unknown op {', '.join(sorted(unknown))}; known: {', '.join(sorted(FORMS))}"
        )
    made = _tiny_cases() if tiny else _decode_cases()
    return [case for case in made if case.op in wanted]


def _decode_cases() -> list[Case]:
    gemms = product(
        ((4096, 7168), (7168, 2048), (2112, 7168), (24576, 1536), (7168, 16384)),
        (1, 8, 16, 32, 64, 96, 128, 192, 256, 512, 1024),
        ("bfloat16", "fp8"),
    )
    cases = [Case("gemm", dtype, {"m": m, "n": n, "k": k}) for (n, k), m, dtype in gemms]
    loads = product((1, 2, 4, 8, 16, 32), (1, 16, 64, 128, 256), ((4096, 7168), (7168, 2048)))
    cases += [
        Case("grouped_gemm", "bfloat16", {"groups": groups, "m_per_group": rows, "n": n, "k": k})
        for groups, rows, (n, k) in loads
    ]
    cases += [Case("memory_bound", "bfloat16", {"bytes_moved": 2**p}) for p in range(12, 33)]
    return cases + _attention_cases()


def _attention_cases() -> list[Case]:
    """Return decode attention up to the contexts that fit beside their copy in 80 GB."""
    cases = []
    heads = ((64, 1, 256), (16, 1, 128), (64, 4, 128), (64, 8, 128))
    sizes = product((1, 8, 32, 64, 128, 256), (1024, 4096, 8192, 16384, 32768))
    for batch, kv_len in sizes:
        at = {"batch": batch, "kv_len": kv_len}
        for query, kv, dim in heads:
            if batch * kv_len * kv * dim <= 2**31:
                shape = {"n_q_heads": query, "n_kv_heads": kv, "head_dim": dim, **at}
                cases += [Case("attention_gqa", kind, shape) for kind in ("bfloat16", "fp8")]
        if batch * kv_len <= 2**22:
            shape = {"n_q_heads": 128, "kv_lora": 512, "rope": 64, **at}
            cases.append(Case("attention_mla", "bfloat16", shape))
    return cases


def _tiny_cases() -> list[Case]:
    attention = {"batch": 3, "kv_len": 40}
    return [
        Case("gemm", "bfloat16", {"m": 5, "n": 32, "k": 64}),
        Case("gemm", "fp8", {"m": 16, "n": 32, "k": 64}),
        Case(
            "attention_gqa",
            "bfloat16",
            {"n_q_heads": 8, "n_kv_heads": 2, "head_dim": 32, **attention},
        ),
        Case("attention_mla", "bfloat16", {"n_q_heads": 4, "kv_lora": 64, "rope": 16, **attention}),
        Case("grouped_gemm", "bfloat16", {"groups": 3, "m_per_group": 4, "n": 32, "k": 16}),
        Case("memory_bound", "bfloat16", {"bytes_moved": 4096}),
    ]

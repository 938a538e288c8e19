"""Calibration tables: the fitted curves of one accelerator and the CSV that holds them.

One file per accelerator, one line per fact, so that a changed measurement is a small diff:

    # afdsim-calibration 2
    op,kernel,dtype,key,field,at,values
    gemm,dense,bf16,,fit,,overhead_us=3.7 e_c=0.84 e_m=0.89 p=3.5
    gemm,dense,bf16,,error,held-out,points=910 mape=0.041 p90=0.089 work=8192
    gemm,dense,bf16,,source,Apache-2.0,aic:sglang/0.5.14 (115); aic:vllm/0.24.0 (631)
    gemm,dense,bf16,,axis,m,1 2 4 8 16
    gemm,dense,bf16,,residual,n=512 k=2048,-12 3 5 8 21

A residual row runs along the first axis at one point of the others; its values are log residuals
in thousandths. A curve is calibrated between the first and last node of its axes, up to the most
work (context tokens, rows) of one measurement.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sim.foundation.errors import CalibrationError, StoreError
from sim.foundation.printable import excerpt
from sim.foundation.reading import MOST_TABLE_BYTES, asked_once, check_regular, lines_of, read_bytes
from sim.foundation.spreadsheets import inert
from sim.inputs.csv_columns import NO_ROW, number, records
from sim.kernels.curve import Curve, Identity
from sim.kernels.ops import Floats

SCHEMA = "afdsim-calibration 2"
COLUMNS = ("op", "kernel", "dtype", "key", "field", "at", "values")
# What any kernel was measured to be away from its roofline lies far within.
_LEAST_SHARE = 1e-6
_MOST_OVERHEAD_US = 1e6
_MOST_RESIDUAL = 10_000

FIELDS = ("fit", "error", "source", "axis", "residual")


def digest(content: bytes) -> str:
    """Return the SHA-256 of a table file, as run.json names it."""
    return hashlib.sha256(content).hexdigest()


def dump(curves: Iterable[Curve]) -> str:
    """Return the CSV text of `curves`."""
    out = io.StringIO()
    out.write(f"# {SCHEMA}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for curve in curves:
        fit = {name: getattr(curve, name) for name in ("overhead_us", "e_c", "e_m", "p")}
        error = {"points": curve.points, "mape": curve.mape, "p90": curve.p90}
        error["work"] = curve.most_work
        rows = [("fit", "", _pairs(fit)), ("error", "held-out", _pairs(error))]
        rows.append(("source", inert(curve.licence), inert(curve.source)))
        rows += [("axis", name, " ".join(f"{x:.10g}" for x in at)) for name, at in curve.axes]
        others = [[(name, node) for node in nodes] for name, nodes in curve.axes[1:]]
        if curve.axes:
            lines = curve.residual.reshape(curve.residual.shape[0], -1).T
            for place, line in zip(itertools.product(*others), lines, strict=True):
                values = " ".join(str(round(1000 * r)) for r in line)
                rows.append(("residual", _pairs(dict(place)), values))
        writer.writerows((*curve.identity, *row) for row in rows)
    return out.getvalue()


def write(curves: Iterable[Curve], path: Path) -> None:
    """Write `curves` to `path`; a file that is there is replaced only by a complete one.

    Raises StoreError if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(dump(curves), encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        why = f"cannot be written: {error.strerror}; make room or choose another --out"
        raise StoreError(f"{path}: {why}") from None


@asked_once
def read(path: Path) -> tuple[tuple[Curve, ...], str]:
    """Return the curves of the table at `path` and its SHA-256.

    A file that has not changed since it was read is not read again. Raises CalibrationError with
    file and line if the table is malformed.
    """
    known = check_regular(path, CalibrationError)
    return _read(path, known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=32)
def _read(path: Path, _changed_ns: int, _size: int) -> tuple[tuple[Curve, ...], str]:
    content = read_bytes(path, MOST_TABLE_BYTES, CalibrationError)
    text = "\n".join(lines_of(content, path, error=CalibrationError))
    return parse(text, str(path)), digest(content)


def parse(text: str, name: str) -> tuple[Curve, ...]:
    """Return the curves in the text of a table; `name` is the file that errors name.

    Raises CalibrationError with file and line if the table is malformed.
    """
    lines = text.split("\n")
    if lines[0] != f"# {SCHEMA}":
        raise CalibrationError(f"{name}:1: the first line should be '# {SCHEMA}'")
    rows = records(lines)
    _, header = next(rows, (2, []))
    if tuple(header or ()) != COLUMNS:
        raise CalibrationError(f"{name}:2: the columns should be {','.join(COLUMNS)}")
    facts: dict[Identity, list[_Fact]] = {}
    for line, record in rows:
        place = f"{name}:{line}"
        if record is None:
            raise CalibrationError(f"{place}: {NO_ROW}")
        if len(record) != len(COLUMNS):
            raise CalibrationError(f"{place}: should have {len(COLUMNS)} columns")
        op, kernel, dtype, key, what, at, values = record
        if what not in FIELDS:
            raise CalibrationError(f"{place}: field should be one of {', '.join(FIELDS)}")
        facts.setdefault((op, kernel, dtype, key), []).append(_Fact(place, what, at, values))
    return tuple(_curve(identity, of) for identity, of in facts.items())


@dataclass(frozen=True)
class _Fact:
    place: str
    name: str
    at: str
    values: str

    def numbers(self) -> Floats:
        found = np.array([number(word) for word in self.values.split()])
        if np.isnan(found).any():
            raise CalibrationError(f"{self.place}: should hold numbers")
        return found

    def pairs(self, names: Sequence[str], or_nan: Sequence[str] = ()) -> list[float]:
        words = dict(word.partition("=")[::2] for word in self.values.split())
        found = {name: number(words.get(name, "")) for name in names}
        unknown = [name for name, value in found.items() if math.isnan(value)]
        if any(name not in or_nan or words.get(name) != "nan" for name in unknown):
            raise CalibrationError(
                f"{self.place}: should give {', '.join(names)} (got '{excerpt(self.values)}')"
            )
        return list(found.values())


def _curve(identity: Identity, facts: Sequence[_Fact]) -> Curve:
    by_name: dict[str, list[_Fact]] = {name: [] for name in FIELDS}
    for fact in facts:
        by_name[fact.name].append(fact)
    first = facts[0].place
    for name in ("fit", "error", "source"):
        if len(by_name[name]) != 1:
            raise CalibrationError(f"{first}: {'/'.join(identity)} needs one {name} row")
    fit, error, source = by_name["fit"][0], by_name["error"][0], by_name["source"][0]
    overhead_us, e_c, e_m, p = fit.pairs(("overhead_us", "e_c", "e_m", "p"))
    if not (_LEAST_SHARE <= e_c <= 1 and _LEAST_SHARE <= e_m <= 1):
        raise CalibrationError(
            f"{fit.place}: e_c and e_m are shares of the peak: they should lie in"
            f" [{_LEAST_SHARE:g}, 1] (got {e_c:g} and {e_m:g})"
        )
    if not (0 <= overhead_us <= _MOST_OVERHEAD_US and p > 0):
        raise CalibrationError(
            f"{fit.place}: overhead_us should be from 0 to {_MOST_OVERHEAD_US:g} µs, p positive"
            f" (got {overhead_us:g} µs and {p:g})"
        )
    points, mape, p90, work = error.pairs(("points", "mape", "p90", "work"), or_nan=("mape", "p90"))
    if not source.values:
        raise CalibrationError(f"{source.place}: a curve needs a source")
    axes = tuple((fact.at, fact.numbers()) for fact in by_name["axis"])
    for fact, (_, nodes) in zip(by_name["axis"], axes, strict=True):
        if not (len(nodes) and nodes[0] > 0 and nodes[-1] < np.inf and (np.diff(nodes) > 0).all()):
            raise CalibrationError(f"{fact.place}: axis nodes should be positive and ascend")
    residual = _residual(axes, by_name["residual"], first)
    return Curve(
        *identity,
        overhead_us=overhead_us,
        e_c=e_c,
        e_m=e_m,
        p=p,
        source=source.values,
        licence=source.at,
        points=int(points),
        mape=mape,
        p90=p90,
        most_work=work,
        axes=axes,
        residual=residual,
    )


def _residual(axes: tuple[tuple[str, Floats], ...], rows: list[_Fact], first: str) -> Floats:
    shape = tuple(len(nodes) for _, nodes in axes)
    if not axes:
        return np.zeros(())
    if len(rows) != int(np.prod(shape[1:])):
        raise CalibrationError(f"{first}: the axes ask for {int(np.prod(shape[1:]))} residual rows")
    grid = np.empty((shape[0], len(rows)))
    for column, row in enumerate(rows):
        values = row.numbers()
        if len(values) != shape[0]:
            raise CalibrationError(f"{row.place}: should hold {shape[0]} residuals")
        grid[:, column] = values
        if not (np.abs(values) <= _MOST_RESIDUAL).all():
            raise CalibrationError(
                f"{row.place}: residuals should be thousandths of a logarithm, from"
                f" {-_MOST_RESIDUAL} to {_MOST_RESIDUAL}"
            )
    return (grid / 1000).reshape(shape)


def _pairs(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.5g}" for name, value in values.items())

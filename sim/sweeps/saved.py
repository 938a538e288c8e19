"""Saved: the files of a sweep's directory, read again with nothing taken on trust.

A directory may be damaged, or come from someone else. Its own files are checked before a page is
made of them, and nothing that they name is opened.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sim.foundation.errors import ScenarioError
from sim.foundation.reading import MOST_TABLE_BYTES, check_regular, read_bytes
from sim.sweeps.points import Row
from sim.sweeps.sweep import Published

Kind = TypeVar("Kind")

_A_SWEEP = "name the directory of a sweep, results/runs/NAME unless --out said otherwise"

# Unpacked, a table of this many cells takes a gigabyte or two.
_MOST_CELLS = 20_000_000
_TEXTS = ("family", "shape", "status", "reason")
_FIGURES = ("tgs", "slo_tpot_ms")
"""What every simulated point has."""
_FIGURES_IF_ANY = ("tpot_ms_mean", "tokens_per_s_per_user", "usd_per_1m_tokens")
"""What is missing where no request was finished, or no price is known."""
_INTERVALS = ("tpot_ms_p10", "tpot_ms_p90", "tgs_p10", "tgs_p90")
"""What older sweeps do not have."""


class _SavedSweep(BaseModel):
    model_config = ConfigDict(strict=True)

    description: str = ""
    published: list[Published]


class _Described(BaseModel):
    model_config = ConfigDict(strict=True)

    sweep: _SavedSweep
    warnings: list[str] = Field(default_factory=list)


def sweep(folder: Path) -> tuple[list[Row], list[Published], dict[str, Any]]:
    """Return rows, published points and run.json of a saved sweep.

    Raises ScenarioError that names the file if one is missing or is not what a sweep writes.
    """
    path = folder / "run.json"
    try:
        check_regular(path)
    except ScenarioError as error:
        raise ScenarioError(f"{error}; {_A_SWEEP}") from None
    described = read(path, TypeAdapter(dict[str, Any]))
    try:
        sweep = _Described.model_validate(described).sweep
    except ValidationError as error:
        raise _no_sweep(path, _first(error)) from None
    return _rows(folder / "sweep.parquet"), sweep.published, described


def read(path: Path, kind: TypeAdapter[Kind]) -> Kind:
    """Return what a JSON file holds. Raises ScenarioError if that is not of a kind."""
    content = read_bytes(path, MOST_TABLE_BYTES)
    try:
        json.loads(content, parse_constant=_refuse, parse_float=_finite)
        return kind.validate_json(content, strict=True)
    except ValidationError as error:
        raise _no_sweep(path, _first(error)) from None
    except (ValueError, RecursionError) as error:
        raise _no_sweep(path, str(error)) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no figure")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse("a number without end")


def _first(error: ValidationError) -> str:
    """Return the first problem that pydantic found, without what the file says there."""
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc'])) or 'it'}: {found['msg']}"


def _no_sweep(path: Path, reason: str) -> ScenarioError:
    short = " ".join(reason.split())[:300]
    return ScenarioError(f"{path}: not of a finished sweep: {short}; run the sweep again")


def _rows(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet

    content = io.BytesIO(read_bytes(path, MOST_TABLE_BYTES))
    try:
        file = pa.parquet.ParquetFile(content)
        cells = file.metadata.num_rows * file.metadata.num_columns
        if cells > _MOST_CELLS:
            raise _no_sweep(path, f"{cells:,} cells, at most {_MOST_CELLS:,} are read")
        rows: list[Row] = file.read().to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _no_sweep(path, str(error)) from None
    for number, row in enumerate(rows):
        if problem := _problem(row):
            raise _no_sweep(path, f"row {number}, {problem}")
    return rows


def _problem(row: Row) -> str | None:
    """Return what is wrong with a row, None if a page can be made of it."""
    for name, cell in row.items():
        if not (cell is None or isinstance(cell, str | int | float)):
            return f"{name}: should be text or a number"
        if isinstance(cell, float) and not math.isfinite(cell):
            return f"{name}: should be finite"
    for name in _TEXTS:
        if not isinstance(row.get(name), str):
            return f"{name}: should be text"
    return _problem_of_figures(row) if row["status"] == "ok" else None


def _problem_of_figures(row: Row) -> str | None:
    if not isinstance(row.get("slo_met"), bool):
        return "slo_met: should be yes or no"
    for name in (*_FIGURES, *_FIGURES_IF_ANY):
        cell = row.get(name)
        if cell is None and name in row and name in _FIGURES_IF_ANY:
            continue
        if isinstance(cell, bool) or not isinstance(cell, int | float) or cell < 0:
            return f"{name}: should be a number, 0 or more"
    for name in _INTERVALS:
        cell = row.get(name)
        if cell is not None and (isinstance(cell, bool | str) or cell <= 0):
            return f"{name}: should be a number above 0"
    return None if row["slo_tpot_ms"] else "slo_tpot_ms: should be above 0"

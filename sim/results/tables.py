"""Tables: columns written as CSV and Parquet, without pandas.

`pyarrow.array` imports pandas, a third of a second, to ask whether its values come from there.
Columns of plain numbers, texts and truths are put together here instead, as it would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from sim.foundation.spreadsheets import inert, inert_value

Values = Sequence[Any] | np.ndarray[Any, Any]

_DTYPES = {bool: np.bool_, int: np.int64, float: np.float64}
_LARGEST = np.iinfo(np.int64)

# Of a column of a Parquet file. Where nearly all values differ, a dictionary of Arrow's megabyte
# takes memory and time and makes the file larger.
_DICTIONARY_BYTES = 1 << 16


def write_table(stem: Path, columns: Mapping[str, Values]) -> None:
    """Write one table as `stem`.csv, whose texts are inert in spreadsheets, and `stem`.parquet."""
    table = pa.table({name: column(values) for name, values in columns.items()})
    shown = pa.table(
        {
            inert(name): column([inert_value(value) for value in values])
            if pa.types.is_string(table[name].type)
            else table[name]
            for name, values in columns.items()
        }
    )
    pyarrow.csv.write_csv(shown, stem.with_suffix(".csv"))
    path = stem.with_suffix(".parquet")
    pyarrow.parquet.write_table(table, path, dictionary_pagesize_limit=_DICTIONARY_BYTES)


def column(values: Values) -> Any:
    """Return the Arrow array that `pyarrow.array` makes of values, None being missing."""
    if isinstance(values, np.ndarray):
        return _of_numbers(values) if values.dtype.kind in "biuf" else pa.array(values)
    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {str}:
        return _of_texts(values)
    if kinds in ({bool}, {float}) or (kinds == {int} and _fit(known)):
        (kind,) = kinds
        numbers = [kind() if value is None else value for value in values]
        return _of_numbers(np.array(numbers, dtype=_DTYPES[kind]), values)
    return pa.array(values)


def _fit(numbers: Sequence[int]) -> bool:
    return _LARGEST.min <= min(numbers) and max(numbers) <= _LARGEST.max


def _of_numbers(numbers: np.ndarray[Any, Any], values: Sequence[Any] = ()) -> Any:
    kind = pa.from_numpy_dtype(numbers.dtype)
    held = _bits(numbers) if numbers.dtype == bool else np.ascontiguousarray(numbers)
    return pa.Array.from_buffers(kind, len(numbers), [_validity(values), pa.py_buffer(held)])


def _of_texts(texts: Sequence[str | None]) -> Any:
    held = [(text or "").encode() for text in texts]
    ends = np.cumsum([0, *map(len, held)], dtype=np.int32)
    buffers = [_validity(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(held))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


def _validity(values: Sequence[Any]) -> Any:
    """Return the bitmap of values that are there, None if all are."""
    known = np.array([value is not None for value in values], dtype=bool)
    return None if known.all() else pa.py_buffer(_bits(known))


def _bits(flags: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.packbits(flags, bitorder="little")

"""CSV files with named columns: one row a line, every wrong line told."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence

from sim.foundation.errors import ScenarioError
from sim.foundation.printable import excerpt
from sim.foundation.reading import lines

# Digits of other scripts, underscores and infinity are numbers to Python, not to people who made a
# table. More digits than these belong to no figure.
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0{0,18})?")

NO_ROW = "a quote is not closed, or a field has more than 131,072 characters"
_MOST_ROWS = 1_000_000
# Bad lines that are told one by one.
_MOST_TOLD = 20


def fields(line: str) -> list[str] | None:
    """Return the fields of a line; None where quotes do not pair or a field is too long."""
    if '"' not in line:
        return line.split(",")
    if line.count('"') % 2:
        return None
    try:
        return next(csv.reader([line], skipinitialspace=True))
    except csv.Error:
        return None


def records(texts: Iterable[str]) -> Iterator[tuple[int, list[str] | None]]:
    """Yield number and fields of the lines that are neither blank nor comments, as `fields`."""
    for number, line in enumerate(texts, 1):
        if line.strip() and not line.startswith("#"):
            yield number, fields(line)


def rows(
    path: str, columns: Sequence[str], problems: list[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield `file:line` and the values by column of each row; what is no row goes to `problems`.

    Columns are matched in any order and case; others may stand beside them. Raises ScenarioError
    if the file cannot be read, has too many rows, or its header lacks a column.
    """
    found = records(lines(path))
    number, header = next(found, (1, []))
    names = [name.strip().lower() for name in header or ()]
    wanted = " and ".join(filter(None, (", ".join(columns[:-1]), columns[-1])))
    if not set(columns) <= set(names):
        raise ScenarioError(
            f"{path}:{number}: the header should name {wanted}, with commas between columns"
            f" (got '{excerpt(','.join(header or ()))}')"
        )
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise ScenarioError(f"{path}:{number}: the header names {twice[0]} twice; keep one of them")
    for count, (number, row) in enumerate(found):
        place = f"{path}:{number}"
        if count >= _MOST_ROWS:
            raise ScenarioError(f"{place}: has more than {_MOST_ROWS:,} rows; shorten it")
        if row is None:
            problems.append(f"{place}: {NO_ROW}")
        elif len(row) != len(names):
            problems.append(f"{place}: should have {len(names)} columns (got {len(row)})")
        else:
            yield place, {name: value.strip() for name, value in zip(names, row, strict=True)}


def raise_any(path: str, problems: Sequence[str]) -> None:
    """Raise ScenarioError if there are `problems`; of many, the first are told."""
    if len(problems) > _MOST_TOLD:
        more = len(problems) - _MOST_TOLD
        problems = [*problems[:_MOST_TOLD], f"{path}: and {more} more bad lines"]
    if problems:
        raise ScenarioError(problems)


def number(text: str) -> float:
    """Return a finite number; NaN where the text is none."""
    text = text.strip()
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else math.nan


def whole(text: str) -> int | None:
    """Return a whole number of at most 18 digits, also where it is written as 12.0."""
    text = text.strip()
    return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None

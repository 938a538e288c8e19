"""Formats of traces: which file is whose, told by its header, and how its rows become numbers.

A table of numbers has four rows: whole time units, billionths of a unit, prompt and output tokens.
What is no number is negative.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim.foundation.errors import ScenarioError
from sim.foundation.printable import excerpt
from sim.inputs.csv_columns import NO_ROW, fields

Ints = NDArray[np.int64]
TimeUnit = Literal["s", "ms", "us", "ns"]

_BILLION = 10**9
# What fits in 63 bits, and more tokens than any context has.
_MOST_WHOLE, _MOST_TOKENS = 9 * 10**18, 10**9 - 1
# What a prompt is in a line that is no row of its table.
_NO_FIELDS, _MORE_FIELDS = -3, -2

# A column that once had gaps is written as 472.0.
_LENGTH = r"^\s*0*(?P<tokens>[0-9]{1,9})(?:\.0*)?\s*$"
_DECIMAL = r"^\s*(?P<whole>[0-9]{1,18})(?:\.(?P<part>[0-9]*))?\s*$"
_DATE = (
    r"^\s*(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})[ Tt]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.(?P<part>[0-9]*))?"
    r" ?(?:[Zz]|UTC|(?P<sign>[+-])(?P<east_h>[0-9]{2})(?::?(?P<east_min>[0-9]{2}))?)?\s*$"
)


@dataclass(frozen=True)
class Format:
    """How a file is published: its columns, and the unit of its times as its names tell it."""

    time: str | None
    prompt: str
    output: str
    parse: Callable[[list[str]], Ints]
    """Return whole units and billionths of the texts of times."""
    unit: TimeUnit | None
    """None if the names do not tell."""
    said: str = ""
    """What tells the unit, where others write the same form in another one."""

    @property
    def own_unit(self) -> bool:
        """Whether times cannot be in another unit: dates, and columns named after theirs."""
        return self.parse in (_dates, _whole_times)


@dataclass(frozen=True)
class Parser:
    """What turns the lines behind a header into numbers."""

    form: Format
    table: Callable[[list[str]], Ints]


def parser(place: str, header: str, timed: bool) -> Parser:
    """Return the parser of a file by its first line; of JSON lines, the line itself is a row.

    Raises ScenarioError for a header that is not known, or without times where they are asked for.
    """
    if is_json(header):
        row = _json_row(header) or {}
        if set(JSON_KEYS) <= set(row):
            unit, said = _json_unit(row)
            return Parser(Format(*JSON_KEYS, _decimals, unit, said), _from_json)
    names = [name.strip().lower() for name in fields(header) or ()]
    for form in FORMATS:
        wanted = [name.lower() for name in (form.time, form.prompt, form.output) if name]
        if not timed and form.time:
            wanted = wanted[1:]
        if set(wanted) <= set(names) and (form.time or not timed):
            twice = [name for name in wanted if names.count(name) > 1]
            if twice:
                raise ScenarioError(f"{place}: the header names {twice[0]} twice; keep one of them")
            return Parser(form, partial(_from_csv, form, names, timed))
    known = [
        ", ".join(filter(None, (f.time, f.prompt, f.output)))
        for f in FORMATS
        if f.time or not timed
    ]
    raise ScenarioError(
        f"{place}: no known trace (got '{excerpt(header.strip())}'); known headers, with commas"
        f" between columns: {'; '.join(known)}; or JSON lines with {', '.join(JSON_KEYS)}"
    )


def is_json(header: str) -> bool:
    return header.lstrip().startswith("{")


def _json_unit(row: dict[str, Any]) -> tuple[TimeUnit | None, str]:
    """Return the unit that the publisher of JSON lines uses, and the keys that tell it.

    Qwen-Bailian: "timestamp: seconds since the beginning of the trace"; Mooncake: milliseconds.
    """
    for key in ("chat_id", "parent_chat_id", "turn"):
        if key in row:
            return "s", f"{key} is Qwen-Bailian's"
    return ("ms", "hash_ids is Mooncake's") if "hash_ids" in row else (None, "")


def problem(row: Ints) -> str:
    """Return what is wrong with a row of a table that is none."""
    whole, _, prompt, output = row
    if prompt == _NO_FIELDS:
        return NO_ROW
    if prompt == _MORE_FIELDS:
        return "has more columns than the header"
    if whole < 0:
        return "there is no time of arrival"
    if prompt > 0 and output == 0:
        return "no output tokens, as of a request that failed"
    return "lengths should be whole and positive, of nine digits at most"


def _from_csv(form: Format, names: list[str], timed: bool, lines: list[str]) -> Ints:
    rows = [fields(line) for line in lines]
    columns = []
    for name in (form.time if timed else None, form.prompt, form.output):
        at = names.index(name.lower()) if name else 0
        columns.append([row[at] if row and at < len(row) else "" for row in rows])
    times = form.parse(columns[0]) if timed else np.zeros((2, len(rows)), dtype=np.int64)
    table = np.vstack([times, _tokens(columns[1]), _tokens(columns[2])])
    for number, row in enumerate(rows):
        if row is None:
            table[2, number] = _NO_FIELDS
        elif len(row) > len(names) and any(row[len(names) :]):
            table[2, number] = _MORE_FIELDS
    return table


def _from_json(lines: list[str]) -> Ints:
    rows = [_json_row(line) or {} for line in lines]
    time, prompt, output = ([row.get(name) for row in rows] for name in JSON_KEYS)
    times = [_json_time(value) for value in time]
    table = [
        [whole for whole, _ in times],
        [part for _, part in times],
        *([_json_tokens(value) for value in column] for column in (prompt, output)),
    ]
    return np.array(table, dtype=np.int64)


def _json_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line, parse_float=Decimal)
    except (ValueError, RecursionError, InvalidOperation):
        return None
    return row if isinstance(row, dict) else None


def _json_time(value: object) -> tuple[int, int]:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return -1, 0
    return _split(Decimal(value)) if 0 <= value <= _MOST_WHOLE else (-1, 0)


def _split(value: Decimal) -> tuple[int, int]:
    """Return whole units and billionths; −1 if the value is out of range."""
    if not (value.is_finite() and 0 <= value <= _MOST_WHOLE):
        return -1, 0
    whole = int(value)
    return whole, round((value - whole) * _BILLION)


def _json_tokens(value: object) -> int:
    """Return a length, −1 if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return -1
    # The bounds come first: a Decimal of 1e999999 has as many digits when it becomes whole.
    return int(value) if 0 <= value <= _MOST_TOKENS and value == int(value) else -1


def _tokens(texts: list[str]) -> Ints:
    """Return lengths, −1 where a text is none."""
    return _whole(_groups(texts, _LENGTH)["tokens"])


def _decimals(texts: list[str]) -> Ints:
    groups = _groups(texts, _DECIMAL)
    times = np.stack([_whole(groups["whole"]), _billionths(groups["part"])])
    for row in np.flatnonzero(times[0] < 0):
        # Python writes small times as 9.5e-05.
        times[:, row] = _decimal(texts[row])
    return times


def _decimal(text: str) -> tuple[int, int]:
    # Decimal knows digits of other scripts and underscores, too.
    if not (text.isascii() and "_" not in text and len(text) <= 60):
        return -1, 0
    try:
        return _split(Decimal(text.strip()))
    except InvalidOperation:
        return -1, 0


def _whole_times(texts: list[str]) -> Ints:
    whole = _whole(_groups(texts, r"^\s*(?P<whole>[0-9]{1,18})\s*$")["whole"])
    return np.stack([whole, np.zeros_like(whole)])


def _dates(texts: list[str]) -> Ints:
    groups = _groups(texts, _DATE)
    year, month, day, hour, minute, second = (
        _whole(groups[name]) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    east_h, east_min = (np.maximum(_whole(groups[name]), 0) for name in ("east_h", "east_min"))
    month_number = (year - 1970) * 12 + np.clip(month, 1, 12) - 1
    first_day, next_month = (
        months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        for months in (month_number, month_number + 1)
    )
    is_date = (year >= 1970) & (year < 2200) & (month >= 1) & (month <= 12)
    is_date &= (day >= 1) & (day <= next_month - first_day)
    is_date &= (hour < 24) & (minute < 60) & (second < 60)
    west = np.where(groups["sign"].fill_null("").to_numpy(False) == "-", -1, 1)
    days = first_day + day - 1
    seconds = days * 86400 + hour * 3600 + minute * 60 + second
    seconds -= west * (east_h * 3600 + east_min * 60)
    return np.stack([np.where(is_date, seconds, -1), _billionths(groups["part"])])


def _billionths(digits: Any) -> Ints:
    """Return the digits behind a point as billionths, rounded; 0 where there are none."""
    import pyarrow.compute as pc

    nine = pc.utf8_rpad(pc.utf8_slice_codeunits(digits, 0, 9), 9, "0")
    tenth = pc.utf8_rpad(pc.utf8_slice_codeunits(digits, 9, 10), 1, "0")
    return np.maximum(_whole(nine), 0) + (_whole(tenth) >= 5)


def _whole(digits: Any) -> Ints:
    """Return texts of digits as numbers; −1 where there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = pc.if_else(pc.equal(digits.fill_null(""), ""), "-1", digits.fill_null("-1"))
    return np.asarray(pc.cast(filled, pa.int64()).to_numpy(zero_copy_only=False))


def _groups(texts: list[str], pattern: str) -> dict[str, Any]:
    """Return the named groups of a pattern as arrow arrays, null where a text does not match."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.extract_regex(pa.array(texts, pa.string()), pattern=pattern)
    return {field.name: pc.struct_field(found, field.name) for field in found.type}


# Azure LLM inference 2023 and 2024; BurstGPT; Splitwise as Vidur keeps it and as its own simulator
# does; requests.csv of a run; lengths alone. Others write times of the third and fourth form, so
# that their unit has to be likely as well.
FORMATS = (
    Format("TIMESTAMP", "ContextTokens", "GeneratedTokens", _dates, "s"),
    Format("Timestamp", "Request tokens", "Response tokens", _decimals, "s"),
    Format("arrived_at", "num_prefill_tokens", "num_decode_tokens", _decimals, "s",
         "arrived_at is Vidur's"),
    Format("arrival_timestamp", "prompt_size", "token_size", _decimals, "s",
         "arrival_timestamp is Splitwise's"),
    Format("arrival_ns", "prompt_tokens", "output_tokens", _whole_times, "ns"),
    Format(None, "prompt_tokens", "output_tokens", _whole_times, None),
)  # fmt: skip
JSON_KEYS = ("timestamp", "input_length", "output_length")

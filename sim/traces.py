"""Traces: recorded requests, read as they are published and exact to the nanosecond.

The format is told by the header. Rows that are no request are told by their line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.errors import ScenarioError
from sim.units import NS_PER_MS, NS_PER_S

# A century: later arrivals do not fit in 64 bits of nanoseconds.
_MOST_S = 3e9

Ints = NDArray[np.int64]
BadRows = Literal["refuse", "skip"]

# Bad rows that a message names; what goes beyond is counted.
_SHOWN = 20

# Rows are turned into numbers so many at a time.
_CHUNK = 1 << 16

# Seconds that fit in 63 bits of nanoseconds, and more tokens than any context has.
_MOST_S, _MOST_TOKENS = 9 * 10**9, 10**9 - 1

# A column that once had gaps is written as 472.0.
_LENGTH = r'^[\s"]*0*(?P<tokens>[1-9][0-9]{0,8})(?:\.0*)?[\s"]*$'
_DECIMAL = r'^[\s"]*(?P<whole>[0-9]{1,10})(?:\.(?P<part>[0-9]*))?[\s"]*$'
_DATE = (
    r'^[\s"]*(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})[ T]'
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.(?P<part>[0-9]*))?"
    r'(?:Z|(?P<sign>[+-])(?P<east_h>[0-9]{2}):?(?P<east_min>[0-9]{2}))?[\s"]*$'
)


@dataclass(frozen=True)
class Recorded:
    """The requests of a trace in the order of their arrival."""

    prompt: Ints
    output: Ints
    arrival_ns: Ints
    """Time after the first arrival; 0 for all where no times were asked for."""
    bad: tuple[str, ...] = ()
    """The first of the rows that were left out, each with its line and what is wrong."""
    bad_rows: int = 0
    clipped_rows: int = 0

    def scaled(self, rate_scale: float) -> Recorded:
        """Return the requests arriving `rate_scale` times faster."""
        if rate_scale == 1:
            return self
        last_s = float(self.arrival_ns.max(initial=0)) / rate_scale / NS_PER_S
        if last_s > _MOST_S:
            raise ScenarioError(
                f"rate_scale {rate_scale:g} puts the last arrival at {last_s:.3g} s"
            )
        return replace(self, arrival_ns=np.rint(self.arrival_ns / rate_scale).astype(np.int64))

    def clipped(self, context: int | None) -> Recorded:
        """Return the requests, prompts cut so that prompt and output fit in `context` tokens."""
        if context is None:
            return self
        output = np.minimum(self.output, context - 1)
        prompt = np.minimum(self.prompt, context - output)
        changed = int(np.count_nonzero((prompt != self.prompt) | (output != self.output)))
        return replace(self, prompt=prompt, output=output, clipped_rows=changed)


def read(path: str, timed: bool, bad_rows: BadRows = "refuse", rows: int | None = None) -> Recorded:
    """Return the requests of the trace at `path`, of its first `rows` rows if given.

    `timed` asks for times of arrival, which not every format has. Raises ScenarioError for a file
    that is no known trace, and for bad rows, with their lines, unless they are to be skipped.
    """
    try:
        known = Path(path).stat()
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from None
    return _read(path, timed, bad_rows, rows, (known.st_ino, known.st_mtime_ns, known.st_size))


@lru_cache(maxsize=4)
def _read(
    path: str, timed: bool, bad_rows: BadRows, rows: int | None, _state: tuple[int, int, int]
) -> Recorded:
    """Return the requests of a file, which is read again only if its state has changed."""
    tables: list[Ints] = []
    bad: list[str] = []
    bad_count = 0
    try:
        # With the byte order mark that some editors write before the header.
        with Path(path).open(encoding="utf-8-sig") as file:
            header = file.readline()
            parse = _parser(path, header, timed)
            first = 1 if _is_json(header) else 2
            numbered = enumerate(chain([header], file) if first == 1 else file, first)
            lines = islice((row for row in numbered if row[1].strip()), rows)
            while chunk := list(islice(lines, _CHUNK)):
                table = parse([line for _, line in chunk])
                wrong = np.flatnonzero((table[0] < 0) | (table[1:] <= 0).any(axis=0))
                bad_count += len(wrong)
                for row in wrong[: _SHOWN - len(bad)]:
                    number, line = chunk[row]
                    bad.append(f"{path}:{number}: {_problem(table[:, row])} (got {_short(line)})")
                tables.append(np.delete(table, wrong, axis=1))
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from None
    if not tables:
        raise ScenarioError(f"{path}:{first}: the file has no rows")
    time_ns, prompt, output = np.concatenate(tables, axis=1)
    if bad_count and (bad_rows == "refuse" or not len(time_ns)):
        if bad_rows == "skip":
            raise ScenarioError(
                [*bad, f"{path}: no row is left without the {bad_count:,} bad ones"]
            )
        more = f"{path}: {bad_count:,} bad rows; bad_rows: skip leaves them out"
        raise ScenarioError([*bad, more] if bad_count > len(bad) else bad)
    order = np.argsort(time_ns, kind="stable")
    arrival_ns = time_ns[order] - time_ns[order[0]]
    return Recorded(prompt[order], output[order], arrival_ns, tuple(bad), bad_count)


def _problem(row: Ints) -> str:
    if row[0] < 0:
        return "there is no time of arrival"
    return "lengths should be whole and positive, of nine digits at most"


def _short(line: str) -> str:
    text = line.strip()
    return text if len(text) <= 60 else text[:57] + "..."


def _is_json(header: str) -> bool:
    return header.lstrip().startswith("{")


def _parser(path: str, header: str, timed: bool) -> Callable[[list[str]], Ints]:
    """Return what turns lines into times, prompts and outputs, by the first line of a file.

    Raises ScenarioError for a header that is not known, or without times where they are asked for.
    """
    if _is_json(header):
        found = _json_row(header)
        if found is not None and set(_MOONCAKE) <= set(found):
            return _from_json
    names = [name.strip(' "\r\n') for name in header.split(",")]
    for form in FORMS:
        if {form.prompt, form.output} <= set(names) and (form.time in names or not timed):
            chosen = form if timed else form._replace(time=None)
            return partial(_from_csv, chosen, names)
    known = [
        ", ".join(filter(None, (f.time, f.prompt, f.output))) for f in FORMS if f.time or not timed
    ]
    raise ScenarioError(
        f"{path}:1: no known trace (got {_short(header)!r}); "
        f"known headers: {'; '.join(known)}; or JSON lines with {', '.join(_MOONCAKE)}"
    )


def _from_csv(form: Form, names: list[str], lines: list[str]) -> Ints:
    """Return times (ns), prompts and outputs of rows, one column a row."""
    rows = [line.split(",") for line in lines]
    # No published trace has a comma inside quotes before the columns that are read.
    columns = {
        name: [row[at] if at < len(row) else "" for row in rows]
        for at, name in enumerate(names)
        if name in (form.time, form.prompt, form.output)
    }
    times_ns = np.zeros(len(rows), dtype=np.int64)
    if form.time is not None:
        times_ns = form.time_ns(columns[form.time])
    return np.stack([times_ns, _tokens(columns[form.prompt]), _tokens(columns[form.output])])


def _from_json(lines: list[str]) -> Ints:
    """Return times (ns), prompts and outputs of JSON lines, one column a line."""
    rows = [_json_row(line) or {} for line in lines]
    time, prompt, output = ([row.get(name) for row in rows] for name in _MOONCAKE)
    table = [
        [_json_ns(value) for value in time],
        *([_json_tokens(value) for value in column] for column in (prompt, output)),
    ]
    return np.array(table, dtype=np.int64)


def _json_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line, parse_float=Decimal)
    except (ValueError, RecursionError, InvalidOperation):
        return None
    return row if isinstance(row, dict) else None


def _json_ns(value: object) -> int:
    """Return a time in ms as ns, −1 if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return -1
    return round(value * NS_PER_MS) if 0 <= value <= _MOST_S * 1000 else -1


def _json_tokens(value: object) -> int:
    """Return a length, 0 if it is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if 0 < value <= _MOST_TOKENS else 0


def _tokens(texts: list[str]) -> Ints:
    """Return lengths, 0 where a text is none."""
    return _whole(_groups(texts, _LENGTH)["tokens"])


def _seconds_ns(texts: list[str]) -> Ints:
    """Return times in seconds as ns, −1 where a text is none."""
    groups = _groups(texts, _DECIMAL)
    whole, is_none = _whole(groups["whole"]), groups["whole"].is_null().to_numpy(False)
    times_ns = np.minimum(whole, _MOST_S) * NS_PER_S + _fraction_ns(groups["part"])
    for row in np.flatnonzero(is_none):
        # Python writes small times as 9.5e-05.
        times_ns[row] = _decimal_ns(texts[row])
    times_ns[whole > _MOST_S] = -1
    return times_ns


def _decimal_ns(text: str) -> int:
    try:
        value = Decimal(text.strip(' "\t\r\n'))
    except InvalidOperation:
        return -1
    return round(value * NS_PER_S) if value.is_finite() and 0 <= value <= _MOST_S else -1


def _whole_ns(texts: list[str]) -> Ints:
    """Return times in whole ns, −1 where a text is none."""
    found = _groups(texts, r"^\s*(?P<ns>[0-9]{1,18})\s*$")["ns"]
    return np.where(found.is_null().to_numpy(False), -1, _whole(found))


def _date_ns(texts: list[str]) -> Ints:
    """Return dates with times of day as ns since 1970, −1 where a text is none."""
    groups = _groups(texts, _DATE)
    year, month, day, hour, minute, second, east_h, east_min = (
        _whole(groups[name])
        for name in ("year", "month", "day", "hour", "minute", "second", "east_h", "east_min")
    )
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
    return np.where(is_date, seconds * NS_PER_S + _fraction_ns(groups["part"]), -1)


def _fraction_ns(digits: Any) -> Ints:
    """Return the digits behind the point of a second as ns, rounded."""
    import pyarrow.compute as pc

    nine = pc.utf8_rpad(pc.utf8_slice_codeunits(digits, 0, 9), 9, "0")
    tenth = pc.utf8_slice_codeunits(digits, 9, 10)
    return _whole(nine) + (_whole(pc.utf8_rpad(tenth, 1, "0")) >= 5)


def _whole(digits: Any) -> Ints:
    """Return texts of digits as numbers; 0 where there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = pc.if_else(pc.equal(digits.fill_null(""), ""), "0", digits.fill_null("0"))
    return np.asarray(pc.cast(filled, pa.int64()).to_numpy(zero_copy_only=False))


def _groups(texts: list[str], pattern: str) -> dict[str, Any]:
    """Return the named groups of a pattern as arrow arrays, null where a text does not match."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.extract_regex(pa.array(texts, pa.string()), pattern=pattern)
    return {field.name: pc.struct_field(found, field.name) for field in found.type}


class Form(NamedTuple):
    """A table as it is published: its columns and how times are written."""

    time: str | None
    prompt: str
    output: str
    time_ns: Callable[[list[str]], Ints]


# Azure LLM inference 2023 and 2024; BurstGPT; Splitwise as Vidur keeps it; requests.csv of a run;
# lengths alone.
FORMS = (
    Form("TIMESTAMP", "ContextTokens", "GeneratedTokens", _date_ns),
    Form("Timestamp", "Request tokens", "Response tokens", _seconds_ns),
    Form("arrived_at", "num_prefill_tokens", "num_decode_tokens", _seconds_ns),
    Form("arrival_ns", "prompt_tokens", "output_tokens", _whole_ns),
    Form(None, "prompt_tokens", "output_tokens", _whole_ns),
)
_MOONCAKE = ("timestamp", "input_length", "output_length")

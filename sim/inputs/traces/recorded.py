"""Traces: recorded requests, read as they are published and exact to the nanosecond.

The format is told by the header. Rows that are no request are told by their line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from typing import Literal

import numpy as np

from sim.foundation.errors import ScenarioError
from sim.foundation.printable import excerpt
from sim.foundation.reading import check_regular, lines
from sim.foundation.units import NS_PER_S
from sim.inputs.traces.formats import Ints, TimeUnit, is_json, parser, problem
from sim.inputs.traces.time_units import arrivals_ns, unit_of

# Later arrivals do not fit in 63 bits of nanoseconds.
MOST_S = 9e9

BadRows = Literal["refuse", "skip"]

# Bad rows that a message names; what goes beyond is counted.
_SHOWN = 20

# What is read at most, and how much is turned into numbers at a time.
MOST_BYTES, MOST_ROWS = 2_000_000_000, 20_000_000
_CHUNK_ROWS, _CHUNK_CHARACTERS = 1 << 16, 1 << 22


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
    unit_note: str = ""
    """What a reader should know of the unit of times, where nothing states it."""

    def longest_context(self) -> int:
        """Return the most tokens that prompt and output of a request have together."""
        return int((self.prompt + self.output).max())

    def scaled(self, rate_scale: float) -> Recorded:
        """Return the requests arriving `rate_scale` times faster."""
        if rate_scale == 1:
            return self
        last_s = float(self.arrival_ns.max(initial=0)) / rate_scale / NS_PER_S
        if last_s > MOST_S:
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


def read(
    path: str,
    timed: bool,
    bad_rows: BadRows = "refuse",
    rows: int | None = None,
    time_unit: TimeUnit | None = None,
) -> Recorded:
    """Return the requests of the trace at `path`, of its first `rows` rows if given.

    `timed` asks for times of arrival, which not every format has; `time_unit` is their unit where
    the format does not tell. Raises ScenarioError for a file that is no known trace, for times
    whose unit is in doubt, and for bad rows, with their lines, unless they are to be skipped.
    """
    known = check_regular(path)
    state = known.st_ino, known.st_mtime_ns, known.st_size
    return _read(path, timed, bad_rows, rows, time_unit, state)


@lru_cache(maxsize=4)
def _read(
    path: str,
    timed: bool,
    bad_rows: BadRows,
    rows: int | None,
    time_unit: TimeUnit | None,
    _state: tuple[int, int, int],
) -> Recorded:
    """Return the requests of a file, which is read again only if its state has changed."""
    remedy = "requests: N reads the first N rows" if timed else "shorten it"
    # Of a longer file, the first rows may be asked for.
    most_bytes = MOST_BYTES if rows is None else 1 << 62
    numbered = enumerate(lines(path, most_bytes, remedy=remedy), 1)
    filled: Iterator[tuple[int, str]] = (row for row in numbered if row[1].strip())
    first, header = next(filled, (1, ""))
    parse = parser(f"{path}:{first}", header, timed)
    if is_json(header):
        filled = chain([(first, header)], filled)
    tables: list[Ints] = []
    bad: list[str] = []
    read_rows = bad_count = 0
    for chunk in _chunks(islice(filled, rows)):
        table = parse.table([line for _, line in chunk])
        wrong = np.flatnonzero((table[:2] < 0).any(axis=0) | (table[2:] <= 0).any(axis=0))
        bad_count += len(wrong)
        for row in wrong[: _SHOWN - len(bad)]:
            number, line = chunk[row]
            told = f"{path}:{number}: {problem(table[:, row])}"
            bad.append(f"{told} (got {excerpt(line.strip())})")
        tables.append(np.delete(table, wrong, axis=1))
        read_rows += len(chunk)
        if read_rows > MOST_ROWS:
            raise ScenarioError(f"{path}: has more than {MOST_ROWS:,} rows; {remedy}")
    if not read_rows:
        raise ScenarioError(f"{path}:{first + 1}: the file has no rows")
    if bad_count and bad_rows == "refuse":
        count = "1 bad row" if bad_count == 1 else f"{bad_count:,} bad rows"
        raise ScenarioError([*bad, f"{path}: {count}; bad_rows: skip leaves these rows out"])
    table = np.concatenate(tables, axis=1)
    tables.clear()
    times, (prompt, output) = table[:2], table[2:]
    if not len(prompt):
        raise ScenarioError([*bad, f"{path}: no row is left without the {bad_count:,} bad ones"])
    if not timed:
        return Recorded(prompt.copy(), output.copy(), np.zeros_like(prompt), tuple(bad), bad_count)
    unit, note = unit_of(path, parse.form, times, time_unit)
    at_ns = arrivals_ns(path, times, unit)
    order = np.argsort(at_ns, kind="stable")
    return Recorded(
        prompt[order], output[order], at_ns[order], tuple(bad), bad_count, unit_note=note
    )


def _chunks(rows: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Yield lines with their numbers, so many at a time that their numbers fit in memory."""
    chunk: list[tuple[int, str]] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += len(row[1])
        if len(chunk) == _CHUNK_ROWS or characters > _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk

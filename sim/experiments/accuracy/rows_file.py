"""Rows file: the verdicts on measured rows as a CSV file, one row a line."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.foundation.spreadsheets import inert
from sim.results.files import replace_file


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write plain rows of the same keys. Raises StoreError if the file cannot be written."""

    def write_part(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(rows[0])
            writer.writerows([_cell(value) for value in row.values()] for row in rows)

    replace_file(path, write_part)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        value = "; ".join(value)
    return inert(str(value))

"""Text that a spreadsheet shows and does not run.

Spreadsheets take a cell that begins with = + - @, a tab or a line end for a formula, quotes or not.
In every CSV that is written such a text has an apostrophe in front; Parquet and JSON hold it raw.
"""

from __future__ import annotations

import re

_FORMULA = re.compile("[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def inert(text: str) -> str:
    """Return `text` with an apostrophe in front if a spreadsheet would take it for a formula.

    Numbers stay as they are.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def inert_value(value: object) -> object:
    return inert(value) if isinstance(value, str) else value

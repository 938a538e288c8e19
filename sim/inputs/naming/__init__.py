"""Names that users give: what they may hold, and the folder that carries one.

A name is shown in tables, headings, pages and messages as written. It is free text on one line, as
long as it is no path: results of `../../x` would lie outside their folder.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from sim.foundation.printable import excerpt, printable

MOST_CHARACTERS = 200
# File systems take 255 bytes; a hash and the name of a temporary neighbour come on top.
_FOLDER_BYTES = 150
_NOT_IN_FOLDERS = re.compile(r"[^\w.+-]+")


def _label(text: str) -> str:
    if not text.strip():
        raise ValueError(f"is empty (got '{text}'); write 1 to {MOST_CHARACTERS} characters")
    if len(text) > MOST_CHARACTERS:
        raise ValueError(
            f"has {len(text):,} characters (got '{excerpt(text)}'); write at most {MOST_CHARACTERS}"
        )
    if printable(text) != text:
        raise ValueError(
            f"holds control characters (got '{excerpt(text)}'); "
            "write letters, digits, spaces and signs on one line"
        )
    return text


def _name(text: str) -> str:
    _label(text)
    parts = re.split(r"[/\\]", text)
    if not parts[0] or {".", ".."} & set(parts) or not folder_name(text):
        raise ValueError(
            f"is no name (got '{excerpt(text)}'); write letters, digits, spaces and signs, "
            "no / in front, and no part that is . or .."
        )
    return text


Label = Annotated[str, AfterValidator(_label)]
"""Text on one line, shown as written: a family, a side, a value of a dimension."""

Name = Annotated[str, AfterValidator(_name)]
"""A label that is no path, since a folder of results carries it."""


def folder_name(name: str) -> str:
    """Return the name of a folder for `name`: other signs than . _ + - become a dash.

    Most names stay as they are. Empty if nothing of the name is left.
    """
    text = _NOT_IN_FOLDERS.sub("-", name).lstrip(".-").rstrip("-")
    return text.encode()[:_FOLDER_BYTES].decode(errors="ignore")

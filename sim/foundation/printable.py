"""Text from files and names, made fit for a terminal."""

from __future__ import annotations

import re

# Control characters, line and paragraph separators, what turns the writing direction, and the
# halves of surrogate pairs that Python keeps of undecodable file names.
_NOT_PRINTED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return `text` on one line, characters that steer a terminal written as `\x1b`."""
    return _NOT_PRINTED.sub(lambda found: ascii(found[0])[1:-1], text)


def excerpt(text: str, most: int = 60) -> str:
    """Return the beginning of `text`, made printable, at most `most` characters long."""
    shown = printable(text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 3] + "..."

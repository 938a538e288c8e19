"""Places in a document: dotted paths, and which of them speak of the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Loc = tuple[str | int, ...]

SHORT: Mapping[Loc, str] = {("software",): "profile"}
"""Mappings that may be written as the value of one of their keys."""

# Pairs that state the same: setting one of them leaves out the other.
_SAME: tuple[tuple[Loc, Loc], ...] = ((("workload", "context"), ("workload", "lengths", "prompt")),)
_EITHER_WAY = (*_SAME, *((other, one) for one, other in _SAME))

# Digits of other scripts are no places, and no list is longer.
_PLACE_IN_LIST = re.compile("[0-9]{1,9}")


def loc_of(path: str) -> Loc:
    """Return the place that a dotted path names; a part of digits is a place in a list."""
    return tuple(int(part) if _PLACE_IN_LIST.fullmatch(part) else part for part in path.split("."))


def replaced_by(loc: Loc) -> Iterator[tuple[Loc, Loc]]:
    """Yield what a value at `loc` may state, and the place that states the same."""
    for this, other in _EITHER_WAY:
        if _meet(loc, this) and not _meet(loc, other):
            yield this, other


def disturb(one: Loc, other: Loc) -> bool:
    """Return whether setting one place may change what the other holds."""
    return _meet(one, other) or any(_meet(one, a) and _meet(other, b) for a, b in _EITHER_WAY)


def _meet(one: Loc, other: Loc) -> bool:
    """Return whether one place is the other or lies in it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]

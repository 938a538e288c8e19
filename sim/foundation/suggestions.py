"""Suggestions: which known names an unknown one may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

# Names are shorter, and comparing longer words takes long.
_LONGEST = 100


def nearest(word: str, names: Sequence[str]) -> list[str]:
    """Return the names that `word` may mean, the likeliest first.

    First the same but for case and signs, then those that have all words of it, those that begin
    with it or begin it, and last those that are spelled alike.
    """
    word = word[:_LONGEST].casefold()
    found = []
    for name in names:
        rank, likeness = _rank(word, name.casefold()), _likeness(word, name.casefold())
        if rank < _ALIKE or likeness >= _ALIKE_FROM:
            found.append((rank, -likeness, name))
    return [name for *_, name in sorted(found)]


_ALIKE = 4
_ALIKE_FROM = 0.6


def _rank(word: str, name: str) -> int:
    wanted, found = _words(word), _words(name)
    typed, whole = "".join(wanted), "".join(found)
    if not typed or not whole:
        return _ALIKE
    if typed == whole:
        return 0
    if set(wanted) <= set(found):
        return 1
    if len(typed) > 1 and whole.startswith(typed):
        return 2
    return 3 if len(whole) > 1 and typed.startswith(whole) else _ALIKE


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


def _likeness(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, word).ratio()

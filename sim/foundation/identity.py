"""Identity: results of functions, kept by which cards they were asked of.

Cards hold mappings, which have no hash, and are read once: as long as a result is kept, its cards
are too, so that no other one takes their identity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, update_wrapper
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])

_KEPT = 64

# Types of values that are alike where they are equal.
_PLAIN = (str, int, float, type(None))


class _Same:
    """Equal to what holds the same object."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it


def kept_by_identity(function: Function) -> Function:
    """Keep the latest results of a function of cards, by their identity, and of other values."""

    @lru_cache(maxsize=_KEPT)
    def kept(*keys: Any) -> object:
        return function(*[key.it if isinstance(key, _Same) else key for key in keys])

    def asked(*values: Any) -> object:
        return kept(*[each if isinstance(each, _PLAIN) else _Same(each) for each in values])

    return cast(Function, update_wrapper(asked, function))

"""Rounds: one call for each of several items, side by side, and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sim.foundation.errors import SimError
from sim.parallel.processes import Failure, Workers


@dataclass(frozen=True)
class RoundProgress:
    """How far a round is."""

    what: str
    """What is done, in words."""
    made: int
    """Calls that are finished."""
    of: int
    found: str = ""
    """What the last call found, in words."""


Tell = Callable[[RoundProgress], None]
"""Hears how far a round is: before its first call and after each."""


def unheard(_: RoundProgress) -> None:
    """Hear nothing."""


def called(
    call: Callable[[Any], Any],
    items: Sequence[Any],
    workers: Workers | None,
    what: str,
    tell: Tell,
    words: Callable[[Any], str] = lambda result: "",
) -> list[Any]:
    """Return the results of a call in the order of its items. Raises what a call raises.

    `words` says what a result is.
    """
    tell(RoundProgress(what, 0, len(items)))
    found: dict[int, Any] = {}
    numbered = list(enumerate(items))
    results = (
        workers.run(_Returned(call), numbered)
        if workers is not None
        else ((item, call(item[1])) for item in numbered)
    )
    for (place, _item), result in results:
        if isinstance(result, Failure):
            raise SimError(result.reason)
        if isinstance(result, SimError):
            raise result
        found[place] = result
        tell(RoundProgress(what, len(found), len(items), words(result)))
    return [found[place] for place in range(len(items))]


@dataclass(frozen=True)
class _Returned:
    """A call that gives back a refusal as what it is, on a worker."""

    call: Callable[[Any], Any]

    def __call__(self, item: tuple[int, Any]) -> Any:
        try:
            return self.call(item[1])
        except SimError as error:
            return error

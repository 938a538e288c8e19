"""What a model's name says: the parameters that its publisher counts."""

from __future__ import annotations

import re
from typing import NamedTuple

from sim.inputs.naming import folder_name

_BILLION = 1e9
_COUNT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([BT])(?![a-z0-9])", re.I)
_ACTIVE = re.compile(r"(?<![a-z0-9])A(\d+(?:\.\d+)?)B(?![a-z0-9])", re.I)
# Llama 4 names the parameters of a token, then the experts: 17B-128E.
_ACTIVE_AND_EXPERTS = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)B-\d+E(?![a-z0-9])", re.I)


class StatedCounts(NamedTuple):
    """Parameters as a name states them; None where it does not."""

    parameters: float | None
    active: float | None


def stated_counts(name: str) -> StatedCounts:
    """Return the counts in a name such as Qwen3.5-397B-A17B."""
    other = _ACTIVE_AND_EXPERTS.search(name)
    if other is not None:
        return StatedCounts(None, float(other[1]) * _BILLION)
    active = _ACTIVE.search(name)
    rest = _ACTIVE.sub("", name)
    counts = [
        float(number) * _BILLION * (1000 if unit in "tT" else 1)
        for number, unit in _COUNT.findall(rest)
    ]
    return StatedCounts(
        max(counts, default=None), None if active is None else float(active[1]) * _BILLION
    )


def card_name(repository: str) -> str:
    """Return a name for the card of OWNER/NAME, as the names of shipped cards are."""
    return folder_name(repository.rsplit("/", 1)[-1]).lower() or "model"

"""Refusals: why points gave no figures, each reason once with the number of its points."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sim.sweeps.points import Row

# A number of its own, in no name: 93.2, but none of h800, glm-5.2 or 2A4F.
_NUMBER = re.compile(r"(?<![\w.-])(\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?%?)(?![\w-])")
_SEVERAL = "…"


def refusals(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return `status`, `reason` and `points` of each reason, the most frequent first.

    Reasons that differ in their numbers alone are one, with `…` where the numbers differ.
    """
    found: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        if row["status"] != "ok":
            parts = _NUMBER.split(row["reason"])
            found.setdefault((row["status"], *parts[::2]), []).append(parts[1::2])
    groups = [
        {"status": status, "reason": _reason(texts, numbers), "points": len(numbers)}
        for (status, *texts), numbers in found.items()
    ]
    return sorted(groups, key=lambda group: -group["points"])


def _reason(texts: list[str], numbers: list[list[str]]) -> str:
    """Return the texts with the numbers between them that all points share."""
    between = [each[0] if len(set(each)) == 1 else _SEVERAL for each in zip(*numbers, strict=True)]
    return "".join(part for pair in zip(texts, [*between, ""], strict=True) for part in pair)

"""Pareto fronts: the points that no other point beats in both directions."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that are on the front, by rising first coordinate.

    More is better in both coordinates. Of equal points the first is kept.
    """
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i))
    front: list[int] = []
    best = float("-inf")
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front[::-1]

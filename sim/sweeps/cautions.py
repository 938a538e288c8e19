"""Cautions about many points: each once, with the number of points that it is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sim.metrics.cautions import cautions
from sim.sweeps.points import Point, Row


def about_points(points: Iterable[Point], rows: Iterable[Row]) -> list[str]:
    """Return the cautions about the rows of a sweep's points, each once with their number."""
    by_index = {point.index: point for point in points}
    ran = ((by_index[row["point"]], row) for row in rows if row["status"] == "ok")
    return counted(
        cautions(point.scenario, row, asks_percentile=point.search not in (None, "mean"))
        for point, row in ran
    )


def counted(every: Iterable[Iterable[str]]) -> list[str]:
    """Return the cautions about many points, each once with the number of points it is about."""
    counts = Counter(caution for of_point in every for caution in of_point)
    return [f"{count:,} point{'s' * (count > 1)}: {text}" for text, count in counts.items()]

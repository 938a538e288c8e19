"""Refine: simulate what can reach the front, then add points where the front has large steps.

The bound of a point is faster than its simulation (see `sim.steady`), so a grid point whose bound
is beaten by a simulated point of its family is beaten itself. Where two neighbours on a front lie
far apart both ways, the axes that are ranges are halved between a neighbour and the next grid point
on its side of the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from sim.decoding.step_times import left_out
from sim.foundation import json_text
from sim.foundation.errors import SimError
from sim.foundation.pareto import pareto_front
from sim.metrics.steady_summary import steady_summary
from sim.steady.state import SteadyState, steady_states
from sim.sweeps.points import Point, Row, front
from sim.sweeps.sweep import LoadedSweep

# How far a simulation may be above its bound by chance: contexts around their mean.
MARGIN = 0.01

_MOST_ROUNDS = 8

Place = tuple[float, float]
"""Tokens/s/user and tokens/s/GPU."""

Screen = Callable[[Sequence[Point]], list[Place | None]]
"""Finds the places of points as `bound_places` does, side by side."""
Simulate = Callable[[Sequence[Point]], list[Row]]
"""Runs points and returns the rows of those that are finished."""


def explore(loaded: LoadedSweep, screen: Screen, simulate: Simulate) -> list[Point]:
    """Simulate what can reach the fronts of a sweep and refine them; return the points simulated.

    Points of the grid come first, in their order, then those added.
    """
    grid = loaded.points
    places = screen(grid)
    first = on_bound_front(grid, places)
    rows = simulate(first)
    done = {point.index for point in first}
    second = [point for point in within_reach(grid, places, rows) if point.index not in done]
    rows += simulate(second)
    simulated = sorted([*first, *second], key=lambda point: point.index)
    return [*simulated, *refined(loaded, simulated, rows, simulate)]


def bound_places(points: Sequence[Point]) -> list[Place | None]:
    """Return where the bound engine sees points, a margin above; None if it cannot tell.

    A point that searches its batch has no place before it is simulated, nor has one of whose
    effects a steady state leaves some out: loads drawn step by step may be lighter than expected.
    """
    seen = [point.search is None and not left_out(point.scenario) for point in points]
    asked = [point.scenario for point, is_seen in zip(points, seen, strict=True) if is_seen]
    states = iter(steady_states(asked))
    return [_bound_place(next(states)) if is_seen else None for is_seen in seen]


def _bound_place(state: SteadyState | SimError) -> Place | None:
    if isinstance(state, SimError):
        return None
    try:
        figures = steady_summary(state)
    except SimError:
        return None
    return (
        figures["tokens_per_s_per_user"] * (1 + MARGIN),
        figures["tgs"] * (1 + MARGIN),
    )


def on_bound_front(points: Sequence[Point], places: Sequence[Place | None]) -> list[Point]:
    """Return the points of each family that are on the front of the bounds, or have no bound."""
    chosen = [point for point, place in zip(points, places, strict=True) if place is None]
    for family in dict.fromkeys(point.family for point in points):
        mine = [
            (point, place)
            for point, place in zip(points, places, strict=True)
            if point.family == family and place is not None
        ]
        chosen += [mine[i][0] for i in pareto_front([place for _, place in mine])]
    return sorted(chosen, key=lambda point: point.index)


def within_reach(
    points: Sequence[Point], places: Sequence[Place | None], rows: Iterable[Row]
) -> list[Point]:
    """Return the points whose bound no simulated point of their family beats."""
    simulated: dict[str, list[Place]] = {}
    for row in _placed(rows):
        simulated.setdefault(row["family"], []).append(_place(row))

    def beaten(family: str, place: Place) -> bool:
        return any(x >= place[0] and y >= place[1] for x, y in simulated.get(family, ()))

    return [
        point
        for point, place in zip(points, places, strict=True)
        if place is None or not beaten(point.family, place)
    ]


def refined(
    loaded: LoadedSweep, points: list[Point], rows: list[Row], simulate: Simulate
) -> list[Point]:
    """Add points until every front's steps are small; return them, in the order in which they came.

    `points` and `rows` are those simulated so far. Raises what `simulate` raises.
    """
    assert loaded.sweep.refine is not None
    tolerance = loaded.sweep.refine.pareto
    known, rows, added = list(points), list(rows), list[Point]()
    index = max(point.index for point in loaded.points) + 1
    for _ in range(_MOST_ROUNDS):
        fresh: list[Point] = []
        tried = {_key(point.entry, point.settings) for point in known}
        for entry, settings in _between(loaded, known, rows, tolerance):
            key = _key(entry, settings)
            if key not in tried:
                tried.add(key)
                point = loaded.point(index + len(added) + len(fresh), entry, settings)
                fresh += [] if point is None else [point]
        if not fresh:
            break
        rows += simulate(fresh)
        known += fresh
        added += fresh
    return added


def _between(
    loaded: LoadedSweep, points: Sequence[Point], rows: Iterable[Row], tolerance: float
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield entry and settings of points that may lie in the gaps of the fronts."""
    by_index = {point.index: point for point in points}
    found = {row["point"]: row for row in _placed(rows)}
    for family in dict.fromkeys(row["family"] for row in found.values()):
        best = front(list(found.values()), family)
        # The slow end of a front is where points begin to be refused.
        point = by_index[best[0]["point"]]
        for path in sorted(_ranges(loaded, point.entry) & point.settings.keys()):
            other = _next(point, path, points, found, -_place(best[0])[0])
            if other is not None and other.index not in found:
                here, there = point.settings[path], other.settings[path]
                if abs(there - here) > tolerance * abs(here):
                    yield point.entry, _middle(point.settings, other.settings, path)
        for slow, fast in pairwise(best):
            (x0, y0), (x1, y1) = _place(slow), _place(fast)
            if min(x1 / x0, y0 / y1) <= 1 + tolerance:
                continue
            for row, wanted in ((slow, 1), (fast, -1)):
                point = by_index[row["point"]]
                for path in sorted(_ranges(loaded, point.entry) & point.settings.keys()):
                    other = _next(point, path, points, found, wanted * _place(row)[0])
                    if other is not None:
                        yield point.entry, _middle(point.settings, other.settings, path)


def _next(
    point: Point, path: str, points: Iterable[Point], found: dict[int, Row], beyond: float
) -> Point | None:
    """Return the nearest tried point along `path` that is faster for users than `beyond`.

    A negative `beyond`: that is slower than −`beyond`, or was refused (too much KV, mostly).
    """
    rest = {name: value for name, value in point.settings.items() if name != path}
    nearest: Point | None = None
    for other in points:
        if other.entry != point.entry or other is point:
            continue
        if {name: value for name, value in other.settings.items() if name != path} != rest:
            continue
        x = _place(found[other.index])[0] if other.index in found else 0.0
        if (x > beyond) if beyond > 0 else (x < -beyond):
            away = abs(other.settings[path] - point.settings[path])
            if nearest is None or away < abs(nearest.settings[path] - point.settings[path]):
                nearest = other
    return nearest


def _middle(one: dict[str, Any], other: dict[str, Any], path: str) -> dict[str, Any]:
    """Return settings half way along `path`, a whole number between whole numbers."""
    first, last = one[path], other[path]
    middle = (first + last) / 2
    return one | {path: int(middle) if isinstance(first, int) and isinstance(last, int) else middle}


def _ranges(loaded: LoadedSweep, entry: int) -> set[str]:
    return {path for axis in loaded.sweep.families[entry].axes for path in axis.ranges
            if len(axis.values) == 1}  # fmt: skip


def _placed(rows: Iterable[Row]) -> Iterator[Row]:
    return (r for r in rows if r["status"] == "ok" and r["tokens_per_s_per_user"] is not None)


def _place(row: Row) -> Place:
    return row["tokens_per_s_per_user"], row["tgs"]


def _key(entry: int, settings: dict[str, Any]) -> str:
    return json_text.dumps([entry, settings], sort_keys=True)

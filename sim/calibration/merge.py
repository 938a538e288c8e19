"""Merging a fit into a table: what was measured anew replaces its curve, the others stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from sim.kernels.curve import Curve

What = Literal["replaced", "added", "kept"]


class Change(NamedTuple):
    """What a merge did with the curves of one kernel and number format, or of one operation."""

    what: What
    op: str
    kernel: str
    dtype: str
    curves: int
    points_before: int
    """Measured points behind the curves of the old table."""
    points: int
    """Measured points behind those of the new one."""


def merge(old: Iterable[Curve], fitted: Iterable[Curve]) -> tuple[Curve, ...]:
    """Return the curves of both, by identity; where both have one, the fitted one.

    A fitted curve that is derived from another card only replaces one that was derived as well.
    """
    merged = {curve.identity: curve for curve in old}
    for curve in fitted:
        known = merged.get(curve.identity)
        if known is None or known.is_derived or not curve.is_derived:
            merged[curve.identity] = curve
    return tuple(sorted(merged.values(), key=lambda curve: curve.identity))


def changes(old: Sequence[Curve], merged: Sequence[Curve]) -> list[Change]:
    """Return what became of the curves of a table, kept ones by operation, in a fixed order."""
    before = {curve.identity: curve for curve in old}
    found: dict[tuple[What, str, str, str], list[Curve]] = {}
    for curve in merged:
        known = before.get(curve.identity)
        what: What = "added" if known is None else "kept" if curve is known else "replaced"
        names = ("", "") if what == "kept" else (curve.kernel, curve.dtype)
        found.setdefault((what, curve.op, *names), []).append(curve)
    return [
        Change(
            *place,
            len(members),
            sum(before[one.identity].points for one in members if one.identity in before),
            sum(one.points for one in members),
        )
        for place, members in sorted(found.items(), key=lambda one: (_ORDER[one[0][0]], one[0]))
    ]


def narrower(old: Sequence[Curve], merged: Sequence[Curve]) -> list[str]:
    """Return, for each curve that replaces one of a wider range, where it ends now."""
    before = {curve.identity: curve for curve in old}
    found = []
    for curve in merged:
        known = before.get(curve.identity, curve)
        ranges = {name: (nodes[0], nodes[-1]) for name, nodes in known.axes}
        lost = [
            f"{name} {nodes[0]:g} to {nodes[-1]:g} (was {ranges[name][0]:g} to {ranges[name][1]:g})"
            for name, nodes in curve.axes
            if name in ranges and (nodes[0] > ranges[name][0] or nodes[-1] < ranges[name][1])
        ]
        if lost:
            found.append(f"{' '.join(filter(None, curve.identity))}: {', '.join(lost)}")
    return found


_ORDER: dict[What, int] = {"replaced": 0, "added": 1, "kept": 2}

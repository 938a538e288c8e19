"""Labels: what tells the points of a sweep from one another, their shape and what was swept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sim.foundation import json_text
from sim.inputs.naming.settings import IN_SHAPE, from_table, leaves, said, short_names
from sim.sweeps.points import SETTING, Row, front

_BASE = "base"
_FIGURES = (
    *("gpus", "requests_in_flight", "tpot_ms_mean", "tpot_ms_p10", "tpot_ms_p90"),
    *("tgs", "tgs_p10", "tgs_p90", "usd_per_1m_tokens", "slo_met"),
)


def labels(rows: Sequence[Row]) -> list[str]:
    """Return for each row its shape and what was swept beside it: `EP64, no overlap`."""
    return [
        ", ".join(filter(None, (row["shape"], told)))
        for row, told in zip(rows, differences(rows), strict=True)
    ]


def fronts(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the Pareto front of each family: its points, described, with their main figures."""
    described = {row["point"]: label for row, label in zip(rows, labels(rows), strict=True)}
    families = dict.fromkeys(row["family"] for row in rows if row["status"] == "ok")
    return {
        family: [
            {"point": row["point"], "described": described[row["point"]]}
            | {name: row.get(name) for name in _FIGURES}
            for row in front(list(rows), family)
        ]
        for family in families
    }


def differences(rows: Sequence[Row]) -> list[str]:
    """Return for each row the swept values that differ among all rows, in words: `no overlap`.

    Of a mapping, only what differs in it is told. Empty where the shape tells all. A family without
    the axis says nothing of it.
    """
    settings = _settings(rows)
    found: dict[str, Counter[tuple[str, str]]] = {}
    for each in settings:
        for name, values in each.items():
            known = ((path, json_text.dumps(value)) for path, value in values)
            found.setdefault(name, Counter()).update(known)
    differing = []
    for name, counted in found.items():
        points = sum(name in each for each in settings)
        # A value that every point with this setting has tells none of them apart.
        told = dict.fromkeys(path for (path, _), count in counted.items() if count < points)
        differing += [path for path in told if path not in IN_SHAPE]
    names = short_names(differing)
    return [
        ", ".join(
            said(path, value, names[path])
            for values in each.values()
            for path, value in values
            if path in names
        )
        for each in settings
    ]


def _settings(rows: Sequence[Row]) -> list[dict[str, list[tuple[str, Any]]]]:
    """Return for each row what was swept, by path; its base too if its family has several."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(SETTING))
    swept = {(row["family"], name) for row in rows for name in names if row.get(name) is not None}
    bases = Counter(family for family, _ in {(row["family"], row.get(_BASE)) for row in rows})
    found = []
    for row in rows:
        values = {_BASE: [(_BASE, row.get(_BASE))]} if bases[row["family"]] > 1 else {}
        for name in names:
            if (row["family"], name) in swept:
                value = from_table(row.get(name))
                values[name] = list(leaves(name.removeprefix(SETTING), value))
        found.append(values)
    return found

"""Sweep data: what the script of a sweep's page knows, as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.inputs.naming.settings import from_table, leaves, said, short_names
from sim.metrics.catalogue import METRICS
from sim.pictures import intervals, pareto_figure
from sim.sweeps.labels import labels
from sim.sweeps.points import SETTING, Row
from sim.sweeps.refusals import refusals

_ARRIVALS = SETTING + "workload.arrivals"
_CONTEXT = ("workload.context", "workload.lengths", "workload.trace")
_AS_IN_SCENARIO = "as in the scenario"
# Of a figure, a page shows four digits and tells eight: the tables of a sweep have all.
_DIGITS = 8
# Stage times and intervals are for one point at a time, not for a table.
_ONLY_IN_PANEL = (
    *("t_a_layer_us", "t_a2f_layer_us", "t_f_layer_us", "t_f2a_layer_us"),
    "tpot_ci95_ms",
)
_ENDS = [
    pareto_figure.Shown(column, f"{intervals.LEVEL} {word}")
    for column, word in zip(intervals.ENDS["tgs"], ("from", "to"), strict=True)
]

Common = dict[str, dict[str, dict[str, Any]]]
"""Settings that all points of a family have, by family and base."""


def data(rows: Sequence[Row], common: Common, chosen: int | None) -> dict[str, Any]:
    """Return what the script knows; `chosen` is the place of the first choice in `rows`."""
    names = _columns(rows)
    return {
        "columns": ["state", *names],
        "rows": [[state(row), *(_short(row.get(name)) for name in names)] for row in rows],
        "table": _table_columns(rows),
        "metrics": [[metric.name, metric.unit, metric.definition] for metric in METRICS],
        "chosen": chosen,
        "labels": labels(rows),
        "policies": _policies(rows),
        "contexts": contexts(rows, common),
        "common": common,
        "refused": refusals(rows),
        "ring": pareto_figure.CHOSEN,
        "pinned": pareto_figure.PINNED,
        "intervals": intervals.ENDS,
        "level": intervals.LEVEL,
    }


def state(row: Row) -> str:
    """Return what became of a point, in two words at most."""
    if row["status"] != "ok":
        return str(row["status"])
    if row.get("stable") is False:
        return "unstable"
    return "SLO met" if row["slo_met"] else "SLO missed"


def common(described: Mapping[str, Any]) -> Common:
    """Return what run.json says that points have in common; nothing where it says nothing.

    It may come from anyone, and only what has the form of settings is taken.
    """
    sweep = _mapping(described.get("sweep"))
    found: Common = {}
    families = sweep.get("families")
    for family in families if isinstance(families, list) else []:
        known = _mapping(family)
        settings = {**_mapping(sweep.get("set")), **_mapping(known.get("set"))}
        found.setdefault(str(known.get("family")), {})[str(known.get("base"))] = settings
    return found


def contexts(rows: Sequence[Row], common: Common) -> list[str]:
    """Return for each row the lengths of its requests in words, as far as the sweep sets them."""
    found = [dict(_lengths(row, common)) for row in rows]
    names = short_names(list(dict.fromkeys(path for each in found for path in each)))
    told = [
        ", ".join(said(path, value, names[path]) for path, value in each.items()) for each in found
    ]
    return [each or _AS_IN_SCENARIO for each in told]


def _lengths(row: Row, common: Common) -> Iterator[tuple[str, Any]]:
    settings = dict(common.get(row["family"], {}).get(str(row.get("base")), {}))
    settings |= {
        name.removeprefix(SETTING): from_table(value)
        for name, value in row.items()
        if name.startswith(SETTING) and value is not None
    }
    for path, value in settings.items():
        if path.startswith(_CONTEXT):
            yield from leaves(path, value)


def _policies(rows: Sequence[Row]) -> list[str]:
    """Return the labels of rows whatever their load: what an operator decides once."""
    return labels([{n: v for n, v in row.items() if not n.startswith(_ARRIVALS)} for row in rows])


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _table_columns(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return what the table shows: which column under which head, and what it means."""
    meaning = {metric.name: metric.definition for metric in METRICS}
    heads = [pareto_figure.Shown(name, name) for name in ("family", "shape", "state", "reason")]
    for shown in pareto_figure.FIGURES:
        if shown.column not in _ONLY_IN_PANEL:
            heads.append(shown)
        if shown.column == "tgs":
            heads += _ENDS
    heads += [
        pareto_figure.Shown(name, ".".join(name.split(".")[-2:]).removeprefix(SETTING))
        for name in _columns(rows)
        if name.startswith(SETTING)
    ]
    known = {"state", *_columns(rows)}
    return [
        shown._asdict() | {"title": meaning.get(shown.column, shown.column)}
        for shown in heads
        if shown.column in known
    ]

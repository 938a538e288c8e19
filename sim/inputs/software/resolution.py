"""Which figures a scenario means that names a software profile.

`software: sglang` takes all figures of the profile; `{profile: sglang, KEY: …}` those that it does
not state itself. A figure stated with its source replaces the profile's, range and all. One without
(`--set software.KEY.value=30`) changes what it states, and its source says from what. The profile's
share of memory holds where the scenario has none.
"""

from __future__ import annotations

from typing import Any

from sim.foundation.errors import SimError
from sim.inputs import cards
from sim.inputs.documents.document import Document
from sim.inputs.software.figures import Software

_NONE = {"value": 0.0, "source": "the profile cannot be read"}
_STAND_IN = {
    "glue_us_per_layer": _NONE,
    "host_gap_us_per_step": _NONE,
    "overlap_slowdown": _NONE | {"value": 1.0},
}
"""Figures beside which the rest of a scenario is checked when its profile is wrong."""


def write_out(document: Document) -> list[str]:
    """Replace the profile that a scenario names by its figures. Return what is wrong with it."""
    told = document.get(("software",))
    if isinstance(told, str):
        told = {"profile": told}
    if not isinstance(told, dict) or not isinstance(told.get("profile"), str):
        return []
    problems: list[str] = []
    figures: dict[str, Any] = _STAND_IN
    try:
        figures = _figures(told["profile"])
    except SimError as error:
        loc = ("software", "profile")
        problems = [document.problem(loc, line) for line in str(error).splitlines()]
    figures = _changed(figures, told)
    document.data = document.data | {"software": figures}
    memory, share = document.get(("memory",)), figures.get("utilisation")
    if isinstance(memory, dict) and isinstance(share, dict):
        document.data["memory"] = {"utilisation": share.get("value")} | memory
    return problems


def stated(software: Software) -> dict[str, Any]:
    """Return software as a scenario states it: its profile and what differs from that."""
    figures = software.model_dump()
    known = {} if software.profile is None else _figures(software.profile)
    return {key: figure for key, figure in figures.items() if known.get(key, ...) != figure}


def _figures(profile: str) -> dict[str, Any]:
    return cards.software(profile).model_dump(exclude={"kind", "name", "description"})


def _changed(known: Any, stated: Any) -> Any:
    """Return a figure, or a mapping of figures, with what is stated about it."""
    if not isinstance(known, dict) or not isinstance(stated, dict) or "source" in stated:
        return stated
    if "source" in known and "value" in stated:
        return {"source": f"changed from {known['value']:g}: {known['source']}"} | stated
    return known | {key: _changed(known.get(key), value) for key, value in stated.items()}

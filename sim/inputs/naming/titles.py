"""Titles: names and descriptions that say what was overwritten with `--set`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from sim.foundation.errors import SimError
from sim.inputs import cards
from sim.inputs.documents.document import Document
from sim.inputs.documents.places import loc_of
from sim.inputs.naming import MOST_CHARACTERS
from sim.inputs.naming.settings import said, short_names

# What changes no deployment and no load, or is the title itself.
_UNTOLD = ("name", "description", "simulation", "prices", "doubt")


def in_shape_of(title: str, base: str) -> str:
    """Return the description of a scenario that runs another model than its base."""
    return f"{title} in the shape of {base}"


def of_scenario(document: Document, before: Document, overrides: Iterable[str]) -> None:
    """Let name and description of a scenario say what `path=value` overrides changed in it.

    The name tells another model, since files are named after it, and the description the rest. A
    name or description that is overwritten itself stays.
    """
    paths = [text.partition("=")[0].strip() for text in overrides]
    changed = {path: document.get(loc_of(path)) for path in paths}
    changed = {path: now for path, now in changed.items() if now != before.get(loc_of(path))}
    name, description = before.get(("name",)), before.get(("description",)) or ""
    if not (isinstance(name, str) and isinstance(description, str)):
        return
    model = changed.pop("model", None)
    told = {"name": name, "description": description}
    if (title := _title(model)) is not None:
        told = {"name": _with_model(name, str(model)), "description": in_shape_of(title, name)}
    told["description"] = _with(told["description"], changed)
    document.data = document.data | {k: text for k, text in told.items() if k not in paths}


def of_many(name: str, description: str, overrides: Iterable[str]) -> tuple[str, str]:
    """Return name and description of a sweep or study, with what overrides set for all points."""
    pairs = (text.partition("=") for text in overrides)
    settings = {path.strip(): _plain(value.strip()) for path, _, value in pairs}
    model = settings.get("model")
    return name if model is None else _with_model(name, str(model)), _with(description, settings)


def _with_model(name: str, model: str) -> str:
    longer = f"{name} with {PurePath(model).name.removesuffix('.yaml')}"
    return longer if len(longer) <= MOST_CHARACTERS else name


def _with(description: str, settings: Mapping[str, Any]) -> str:
    told = {path: v for path, v in settings.items() if path.split(".")[0] not in _UNTOLD}
    names = short_names(told)
    words = ", ".join(said(path, value, names[path]) for path, value in told.items())
    return "; with ".join(filter(None, (description, words)))


def _plain(text: str) -> Any:
    """Return a number or null as a value, all else as it is written."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _title(model: Any) -> str | None:
    """Return the title of a model, None if there is no such card: that is told elsewhere."""
    try:
        return None if model is None else cards.model(str(model)).title
    except SimError:
        return None

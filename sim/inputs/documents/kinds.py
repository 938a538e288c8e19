"""Kinds of files: what a YAML file is, so that one of another kind is told in a line."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

# What files say of their kind; a scenario says nothing.
_KINDS = {
    "accelerator": "an accelerator card",
    "fabric": "a fabric card",
    "software": "a software profile",
    "model": "a model card",
    "sweep": "a sweep, for afdsim sweep",
    "study": "a study, for afdsim study",
}
_SCENARIO = "a scenario, for afdsim run"


def other_kind(data: Any, model: type[BaseModel]) -> str:
    """Return what a file is if it is of another kind than `model`; empty if it is not known to be.

    Its keys would all be wrong, and tell nobody why.
    """
    if not isinstance(data, dict):
        return ""
    field = model.model_fields.get("kind")
    wanted = _KINDS[get_args(field.annotation)[0]] if field is not None else _SCENARIO
    kind = data.get("kind")
    found = _KINDS.get(kind, "") if isinstance(kind, str) else ""
    if "kind" not in data and "deployment" in data:
        found = _SCENARIO
    return f"this file is {found}; expected {wanted}" if found not in ("", wanted) else ""

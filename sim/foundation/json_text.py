"""JSON text: the one way to it. JSON has no NaN and no infinity, so none is ever written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sim.foundation.errors import ImpossibleFigureError


def dumps(value: object, **form: Any) -> str:
    """Return `value` as JSON, formatted as `json.dumps` does.

    Raises ImpossibleFigureError naming a number that is not finite.
    """
    try:
        return json.dumps(value, allow_nan=False, **form)
    except ValueError:
        check(value)
        raise


class Frozen(dict[str, Any]):
    """Plain data that is never changed, so that its canonical text is made once."""

    @cached_property
    def canonical(self) -> str:
        return _canonical(self)

    def __reduce__(self) -> tuple[type[Frozen], tuple[dict[str, Any]]]:
        return Frozen, (dict(self),)


def canonical(data: object) -> str:
    """Return plain data as the one JSON text that equal data have."""
    if isinstance(data, Frozen):
        return data.canonical
    if isinstance(data, dict) and any(isinstance(each, dict) for each in data.values()):
        items = (f"{_canonical(key)}:{canonical(data[key])}" for key in sorted(data))
        return f"{{{','.join(items)}}}"
    if isinstance(data, list):
        return f"[{','.join(map(canonical, data))}]"
    return _canonical(data)


def _canonical(data: object) -> str:
    return dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def check(value: object) -> None:
    """Raise ImpossibleFigureError naming the first number of plain data that is not finite."""
    name = _not_finite(value, "")
    if name is not None:
        raise ImpossibleFigureError(f"{name} is not finite: this is a bug of afdsim")


def without_nan(value: Any) -> Any:
    """Return plain data with None for what is unknown (NaN)."""
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _not_finite(value: object, path: str) -> str | None:
    """Return the path of the first number that is not finite, None if there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return path or "a figure"
    parts: list[tuple[object, object]] = []
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    found = (_not_finite(each, f"{path}.{key}" if path else str(key)) for key, each in parts)
    return next((name for name in found if name is not None), None)

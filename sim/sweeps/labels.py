"""Swept values in words: what tells the points of a sweep from one another, beside their shape."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.foundation import json_text
from sim.foundation.printable import excerpt
from sim.sweeps.points import SETTING, Row

# The shape of a point tells them: 2A4F, EP64.
_IN_SHAPE = ("deployment.attention.instances", "deployment.ffn.instances", "deployment.gpus")
_LONGEST = 40


def differences(rows: Sequence[Row]) -> list[str]:
    """Return for each row the swept values that differ among all rows: `overlap none`.

    Of a mapping, only what differs in it is told. Empty where the shape tells all. A family without
    the axis says nothing of it.
    """
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(SETTING))
    swept = {(row["family"], name) for row in rows for name in names if row.get(name) is not None}
    settings = [
        {
            name: list(_leaves(name.removeprefix(SETTING), _plain(row.get(name))))
            for name in names
            if (row["family"], name) in swept
        }
        for row in rows
    ]
    found: dict[str, Counter[tuple[str, str]]] = {}
    for each in settings:
        for name, leaves in each.items():
            found.setdefault(name, Counter()).update(leaves)
    differing = []
    for name, counted in found.items():
        points = sum(name in each for each in settings)
        # A value that every point with this setting has tells none of them apart.
        told = dict.fromkeys(path for (path, _), count in counted.items() if count < points)
        differing += [path for path in told if path not in _IN_SHAPE]
    words = _words(differing)
    return [
        ", ".join(
            f"{words[path]} {text}"
            for leaves in each.values()
            for path, text in leaves
            if path in words
        )
        for each in settings
    ]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    else:
        yield path, _text(value)


def _plain(value: Any) -> Any:
    """Return a mapping that a table holds as JSON text."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,.6g}"
    return excerpt(value if isinstance(value, str) else json_text.dumps(value), _LONGEST)


def _words(paths: Sequence[str]) -> dict[str, str]:
    """Return paths in words, each as short as it can be told from the others by."""
    found = {}
    for path in paths:
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            end = parts[-count:]
            if sum(other.split(".")[-count:] == end for other in paths) == 1:
                break
        found[path] = " ".join(end).replace("_", " ")
    return found

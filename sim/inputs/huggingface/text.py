"""A card as YAML, each figure with the key that it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from sim.foundation import json_text
from sim.foundation.printable import printable
from sim.inputs.huggingface.file import Fields, Keyed
from sim.inputs.huggingface.layers import repeated

_PLAIN_WORD = re.compile(r"[A-Za-z_][\w./+-]*( [\w./+-]+)*")
# Words that YAML reads as something else than text.
_NO_TEXT = re.compile(r"(?i)(true|false|yes|no|on|off|null|nan|inf)")


def written(value: Any) -> str:
    """Return a value as YAML."""
    if isinstance(value, str):
        plain = _PLAIN_WORD.fullmatch(value) and not _NO_TEXT.fullmatch(value)
        return value if plain else json_text.dumps(value, ensure_ascii=False)
    return "true" if value is True else "false" if value is False else str(value)


def comments(told: Iterable[str]) -> Iterator[str]:
    for each in told:
        yield f"# {printable(each)}"


def mapping(fields: Fields, indent: int) -> Iterator[str]:
    """Yield the lines of a mapping, the origin of each figure behind it."""
    space = " " * indent
    for name, value in fields.items():
        if isinstance(value, dict):
            yield f"{space}{name}:"
            yield from mapping(value, indent + 2)
        elif isinstance(value, Keyed):
            told = "" if name == "kind" or not value.origin else f" # {printable(value.origin)}"
            yield f"{space}{name}: {written(value.value)}{told}"
        else:
            yield f"{space}{name}: {written(value)}"


def layers(order: list[tuple[str, str | None]]) -> Iterator[str]:
    """Yield the lines of the layers, as patterns that repeat."""
    yield "layers:"
    for times, pattern in repeated(order):
        yield f"  - repeat: {times}"
        each = [
            f"{{attention: {attention}}}"
            if ffn is None
            else f"{{attention: {attention}, ffn: {ffn}}}"
            for attention, ffn in pattern
        ]
        if len(each) == 1:
            yield f"    pattern: [{each[0]}]"
            continue
        yield "    pattern:"
        yield from (f"      - {one}" for one in each)


def source(origin: str, fields: Fields) -> str:
    """Return where the figures of a part were read: the file and its keys."""
    keys = dict.fromkeys(_keys(fields))
    return f"{origin}: {', '.join(keys)}" if keys else origin


def _keys(fields: Fields) -> Iterator[str]:
    for value in fields.values():
        if isinstance(value, dict):
            yield from _keys(value)
        elif isinstance(value, Keyed):
            yield from value.keys

"""Scalars: what a plain word of a YAML file is, and how one that is no number should be written.

Plain scalars are those of the core schema of YAML 1.2, so that `5.3e12` is a number and `no` a
text. What YAML 1.1 reads as another number than YAML 1.2 (`010`, `1_000`, `1:30`) is text, and
refused with a remedy where a number is due.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

_Base: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
# What a plain scalar is, by its first character; all else is text.
_PLAIN = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
    (_INT, r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        _FLOAT,
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?")
_OCTAL = re.compile(r"[-+]?0[0-7]+")
_TRUTHS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


class Loader(_Base):  # type: ignore[misc]
    """PyYAML with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own form)


def _whole(_loader: Any, node: yaml.ScalarNode) -> int:
    return int(node.value, 16 if node.value.startswith("0x") else 10)


def _real(_loader: Any, node: yaml.ScalarNode) -> int | float:
    """Return a number with a point or an exponent; `1e6` is whole, as a count may be written."""
    text = node.value.lower()
    value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    is_whole = "." not in text and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


for _tag, _pattern, _first in _PLAIN:
    Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
Loader.add_constructor(_INT, _whole)
Loader.add_constructor(_FLOAT, _real)


def how_to_write(text: str, kind: str) -> str:
    """Return how the number or truth value that a text seems to mean is written."""
    if kind == "bool_type":
        meant = _TRUTHS.get(text.lower(), text.lower())
        return f"; YAML reads {text} as text, write {meant}" if meant in _TRUTHS.values() else ""
    if _SEXAGESIMAL.fullmatch(text):
        return f"; YAML reads {text} as text, write the number in decimal digits"
    try:
        value = float(int(text, 0)) if text[:2].lower() in ("0o", "0b") else float(text)
    except (ValueError, OverflowError):
        return ""
    if not math.isfinite(value) or (kind == "int_type" and not value.is_integer()):
        return ""
    shown = int(value) if value.is_integer() and abs(value) < 2**53 else repr(value)
    octal = f" (or {int(text, 8)}, if octal is meant)" if _OCTAL.fullmatch(text) else ""
    return f"; YAML reads {text} as text, write {shown}{octal}"

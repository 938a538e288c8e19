"""Scenario page: docs/scenario.md, written from the schema by `python -m sim.cli.reference`."""

from __future__ import annotations

import sys
from typing import Any

from sim.inputs import cards
from sim.inputs.scenario import Scenario
from sim.sweeps.sweep import Sweep

_HEAD = """# Scenario and sweep files

Written by `python -m sim.cli.reference > docs/scenario.md` from the schema; do not edit by hand.

A scenario is one YAML file. afdsim checks every key and reports all mistakes at once: unknown,
duplicate and missing keys, and numbers out of bounds. The name or the meaning of a key states its
unit. afdsim looks for a card in the working directory first, then among the packaged cards; a name
with a slash or a suffix is a path. `--set path=value` overwrites a value, for example
`--set workload.arrivals.concurrency=4608`. `afdsim schema` prints this page as a JSON Schema for
editors. [physics.md](physics.md) and [design.md](design.md) say what the values do.

A name has 1 to 200 printable characters. It does not begin with `/` and has no part `.` or `..`. In
the name of a directory of results, signs other than `_ . + -` become a dash. A family, a side and a
value of a dimension may be any text on one line.

A file has at most 2 MiB, and at most 100,000 values with its aliases written out. An axis has at
most 100,000 values, a sweep 10,000 points (`max_points` raises this), and a study 1,000,000 shapes
(`max_shapes` raises this).
"""

_AXIS = """Written as a mapping of dotted paths to a list of values, to `{from: 1, to: 8, step: 1}`
or to `{from: 1, to: 64, logspace: 7}` (7 values evenly spaced in the logarithm). A range includes
both ends. Between whole ends the values are whole, without repeats."""
_SIGNS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}
_WORDS = {"string": "text", "object": "mapping of dotted paths", None: "any"}


def _definitions(node: dict[str, Any]) -> list[str]:
    nodes = [node, *node.get("oneOf", []), *node.get("anyOf", []), node.get("items", {})]
    return [each["$ref"].rsplit("/", 1)[-1] for each in nodes if "$ref" in each]


def _type(node: dict[str, Any]) -> str:
    if names := _definitions(node):
        links = " or ".join(f"[{name}](#{name.lower()})" for name in names)
        return f"list of {links}" if "items" in node else links
    if "const" in node or "enum" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if "anyOf" in node:
        return _type(node["anyOf"][0])
    if "properties" in node:
        return f"`{{value, low, high, source}}`; value is a {_type(node['properties']['value'])}"
    bounds = [f" {sign} {node[key]:g}" for key, sign in _SIGNS.items() if key in node]
    if "items" in node:
        return f"list of {_type(node['items'])}"
    if isinstance(inner := node.get("additionalProperties"), dict):
        return f"mapping to {_type(inner)}"
    return _WORDS.get(node.get("type"), str(node.get("type"))) + ",".join(bounds)


def _table(node: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, value in node["properties"].items():
        default = f"`{value.get('default')}`" if value.get("default") else "none"
        shown = "required" if key in node.get("required", []) else default
        about = [definitions[name]["description"] for name in _definitions(value)[:1]]
        text = value.get("description") or ("" if "oneOf" in value else " ".join(about))
        lines.append(f"| `{key}` | {_type(value)} | {shown} | {' '.join(text.split())} |")
    return lines


def _sections(schema: dict[str, Any]) -> list[str]:
    definitions, places = schema["$defs"], dict[str, dict[str, None]]()

    def walk(node: dict[str, Any], path: str) -> None:
        for key, value in node.get("properties", {}).items():
            place = f"{path}{key}[]" if "items" in value else f"{path}{key}"
            for name in _definitions(value):
                places.setdefault(name, {})[f"`{place}`"] = None
                walk(definitions[name], f"{place}.")

    walk(schema, "")
    lines = [f"## {schema['title']}", "", schema["description"], "", *_table(schema, definitions)]
    for name, used in places.items():
        node = definitions[name]
        lines += ["", f"### {name}", "", f"{', '.join(used)}: {node['description']}", ""]
        lines += [_AXIS] if name == "Axis" else _table(node, definitions)
    return [*lines, ""]


def markdown() -> str:
    lines = [_HEAD]
    for folder, name in ((cards.SCENARIOS, "step3-2a2f"), (cards.SWEEPS, "afd-ratio")):
        text = (cards.packaged(folder) / f"{name}.yaml").read_text(encoding="utf-8")
        lines += [f"Example, `{folder}/{name}.yaml`:", "", f"```yaml\n{text}```", ""]
    lines += [*_sections(Scenario.model_json_schema()), *_sections(Sweep.model_json_schema())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())

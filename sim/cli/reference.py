"""Reference pages, written from the schemas by `python -m sim.cli.reference PAGE`.

PAGE is scenario (docs/scenario.md, the default), model (docs/model-card.md) or hardware
(docs/hardware-card.md).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from sim.foundation.printable import excerpt
from sim.inputs import cards
from sim.inputs.documents.document import read
from sim.inputs.hardware import Accelerator, Fabric
from sim.inputs.model import ModelCard
from sim.inputs.scenario import Scenario
from sim.inputs.sourced import plain
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

_MODEL = """# Model cards

Written by `python -m sim.cli.reference model > docs/model-card.md` from the schema; do not edit by
hand.

A model card is one YAML file, `scenarios/models/NAME.yaml` in the working directory or among the
packaged cards. `afdsim models import PATH` writes one from a Hugging Face `config.json`,
`afdsim models show NAME` prints one, `afdsim schema model` prints this page as a JSON Schema for
editors, and `afdsim coverage NAME CARD` says which of its kernels were measured.

Widths are in elements, counts have no unit; other units stand in the name or the meaning of a key.
Every block names its source. Examples are values of shipped cards; keys without one stand in none.
"""
_HARDWARE = """# Hardware cards

Written by `python -m sim.cli.reference hardware > docs/hardware-card.md` from the schema; do not
edit by hand.

A hardware card is one YAML file, `hardware/NAME.yaml` for an accelerator and
`hardware/fabrics/NAME.yaml` for a fabric, in the working directory or among the packaged cards.
Every figure is a mapping of `value`, `source` and, where sources leave a range, `low` and `high`. A
figure without a source is refused, and so is one that is likely in another unit.
`afdsim hardware show NAME` prints a card with what is calibrated on it. Prices need not stand on a
card ([prices.md](prices.md)). Examples are values of shipped cards, without their sources.
"""

_AXIS = """Written as a mapping of dotted paths to a list of values, to `{from: 1, to: 8, step: 1}`
or to `{from: 1, to: 64, logspace: 7}` (7 values evenly spaced in the logarithm). A range includes
both ends. Between whole ends the values are whole, without repeats."""
Examples = dict[tuple[str, str], str]
"""A value by definition and key, as YAML has it."""
_LONGEST_EXAMPLE = 40
_SIGNS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}
_WORDS = {"string": "text", "object": "mapping of dotted paths", None: "any"}


def _definitions(node: dict[str, Any]) -> list[str]:
    if "$ref" in node:
        return [node["$ref"].rsplit("/", 1)[-1]]
    inner = [*node.get("oneOf", []), *node.get("anyOf", [])]
    inner += [each for each in (node.get("items"), _values(node)) if each is not None]
    return [name for each in inner for name in _definitions(each)]


def _values(node: dict[str, Any]) -> dict[str, Any] | None:
    """Return what describes the values of a mapping under names of its own; None: it is none."""
    options = [node, *node.get("anyOf", [])]
    found = (each.get("additionalProperties") for each in options)
    return next((each for each in found if isinstance(each, dict)), None)


def _type(node: dict[str, Any]) -> str:
    if (values := _values(node)) is not None:
        return f"mapping to {_type(values)}"
    if names := _definitions(node):
        links = " or ".join(f"[{name}](#{name.lower()})" for name in names)
        return f"list of {links}" if "items" in node else links
    if "const" in node or "enum" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if "anyOf" in node:
        return _type(node["anyOf"][0])
    if "properties" in node:
        value = node["properties"]["value"]
        unit = f" {value['description']}" if "description" in value else ""
        return f"`{{value, low, high, source}}`; value is a {_type(value)}{unit}"
    bounds = [f" {sign} {node[key]:g}" for key, sign in _SIGNS.items() if key in node]
    if "items" in node:
        return f"list of {_type(node['items'])}"
    return _WORDS.get(node.get("type"), str(node.get("type"))) + ",".join(bounds)


def _table(
    name: str, node: dict[str, Any], definitions: dict[str, Any], examples: Examples
) -> list[str]:
    """Return the keys of a definition; with examples, if there are any at all."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    if examples:
        lines = ["| key | type | default | meaning | example |", "|---|---|---|---|---|"]
    for key, value in node["properties"].items():
        default = f"`{value.get('default')}`" if value.get("default") else "none"
        shown = "required" if key in node.get("required", []) else default
        about = [definitions[name]["description"] for name in _definitions(value)[:1]]
        text = value.get("description") or ("" if "oneOf" in value else " ".join(about))
        if key == "kind" and not text:
            text = "Says which section describes the rest."
        example = f" {examples.get((name, key), '')} |" if examples else ""
        lines.append(f"| `{key}` | {_type(value)} | {shown} | {' '.join(text.split())} |{example}")
    return lines


def _sections(schema: dict[str, Any], examples: Examples) -> list[str]:
    definitions, places = schema.get("$defs", {}), dict[str, dict[str, None]]()

    def walk(node: dict[str, Any], path: str) -> None:
        for key, value in node.get("properties", {}).items():
            place = f"{path}{key}[]" if "items" in value else f"{path}{key}"
            place += "" if _values(value) is None else ".NAME"
            for name in _definitions(value):
                places.setdefault(name, {})[f"`{place}`"] = None
                walk(definitions[name], f"{place}.")

    walk(schema, "")
    title = schema["title"]
    lines = [f"## {title}", "", schema["description"], ""]
    lines += _table(title, schema, definitions, examples)
    for name, used in places.items():
        node = definitions[name]
        lines += ["", f"### {name}", "", f"{', '.join(used)}: {node['description']}", ""]
        lines += [_AXIS] if name == "Axis" else _table(name, node, definitions, examples)
    return [*lines, ""]


def _examples(schema: dict[str, Any], documents: Iterable[Any]) -> Examples:
    """Return the first value that documents of a schema have for each key of each definition."""
    definitions = schema.get("$defs", {})
    found: Examples = {}

    def walk(node: dict[str, Any], data: Any, name: str = "") -> None:
        node, name = _resolved(node, data, definitions, name)
        if isinstance(data, list):
            for each in data:
                walk(node.get("items", {}), each)
        elif isinstance(data, dict):
            for key, value in data.items():
                inner = node.get("properties", {}).get(key) or node.get("additionalProperties")
                if not isinstance(inner, dict):
                    continue
                if example := _example(value):
                    found.setdefault((name, key), example)
                walk(inner, value)

    for document in documents:
        walk(schema, document, schema["title"])
    return found


def _example(value: Any) -> str:
    """Return a value as YAML has it; nothing for a block, and of a figure the number alone."""
    number = value.get("value") if isinstance(value, dict) else value
    if isinstance(number, float):
        return f"`{plain(number)}`"
    if isinstance(number, str):
        number = excerpt(number, _LONGEST_EXAMPLE)
    known = isinstance(number, str | int)
    return f"`{json.dumps(number, ensure_ascii=False)}`" if known else ""


def _resolved(
    node: dict[str, Any], data: Any, definitions: dict[str, Any], name: str
) -> tuple[dict[str, Any], str]:
    """Return the definition that describes `data`, and its name."""
    if "discriminator" in node and isinstance(data, dict):
        node = {"$ref": node["discriminator"]["mapping"][data["kind"]]}
    for option in node.get("anyOf", []):
        if option.get("type") != "null":
            return _resolved(option, data, definitions, name)
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        return definitions[name], name
    return node, name


def _card(name: str, folder: str) -> list[str]:
    text = (cards.packaged(folder) / f"{name}.yaml").read_text(encoding="utf-8")
    return [f"Example, `{folder}/{name}.yaml`:", "", f"```yaml\n{text}```", ""]


def _shipped(folder: str, first: str) -> list[Any]:
    """Return the cards of a folder as plain data, `first` one before the others."""
    paths = sorted(cards.packaged(folder).glob("*.yaml"), key=lambda path: path.stem != first)
    return [read(path).data for path in paths]


def scenario_page() -> str:
    lines = [_HEAD]
    for folder, name in ((cards.SCENARIOS, "step3-2a2f"), (cards.SWEEPS, "afd-ratio")):
        lines += _card(name, folder)
    lines += [
        *_sections(Scenario.model_json_schema(), {}),
        *_sections(Sweep.model_json_schema(), {}),
    ]
    return "\n".join(lines)


def model_page() -> str:
    schema, shipped = ModelCard.model_json_schema(), _shipped(cards.MODELS, "step3")
    return "\n".join(
        [_MODEL, *_card("step3", cards.MODELS), *_sections(schema, _examples(schema, shipped))]
    )


def hardware_page() -> str:
    lines = [_HARDWARE, *_card("h800", cards.ACCELERATORS)]
    for kind, folder, first in (
        (Accelerator, cards.ACCELERATORS, "h800"),
        (Fabric, cards.FABRICS, "rdma"),
    ):
        schema = kind.model_json_schema()
        lines += _sections(schema, _examples(schema, _shipped(folder, first)))
    return "\n".join(lines)


PAGES = {"scenario": scenario_page, "model": model_page, "hardware": hardware_page}


if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1] if len(sys.argv) > 1 else "scenario"]())

"""YAML with a memory of where every value stood, so that each mistake names file, line, column.

`read` parses, refuses duplicate keys, and keeps marks; `Document.validate` turns the tree into a
pydantic model and reports *all* mistakes of the file at once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sim.foundation.errors import ScenarioError, did_you_mean
from sim.foundation.printable import excerpt
from sim.foundation.reading import read_text
from sim.inputs.documents import limits
from sim.inputs.documents.kinds import other_kind
from sim.inputs.documents.mistakes import expected, in_words
from sim.inputs.documents.places import SHORT, loc_of, replaced_by
from sim.inputs.documents.places import Loc as Loc
from sim.inputs.documents.scalars import Loader, how_to_write

Model = TypeVar("Model", bound=BaseModel)

MOST_BYTES = 2 << 20

_TOO_DEEP = "the YAML is nested too deep or refers to itself"
# What PyYAML raises for a scalar that is not what its tag says: !!float x, !!bool x, !!int ''.
_BAD_SCALARS = (ValueError, LookupError, AttributeError)


class Document:
    """A parsed YAML file: `data` (plain Python values) and the place of every value in it."""

    def __init__(self, name: str, data: Any = None) -> None:
        self.name = name
        self.data = data
        self.problems: list[str] = []
        self._places: dict[Loc, str] = {}
        self._overwritten: dict[Loc, str] = {}

    def place(self, loc: Loc) -> str:
        """Return `file:line:col` of the value at `loc`, or of its nearest known parent."""
        while loc not in self._places and loc:
            loc = loc[:-1]
        return self._places.get(loc, f"{self.name}:1:1")

    def problem(self, loc: Loc, message: str) -> str:
        """Return `file:line:col: path: message` for the value at `loc`."""
        path = _dotted(loc)
        return f"{self.place(loc)}: {path}: {message}" if path else f"{self.place(loc)}: {message}"

    def problem_together(self, loc: Loc, message: str) -> str:
        """Return the same for values under `loc` that do not go together.

        Those that were set are the ones to look at.
        """
        found = [o for at, o in self._overwritten.items() if at[: len(loc)] == loc]
        places = ", ".join(dict.fromkeys(found)) or self.place(loc)
        path = [_dotted(loc)] if loc else []
        return ": ".join([places, *path, message])

    def get(self, loc: Loc) -> Any:
        node = self.data
        for part in loc:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                return None
        return node

    def set(self, assignment: str) -> None:
        """Overwrite one value with `path=value` (value in YAML), as `--set` does.

        Raises ScenarioError if the text is not an assignment to a place in the tree.
        """
        path, equals, text = assignment.partition("=")
        parts = loc_of(path.strip())
        origin = f"--set {excerpt(path.strip())}"
        if not equals or "" in parts:
            shown = excerpt(assignment)
            raise ScenarioError(f"--set {shown}: write path=value, e.g. simulation.seed=3")
        value = _parse(text, origin)
        if value.problems:
            raise ScenarioError(value.problems)
        self.put(parts, value.data, origin)

    def put(self, loc: Loc, value: Any, origin: str) -> None:
        """Overwrite the value at `loc`; later mistakes in it are reported at `origin`.

        What holds the value is copied, since other documents may share it.
        """
        node, made = copy.copy(self.data), list[Loc]()
        self.data = node
        for depth, part in enumerate(loc):
            last = depth == len(loc) - 1
            if isinstance(node, list) and isinstance(part, int) and part < len(node):
                child = node[part]
            elif isinstance(node, dict) and isinstance(part, str):
                child = node.get(part)
            else:
                where = _dotted(loc[: depth + 1])
                raise ScenarioError(f"{origin}: there is no {where} to set")
            if not last and isinstance(child, str) and loc[: depth + 1] in SHORT:
                child = node[part] = {SHORT[loc[: depth + 1]]: child}
            if not last and child is None:
                child = node[part] = {}
                made.append(loc[: depth + 1])
            node[part] = value if last else copy.copy(child)
            node = child if last else node[part]
        if isinstance(node, dict | list):  # what was there, whose parts have places
            self._places = {
                known: place for known, place in self._places.items() if known[: len(loc)] != loc
            }
        self._places |= dict.fromkeys([*made, loc], origin)
        self._overwritten[loc] = origin
        for this, other in replaced_by(loc):
            if self.get(this) is not None:
                self._leave_out(other)

    def _leave_out(self, loc: Loc) -> None:
        """Leave out the value at `loc`, if there is one, of this document alone."""
        if self.get(loc) is None:
            return
        node = self.data = copy.copy(self.data)
        for part in loc[:-1]:
            node[part] = copy.copy(node[part])
            node = node[part]
        del node[loc[-1]]

    def changed(
        self, settings: Mapping[str, Any], origin: str, overrides: Iterable[str] = ()
    ) -> Document:
        """Return a copy with values by dotted path, named as of `origin`, then `--set` texts.

        It shares with this what stays as it is. Raises ScenarioError if a path leads nowhere.
        """
        result = copy.copy(self)
        result.problems = list(self.problems)
        result._places, result._overwritten = dict(self._places), dict(self._overwritten)
        for path, value in settings.items():
            told = f"{origin}: {excerpt(path)}={excerpt(str(value))}"
            result.put(loc_of(path), value, told)
        for assignment in overrides:
            result.set(assignment)
        return result

    def validate(self, model: type[Model], known: Mapping[str, Any] = {}) -> Model:
        """Return `model` filled from this document.

        Fields that are `known` were validated before. Raises ScenarioError with every mistake,
        duplicate keys included.
        """
        problems = list(self.problems)
        stranger = other_kind(self.data, model)
        if stranger:
            raise ScenarioError([*problems, self.problem(("kind",), stranger)])
        try:
            result = model.model_validate({**self.data, **known} if known else self.data)
        except ValidationError as error:
            problems += [self._explain(dict(item), model) for item in error.errors()]
        if problems:
            raise ScenarioError(problems)
        return result

    def _explain(self, item: dict[str, Any], model: type[BaseModel]) -> str:
        loc, kind, got = item["loc"], item["type"], item.get("input")
        known = self._known_loc(loc)
        ctx = item.get("ctx", {})
        if kind == "extra_forbidden":
            remedy = did_you_mean(loc[-1], _keys_at(model.model_json_schema(), loc[:-1]))
            return self.problem(known, f"unknown key; {remedy}")
        if kind == "missing":
            return self.problem((*known, loc[-1]), "missing; add this key")
        if kind == "value_error":
            return self.problem_together(known, str(ctx["error"]))
        if kind == "union_tag_invalid":
            tags = [tag.strip(" '") for tag in str(ctx["expected_tags"]).split(",")]
            field = str(ctx["discriminator"]).strip("'")
            remedy = did_you_mean(ctx["tag"], tags)
            return self.problem((*known, field), f"unknown kind (got {ctx['tag']!r}); {remedy}")
        if kind == "union_tag_not_found":
            field = str(ctx["discriminator"]).strip("'")
            return self.problem(known, f"missing key {field!r} that names the kind")
        message = expected(kind, ctx) or str(item["msg"]).replace("Input should be", "should be")
        if kind == "literal_error":
            options = [word.strip(" '") for word in ctx["expected"].replace(" or ", ",").split(",")]
            message = f"{message}; {did_you_mean(got, options)}"
        if isinstance(got, str) and kind in ("int_type", "float_type", "bool_type"):
            message += how_to_write(got, kind)
        return self.problem(known, f"{message} (got {_short(got)})")

    def _known_loc(self, loc: Loc) -> Loc:
        """Drop the parts that pydantic adds for union members, which stand in no file."""
        known: Loc = ()
        for part in loc:
            if self.get((*known, part)) is not None or (*known, part) in self._places:
                known = (*known, part)
        return known


def _dotted(loc: Loc) -> str:
    return ".".join(excerpt(str(part)) for part in loc)


def read(path: Path) -> Document:
    return parse(read_text(path, MOST_BYTES), str(path))


def parse(text: str, name: str) -> Document:
    """Return the document in `text`, reported as `name` in messages. Raises as `read` does."""
    document = _parse(text, name)
    if document.data is None:
        raise ScenarioError(f"{name}: the file is empty")
    if not isinstance(document.data, dict):
        raise ScenarioError(f"{name}:1:1: should be a mapping of keys to values")
    return document


def _parse(text: str, name: str) -> Document:
    """Return whatever value is in `text`. Raises ScenarioError if it is not YAML."""
    document = Document(name)
    try:
        loader = Loader(text)
        root = loader.get_single_node()
        if root is not None:
            limits.check(root)
            document.data = _construct(loader, root, (), document)
    except RecursionError:
        raise ScenarioError(f"{name}: {_TOO_DEEP}") from None
    except yaml.YAMLError as error:
        if limits.is_too_deep(text):
            raise ScenarioError(f"{name}: {_TOO_DEEP}") from None
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ScenarioError(f"{place}: not valid YAML: {in_words(error, text)}") from None
    return document


def _construct(loader: Any, node: yaml.Node, loc: Loc, document: Document) -> Any:
    mark = node.start_mark
    document._places.setdefault(loc, f"{document.name}:{mark.line + 1}:{mark.column + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*loc, i), document) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node)
    mapping: dict[Any, Any] = {}
    first_lines: dict[Any, int] = {}
    for key_node, value_node in node.value:
        place = f"{document.name}:{key_node.start_mark.line + 1}:{key_node.start_mark.column + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
            document.problems.append(f"{place}: a key should be plain text")
            continue
        key = _scalar(loader, key_node)
        if not isinstance(key, str):
            document.problems.append(
                f"{place}: a key should be text (got {_short(key)}); quote the key"
            )
            continue
        if key in mapping:
            path = _dotted((*loc, key))
            first = first_lines[key]
            document.problems.append(
                f"{place}: {path}: duplicate key, first at line {first}; keep one of them"
            )
            continue
        first_lines[key] = key_node.start_mark.line + 1
        document._places[(*loc, key)] = place
        mapping[key] = _construct(loader, value_node, (*loc, key), document)
    return mapping


def _scalar(loader: Any, node: yaml.Node) -> Any:
    limits.check_number(node)
    try:
        return loader.construct_object(node)
    except _BAD_SCALARS:
        kind = node.tag.rsplit(":", 1)[-1]
        reason = f"{_short(node.value)} is no {kind}"
        raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from None


def _keys_at(schema: dict[str, Any], loc: Loc) -> set[str]:
    """Return the keys that the JSON schema allows at `loc` (a pydantic error location)."""
    definitions = schema.get("$defs", {})
    nodes = [schema]
    for part in loc:
        nodes = [child for node in nodes for child in _children(node, part, definitions)]
    nodes += [option for node in nodes for option in node.get("anyOf", [])]
    return {key for node in nodes for key in _resolve(node, definitions).get("properties", {})}


def _resolve(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return definitions[reference.rsplit("/", 1)[-1]] if reference else node


def _children(
    node: dict[str, Any], part: str | int, definitions: dict[str, Any]
) -> list[dict[str, Any]]:
    node = _resolve(node, definitions)
    tagged = node.get("discriminator", {}).get("mapping", {})
    if part in tagged:
        return [{"$ref": tagged[part]}]
    if part in node.get("properties", {}):
        return [node["properties"][part]]
    if isinstance(part, int) and "items" in node:
        return [node["items"]]
    if isinstance(node.get("additionalProperties"), dict):
        return [node["additionalProperties"]]
    options = [option for key in ("anyOf", "oneOf") for option in node.get(key, [])]
    return [child for option in options for child in _children(option, part, definitions)]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""What a YAML document may hold, found before memory is taken for it.

An alias costs three characters and stands for all that it names: 400 bytes can be written out to
hundreds of millions of values.
"""

from __future__ import annotations

import re

import yaml

# A study of 64 cells has some 500 values, and points of a sweep are listed by ranges.
_MOST_VALUES = 100_000
_MOST_DEPTH = 40
_MOST_DIGITS = 1_000

_NO_STRUCTURE = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|#.*")
_INDENT = re.compile(r"(?:[ ]|[-?:](?=[ ]))*")
_LEVEL = re.compile(r"[^ ]")
_BRACKET = re.compile(r"[][{}]")


def check(root: yaml.Node) -> None:
    """Raise yaml.MarkedYAMLError where a document holds too much, RecursionError if too deep."""
    found = _count(root, {}, 0)
    if found > _MOST_VALUES:
        shown = f"{found:,}" if found < 10**15 else f"{found:.2g}"
        problem = (
            f"holds {shown} values once its aliases are written out, of {_MOST_VALUES:,} at most; "
            "write fewer aliases, or a range {from, to, step} for a long list"
        )
        raise yaml.MarkedYAMLError(None, None, problem, root.start_mark)


def is_too_deep(text: str) -> bool:
    """Return whether a text that the parser refused is nested deeper than `check` allows.

    Parsers have limits of their own, and words for them; what they refuse has no nodes to count.
    Brackets and indents are counted as they stand, quotes and comments aside.
    """
    depth, indents = 0, list[int]()
    for line in _NO_STRUCTURE.sub("", text).splitlines():
        indent = _INDENT.match(line)
        columns = [] if indent is None else [m.start() for m in _LEVEL.finditer(indent[0] + "x")]
        for column in columns:
            indents = [*(each for each in indents if each < column), column]
        for sign in _BRACKET.findall(line):
            depth += 1 if sign in "[{" else -1
            if depth + len(indents) > _MOST_DEPTH:
                return True
        if len(indents) > _MOST_DEPTH:
            return True
    return False


def check_number(node: yaml.Node) -> None:
    """Raise yaml.MarkedYAMLError for a number of more digits than any figure has."""
    if len(node.value) > _MOST_DIGITS and node.tag.endswith((":int", ":float")):
        problem = (
            f"a number of {len(node.value):,} digits, of {_MOST_DIGITS:,} at most; "
            "write fewer digits, or quote what is text"
        )
        raise yaml.MarkedYAMLError(None, None, problem, node.start_mark)


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return the values of a node and below; each node is counted once and remembered."""
    if depth > _MOST_DEPTH:
        raise RecursionError
    if id(node) not in known:
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_count(part, known, depth + 1) for part in below)
    return known[id(node)]

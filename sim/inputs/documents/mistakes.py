"""What is wrong with a text that is not YAML, or with a value in it, in words of our own.

Those of PyYAML and pydantic change from release to release. The remedy for what is not YAML
follows from where the parser stopped and what stands there.
"""

from __future__ import annotations

from typing import Any

import yaml

# What a value should be, by pydantic's type of mistake.
_EXPECTED = {
    "greater_than": "should be greater than {gt}",
    "greater_than_equal": "should be greater than or equal to {ge}",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be less than or equal to {le}",
    "finite_number": "should be a finite number",
    "int_type": "should be a valid integer",
    "int_from_float": "should be a valid integer",
    "float_type": "should be a valid number",
    "bool_type": "should be true or false",
    "string_type": "should be text",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping of keys to values",
    "model_type": "should be a mapping of keys to values",
    "model_attributes_type": "should be a mapping of keys to values",
    "string_too_short": "should have at least {min_length} character(s)",
    "string_too_long": "should have at most {max_length} character(s)",
    "too_short": "should have at least {min_length} item(s)",
    "too_long": "should have at most {max_length} item(s)",
    "literal_error": "should be {expected}",
}


def expected(kind: str, ctx: dict[str, Any]) -> str | None:
    """Return what a value should be; None for a type of mistake without words here."""
    words = _EXPECTED.get(kind)
    if words is None:
        return None
    return words.format(**{name: _bound(value) for name, value in ctx.items()})


def _bound(value: Any) -> Any:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return int(value) if whole else value


def in_words(error: yaml.YAMLError, text: str) -> str:
    """Return what is wrong, since which line, and the remedy where there is a usual one."""
    problem = getattr(error, "problem", None)
    if not problem:
        return _one_line(error)
    context, since = getattr(error, "context", None), getattr(error, "context_mark", None)
    told = f" ({context} since line {since.line + 1})" if since and context else ""
    remedy = _remedy(error, text.splitlines())
    return f"{_one_line(problem)}{told}{f'; {remedy}' if remedy else ''}"


def _remedy(error: yaml.YAMLError, lines: list[str]) -> str | None:
    mark, since = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    here, opened = _rest(mark, lines), _rest(since, lines)
    if "\t" in _indent(mark, lines) or here.startswith("\t"):
        return "indent with spaces"
    if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError):
        if opened.startswith(("'", '"')):
            return "close the quote"
        if opened.startswith(("[", "{")):
            return "close the bracket"
    if here.startswith("*"):
        return "quote a value that begins with *"
    if here.startswith(":"):
        return "check the indentation, or quote a value that holds a colon"
    if isinstance(error, yaml.parser.ParserError) and since is not None:
        return "indent all keys of a mapping equally"
    return None


def _rest(mark: yaml.Mark | None, lines: list[str]) -> str:
    """Return the rest of the line at a mark; empty past the end."""
    if mark is None or mark.line >= len(lines):
        return ""
    return lines[mark.line][mark.column :]


def _indent(mark: yaml.Mark | None, lines: list[str]) -> str:
    if mark is None or mark.line >= len(lines):
        return ""
    line = lines[mark.line]
    return line[: len(line) - len(line.lstrip())]


def _one_line(error: object) -> str:
    return " ".join(str(error).split())

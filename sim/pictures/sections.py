"""Sections of a page: a title, a sentence and a table, as HTML templates and Markdown show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Section(NamedTuple):
    title: str
    text: str
    head: list[str]
    rows: list[list[str]]


def markdown_lines(section: Section) -> Iterator[str]:
    """Yield the lines of a section in Markdown, an empty one first."""
    yield from ["", f"## {as_written(section.title)}", "", as_written(section.text), ""]
    yield from table_lines(section)


def table_lines(section: Section) -> Iterator[str]:
    """Yield the lines of its table alone."""
    yield _line(section.head)
    yield "|" + "---|" * len(section.head)
    yield from (_line(row) for row in section.rows)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(as_written(cell).replace("|", "\\|") for cell in cells) + " |"


def as_written(text: str) -> str:
    """Return text that Markdown shows as it is: no tags, no links."""
    return text.replace("<", "&lt;").replace("[", "\\[")

"""Parts of a launch file: options with the key that each comes from, and what is left out.

What comes from a scenario (names of models) may hold any printable sign. It reaches a file as a
quoted word, or as a comment on one line.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field

from sim.foundation.printable import printable


class InShell(str):
    """A value that the shell works out at launch, written between double quotes."""

    __slots__ = ()


Value = str | int | float | bool | None

_PLAIN = re.compile(r"-{0,2}[A-Za-z][A-Za-z0-9_./-]*")
_NOT_TEXT = ("true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf")


@dataclass(frozen=True)
class Option:
    """An option of an engine, or a variable of its environment."""

    name: str
    value: Value
    """None: a switch, which takes no value."""
    source: str
    """Keys of the scenario that it comes from, or the reason for it."""

    def word(self) -> str | None:
        """Return the value as the engine reads it; None of a switch."""
        if self.value is None:
            return None
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        return f"{self.value:g}" if isinstance(self.value, float) else str(self.value)

    def in_shell(self) -> str:
        """Return the option as words of a shell."""
        word = self.word()
        if word is None:
            return self.name
        return f"{self.name} {quoted(self.value, word)}"


def quoted(value: Value, word: str) -> str:
    """Return a word of a shell that stands for itself, or for what the shell works out."""
    return f'"{word}"' if isinstance(value, InShell) else shlex.quote(word)


def in_yaml(word: str) -> str:
    """Return a text of YAML: plain where nothing in it has a meaning, else between quotes."""
    is_plain = _PLAIN.fullmatch(word) and word.lower() not in _NOT_TEXT
    return word if is_plain else json.dumps(word)


def comment(text: str, indent: str = "") -> str:
    """Return a comment on one line, whatever the text holds."""
    return f"{indent}# {printable(text)}".rstrip()


def commented(rows: list[tuple[str, str]], indent: str) -> list[str]:
    """Return lines with their comments below each other."""
    width = max((len(line) for line, _ in rows), default=0)
    return [f"{indent}{line:<{width}}  {comment(told)}" for line, told in rows]


@dataclass(frozen=True)
class EngineCommand:
    """The command that starts an engine, and what its options leave out."""

    program: tuple[str, ...]
    options: list[Option]
    cannot: list[str]
    exports: list[Option] = field(default_factory=list)
    """Variables of its environment."""
    later: list[Option] = field(default_factory=list)
    """Further options of every node but the first."""


@dataclass(frozen=True)
class LaunchFile:
    """A file that launches a scenario on an engine."""

    name: str
    """Name of the file."""
    text: str
    cannot: tuple[str, ...]
    """What the engine has no option for, or what is not in the scenario, a sentence each."""

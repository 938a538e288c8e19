"""What a job costs as a whole process, beside its limit and a peer, as rows of one table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PARSER = ("pydantic", "yaml", "typer", "rich")
"""Packages that every command needs which reads a scenario."""
LOOPS = (*PARSER, "numpy", "numba")
"""Packages that a command needs which simulates."""
PAGE = (*PARSER, "numpy", "plotly.graph_objects", "jinja2")
"""Packages that a command needs which draws a page."""

# A process of its own starts the job: a child's peak counts the memory of what it was started from.
_LAUNCH = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024], file)
"""
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
_HEADER = ("job", "CPU s", "peak MB", "limit", "limit s", "times", "peer", "peer s")


class Spent(NamedTuple):
    """What a process and its children took."""

    cpu_s: float
    peak_mb: float
    """Of the largest of them."""
    out: str


class Limit(NamedTuple):
    """What no program can do the job without."""

    what: str
    cpu_s: float

    def __add__(self, other: object) -> Limit:
        if not isinstance(other, Limit):
            return NotImplemented
        return Limit(f"{self.what}, {other.what}", self.cpu_s + other.cpu_s)


@dataclass
class Bench:
    """The rows so far."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    ratios: list[str] = field(default_factory=list)
    folder: Path = Path()
    """An empty directory of the row that runs."""

    def row(
        self, job: str, spent: Spent, limit: Limit, peer: str = "", peer_s: float | None = None
    ) -> None:
        cells = [job, f"{spent.cpu_s:.2f}", f"{spent.peak_mb:.0f}", limit.what]
        cells += [f"{limit.cpu_s:.2f}", f"{spent.cpu_s / limit.cpu_s:.1f}", peer or "–"]
        self.rows.append((*cells, "–" if peer_s is None else f"{peer_s:.2f}"))

    def ratio(self, told: str) -> None:
        self.ratios.append(told)

    def lines(self) -> list[str]:
        """Return the table in Markdown, then the ratios."""
        lines = []
        if self.rows:
            widths = [max(map(len, column)) for column in zip(_HEADER, *self.rows, strict=True)]
            rule = tuple("-" * width for width in widths)
            for row in (_HEADER, rule, *self.rows):
                padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
                lines.append(f"| {' | '.join(padded)} |")
            lines += [
                "",
                "CPU seconds of whole processes and their children; peak memory of the largest.",
                f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            ]
        return [*lines, *([""] if self.rows and self.ratios else []), *self.ratios]

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def afdsim(self, *words: str, cache: Path | None = None) -> Spent:
        """Run a command; `cache` is a directory for compiled loops instead of the usual one."""
        kept = {} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}
        return self.run(sys.executable, "-m", "sim.cli", *words, env=kept)

    def run(self, *words: str, env: Mapping[str, str] = {}, folder: Path = ROOT) -> Spent:
        """Run a program in `folder`, which is this checkout by default."""
        told = self.folder / "spent.json"
        # A user's Python keeps the bytecode of modules.
        usual = {name: each for name, each in os.environ.items() if name != _NO_BYTECODE}
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, str(told), *words],
            cwd=folder, env={**usual, **env}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        code, cpu_s, peak_mb = json.loads(told.read_text())
        assert code == 0, done.stderr
        return Spent(cpu_s, peak_mb, done.stdout)

    def imports(self, packages: tuple[str, ...]) -> Limit:
        spent = self.run(sys.executable, "-c", f"import {', '.join(packages)}")
        return Limit("imports alone", spent.cpu_s)

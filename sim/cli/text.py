"""What the verbs share: options, tables, numbers as people read them, talk on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sim.workers import Workers

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Overwrite one value; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Directory to create; an existing one is kept."),
]

WorkerCount = Annotated[
    int, typer.Option("--workers", min=1, help="Processes that make runs side by side.")
]


def say(text: str) -> None:
    """Print talk: stderr. What names and files hold cannot steer the terminal."""
    print("\n".join(printable(line) for line in text.split("\n")), file=sys.stderr)


@contextmanager
def pool_of(count: int) -> Iterator[Workers | None]:
    """Give `count` worker processes; none for one, since this process is one already."""
    from sim import workers

    if count > 1:
        with workers.local(count) as pool:
            yield pool
    else:
        yield None


def span(text: str, option: str) -> range:
    """Return the range that FIRST:LAST stands for, both ends included. A usage error else."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise typer.BadParameter(f"write FIRST:LAST, e.g. {option} 0:2", param_hint=option)
    return range(int(first), int(last) + 1)


def console() -> Console:
    """Return a console for data: stdout, wide enough for tables where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def table(columns: list[str], title: str | None = None) -> Table:
    """Return an empty table."""
    from rich.box import SIMPLE
    from rich.table import Table

    result = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for column in columns:
        result.add_column(column)
    return result


def number(value: object) -> str:
    """Return a value as a cell of a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def usd(value: float | None) -> str:
    """Return a price per 1M tokens as a cell of a table."""
    return "–" if value is None else f"{value:.3f}"

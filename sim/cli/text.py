"""What the verbs share: options, tables, numbers as people read them, talk on stderr.

Rich reads `[bold]` as markup, and terminals read escape sequences. Names, titles and paths may hold
either, so verbs print by `say`, `show` and `progress`, which print text as written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import plain
from sim.cli.output import say as say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    from sim.inputs.workload import Workload
    from sim.parallel.processes import Workers

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Overwrite a value; may be repeated."),
]
Prices = Annotated[
    list[str] | None,
    typer.Option(
        "--price", metavar="CARD=USD", help="Rent of a GPU, USD per hour; may be repeated."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def _named(path: Path | None) -> Path | None:
    """Refuse a place without a name, of which DIR-2 could not be made, before a run is made."""
    if path is not None and not path.name:
        raise typer.BadParameter("name the directory to create")
    return path


Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        callback=_named,
        help="Directory to create; if it exists, DIR-2 and so on.",
    ),
]

WorkerCount = Annotated[
    int, typer.Option("--workers", min=1, help="Processes that make runs side by side.")
]
OwnWorkers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Dask scheduler whose workers do the work."),
]


def assignments(setting: list[str] | None, price: list[str] | None) -> list[str]:
    """Return what `--set` and `--price` overwrite. Raises ScenarioError for a wrong price."""
    if not price:
        return setting or []
    from sim.inputs import prices

    return [*(setting or ()), *prices.settings(price)]


def warn(cautions: Iterable[str]) -> None:
    """Print cautions about figures: stderr, a line each."""
    for caution in cautions:
        say(f"warning: {caution}")


def say_notes(workloads: Iterable[Workload]) -> None:
    """Print how recorded requests are read where that is not plain, each note once."""
    for note in dict.fromkeys(note for workload in workloads for note in workload.notes()):
        say(note)


@contextmanager
def pool_of(count: int) -> Iterator[Workers | None]:
    """Give `count` worker processes; none for one, since this process is one already."""
    from sim.decoding import loops
    from sim.parallel import processes

    if count > 1:
        loops.compile_all()  # else each of them would, and none would say so
        with processes.local(count) as pool:
            yield pool
    else:
        yield None


def own_or_cluster(count: int | None, scheduler: str | None) -> Workers:
    """Return `count` worker processes, one per core by default, or those of a Dask scheduler."""
    from sim.parallel import processes

    if count and scheduler:
        raise typer.BadParameter("give --workers or --scheduler", param_hint="--scheduler")
    if scheduler:
        from sim.parallel.cluster import cluster

        return cluster(scheduler)
    return processes.local(count or processes.cores())


def span(text: str, option: str) -> range:
    """Return the range that FIRST:LAST stands for, both ends included. A usage error else."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise typer.BadParameter(f"write FIRST:LAST, e.g. {option} 0:2", param_hint=option)
    return range(int(first), int(last) + 1)


class Table:
    """Rows of cells under heads, to be printed by `show`."""

    def __init__(self, columns: Sequence[str], title: str = "") -> None:
        self.columns = columns
        self.title = title
        self.rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        self.rows.append(cells)

    def leave_out(self, column: str) -> None:
        """Leave a column out if no row has a value there."""
        at = list(self.columns).index(column)
        if all(cells[at] in ("–", "") for cells in self.rows):
            self.columns = [name for name in self.columns if name != column]
            self.rows = [(*cells[:at], *cells[at + 1 :]) for cells in self.rows]


def width() -> int:
    """Return the characters of a line on stdout."""
    return _console().width


def show(*parts: str | Table | Text) -> None:
    """Print data: stdout. Tables and strings are printed as written, markup and escapes included.

    A `Text` brings colours of its own.
    """
    from rich.text import Text

    screen = _console()
    for part in parts:
        if isinstance(part, Table):
            screen.print(_rich(part))
        else:
            screen.print(Text(plain(part)) if isinstance(part, str) else part, soft_wrap=True)


@contextmanager
def job_bar(title: str, total: int, taken: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show a progress bar of jobs on stderr and yield what each outcome is told to."""
    fields = ("{task.fields[rate]:.1f}/s", f"{taken} taken over", "{task.fields[failed]} failed")
    with _progress(title, *fields) as bar:
        number = bar.add_task(title, total=total, failed=0, rate=0.0)
        (task,) = bar.tasks

        def advance(outcome: dict[str, Any]) -> None:
            failed = task.fields["failed"] + (outcome["status"] == "failed")
            rate = (task.completed + 1) / max(task.elapsed or 0.0, 0.1)
            bar.update(number, advance=1, failed=failed, rate=rate)

        yield advance


def _progress(title: str, *fields: str) -> Progress:
    from rich import progress as bars
    from rich.console import Console

    return bars.Progress(
        bars.TextColumn(title, markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("to go"),
        bars.TimeRemainingColumn(),
        *(bars.TextColumn(field, markup=False) for field in fields),
        console=Console(stderr=True),
    )


def _console() -> Console:
    """Return a console for data: stdout, wide enough for tables where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _rich(shown: Table) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table as RichTable
    from rich.text import Text

    title = Text(plain(shown.title.strip()), style="table.title") if shown.title else None
    result = RichTable(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for column in shown.columns:
        result.add_column(Text(plain(column)))
    for cells in shown.rows:
        result.add_row(*(Text(plain(cell)) for cell in cells))
    return result


def number(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def usd(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

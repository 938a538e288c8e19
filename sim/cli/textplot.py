"""The Pareto picture as text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from string import ascii_letters
from typing import TYPE_CHECKING

from sim.foundation.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

    from sim.sweeps.points import Row

_LINES = 22
_TICKS = 5
_WIDEST = 100
_COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan")


def pareto_text(rows: Sequence[Row], columns: int) -> Text:
    """Return the fronts of the families over one another, at most `columns` wide.

    Every family has a letter; an SLO among the points is an upright line. The text is empty if no
    point was simulated.
    """
    from rich.text import Text

    from sim.sweeps.points import front

    families = dict.fromkeys(row["family"] for row in rows if row["status"] == "ok")
    fronts = {family: best for family in families if (best := front(list(rows), family))}
    if not fronts:
        return Text()
    plot = Text.from_ansi(_plot(list(fronts.values()), min(columns, _WIDEST)))
    names = [
        Text(f"{letter} {printable(family)}", style=colour)
        for family, (letter, colour) in zip(fronts, _signs(), strict=False)
    ]
    return Text("\n").join([Text("   ").join(names), plot])


def _signs() -> Iterator[tuple[str, str]]:
    return zip(cycle(ascii_letters), cycle(_COLOURS), strict=False)


def _plot(fronts: Sequence[Sequence[Row]], columns: int) -> str:
    import plotext

    points = [row for best in fronts for row in best]
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.plot_size(columns, _LINES)
    plotext.theme("clear")
    for best, (letter, colour) in zip(fronts, _signs(), strict=False):
        plotext.scatter(_x(best), _y(best), marker=letter, color=colour)
    slos = {1e3 / row["slo_tpot_ms"] for row in points}
    # A line far from all points would squeeze them.
    crossed = [slo for slo in sorted(slos) if min(_x(points)) <= slo <= max(_x(points))]
    for slo in crossed:
        plotext.vline(slo)
    for values, set_ticks, digits in (
        (_x(points), plotext.xticks, 1),
        (_y(points), plotext.yticks, 0),
    ):
        low, high = min(values), max(values)
        apart = (high - low) / (_TICKS - 1)
        ticks = [low + apart * part for part in range(_TICKS)] if apart else [low]
        set_ticks(ticks, [f"{tick:,.{digits}f}" for tick in ticks])
    plotext.xlabel("tokens/s/user" + ("; upright line: SLO" if crossed else ""))
    plotext.ylabel("tokens/s/GPU")
    return str(plotext.build())


def _x(rows: Sequence[Row]) -> list[float]:
    return [row["tokens_per_s_per_user"] for row in rows]


def _y(rows: Sequence[Row]) -> list[float]:
    return [row["tgs"] for row in rows]

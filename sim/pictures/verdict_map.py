"""Verdict map: the margins of a study in a figure, a panel for each value of a dimension."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sim.inputs.naming.settings import described
from sim.study import published
from sim.study.schema import Study
from sim.study.verdicts import JudgedCell, percent, told

# Margins beyond this share have the full colour.
_FULL = 0.5
# Pale enough for dark text, and told apart by colour-blind readers.
_FIRST, _SECOND = "#5fb0dd", "#f0955a"
_GREY = "#b8bec4"
_TEXT = {"color": "#1f2933"}


def verdict_map(study: Study, cells: Sequence[JudgedCell], *, columns: int = 2) -> go.Figure:
    """Return the map: a panel for each value of the first dimension, coloured by margin.

    Cells without a margin are grey and say why.
    """
    first, second = study.sides
    names = list(study.dimensions)
    across, down = names[-1], names[-2]
    panels = list(dict.fromkeys(tuple(each.cell.place.values())[:-2] for each in cells))
    columns = min(len(panels), columns)
    lines = -(-len(panels) // columns) if panels else 0
    titles = [html.escape(", ".join(panel)) for panel in panels]
    figure = make_subplots(
        max(lines, 1),
        max(columns, 1),
        subplot_titles=titles,
        horizontal_spacing=0.12,
        vertical_spacing=0.28 / max(lines, 2),
    )
    greys = []
    for number, panel in enumerate(panels):
        mine = [each for each in cells if tuple(each.cell.place.values())[:-2] == panel]
        xs, ys = (_values(study, name, mine) for name in (across, down))
        at = {(each.cell.place[down], each.cell.place[across]): each for each in mine}
        grid = [[at.get((y, x)) for x in xs] for y in ys]
        figure.add_trace(
            go.Heatmap(
                x=[html.escape(x) for x in xs],
                y=[html.escape(y) for y in ys],
                z=[[_colour(study, each) for each in line] for line in grid],
                text=[[_short(study, each) for each in line] for line in grid],
                hovertext=[[_hover(study, each) for each in line] for line in grid],
                texttemplate="%{text}",
                textfont=_TEXT,
                hoverinfo="text",
                zmin=-_FULL,
                zmax=_FULL,
                colorscale=[[0, _SECOND], [0.5, "#f7f7f7"], [1, _FIRST]],
                showscale=number == 0,
                colorbar={
                    "title": html.escape(f"{first} over {second}"),
                    "tickformat": "+.0%",
                    "len": 0.6,
                },
                xgap=3,
                ygap=3,
            ),
            row=number // columns + 1,
            col=number % columns + 1,
        )
        unknown = [[each is not None and _colour(study, each) is None for each in line]
                   for line in grid]  # fmt: skip
        if any(map(any, unknown)):
            grey = go.Heatmap(
                x=[html.escape(x) for x in xs],
                y=[html.escape(y) for y in ys],
                z=[[0 if each else None for each in line] for line in unknown],
                text=[[_short(study, each) for each in line] for line in grid],
                hovertext=[[_hover(study, each) for each in line] for line in grid],
                texttemplate="%{text}",
                textfont=_TEXT,
                hoverinfo="text",
                colorscale=[[0, _GREY], [1, _GREY]],
                showscale=False,
                xgap=3,
                ygap=3,
            )
            greys.append((grey, number // columns + 1, number % columns + 1))
    for grey, line, column in greys:
        figure.add_trace(grey, row=line, col=column)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    figure.update_layout(
        height=120 + 290 * lines,
        template="plotly_white",
        margin={"l": 80, "r": 20, "t": 50, "b": 40},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    return figure


def _values(study: Study, dimension: str, cells: Sequence[JudgedCell]) -> list[str]:
    """Return the values of a dimension that cells have, in the order of the study."""
    found = {each.cell.place[dimension] for each in cells}
    return [value for value in study.dimensions[dimension] if value in found]


def _colour(study: Study, judged: JudgedCell | None) -> float | None:
    if judged is None or judged.verdict is None:
        return None
    if judged.margin is not None:
        return judged.margin
    first, second = study.sides
    return {f"only {first}": _FULL, f"only {second}": -_FULL}.get(judged.verdict)


def _short(study: Study, judged: JudgedCell | None) -> str:
    """Return what stands in a cell; what was measured of a place stands below."""
    if judged is None:
        return ""
    told = "not finished" if judged.verdict is None else html.escape(judged.verdict)
    if judged.margin is not None:
        told += f"<br>{percent(judged.margin)}"
    measured = [each.margin for each in published.at(study, judged)]
    if measured:
        ends = dict.fromkeys(f"{100 * each:+.0f}" for each in (min(measured), max(measured)))
        told += f"<br>▲ {' to '.join(ends)} %".replace("-", "−")
    return told


def _hover(study: Study, judged: JudgedCell | None) -> str:
    if judged is None:
        return ""
    lines = [f"<b>{html.escape(judged.cell.name())}</b>: {html.escape(told(judged))}"]
    for number, side in enumerate(study.sides):
        entry, limits = judged.entries[number], judged.limits[number]
        if entry is None:
            lines.append(f"{html.escape(side)}: {html.escape(judged.whys[number])}")
            continue
        figures = entry["figures"]
        shape = described(entry["shape"], entry["settings"])
        lines.append(f"{html.escape(side)}: {html.escape(shape)}")
        lines.append(
            f"  {figures['gpus']:.0f} GPUs, batch {figures['batch']:.3g} ({entry['limit']}), "
            f"{figures['tgs']:,.0f} tokens/s/GPU, TPOT {figures['tpot_ms_mean']:.1f} ms"
        )
        if limits:
            lines.append(f"  {limits['kind']}")
    lines += [
        f"measured {percent(each.margin)}: {html.escape(each.what)}"
        for each in published.at(study, judged)
    ]
    most = judged.decides
    if most is not None:
        lines.append(f"decides: {html.escape(most.name)}")
    return "<br>".join(lines)

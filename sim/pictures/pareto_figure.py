"""Plots: throughput and cost of many points as Plotly figures. Draws rows, computes nothing.

A page shows other figures than throughput, and other rents, in the same traces
(`templates/fronts.js`): `meta` says what each trace is, and whose.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sim.foundation.pareto import pareto_front
from sim.pictures import intervals
from sim.pictures.looks import faint, look
from sim.sweeps.points import Row, front
from sim.sweeps.sweep import Published

_LABEL_WIDTH = 64

CHOSEN = "chosen point"
"""Name of the trace that rings the chosen point; the page moves it."""

PINNED = "pinned points"
"""Name of the trace of the points that a reader compares."""

# Costs beyond this many times the lowest are those of batches that no one runs.
_DEAREST = 12


class Shown(NamedTuple):
    """A column that people look at first."""

    column: str
    label: str
    unit: str = ""


# What a point is told apart by in tables.
FIGURES = (
    Shown("gpus", "GPUs"),
    Shown("requests_in_flight", "in flight"),
    Shown("tpot_ms_mean", "TPOT", "ms"),
    Shown("tpot_ci95_ms", "TPOT ±", "ms"),
    Shown("tokens_per_s_per_user", "tokens/s/user"),
    Shown("tgs", "tokens/s/GPU"),
    Shown("usd_per_1m_tokens", "USD/1M tokens"),
    Shown("t_a_layer_us", "attention a layer", "µs"),
    Shown("t_a2f_layer_us", "A→F a layer", "µs"),
    Shown("t_f_layer_us", "FFN a layer", "µs"),
    Shown("t_f2a_layer_us", "F→A a layer", "µs"),
    Shown("calibrated_share", "calibrated share"),
)


class View(NamedTuple):
    x: Shown
    y: Shown


_PARETO = View(
    Shown("tokens_per_s_per_user", "interactivity: tokens/s/user (1 / mean TPOT)"),
    Shown("tgs", "throughput: output tokens/s/GPU"),
)
_COST = View(
    Shown("tpot_ms_mean", "mean TPOT, ms"),
    Shown("usd_per_1m_tokens", "USD per 1M output tokens"),
)


def families(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["family"] for row in rows))


def pareto_figure(rows: Sequence[Row], published: Sequence[Published]) -> go.Figure:
    """Return the Pareto picture: points faint, fronts as steps, SLO line, measurements as crosses.

    `rows` are points of one or more sweeps; only simulated ones are drawn. The first value of a
    point's `customdata` is its place in `rows`.
    """
    drawn = _drawn(rows, _PARETO)
    figure = _points(rows, drawn, _PARETO)
    if sure := families(row for row in drawn if intervals.known(row)):
        _add_bands(figure, rows, drawn, intervals.first_shown(sure, published))
    fronts = {family: front(drawn, family) for family in families(drawn)}
    _add_fronts(figure, families(rows), fronts, front(drawn), _PARETO, "vh")
    for slo_ms in sorted({row["slo_tpot_ms"] for row in drawn}):
        _add_slo(figure, slo_ms, 1e3 / slo_ms)
    if published:
        _add_published(figure, rows, drawn, published)
    return figure


def cost_figure(rows: Sequence[Row]) -> go.Figure:
    """Return the picture of cost against latency, with a front of its own.

    Points on cards without a price are left out.
    """
    drawn = _drawn(rows, _COST)
    figure = _points(rows, drawn, _COST)
    fronts = {f: _cheapest([r for r in drawn if r["family"] == f]) for f in families(drawn)}
    _add_fronts(figure, families(rows), fronts, _cheapest(drawn), _COST, "hv")
    for slo_ms in sorted({row["slo_tpot_ms"] for row in drawn}):
        _add_slo(figure, slo_ms, slo_ms)
    # Small batches cost a hundred times as much as large ones.
    costs = [row["usd_per_1m_tokens"] for row in drawn]
    ends = [0.8 * min(costs), min(1.25 * max(costs), _DEAREST * min(costs))]
    figure.update_yaxes(type="log", range=np.log10(ends).tolist())
    return figure


def _cheapest(rows: list[Row]) -> list[Row]:
    """Return the points that none beats in both TPOT and price."""
    at = [(-row["tpot_ms_mean"], -row["usd_per_1m_tokens"]) for row in rows]
    return [rows[index] for index in pareto_front(at)[::-1]]


def _drawn(rows: Sequence[Row], view: View) -> list[Row]:
    simulated = [row for row in rows if row["status"] == "ok"]
    return [r for r in simulated if r[view.x.column] is not None and r[view.y.column] is not None]


def _points(rows: Sequence[Row], drawn: Sequence[Row], view: View) -> go.Figure:
    """Return a figure with a trace of points per family, and an empty one for the chosen point."""
    place = {id(row): index for index, row in enumerate(rows)}
    figure = go.Figure()
    for number, family in enumerate(families(rows)):
        mine = [row for row in drawn if row["family"] == family]
        figure.add_scatter(
            **_xy(mine, view),
            mode="markers",
            name=f"{html.escape(family)}: points",
            legendgroup=family,
            showlegend=False,
            marker={**look(number)[0], "size": 7, "opacity": 0.3},
            meta={"role": "points", "family": family},
            customdata=_table([place[id(row)], html.escape(row["shape"])] for row in mine),
            hoverinfo="text",
        )
    figure.add_scatter(
        x=[],
        y=[],
        mode="markers+text",
        name=PINNED,
        hoverinfo="skip",
        showlegend=False,
        textposition="top center",
        marker={"color": "#000000", "size": 18, "symbol": "square-open", "line": {"width": 2}},
    )
    figure.add_scatter(
        x=[],
        y=[],
        mode="markers",
        name=CHOSEN,
        hoverinfo="skip",
        legendrank=2000,
        marker={"color": "#000000", "size": 16, "symbol": "circle-open", "line": {"width": 2.5}},
    )
    figure.update_layout(
        xaxis={"title": view.x.label},
        yaxis={"title": view.y.label},
        template="plotly_white",
        hovermode="closest",
        hoverlabel={"align": "left", "font": {"size": 11}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        modebar={"orientation": "v"},  # beside the plot, or it would cover the legend
        margin={"l": 60, "r": 40, "t": 40, "b": 50},
    )
    return figure


def _table(rows: Iterable[list[Any]]) -> NDArray[np.object_]:
    """Return rows as an array, which Plotly takes without looking at each cell."""
    return np.array(list(rows), dtype=object)


def _add_fronts(
    figure: go.Figure,
    names: Sequence[str],
    fronts: dict[str, list[Row]],
    overall: list[Row],
    view: View,
    step: str,
) -> None:
    for number, family in enumerate(names):
        marker, dash = look(number)
        if family in fronts:
            figure.add_scatter(
                **_xy(fronts[family], view),
                mode="lines+markers",
                name=html.escape(family),
                legendgroup=family,
                line={"color": marker["color"], "dash": dash, "shape": step, "width": 2},
                marker={**marker, "size": 8},
                meta={"role": "front", "family": family},
                hoverinfo="skip",
            )
    if len(fronts) > 1:
        figure.add_scatter(
            **_xy(overall, view),
            mode="lines",
            name="front over all",
            meta={"role": "overall"},
            line={"color": "#000000", "shape": step, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )


def _add_bands(
    figure: go.Figure, rows: Sequence[Row], drawn: Sequence[Row], shown: set[str]
) -> None:
    """Add the bands of prediction intervals, and an entry of the legend that stands for all."""
    for number, family in enumerate(families(rows)):
        outline = intervals.outline(row for row in drawn if row["family"] == family)
        if outline:
            figure.add_scatter(
                x=[x for x, _ in outline],
                y=[y for _, y in outline],
                mode="lines",
                name=f"{html.escape(family)}: {intervals.LEVEL}",
                legendgroup=family,
                showlegend=False,
                visible=family in shown,
                meta={"band": family},
                line={"width": 0},
                fill="toself",
                fillcolor=faint(look(number)[0]["color"]),
                hoverinfo="skip",
            )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        name=f"{intervals.LEVEL} prediction interval",
        meta={"key": True},
        marker={"symbol": "square", "size": 14, "color": "rgba(120, 120, 120, 0.35)"},
    )


def _add_published(
    figure: go.Figure, rows: Sequence[Row], drawn: Sequence[Row], published: Sequence[Published]
) -> None:
    """Add measurements as crosses, and what is predicted at their batches beside them."""
    names = families(rows)
    said = []
    for point in published:
        found = intervals.held(point, drawn)
        told = "" if found is None else _lines(intervals.judged(point, found))
        said.append(told)
        if found is None or point.family is None:
            continue
        colour = look(names.index(point.family))[0]["color"]
        figure.add_scatter(
            x=[x for x, _ in found.places()],
            y=[y for _, y in found.places()],
            mode="lines+markers",
            name=f"predicted for {html.escape(point.label)}, {intervals.LEVEL}",
            legendgroup=point.family,
            showlegend=False,
            line={"color": colour, "width": 2.5},
            marker={"symbol": ["line-ew", "circle", "line-ew"], "size": [12, 8, 12],
                    "color": colour, "line": {"color": colour, "width": 2.5}},
            meta={"role": "foreseen", "family": point.family},
            text=told,
            hoverinfo="text",
        )  # fmt: skip
    figure.add_scatter(
        x=[1e3 / point.tpot_ms for point in published],
        y=[point.tgs for point in published],
        mode="markers",
        name="published",
        meta={"role": "published", "families": [point.family for point in published]},
        marker={"symbol": "x", "size": 10, "color": "#000000"},
        customdata=[
            [
                *(None, html.escape(p.label), f"{p.tpot_ms:g}", f"{p.tgs:,g}"),
                "<br>".join(filter(None, (_lines(p.source), more))),
            ]
            for p, more in zip(published, said, strict=True)
        ],
        hovertemplate="<b>%{customdata[1]}</b><br>TPOT %{customdata[2]} ms<br>"
        "%{customdata[3]} tokens/s/GPU<br>%{customdata[4]}<extra></extra>",
    )
    for point in published:
        figure.add_annotation(
            x=1e3 / point.tpot_ms,
            y=point.tgs,
            text=html.escape(point.label),
            showarrow=False,
            xanchor="right",
            yanchor="bottom",
            yshift=4,
            borderpad=1,
            bgcolor="rgba(255, 255, 255, 0.75)",
        )


def _lines(text: str) -> str:
    """Return text in lines as wide as a hover label may be."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(text, _LABEL_WIDTH))


def _add_slo(figure: go.Figure, slo_ms: float, x: float) -> None:
    figure.add_vline(
        x=x,
        line={"color": "#888888", "dash": "dot"},
        annotation_text=f"SLO: TPOT {slo_ms:g} ms",
        annotation_position="top right",
    )


def _xy(rows: Sequence[Row], view: View) -> dict[str, list[float]]:
    return {
        axis: [row[shown.column] for row in rows] for axis, shown in zip("xy", view, strict=True)
    }

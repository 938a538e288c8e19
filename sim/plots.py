"""Plots: the Pareto picture as one self-contained HTML page. Draws rows, computes nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim.sweeps import Published, Row, front

# Okabe and Ito's palette, distinct for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_X_TITLE = "interactivity: tokens/s/user (1 / mean TPOT)"
_Y_TITLE = "throughput: output tokens/s/GPU"

_HOVER_FIRST = (
    *("family", "shape", "gpus", "requests_in_flight", "tpot_ms_mean", "tpot_ci95_ms", "tgs"),
    *("tokens_per_s_per_user", "usd_per_1m_tokens", "slo_met"),
)


def pareto_figure(title: str, rows: Sequence[Row], published: Sequence[Published]) -> Any:
    """Return the Plotly figure: points faint, fronts as steps, SLO line, measurements as crosses.

    `rows` are points of one or more sweeps; only simulated ones are drawn.
    """
    import plotly.graph_objects as go

    drawn = [r for r in rows if r["status"] == "ok" and r["tokens_per_s_per_user"] is not None]
    families = list(dict.fromkeys(row["family"] for row in drawn))
    figure = go.Figure()
    for number, family in enumerate(families):
        colour = COLOURS[number % len(COLOURS)]
        mine = [row for row in drawn if row["family"] == family]
        best = front(mine)
        figure.add_scatter(
            **_xy(mine),
            mode="markers",
            name=f"{family}: points",
            legendgroup=family,
            showlegend=False,
            marker={"color": colour, "size": 6, "opacity": 0.3},
            text=[_hover(row) for row in mine],
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_scatter(
            **_xy(best),
            mode="lines+markers",
            name=family,
            legendgroup=family,
            line={"color": colour, "shape": "vh", "width": 2},
            marker={"color": colour, "size": 8},
            text=[_hover(row) for row in best],
            hovertemplate="%{text}<extra></extra>",
        )
    if len(families) > 1:
        figure.add_scatter(
            **_xy(front(drawn)),
            mode="lines",
            name="front over all",
            line={"color": "#444444", "shape": "vh", "width": 1, "dash": "dash"},
            hoverinfo="skip",
        )
    for slo_ms in sorted({row["slo_tpot_ms"] for row in drawn}):
        figure.add_vline(
            x=1e3 / slo_ms,
            line={"color": "#888888", "dash": "dot"},
            annotation_text=f"SLO: TPOT {slo_ms:g} ms",
            annotation_position="bottom right",
        )
    if published:
        figure.add_scatter(
            x=[1e3 / point.tpot_ms for point in published],
            y=[point.tgs for point in published],
            mode="markers+text",
            name="published",
            marker={"symbol": "x", "size": 12, "color": "#000000"},
            text=[f"  {point.label}" for point in published],
            textposition="middle right",
            customdata=[
                f"<b>{html.escape(p.label)}</b><br>TPOT {p.tpot_ms:.1f} ms<br>"
                f"{p.tgs:g} tokens/s/GPU<br>{html.escape(p.source)}"
                for p in published
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_layout(
        title=title,
        xaxis_title=_X_TITLE,
        yaxis_title=_Y_TITLE,
        template="plotly_white",
        hovermode="closest",
        hoverlabel={"align": "left", "font": {"size": 11}},
        legend={"x": 1.01, "y": 1},
    )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return figure


def write_page(path: Path, figure: Any) -> None:
    """Write a figure as one HTML file that opens offline."""
    figure.write_html(
        path,
        include_plotlyjs=True,
        full_html=True,
        default_height="94vh",
        div_id="pareto",
        config={"responsive": True, "displaylogo": False},
    )


def _xy(rows: Sequence[Row]) -> dict[str, list[float]]:
    return {
        "x": [row["tokens_per_s_per_user"] for row in rows],
        "y": [row["tgs"] for row in rows],
    }


def _hover(row: Row) -> str:
    names = [*_HOVER_FIRST, *(name for name in row if name not in _HOVER_FIRST)]
    lines = [
        f"{html.escape(name)}: {html.escape(_text(row[name]))}"
        for name in names
        if row.get(name) not in (None, "")
    ]
    return "<br>".join(lines)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""The page of an explanation: two layers of the pipeline with the critical circuit outlined."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from sim.metrics.cautions import SCOPE
from sim.pictures import gantt
from sim.results.files import replace_file
from sim.steady.state import SteadyState

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font-family: "Open Sans", Verdana, Arial, sans-serif; margin: 1.5em; color: #2a3f5f; }}
h1 {{ font-size: 1.3em; }}
p {{ max-width: 60em; line-height: 1.4; }}
</style>
</head>
<body>
<h1>{title}</h1>
{text}
{figure}
</body>
</html>
"""


def write_page(path: Path, state: SteadyState, sentences: Sequence[str]) -> None:
    """Write the picture with `sentences` above it as one HTML file that opens offline."""
    figure = circuit_figure(state).to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id="pipeline",
        config={"responsive": True, "displaylogo": False, "showSendToCloud": False},
    )
    page = _PAGE.format(
        title=html.escape(f"What limits {state.deployment.scenario.name}"),
        text="\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in (*sentences, SCOPE)),
        figure=figure,
    )
    replace_file(path, lambda part: part.write_text(page, encoding="utf-8"))


def circuit_figure(state: SteadyState) -> go.Figure:
    """Return the Plotly figure of a steady step; rows are called as in the explanation."""
    site, program = state.deployment, state.program
    layers = gantt.middle_layers(program)
    records = gantt.steady_records(site, layers)
    figure = gantt.pipeline_figure(program, records, layers, marked_tasks(state))
    pools = {pool.name: index for index, pool in enumerate(program.pools)}
    labels = figure.layout.yaxis.categoryarray
    named = []
    for label in labels:
        name, _space, server = label.rpartition(" ") if label not in pools else (label, "", "0")
        named.append(site.server_name(pools[name], int(server)) + " ")
    figure.update_yaxes(tickmode="array", tickvals=labels, ticktext=named)
    return figure


def marked_tasks(state: SteadyState) -> set[tuple[int, int]]:
    """Return the tasks of the critical circuit, by (node, server)."""
    program = state.program
    nodes = {
        (program.stages[node.stage].name, node.layer, node.micro_batch): index
        for index, node in enumerate(program.nodes)
    }
    keyed = (((part.stage, part.layer, part.micro_batch), part) for part in state.bound.circuit)
    return {(nodes[key], part.server) for key, part in keyed if key in nodes}

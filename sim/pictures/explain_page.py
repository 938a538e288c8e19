"""The page of an explanation: two layers of the pipeline with the critical circuit outlined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from sim.metrics.cautions import SCOPE
from sim.pictures import gantt
from sim.pictures import page as pages
from sim.results.files import replace_file
from sim.steady.state import SteadyState


def write_page(path: Path, state: SteadyState, sentences: Sequence[str]) -> None:
    """Write the picture with `sentences` above it as one HTML file that opens offline."""
    page = pages.rendered(
        "explain.html",
        bundle="basic",
        title=f"What limits {state.deployment.scenario.name}",
        sentences=[*sentences, SCOPE],
        figures={"pipeline": json.loads(circuit_figure(state).to_json())},
    )
    replace_file(path, lambda part: part.write_text(page, encoding="utf-8"))


def circuit_figure(state: SteadyState) -> go.Figure:
    """Return the Plotly figure of a steady step; rows are called as in the explanation."""
    layers = gantt.middle_layers(state.program)
    records = gantt.steady_records(state.deployment, layers)
    marked = marked_tasks(state)
    name = state.deployment.server_name
    return gantt.figure_of(gantt.picture(state.program, records, layers, name, marked))


def marked_tasks(state: SteadyState) -> set[tuple[int, int]]:
    """Return the tasks of the critical circuit, by (node, server)."""
    program = state.program
    nodes = {
        (program.stages[node.stage].name, node.layer, node.micro_batch): index
        for index, node in enumerate(program.nodes)
    }
    keyed = (((part.stage, part.layer, part.micro_batch), part) for part in state.bound.circuit)
    return {(nodes[key], part.server) for key, part in keyed if key in nodes}

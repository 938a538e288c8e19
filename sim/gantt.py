"""Gantt: what the servers of a pipeline do in two layers of one step, as a picture.

The step is that of the frozen state: every micro-batch always takes the times of the nominal batch,
so the pipeline is steady after a few steps and a long run is not needed to see it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from sim.deployments.site import Site
from sim.engines import event
from sim.engines.event import Record
from sim.plots import COLOURS
from sim.program import Node, Program, Times
from sim.run import FILL_STEPS
from sim.units import NS_PER_US

Marked = Collection[tuple[int, int]]
"""Tasks by (node, server)."""

# Up to this many servers each has a row of its own.
_ALL_ROWS = 16

_ROW_PX = 24
_FRAME_PX = 130
_PALE = 0.3
_OUTLINE = {
    "name": "critical circuit",
    "marker": {"color": "rgba(0,0,0,0)", "line": {"color": "#000000", "width": 3}},
    "hoverinfo": "skip",
}


class Row(NamedTuple):
    """A line of the picture."""

    pool: int
    server: int


class Frozen:
    """A controller that always answers the same, until every micro-batch has ended its steps."""

    def __init__(self, times: Times, micro_batches: int, steps: int) -> None:
        self.times = times
        self.steps = steps
        self.begun = [0] * micro_batches

    def boundary(self, micro_batch: int, now_ns: int) -> Times | None:
        """Return the frozen times; None when all micro-batches are through."""
        self.begun[micro_batch] += 1
        return self.times if min(self.begun) <= self.steps else None


def middle_layers(program: Program) -> range:
    """Return the two layers in the middle of the model, far from the ends of the step."""
    layers = len(program.layer_kinds) - 1
    first = max(0, layers // 2 - 1)
    return range(first, min(first + 2, layers))


def nominal_records(site: Site, layers: range) -> list[Record]:
    """Return the tasks of `layers`, and of one layer on either side, in a steady step.

    All micro-batches take the times of the nominal batch. No request is simulated.
    """
    program = site.program
    micro_batches = program.micro_batches
    times = site.times(site.expected.batch())
    engine = event.EventEngine(program, Frozen(times, micro_batches, FILL_STEPS + 1))
    around = range(layers.start - 1, layers.stop + 1)

    def keep(node: Node, step: int) -> bool:
        return step == FILL_STEPS and node.layer in around

    records = event.record(engine, keep)
    engine.run()
    return records


def pipeline_figure(
    program: Program, records: Sequence[Record], layers: range, marked: Marked = frozenset()
) -> go.Figure:
    """Return the Plotly figure of `records`: a row per server, a colour per micro-batch.

    Of many servers, server 0 of each pool and those with `marked` tasks have a row. `marked` tasks,
    such as those of the critical circuit, are outlined. Tasks of other layers than `layers` are
    pale, and the picture begins and ends with `layers`.
    """
    rows = _rows(program, marked)
    shown = [r for r in records if _row(program, r) in rows and r.end_ns > r.start_ns]
    inside = [r for r in shown if program.nodes[r.node].layer in layers]
    begin_ns = min(r.start_ns for r in inside)
    end_ns = max(r.end_ns for r in inside)
    figure = go.Figure()
    for micro_batch in range(program.micro_batches):
        mine = [
            r
            for r in sorted(shown, key=lambda r: (r.start_ns, r.node, r.server))
            if program.nodes[r.node].micro_batch == micro_batch
        ]
        figure.add_bar(**_bars(program, mine, begin_ns, layers), name=str(micro_batch))
    outlined = [r for r in shown if (r.node, r.server) in marked]
    if outlined:
        figure.add_bar(**_places(program, outlined, begin_ns), **_OUTLINE)
    servers = sum(pool.servers for pool in program.pools)
    left_out = f": {len(rows)} of {servers} servers" if len(rows) < servers else ""
    named = f"layers {layers.start} and {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    figure.update_layout(
        title={"text": f"Pipeline, {named}{left_out}", "font": {"size": 14}},
        template="plotly_white",
        barmode="overlay",
        height=_FRAME_PX + _ROW_PX * len(rows),
        margin={"l": 10, "r": 10, "t": 70, "b": 40},
        legend={"title": "micro-batch", "orientation": "h", "y": 1.0, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
        uniformtext={"minsize": 9, "mode": "hide"},
    )
    labels = [_label(program, row) for row in rows]
    figure.update_yaxes(
        categoryorder="array", categoryarray=labels[::-1], automargin=True, ticksuffix=" "
    )
    figure.update_xaxes(range=[0, (end_ns - begin_ns) / NS_PER_US], title="µs")
    return figure


def _rows(program: Program, marked: Marked) -> list[Row]:
    """Return the servers that have a row, in the order of the pools."""
    every = [Row(i, s) for i, pool in enumerate(program.pools) for s in range(pool.servers)]
    if len(every) <= _ALL_ROWS:
        return every
    stages = program.stages
    wanted = {Row(stages[program.nodes[node].stage].pool, server) for node, server in marked}
    return [row for row in every if row.server == 0 or row in wanted]


def _row(program: Program, record: Record) -> Row:
    return Row(program.stages[program.nodes[record.node].stage].pool, record.server)


def _label(program: Program, row: Row) -> str:
    pool = program.pools[row.pool]
    return pool.name if pool.servers == 1 else f"{pool.name} {row.server}"


def _places(program: Program, records: Sequence[Record], begin_ns: int) -> dict[str, object]:
    """Return where the bars of `records` lie, as arguments of `add_bar`."""
    return {
        "orientation": "h",
        "y": [_label(program, _row(program, r)) for r in records],
        "base": [(r.start_ns - begin_ns) / NS_PER_US for r in records],
        "x": [(r.end_ns - r.start_ns) / NS_PER_US for r in records],
    }


def _bars(
    program: Program, records: Sequence[Record], begin_ns: int, layers: range
) -> dict[str, object]:
    """Return the bars of one micro-batch as arguments of `add_bar`."""
    nodes = [program.nodes[r.node] for r in records]
    names = [program.stages[node.stage].name for node in nodes]
    inside = [node.layer in layers for node in nodes]
    micro_batch = nodes[0].micro_batch if nodes else 0
    return {
        **_places(program, records, begin_ns),
        "text": names,
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"color": ["#ffffff" if chosen else "#444444" for chosen in inside]},
        "marker": {
            "color": COLOURS[micro_batch % len(COLOURS)],
            "opacity": [1.0 if chosen else _PALE for chosen in inside],
            "line": {"color": "#ffffff", "width": 0.5},
        },
        "customdata": [
            (name, node.layer, r.step, (r.end_ns - begin_ns) / NS_PER_US)
            for name, node, r in zip(names, nodes, records, strict=True)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b>, layer %{customdata[1]}, "
        f"micro-batch {micro_batch}, step %{{customdata[2]}}<br>%{{y}}<br>"
        "start %{base:,.3f} µs, end %{customdata[3]:,.3f} µs<br>"
        "takes %{x:,.3f} µs<extra></extra>",
    }

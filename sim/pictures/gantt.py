"""Gantt: what the servers of a pipeline do in two layers of one step, as a picture.

The step is that of the steady state: every micro-batch always takes the times of the same batch,
so the pipeline is steady after a few steps and a long run is not needed to see it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from sim.decoding.step_table import FILL_STEPS
from sim.deployments.deployment import Deployment
from sim.deployments.steps import slowest
from sim.engines import event
from sim.engines.controller import Record
from sim.engines.program import Node, Program, Times
from sim.foundation.units import NS_PER_US
from sim.pictures.looks import COLOURS
from sim.sweeps.pipelines import Bar, Picture

Marked = Collection[tuple[int, int]]
"""Tasks by (node, server)."""

# Up to this many servers each has a row of its own.
_ALL_ROWS = 16

_ROW_PX = 24
_FRAME_PX = 160
# The title stands under the tool bar, over a legend of two lines: so many it takes on a phone.
_TITLE = {"font": {"size": 14}, "y": 1.0, "yref": "container", "yanchor": "top", "pad": {"t": 26}}
_TOP_PX = 100
_PALE = 0.3
_CHARACTER_PX = 7
_USUAL_WIDTH_PX = 900
_OUTLINE = {
    "name": "critical circuit",
    "marker": {"color": "rgba(0,0,0,0)", "line": {"color": "#000000", "width": 3}},
    "hoverinfo": "skip",
}


class Row(NamedTuple):
    pool: int
    server: int


class SteadyTimes:
    """A controller that always answers the same, until every micro-batch has ended its steps."""

    def __init__(self, times: Times, micro_batches: int, steps: int) -> None:
        self.times = times
        self.steps = steps
        self.begun = [0] * micro_batches

    def boundary(self, micro_batch: int, now_ns: int) -> Times | None:
        self.begun[micro_batch] += 1
        return self.times if min(self.begun) <= self.steps else None


def middle_layers(program: Program) -> range:
    """Return the two layers in the middle of the model, far from the ends of the step."""
    layers = len(program.layer_kinds) - 1
    first = max(0, layers // 2 - 1)
    return range(first, min(first + 2, layers))


def steady_records(site: Deployment, layers: range) -> list[Record]:
    """Return the tasks of `layers`, and of one layer on either side, in a steady step.

    All micro-batches take the times of the expected batch. No request is simulated.
    """
    return _records(site.program, site.times(site.expected.batch()), layers)


def first_records(site: Deployment, layers: range) -> list[Record]:
    """Return those of `steady_records` that are of server 0 in its pool.

    Where it is the slowest of its pool in every stage, nothing that it waits for comes later from
    another server than from the first: a program of first servers alone has the same tasks.
    """
    rows = site.durations(site.expected.batch()).rows
    longest = slowest(rows)
    if any(ns[0] < longest[stage] for stage, ns in rows.items()):
        return [record for record in steady_records(site, layers) if record.server == 0]
    program = site.one_of_each(longest)
    return _records(program, program.times(longest, site.delays_ns), layers)


def _records(program: Program, times: Times, layers: range) -> list[Record]:
    around = range(layers.start - 1, layers.stop + 1)

    def keep(node: Node, step: int) -> bool:
        return step == FILL_STEPS and node.layer in around

    steady = SteadyTimes(times, program.micro_batches, FILL_STEPS + 1)
    engine = event.EventEngine(program, steady, keep)
    engine.run()
    return engine.records


def steady_picture(site: Deployment) -> Picture:
    """Return the picture of the middle layers in a steady step."""
    program = site.program
    layers = middle_layers(program)
    few = sum(pool.servers for pool in program.pools) <= _ALL_ROWS
    records = steady_records(site, layers) if few else first_records(site, layers)
    return picture(program, records, layers, site.server_name)


def picture(
    program: Program,
    records: Sequence[Record],
    layers: range,
    name: Callable[[int, int], str],
    marked: Marked = frozenset(),
) -> Picture:
    """Return what the picture of `records` shows; `name` names a server by pool and number.

    Of many servers, server 0 of each pool and those with `marked` tasks have a row. `marked` tasks,
    such as those of the critical circuit, are outlined.
    """
    rows = {row: number for number, row in enumerate(_rows(program, marked))}
    return Picture(
        rows=[name(row.pool, row.server) for row in rows],
        servers=sum(pool.servers for pool in program.pools),
        layers=list(layers),
        micro_batches=program.micro_batches,
        tasks=[
            _task(program, record, rows, marked)
            for record in sorted(records, key=lambda r: (r.start_ns, r.node, r.server))
            if _row(program, record) in rows and record.end_ns > record.start_ns
        ],
    )


def _task(program: Program, record: Record, rows: Mapping[Row, int], marked: Marked) -> Bar:
    node = program.nodes[record.node]
    return Bar(
        row=rows[_row(program, record)],
        stage=program.stages[node.stage].name,
        layer=node.layer,
        micro_batch=node.micro_batch,
        step=record.step,
        start_ns=record.start_ns,
        end_ns=record.end_ns,
        is_marked=(record.node, record.server) in marked,
    )


def figure_of(shown: Picture) -> go.Figure:
    """Return the Plotly figure of a picture: a row per server, a colour per micro-batch.

    Tasks of other layers than those shown are pale, and it begins and ends with these.
    """
    rows, layers = shown.rows, shown.layers
    inside = [task for task in shown.tasks if task.layer in layers]
    begin_ns = min(task.start_ns for task in inside)
    end_ns = max(task.end_ns for task in inside)
    # Stages stand in all bars or in none: what has no name would look like something else.
    roomy = all(
        _CHARACTER_PX * len(task.stage) * (end_ns - begin_ns)
        <= _USUAL_WIDTH_PX * (task.end_ns - task.start_ns)
        for task in inside
    )
    figure = go.Figure()
    for micro_batch in range(shown.micro_batches):
        mine = [task for task in shown.tasks if task.micro_batch == micro_batch]
        bars = _bars(shown, mine, begin_ns, micro_batch, roomy=roomy)
        figure.add_bar(**bars, name=str(micro_batch))
    outlined = [task for task in shown.tasks if task.is_marked]
    if outlined:
        figure.add_bar(**_places(shown, outlined, begin_ns), **_OUTLINE)
    left_out = f": {len(rows)} of {shown.servers} servers" if len(rows) < shown.servers else ""
    named = f"layers {layers[0]} and {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    figure.update_layout(
        title={"text": f"Pipeline, {named}{left_out}", **_TITLE},
        template="plotly_white",
        barmode="overlay",
        height=_FRAME_PX + _ROW_PX * len(rows),
        margin={"l": 10, "r": 10, "t": _TOP_PX, "b": 40},
        legend={"title": "micro-batch", "orientation": "h", "y": 1.0, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
    )
    labels = [html.escape(row) for row in rows]
    figure.update_yaxes(
        categoryorder="array", categoryarray=labels[::-1], automargin=True, ticksuffix=" "
    )
    figure.update_xaxes(range=[0, (end_ns - begin_ns) / NS_PER_US], title="µs")
    return figure


def _rows(program: Program, marked: Marked) -> list[Row]:
    every = [Row(i, s) for i, pool in enumerate(program.pools) for s in range(pool.servers)]
    if len(every) <= _ALL_ROWS:
        return every
    stages = program.stages
    wanted = {Row(stages[program.nodes[node].stage].pool, server) for node, server in marked}
    return [row for row in every if row.server == 0 or row in wanted]


def _row(program: Program, record: Record) -> Row:
    return Row(program.stages[program.nodes[record.node].stage].pool, record.server)


def _places(shown: Picture, tasks: Sequence[Bar], begin_ns: int) -> dict[str, object]:
    return {
        "orientation": "h",
        "y": [html.escape(shown.rows[task.row]) for task in tasks],
        "base": [(task.start_ns - begin_ns) / NS_PER_US for task in tasks],
        "x": [(task.end_ns - task.start_ns) / NS_PER_US for task in tasks],
    }


def _bars(
    shown: Picture, tasks: Sequence[Bar], begin_ns: int, micro_batch: int, *, roomy: bool
) -> dict[str, object]:
    names = [html.escape(task.stage) for task in tasks]
    inside = [task.layer in shown.layers for task in tasks]
    return {
        **_places(shown, tasks, begin_ns),
        "text": names if roomy else None,
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
            (name, task.layer, task.step, (task.end_ns - begin_ns) / NS_PER_US)
            for name, task in zip(names, tasks, strict=True)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b>, layer %{customdata[1]}, "
        f"micro-batch {micro_batch}, step %{{customdata[2]}}<br>%{{y}}<br>"
        "start %{base:,.3f} µs, end %{customdata[3]:,.3f} µs<br>"
        "takes %{x:,.3f} µs<extra></extra>",
    }

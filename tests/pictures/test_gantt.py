"""The picture of a pipeline: every bar is a task of the engine, at its time and on its server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from sim.decoding.step_table import FILL_STEPS
from sim.deployments import compile_deployment
from sim.engines.bound import BoundEngine
from sim.inputs import scenario
from sim.pictures import gantt
from sim.sweeps.pipelines import Bar, Picture
from tests import tiny

BASES = ("step3-2a2f", "dsv3-ep128")

# So few servers that each has a row of its own.
FEW = {
    "step3-2a2f": ("deployment.attention.instances=1", "deployment.ffn.instances=1"),
    "dsv3-ep128": (),
}


def bars(figure: Any) -> dict[tuple[str, str, int, int], tuple[float, float]]:
    """Return (start, end) in µs by (row, stage, layer, micro-batch)."""
    return {
        (row, stage, layer, int(trace.name)): (start, end)
        for trace in figure.data
        if trace.customdata is not None
        for row, start, (stage, layer, _step, end) in zip(
            trace.y, trace.base, trace.customdata, strict=True
        )
    }


@pytest.mark.parametrize("base", BASES)
def test_every_bar_is_a_task_of_the_nominal_step(base: str, tiny_model: Path) -> None:
    site = compile_deployment(tiny.load(tiny_model, base, *FEW[base]))
    program = site.program
    records = gantt.steady_records(site, range(1, 3))
    drawn = bars(gantt.figure_of(gantt.picture(program, records, range(1, 3), site.server_name)))
    times = site.times(site.expected.batch())
    inside = [r for r in records if program.nodes[r.node].layer in (1, 2)]
    begin_ns = min(r.start_ns for r in inside if r.end_ns > r.start_ns)
    expected = {}
    for record in records:
        node = program.nodes[record.node]
        assert record.step == FILL_STEPS
        assert record.end_ns - record.start_ns == times.rows[node.slot][record.server]
        row = site.server_name(program.stages[node.stage].pool, record.server)
        if record.end_ns > record.start_ns:
            span = ((record.start_ns - begin_ns) / 1e3, (record.end_ns - begin_ns) / 1e3)
            expected[row, program.stages[node.stage].name, node.layer, node.micro_batch] = span
    assert drawn == expected
    assert {layer for _row, _stage, layer, _j in drawn} == {0, 1, 2, 3}


@pytest.mark.parametrize("base", BASES)
def test_the_step_shown_is_steady(base: str) -> None:
    # Deep in the model, the same task of the next layer comes a layer's share of the step later.
    site = compile_deployment(scenario.load(base))
    program = site.program
    begins: dict[int, list[int]] = {29: [], 30: []}
    for record in gantt.steady_records(site, range(29, 31)):
        node = program.nodes[record.node]
        if node.layer in begins and program.stages[node.stage].name == "experts":
            begins[node.layer].append(record.start_ns)
    moved = {after - before for before, after in zip(*begins.values(), strict=True)}
    times = [site.times(site.expected.batch())] * program.micro_batches
    whole_step_ns = float(BoundEngine(program).step_ns(times))
    assert len(moved) == 1
    assert moved.pop() * (len(program.layer_kinds) - 1) == pytest.approx(whole_step_ns, rel=0.05)


def test_many_servers_are_represented_by_the_first_and_the_marked() -> None:
    site = compile_deployment(scenario.load("step3-2a2f"))
    layers = gantt.middle_layers(site.program)
    assert layers == range(29, 31)
    records = gantt.steady_records(site, layers)
    node = next(
        index
        for index, node in enumerate(site.program.nodes)
        if (site.program.stages[node.stage].name, node.layer, node.micro_batch) == ("a2f", 30, 1)
    )
    plain, marked = (
        gantt.figure_of(gantt.picture(site.program, records, layers, site.server_name, tasks))
        for tasks in (set[tuple[int, int]](), {(node, 5)})
    )
    assert {row for row, *_ in bars(marked)} - {row for row, *_ in bars(plain)} == {"NIC out a0.g5"}
    assert {row.rpartition(" ")[2] for row, *_ in bars(plain)} <= {"a0.g0", "f0", "f0.g0"}
    assert "8 of 58 servers" in plain.layout.title.text
    outline = marked.data[-1]
    (record,) = (r for r in records if (r.node, r.server) == (node, 5))
    assert list(outline.y) == ["NIC out a0.g5"]
    assert outline.x[0] == pytest.approx((record.end_ns - record.start_ns) / 1e3)
    assert len(plain.data) == len(marked.data) - 1 == 3


SHAPES = (
    ("step3-2a2f",),
    ("step3-2a2f", "deployment.attention.o_proj_tp=4", "deployment.duplex=half"),
    ("dsv3-afd-gb200",),
    ("dsv3-ep16-h200-mtp",),
)


@pytest.mark.parametrize("shape", SHAPES, ids=" ".join)
def test_a_program_of_first_servers_draws_the_picture_of_all(shape: tuple[str, ...]) -> None:
    site = compile_deployment(scenario.load(shape[0], shape[1:]))
    layers = gantt.middle_layers(site.program)
    records = gantt.steady_records(site, layers)
    assert {record.server for record in gantt.first_records(site, layers)} == {0}
    assert gantt.steady_picture(site) == gantt.picture(
        site.program, records, layers, site.server_name
    )


def test_where_the_first_server_is_not_the_slowest_all_of_them_run() -> None:
    site = compile_deployment(scenario.load("dsv3-ep16-h200-mtp"))
    layers = gantt.middle_layers(site.program)
    all_of_them = gantt.steady_records(site, layers)
    durations = site.durations(site.expected.batch())
    turned = {stage: ns[::-1] if ns.ndim else ns for stage, ns in durations.rows.items()}
    with patch.object(site, "durations", lambda _batch: durations._replace(rows=turned)):
        found = gantt.first_records(site, layers)
    assert found == [record for record in all_of_them if record.server == 0]


@pytest.mark.parametrize(("ends", "named"), [((1000, 2000), True), ((1000, 1010), False)])
def test_stages_stand_in_all_bars_or_in_none(ends: tuple[int, int], named: bool) -> None:
    tasks = [
        Bar(0, "experts", layer=3, micro_batch=0, step=0, start_ns=0, end_ns=ends[0]),
        Bar(0, "experts", layer=3, micro_batch=1, step=0, start_ns=ends[0], end_ns=ends[1]),
    ]
    figure = gantt.figure_of(
        Picture(rows=["f0"], servers=1, layers=[3], micro_batches=2, tasks=tasks)
    )
    assert [trace.text is not None for trace in figure.data] == [named, named]

"""What a sweep varied stands beside each point, short and in words."""

from __future__ import annotations

from typing import Any

from sim.pictures import pareto_figure
from sim.sweeps.labels import differences
from tests.pictures.test_report import ROWS, row


def point(family: str, **settings: Any) -> dict[str, Any]:
    return {"family": family, **{f"set.{path}": value for path, value in settings.items()}}


def of(rows: list[dict[str, Any]]) -> list[str]:
    return differences(rows)


def test_every_axis_that_differs_is_told_and_no_other() -> None:
    overlap, batches = "deployment.overlap", "deployment.micro_batches"
    rows = [
        point("EP", **{overlap: way, "model": "step3", "deployment.gpus": gpus})
        for way in ("none", "two_batch")
        for gpus in (32, 64)
    ]
    rows += [point("AFD", **{batches: count, "model": "step3"}) for count in (2, 3)]
    assert of(rows) == [
        *("no overlap", "no overlap", "two-batch overlap", "two-batch overlap"),
        *("2 micro-batches", "3 micro-batches"),
    ]


def test_paths_with_the_same_end_are_told_apart() -> None:
    sides = "deployment.attention.accelerator", "deployment.ffn.accelerator"
    rows = [
        point("AFD", **{sides[0]: a, sides[1]: f}) for a, f in (("h20", "h800"), ("l20", "l40"))
    ]
    assert of(rows)[0] == "attention on h20, FFN on h800"


def test_of_a_mapping_what_differs_is_told_as_in_a_table_read_back() -> None:
    poisson = {"kind": "poisson", "requests_per_s": 5, "requests": 9}
    faster = '{"kind": "poisson", "requests_per_s": 7, "requests": 9}'
    path = "workload.arrivals"
    assert of([point("x", **{path: poisson}), point("x", **{path: faster})]) == [
        "5 requests/s",
        "7 requests/s",
    ]


def test_a_setting_that_is_off_at_some_points_is_told_at_all() -> None:
    assert of([point("x", noise=None), point("x", noise={"cv": 0.1}), point("y")]) == [
        "no noise",
        "cv 0.1",
        "",
    ]


def test_sixteen_families_look_unlike() -> None:
    rows = [row(n, 20 + n, 1000, family=f"family {n}") for n in range(16)]
    figure = pareto_figure.pareto_figure(rows, [])
    looks = {
        trace.name: (trace.line.color, trace.line.dash, trace.marker.symbol)
        for trace in figure.data
        if trace.name in {each["family"] for each in rows}
    }
    assert len(looks) == len(set(looks.values())) == 16
    # One look at colour and dash, or at the symbol alone of eight neighbours, is enough.
    assert len({look[:2] for look in looks.values()}) == 16
    symbols = [symbol for _, _, symbol in looks.values()]
    assert all(len(set(symbols[n : n + 8])) == 8 for n in range(9))
    beside = {(trace.line.color, trace.line.dash) for trace in figure.data} - {
        look[:2] for look in looks.values()
    }
    assert ("#000000", "dot") in beside
    dots = [t for t in figure.data if (t.name or "").endswith(": points")]
    assert [(t.marker.color, t.marker.symbol) for t in dots] == [
        (colour, symbol) for colour, _, symbol in looks.values()
    ]


def test_markup_of_families_is_text_in_the_figure() -> None:
    rows = [{**one, "family": "<b>x</b>", "reason": ""} for one in ROWS[:2]]
    for figure in (pareto_figure.pareto_figure(rows, []), pareto_figure.cost_figure(rows)):
        drawn = [t for t in figure.data if t.name and "x" in t.name]
        assert drawn
        assert all("<b>x" not in (t.name + (t.hovertemplate or "")) for t in drawn)

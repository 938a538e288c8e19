"""The front as text: where the points are, and plain where it goes to no terminal."""

from __future__ import annotations

from typing import Any

import pytest

from sim.cli.textplot import pareto_text


def row(family: str, interactivity: float, tgs: float, slo_ms: float = 50) -> dict[str, Any]:
    return {
        "family": family,
        "status": "ok",
        "tokens_per_s_per_user": interactivity,
        "tgs": tgs,
        "slo_tpot_ms": slo_ms,
    }


ROWS = [
    *(row("first", at, 4000 - 100 * at) for at in (10, 20, 30)),
    row("first", 9, 10),  # not on the front
    row("second", 25, 500),
    {"family": "third", "status": "refused"},
]


def drawn(rows: list[dict[str, Any]], columns: int = 80) -> list[str]:
    return pareto_text(rows, columns).plain.splitlines()


def test_each_family_has_a_letter_and_only_fronts_are_drawn() -> None:
    legend, *plot = drawn(ROWS)
    assert legend == "a first   b second"
    inside = "\n".join(line.partition("┤")[2] or line.partition("│")[2] for line in plot)
    assert inside.count("a") == 3
    assert inside.count("b") == 1
    assert "3,000" in plot[1]
    assert "10.0" in plot[-2]
    assert "30.0" in plot[-2]


def test_higher_throughput_is_higher_up_and_faster_further_right() -> None:
    places = [
        (line.index("a", 6), height)
        for height, line in enumerate(drawn(ROWS)[2:-1])
        if "a" in line[6:]
    ]
    assert places == sorted(places)
    assert len(places) == 3


@pytest.mark.parametrize(("slo_ms", "shown"), [(50, True), (5, False), (500, False)])
def test_the_slo_is_drawn_where_it_is_among_the_points(slo_ms: float, shown: bool) -> None:
    plot = drawn([row("only", at, 100 / at, slo_ms) for at in (10, 30)])
    assert ("┬" in plot[1].strip(" ┌┐")) == shown
    assert ("SLO" in plot[-1]) == shown


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_the_text_is_as_wide_as_asked_and_no_wider_than_is_readable(columns: int) -> None:
    assert max(map(len, drawn(ROWS, columns))) == min(columns, 100)


def test_one_point_and_no_point() -> None:
    assert sum("a" in line[6:] for line in drawn([row("x", 20, 100)])[2:-2]) == 1
    assert drawn([{"family": "third", "status": "refused"}]) == []

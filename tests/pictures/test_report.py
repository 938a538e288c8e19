"""What the page is made of: the right points in its fronts, and a reason for what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sim.inputs.scenario import Scenario
from sim.pictures import pareto_figure, sweep_data, sweep_page
from sim.sweeps import points
from sim.sweeps.pipelines import Kept, read_pipelines, write_pipelines
from sim.sweeps.points import Row
from tests import tiny


def row(point: int, tpot_ms: float, tgs: float, **others: Any) -> Row:
    figures = {shown.column: 1.0 for shown in pareto_figure.FIGURES}
    return {
        "point": point,
        "family": "one",
        "shape": "1A1F",
        "status": "ok",
        "reason": "",
        **figures,
        "tpot_ms_mean": tpot_ms,
        "tokens_per_s_per_user": 1e3 / tpot_ms,
        "tgs": tgs,
        "usd_per_1m_tokens": 500 / tgs,
        "slo_tpot_ms": 50,
        "slo_met": tpot_ms <= 50,
        **others,
    }


REFUSED = {"point": 9, "family": "two", "shape": "8A1F", "status": "refused", "reason": "too big"}
ROWS = [
    row(0, 30, 1000),
    row(1, 40, 2000),
    row(2, 41, 1500, **{"set.model": "step3"}),
    row(3, 60, 3000),
    row(4, 40, 2000),
    REFUSED,
]


def trace(figure: Any, name: str) -> list[tuple[float, float]]:
    (found,) = (one for one in figure.data if one.name == name)
    return list(zip(found.x, found.y, strict=True))


def test_best_is_the_highest_throughput_under_the_slo() -> None:
    assert points.best(ROWS) is ROWS[1]
    assert points.best([*ROWS[3:4], row(7, 55, 10), REFUSED]) == row(7, 55, 10)
    assert points.best([REFUSED, row(8, 1, 1, tpot_ms_mean=None)]) is None


def test_cost_has_a_front_of_its_own() -> None:
    figure = pareto_figure.cost_figure([*ROWS, row(5, 20, 900, usd_per_1m_tokens=None)])
    assert trace(figure, "one") == [(30, 0.5), (40, 0.25), (60, 500 / 3000)]
    assert len(trace(figure, "one: points")) == 5


def test_throughput_and_interactivity_are_both_better_when_larger() -> None:
    figure = pareto_figure.pareto_figure(ROWS, [])
    assert trace(figure, "one") == [(1e3 / 60, 3000), (25, 2000), (1e3 / 30, 1000)]
    (points,) = (one for one in figure.data if one.name == "one: points")
    assert [point[0] for point in points.customdata] == [0, 1, 2, 3, 4]


def test_the_page_compares_the_best_points_of_one_context(tmp_path: Path) -> None:
    long = {"family": "long", "set.workload.context": 32768}
    rows = [*ROWS, row(5, 45, 1000, family="two"), row(6, 40, 400, **long)]
    made = page(tmp_path, rows)
    body = made[made.index('<table id="best">') : made.index("</table>")]
    lines = re.findall(r'data-point="(\d+)".*?</tr>', body, flags=re.DOTALL)
    assert lines == ["1", "6", "7"]  # places in the rows: both families of one context, then long
    assert "−50 %" in body
    assert "−80 %" not in body
    assert "<option>as in the scenario</option>" in made
    assert "<option>context 32,768</option>" in made


def test_what_a_sweep_sets_is_part_of_the_command_of_each_point(tmp_path: Path) -> None:
    described = {
        "sweep": {
            "set": {"slo.tpot_ms": 50},
            "families": [{"family": "one", "base": "here", "set": {"routing": {"kind": "zipf"}}}],
        }
    }
    found = sweep_data.common(described)
    assert found == {"one": {"here": {"slo.tpot_ms": 50, "routing": {"kind": "zipf"}}}}
    # What comes from anyone may be anything.
    for odd in ({}, {"sweep": 1}, {"sweep": {"families": [3, {}], "set": []}}):
        assert not any(any(bases.values()) for bases in sweep_data.common(odd).values())


def page(tmp_path: Path, rows: list[Row], pipelines: dict[str, Kept] | None = None) -> str:
    sweep_page.write(
        tmp_path / "page.html", [sweep_page.Source("s", rows, [], {}, pipelines or {})]
    )
    return (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.fixture
def scenario(tiny_model: Path) -> Scenario:
    return tiny.load(tiny_model, "step3-2a2f")


def test_the_pipeline_is_drawn_again_from_what_is_kept(tmp_path: Path, scenario: Scenario) -> None:
    kept = sweep_page.pipelines(ROWS, dict.fromkeys(range(10), scenario))
    assert list(kept) == ["one"]
    made = page(tmp_path, ROWS, kept)
    assert 'id="pipeline-1"' in made
    assert "layers 0 and 1" in made
    assert "No picture: no point of this family was simulated" in made
    write_pipelines(tmp_path, kept)
    again = read_pipelines(tmp_path)
    assert page(tmp_path, ROWS, again) == made


def test_the_page_names_what_makes_up_the_doubt(tmp_path: Path, scenario: Scenario) -> None:
    ends = {"tpot_ms_p10": 36, "tpot_ms_p90": 44, "tgs_p10": 1800, "tgs_p90": 2200}
    sure = [row(0, 40, 2000, requests_in_flight=24, **ends)]
    kept = sweep_page.pipelines(sure, {0: scenario})
    shares = [part.share for part in kept["one"].doubt]
    assert 1 < len(shares) <= 4
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1
    made = page(tmp_path, sure, kept)
    first = kept["one"].doubt[0]
    assert f"one 1A1F: {first.name} {100 * first.share:.0f} %, " in made
    write_pipelines(tmp_path, kept)
    assert page(tmp_path, sure, read_pipelines(tmp_path)) == made
    # Without intervals nothing is asked.
    assert sweep_page.pipelines(ROWS, dict.fromkeys(range(10), scenario))["one"].doubt == []


def test_a_pipeline_that_cannot_be_drawn_says_why(tmp_path: Path, scenario: Scenario) -> None:
    lost = scenario.model_copy(update={"model": "nowhere"})
    made = page(tmp_path, ROWS, sweep_page.pipelines(ROWS, {1: lost}))
    assert "No picture: ScenarioError: unknown model &#39;nowhere&#39;" in made
    assert "without the pipeline of this point" in page(tmp_path, ROWS)


def test_cards_without_a_price_leave_the_costs_out(tmp_path: Path) -> None:
    unpriced = [row(0, 30, 1000, usd_per_1m_tokens=None)]
    assert "No card of these points has a price" in page(tmp_path, unpriced)
    assert 'id="cost"' not in page(tmp_path, unpriced)
    assert 'id="cost"' in page(tmp_path, ROWS)


def test_a_sweep_without_a_simulated_point_has_a_page(tmp_path: Path) -> None:
    made = page(tmp_path, [REFUSED])
    assert "too big" in made
    assert '"chosen": null' in made

"""Smoke: every file in scenarios/ is valid and runs a few steps."""

from __future__ import annotations

import pytest

from sim.decoding.run import simulate
from sim.inputs import cards, scenario
from sim.metrics.summary import summary
from sim.study import best_shapes, cells
from sim.sweeps import sweep

FEW_STEPS = ("simulation.min_steps=20", "simulation.max_steps=20")
STUDIES = [path.parent.name for path in cards.packaged(cards.STUDIES).glob("*/study.yaml")]
FEW_REQUESTS = (
    "workload.arrivals.requests=50",
    "workload.lengths.output={kind: fixed, tokens: 20}",
)


@pytest.mark.parametrize("name", cards.names(cards.SCENARIOS))
def test_a_scenario_runs(name: str) -> None:
    closed = scenario.load(name).workload.arrivals.kind == "closed"
    run = simulate(scenario.load(name, FEW_STEPS if closed else FEW_REQUESTS))
    assert summary(run)["tgs"] > 0


@pytest.mark.parametrize("name", cards.names(cards.SWEEPS))
def test_the_first_point_of_each_family_of_a_sweep_runs(name: str) -> None:
    points = sweep.load(name, ["simulation.engine=bound"]).points
    firsts = {point.family: point for point in reversed(points)}
    for point in firsts.values():
        made = point.outcome()
        assert made["status"] == "ok", made["reason"]


@pytest.mark.parametrize("name", STUDIES)
def test_some_shapes_of_each_side_of_a_study_fit(name: str) -> None:
    loaded = cells.load(name)
    for shapes in loaded.cells[0].sides:
        every = best_shapes.admitted(shapes)
        some = every[:: len(every) // 6 or 1]
        _found, fit, _least_ms = best_shapes.screened(
            shapes.first, some, loaded.study.screen, loaded.cells[0].priced
        )
        assert fit

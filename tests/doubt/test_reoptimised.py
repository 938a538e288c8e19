"""Reoptimised: every draw timed anew, against what the ends of sources add up to."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.doubt.interval import doubt_of
from sim.doubt.reoptimised import drawn_deployments, reoptimised
from sim.inputs import scenario
from sim.steady.state import under_load

DRAWS = 16


@pytest.mark.parametrize("name", ["step3-2a2f", "dsv3-ep128", "step3-2a2f-hopper"])
def test_the_linear_way_is_near_draws_timed_anew(name: str) -> None:
    loaded = scenario.load(name)
    site = compile_deployment(loaded)
    requests = round(site.expected.requests())
    stated_ns = under_load(site, requests).tpot_ns
    drawn = drawn_deployments(loaded, DRAWS)
    exact = np.array([under_load(each, requests).tpot_ns for each in drawn]) / stated_ns
    off = np.log(doubt_of(loaded, requests, DRAWS).spread.factors / exact)
    assert np.abs(off).max() < 0.05
    assert np.sqrt((off**2).mean()) < 0.2 * np.log(exact).std()


@pytest.mark.usefixtures("certain")
def test_without_doubt_of_any_source_all_draws_are_as_stated() -> None:
    found = reoptimised(scenario.load("step3-2a2f", ["software=ideal"]), 4)
    assert found.batch_p10 == found.batch == found.batch_p90
    assert found.tgs_p10 == pytest.approx(found.tgs, rel=1e-12)


def test_a_longer_target_serves_more() -> None:
    def at(tpot_ms: float) -> tuple[float, float]:
        found = reoptimised(scenario.load("dsv3-ep128", [f"slo.tpot_ms={tpot_ms}"]), 8)
        assert found.batch_p10 <= found.batch_p90
        assert found.tgs_p10 <= found.tgs_p90
        return found.batch_p10, found.batch_p90

    short, long = at(30), at(60)
    assert short < long

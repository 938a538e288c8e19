"""EPLB's pause: every rank stands still once when experts move, under every deployment."""

from __future__ import annotations

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.decoding.step_times import DrawnTimes
from sim.deployments import compile_deployment
from sim.inputs import scenario
from sim.inputs.scenario import Scenario

PAUSE = "software.eplb_pause_ms={value: 7, source: test}"
NO_PAUSE = "software.eplb_pause_ms=null"
DRIFT = "drift: {every_steps: 1, share: 1.0}"
OFTEN = "placement: {kind: eplb, every_steps: 4, window_steps: 4, hierarchical: false}"
BASES = ("dsv3-ep128", "dsv3-afd", "dsv3-ep16-h200-mtp")


def load(base: str, *settings: str) -> Scenario:
    routing = f"routing={{kind: power_law, alpha: 1.0, per_step: {{{DRIFT}, {OFTEN}}}}}"
    small = ("simulation.max_steps=22", "simulation.min_steps=20")
    closed = "workload.arrivals={kind: closed, requests_per_gpu: 4}"
    return scenario.load(base, (closed, *small, routing, *settings))


@pytest.mark.parametrize("base", BASES)
def test_it_comes_once_in_a_step_that_moves_experts(base: str) -> None:
    found = {}
    for settings in (NO_PAUSE, PAUSE):
        site = compile_deployment(load(base, settings))
        drawn, batch = DrawnTimes(site), site.expected.batch()
        found[settings] = np.array([
            drawn.step(batch, micro_batch, step).times.values
            for step in range(6)
            for micro_batch in range(site.micro_batches)
        ])  # fmt: skip
    longer = found[PAUSE] - found[NO_PAUSE]
    stages = {stage.name: number for number, stage in enumerate(drawn.program.stages)}
    first = next(n for n, kind in enumerate(site.course.passes) if "moe" in str(kind.layer.ffn))
    bounds = drawn.program.slot_bounds[drawn.program.slot(stages["experts"], first)]
    one_step = longer[4 * site.micro_batches]
    assert (one_step[slice(*bounds)] == 7_000_000).all()
    assert longer.sum() == one_step[slice(*bounds)].sum()


@pytest.mark.parametrize("base", BASES)
def test_both_engines_pause_alike(base: str) -> None:
    event, recurrence = (
        simulate(load(base, PAUSE, f"simulation.engine={engine}")).steps
        for engine in ("event", "recurrence")
    )
    assert event["end_ns"].tolist() == recurrence["end_ns"].tolist()
    assert np.diff(np.unique(event["end_ns"])).max() > 7_000_000

"""The largest batch under a target is the last that meets it, as a simulation sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.experiments.largest_batch import max_batch_under_slo
from sim.experiments.replications import replicated
from sim.foundation.errors import InfeasibleError
from sim.inputs.scenario import Scenario, TpotOf
from sim.metrics import summary
from tests import tiny

VARIED = (
    "workload.lengths.prompt={kind: lognormal, mean: 3000, cv: 1.0, max_tokens: 20000}",
    "workload.lengths.output={kind: geometric, mean: 30, max_tokens: 200}",
)
BASES = ("step3-2a2f", "dsv3-ep128")


def at_batch(scenario: Scenario, batch: float, tpot_of: TpotOf = "mean") -> float:
    lanes = compile_deployment(scenario).lanes
    figures = summary.summary(simulate(scenario.with_batch(round(batch * lanes))))
    return float(figures[f"tpot_ms_{tpot_of}"])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("tpot_of", ["mean", "p99"])
def test_one_more_would_miss_the_target(tiny_model: Path, base: str, tpot_of: TpotOf) -> None:
    scenario = tiny.load(tiny_model, base, *VARIED)
    target = at_batch(scenario, 40, tpot_of) * 1.0001
    aimed = tiny.load(tiny_model, base, *VARIED, f"slo.tpot_ms={target}")
    found = max_batch_under_slo(aimed, tpot_of)
    assert found["batch"] >= 35
    assert found[f"tpot_ms_{tpot_of}"] <= target
    one_a_gpu = 1 / aimed.deployment.micro_batches
    assert at_batch(aimed, found["batch"] + one_a_gpu, tpot_of) > target
    assert found["requests_in_flight"] == pytest.approx(
        found["batch"] * compile_deployment(aimed).lanes
    )
    assert max_batch_under_slo(aimed, tpot_of) == found


@pytest.mark.parametrize("base", BASES)
def test_runs_already_made_change_nothing(tiny_model: Path, base: str) -> None:
    scenario = tiny.load(tiny_model, base, *VARIED)
    aimed = tiny.load(tiny_model, base, *VARIED, f"slo.tpot_ms={at_batch(scenario, 40) * 1.0001}")
    found = max_batch_under_slo(aimed)
    lanes = compile_deployment(aimed).lanes
    for batch in (1, 30, found["batch"], 60):
        requests = round(batch * lanes)
        known = {requests: replicated(aimed.with_batch(requests))}
        assert max_batch_under_slo(aimed, known=known) == found


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("engine", ["recurrence", "bound"])
def test_a_target_out_of_reach_gives_the_fastest_point(
    tiny_model: Path, base: str, engine: str
) -> None:
    impossible = ("slo.tpot_ms=0.001", f"simulation.engine={engine}")
    scenario = tiny.load(tiny_model, base, *impossible)
    found = max_batch_under_slo(scenario)
    assert found["batch"] == 1 / scenario.deployment.micro_batches
    assert not found["slo_met"]


@pytest.mark.parametrize("base", BASES)
def test_the_bound_sees_a_batch_close_to_the_simulated_one(tiny_model: Path, base: str) -> None:
    scenario = tiny.load(tiny_model, base)
    target = f"slo.tpot_ms={at_batch(scenario, 60) * 1.0001}"
    simulated = max_batch_under_slo(tiny.load(tiny_model, base, target))
    bound = max_batch_under_slo(tiny.load(tiny_model, base, target, "simulation.engine=bound"))
    assert bound["batch"] == pytest.approx(simulated["batch"], rel=0.02)
    assert bound["engine"] == "bound"


def test_a_model_that_leaves_no_room_is_refused(tiny_model: Path) -> None:
    scenario = tiny.load(tiny_model, "dsv3-ep128")
    left = compile_deployment(scenario).kv_memory().kv_capacity_bytes()
    reserve = scenario.memory.activation_reserve_gb + (left - 1) / 1e9
    full = tiny.load(tiny_model, "dsv3-ep128", f"memory.activation_reserve_gb={reserve}")
    with pytest.raises(InfeasibleError, match="KV cache needs"):
        max_batch_under_slo(full)

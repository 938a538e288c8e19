"""CUDA graphs: steps beyond the largest one take their factor, and graphs hold memory."""

from __future__ import annotations

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.deployments.batch import Batch
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.foundation.nanoseconds import Ns
from sim.inputs import scenario
from sim.metrics.cautions import cautions
from sim.metrics.summary import summary

GRAPHS = (
    "software.graphs={largest_batch: {value: 64, source: test}, beyond: {value: 3, source: test}}"
)
PLAIN = "software=ideal"
BASES = ("dsv3-ep128", "step3-2a2f", "dsv3-afd")


def values(base: str, requests: list[int], *settings: str) -> Ns:
    """Return the times of a step with `requests` on the first attention GPUs."""
    site = compile_deployment(scenario.load(base, settings))
    each = np.full(site.attention_gpus, 10)
    each[: len(requests)] = requests
    windows = {None, *site.layout.bytes_per_token}
    return site.step(Batch(each, dict.fromkeys(windows, each * 1000))).times.values


@pytest.mark.parametrize("base", BASES)
def test_up_to_the_largest_graph_nothing_changes(base: str) -> None:
    assert values(base, [64], GRAPHS).tolist() == values(base, [64]).tolist()


@pytest.mark.parametrize("base", BASES)
def test_one_gpu_beyond_it_slows_every_stage_of_all(base: str) -> None:
    assert values(base, [65], GRAPHS).tolist() == (3 * values(base, [65])).tolist()


def tpot_ms(*settings: str) -> float:
    asked = scenario.load("dsv3-ep8-h200", ("simulation.max_steps=24", *settings))
    return float(summary(simulate(asked))["tpot_device_ms"])


@pytest.mark.parametrize("drawn", ["", ", per_step: {placement: {kind: contiguous}}"])
def test_a_step_beyond_it_takes_its_factor_with_drawn_loads_as_well(drawn: str) -> None:
    routing = f"routing={{kind: power_law, alpha: 1.0{drawn}}}"
    settings = routing, "workload.arrivals.requests_per_gpu=65"
    assert tpot_ms(*settings, GRAPHS) == pytest.approx(3 * tpot_ms(*settings), rel=1e-6)


def test_a_warning_tells_of_it() -> None:
    crowded = ("workload.arrivals.requests_per_gpu=65", "simulation.max_steps=20", GRAPHS)
    told = {}
    for batch in (64, 65):
        settings = (*crowded, f"workload.arrivals.requests_per_gpu={batch}")
        asked = scenario.load("dsv3-ep8-h200", settings)
        told[batch] = " ".join(cautions(asked, summary(simulate(asked))))
    assert "every step takes 3 times as long" in told[65]
    assert "graph" not in told[64]


@pytest.mark.parametrize("base", ["dsv3-ep8-h200", "step3-2a2f"])
def test_graphs_hold_memory(base: str) -> None:
    without = compile_deployment(scenario.load(base, [PLAIN])).kv_memory().kv_capacity_bytes()
    held = f"{GRAPHS[:-1]}, bytes: {{value: 4.0e+9, source: test}}}}"
    left = compile_deployment(scenario.load(base, [PLAIN, held])).kv_memory().kv_capacity_bytes()
    assert without - left == pytest.approx(4e9)
    with pytest.raises(InfeasibleError, match="activations and graphs"):
        compile_deployment(scenario.load(base, [PLAIN, held.replace("4.0e+9", "1.4e+11")]))


@pytest.mark.parametrize("base", BASES)
def test_both_engines_fall_out_of_graphs_alike(base: str) -> None:
    """Some micro-batches are beyond, others not, as requests come and go."""
    arrivals = "{kind: poisson, requests_per_s: 20000, requests: 3000}"
    lengths = "{kind: drawn, prompt: {kind: fixed, tokens: 500}, output: {kind: fixed, tokens: 12}}"
    settings = (
        f"workload={{arrivals: {arrivals}, lengths: {lengths}}}",
        GRAPHS.replace("64", "5"),
        "software.graphs.bytes=null",
    )
    event, recurrence = (
        simulate(scenario.load(base, (*settings, f"simulation.engine={engine}"))).steps
        for engine in ("event", "recurrence")
    )
    assert event["end_ns"].tolist() == recurrence["end_ns"].tolist()


def test_a_profile_states_the_share_of_memory_where_the_scenario_does_not() -> None:
    bare = "memory={activation_reserve_gb: 4.0, kv_block_tokens: 64}"
    assert scenario.load("dsv3-ep8-h200", ["software=vllm", bare]).memory.utilisation == 0.9
    stated = ("software=vllm", "memory.utilisation=0.8")
    assert scenario.load("dsv3-ep8-h200", stated).memory.utilisation == 0.8
    with pytest.raises(ScenarioError, match=r"memory\.utilisation: missing"):
        scenario.load("dsv3-ep8-h200", ["software=ideal", bare])

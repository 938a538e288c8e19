"""Idle steps at admission: the closed form of the steady state against runs, EP and AFD."""

from __future__ import annotations

from typing import Any

import pytest

from sim.decoding.run import simulate
from sim.inputs import scenario
from sim.inputs.scenario import Scenario
from sim.metrics.summary import summary
from sim.steady.state import SteadyState, steady_state

SHORT = (
    "workload.lengths={kind: drawn, prompt: {kind: fixed, tokens: 1000}, "
    "output: {kind: fixed, tokens: 400}}"
)
BASES = ("dsv3-ep8-h200", "step3-2a2f")


def closed(requests: int) -> str:
    return f"workload.arrivals={{kind: closed, concurrency: {requests}}}"


def load(base: str, share: float | None, *settings: str) -> Scenario:
    told = [] if share is None else [f"admission.idle_step_share={{value: {share}, source: test}}"]
    steps = "simulation.max_steps=800", "simulation.min_steps=800"
    return scenario.load(base, [SHORT, *steps, *told, *settings])


def state(base: str, share: float | None, *settings: str) -> SteadyState:
    return steady_state(load(base, share, *settings))


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("base", BASES)
def test_a_gpu_sits_out_a_step_after_each_in_which_requests_ended(base: str, share: float) -> None:
    seen = state(base, share)
    each = seen.requests / seen.deployment.lanes
    assert seen.sat_out == pytest.approx(1 - (1 - share / 400) ** each)
    assert seen.tpot_ns == pytest.approx(float(seen.step_ns) * (1 + seen.sat_out))


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("base", BASES)
def test_runs_lose_what_the_closed_form_says(base: str, share: float) -> None:
    """By the rate of tokens: both by requests, and over all GPUs."""

    def lost(figures: dict[str, Any], without: dict[str, Any]) -> float:
        return float(without["tgs"] / figures["tgs"])

    plain, idle = (summary(simulate(load(base, of))) for of in (None, share))
    expected = state(base, share).tpot_ns / state(base, None).tpot_ns
    assert lost(idle, plain) == pytest.approx(expected, rel=0.015)
    assert idle["tpot_ms_mean"] / plain["tpot_ms_mean"] == pytest.approx(expected, rel=0.015)
    assert idle["requests_in_flight"] == plain["requests_in_flight"]


def test_a_step_is_shorter_by_what_resting_gpus_do_not_send() -> None:
    """Experts see the tokens of the GPUs that take the step; attention those of the fullest."""
    plain, idle = state("dsv3-ep8-h200", None), state("dsv3-ep8-h200", 1.0)
    assert idle.step_ns < plain.step_ns
    fewer = int(idle.requests / (1 + idle.sat_out))
    assert state("dsv3-ep8-h200", None, closed(fewer)).step_ns < idle.step_ns


@pytest.mark.parametrize("base", BASES)
def test_all_ways_to_the_steady_state_see_the_same_step(base: str) -> None:
    """One server of each pool, or all: `explain` looks at all."""
    made = load(base, 1.0)
    assert SteadyState.of(made).tpot_ns == pytest.approx(steady_state(made).tpot_ns, rel=1e-9)


def test_a_gpu_alone_holds_no_other_up() -> None:
    one = ("model=pangu-pro-moe", "deployment.gpus=1", "deployment.lm_head_tp=1")
    few = (*one, "deployment.redundant_experts=0", closed(16))
    assert state("dsv3-ep8-h200", 1.0, *few).tpot_ns == state("dsv3-ep8-h200", None, *few).tpot_ns


def test_the_longest_gaps_span_two_steps() -> None:
    seen = summary(simulate(load("dsv3-ep8-h200", 1.0)))
    assert seen["itl_ms_p99"] == pytest.approx(2 * seen["itl_ms_p50"], rel=0.03)

"""Stability: a load that cannot be served is told at any length of a run, and no other is."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from sim.decoding.run import Run, simulate
from sim.experiments.replications import replicated
from sim.foundation.units import NS_PER_S
from sim.inputs import scenario
from sim.inputs.scenario import Scenario
from sim.metrics import stability
from sim.metrics.summary import summary
from tests import tiny

OUTPUT = 3
ALONE = (
    "deployment.attention.instances=1",
    "deployment.attention.gpus_per_instance=1",
    "deployment.ffn.instances=1",
    "deployment.ffn.gpus_per_instance=1",
    "deployment.micro_batches=1",
    f"workload.lengths.output={{kind: fixed, tokens: {OUTPUT}}}",
    "memory.max_running_requests=1",
    "simulation.engine=recurrence",
)


def alone(model: Path, arrivals: str, seed: int = 0) -> Scenario:
    """Return a decoder that serves one request at a time in constant time."""
    given = (*ALONE, f"workload.arrivals={arrivals}", f"simulation.seed={seed}")
    return tiny.load(model, "step3-2a2f", *given)


@pytest.fixture(scope="module")
def service_s(tiny_model: Path) -> float:
    """Return the time that one request takes."""
    run = simulate(alone(tiny_model, "{kind: poisson, requests_per_s: 0.1, requests: 3}"))
    service_ns = run.requests["last_token_ns"] - run.requests["admitted_ns"]
    return float(service_ns[0]) / NS_PER_S


def poisson(load: float, service_s: float, requests: int) -> str:
    return f"{{kind: poisson, requests_per_s: {load / service_s}, requests: {requests}}}"


def falls_behind(run: Run) -> bool:
    """Return what the run alone shows: the offered load left out."""
    with patch("sim.metrics.stability.offered_load", return_value=0.0):
        return stability.is_stable(run) is False


@pytest.mark.parametrize("load", [0.3, 0.9, 1.05, 2.0])
def test_the_offered_load_of_m_d_1_is_its_utilisation(
    load: float, tiny_model: Path, service_s: float
) -> None:
    offered = stability.offered_load(alone(tiny_model, poisson(load, service_s, 10)))
    assert offered == pytest.approx(load, rel=1e-6)


@pytest.mark.parametrize("requests", [150, 600, 1500])
def test_m_d_1_below_its_limit_is_stable(requests: int, tiny_model: Path, service_s: float) -> None:
    for seed in range(8):
        run = simulate(alone(tiny_model, poisson(0.9, service_s, requests), seed))
        assert stability.is_stable(run) is True
        assert not falls_behind(run)


@pytest.mark.parametrize(
    "law",
    [
        "{{kind: gamma, requests_per_s: {rate}, cv: 3, requests: 1000}}",
        "{{kind: bursts, requests_per_s: {rate}, burst_ratio: 5, calm_s: {calm}, burst_s: {burst}, "
        "requests: 1000}}",
    ],
)
def test_bursts_that_are_worked_off_are_no_overload(
    law: str, tiny_model: Path, service_s: float
) -> None:
    given = law.format(rate=0.7 / service_s, calm=100 * service_s, burst=20 * service_s)
    for seed in range(8):
        run = simulate(alone(tiny_model, given, seed))
        assert stability.is_stable(run) is True


def test_a_run_alone_shows_a_load_that_no_one_could_foresee(
    tiny_model: Path, service_s: float
) -> None:
    for seed in range(4):
        run = simulate(alone(tiny_model, poisson(1.3, service_s, 1000), seed))
        assert falls_behind(run)


def test_a_trace_that_comes_too_fast_is_told_by_the_same_rule(
    tiny_model: Path, service_s: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    rows += [f"{at:.9f},100,{OUTPUT}" for at in np.cumsum(rng.exponential(service_s, 3000))]
    (tmp_path / "trace.csv").write_text("\n".join(rows) + "\n")
    for scale, expected in ((0.8, True), (1.3, False)):
        trace = f"{{kind: trace, path: {tmp_path / 'trace.csv'}, rate_scale: {scale}}}"
        given = [each for each in ALONE if "lengths" not in each]
        workload = f"workload={{arrivals: {trace}}}"
        run = simulate(tiny.load(tiny_model, "step3-2a2f", *given, workload))
        assert stability.is_stable(run) is expected


def overloaded(times: float, requests: int, *more: str) -> Scenario:
    """Return poisson-example under so many times the load that it can serve."""
    rate = (
        times
        * 60
        / stability.offered_load(
            scenario.load("poisson-example", ["workload.arrivals.requests_per_s=60"])
        )
    )
    return scenario.load(
        "poisson-example",
        [
            f"workload.arrivals.requests_per_s={rate}",
            f"workload.arrivals.requests={requests}",
            *more,
        ],
    )


@pytest.mark.parametrize("requests", [600, 1500, 4000])
@pytest.mark.parametrize("times", [1.05, 1.3])
def test_an_overload_is_told_at_any_length_and_meets_nothing(times: float, requests: int) -> None:
    figures = summary(simulate(overloaded(times, requests)))
    assert figures["stable"] is False
    assert figures["slo_met"] is False
    assert "more requests arrive" in figures["slo_missed"]
    assert figures["slo_attainment"] is None
    assert figures["goodput_tgs"] is None


def test_below_the_limit_it_is_stable_and_met() -> None:
    figures = summary(simulate(overloaded(0.8, 600)))
    assert figures["stable"] is True
    assert figures["slo_met"] is True
    assert figures["slo_attainment"] == 1


def test_replications_are_stable_if_all_are() -> None:
    figures = replicated(overloaded(1.2, 300, "simulation.replications=2"))
    assert figures["stable"] is False
    assert figures["slo_attainment"] is None
    assert figures["slo_missed"].startswith("more requests arrive")
    kept = replicated(overloaded(0.5, 300, "simulation.replications=2"))
    assert kept["stable"] is True
    assert kept["slo_attainment"] == 1


def test_a_closed_loop_is_neither(tiny_model: Path) -> None:
    closed = alone(tiny_model, "{kind: closed, concurrency: 1}")
    assert summary(simulate(closed))["stable"] is None

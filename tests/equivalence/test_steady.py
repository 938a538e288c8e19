"""The steady state of one server of each kind is that of all of them, and of a long run."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.engines.bound import BoundEngine
from sim.foundation.units import NS_PER_MS
from sim.inputs.admission import share_of
from sim.metrics.steady_summary import steady_summary
from sim.metrics.summary import summary
from sim.steady.largest_load import fullest, largest
from sim.steady.state import under_load
from tests import tiny

# Every draft is accepted and no output ends, so that nothing varies.
ENDLESS = "workload.lengths.output={kind: fixed, tokens: 100000}"
DRAFTED = (
    "draft_layer: {attention: swa, ffn: moe}, "
    "acceptance: {kind: constant, p: {value: 1, source: test}}}"
)

# Widths, static orders and sharings of both kinds of deployment.
VARIETIES = {
    "ring": ("step3-2a2f",),
    "wide": ("step3-2a2f", "deployment.attention.instances=3", "deployment.ffn.instances=1"),
    "deep": ("step3-2a2f", "deployment.micro_batches=5"),
    "alone": ("step3-2a2f", "deployment.micro_batches=1"),
    "half duplex": ("step3-2a2f", "deployment.duplex=half", "deployment.micro_batches=4"),
    "shared output projection": ("step3-2a2f", "deployment.attention.o_proj_tp=2"),
    "hot experts": ("step3-2a2f", "routing={kind: uniform}", "deployment.ffn.parallelism=tp_ep"),
    "two batches": ("dsv3-ep128",),
    "in sequence": ("dsv3-ep128", "deployment.overlap=none"),
    "hot ranks": ("dsv3-ep128", "routing={kind: uniform}"),
    "drafts in a ring": ("step3-2a2f", "speculation={drafts: 2, " + DRAFTED, ENDLESS),
    "drafts in two batches": ("dsv3-ep128", "speculation={drafts: 1, " + DRAFTED, ENDLESS),
}


def site_of(model: Path, variety: str, in_flight: int, *more: str) -> Deployment:
    base, *overrides = VARIETIES[variety]
    closed = f"workload.arrivals={{kind: closed, concurrency: {in_flight}}}"
    return compile_deployment(tiny.load(model, base, *overrides, closed, *more))


def whole_ns(site: Deployment, in_flight: int) -> Fraction:
    m, row = site.micro_batches, site.scenario.admission.row(site.attention_gpus)
    shares = [share_of(in_flight, j, m, row) for j in range(m)]
    assert sum(shares) == in_flight
    times = [site.times(site.expected.batch_of(share)) for share in shares]
    return BoundEngine(site.program).step_ns(times)


@pytest.mark.parametrize("variety", VARIETIES)
@pytest.mark.parametrize("batch", [1, 3, 70])
def test_one_server_of_each_stands_for_all(tiny_model: Path, variety: str, batch: int) -> None:
    in_flight = batch * site_of(tiny_model, variety, 60).lanes
    site = site_of(tiny_model, variety, in_flight)
    found = under_load(site, in_flight)
    assert found.step_ns == whole_ns(site, in_flight)


@pytest.mark.parametrize("variety", VARIETIES)
def test_uneven_gpus_are_as_slow_as_the_fullest(tiny_model: Path, variety: str) -> None:
    lanes = site_of(tiny_model, variety, 60).lanes
    for in_flight in (lanes + 1, 2 * lanes + lanes // 2):
        site = site_of(tiny_model, variety, in_flight)
        assert under_load(site, in_flight).step_ns >= whole_ns(site, in_flight)


@pytest.mark.parametrize("variety", VARIETIES)
def test_uneven_micro_batches_take_turns(tiny_model: Path, variety: str) -> None:
    site = site_of(tiny_model, variety, 60, "admission.split=rows")
    assert site.scenario.admission.split == "rows"
    for each in range(1, 2 * site.micro_batches + 2):
        in_flight = each * site.attention_gpus
        if in_flight >= site.lanes:
            assert under_load(site, in_flight).step_ns == whole_ns(site, in_flight), each


@pytest.mark.parametrize("variety", VARIETIES)
def test_a_run_of_like_requests_reaches_the_steady_state(tiny_model: Path, variety: str) -> None:
    base, *overrides = VARIETIES[variety]
    lanes = site_of(tiny_model, variety, 60).lanes
    scenario = tiny.load(
        tiny_model,
        base,
        *overrides,
        f"workload.arrivals={{kind: closed, concurrency: {4 * lanes}}}",
    )
    simulated = summary(simulate(scenario))
    figures = steady_summary(under_load(compile_deployment(scenario), 4 * lanes))
    assert figures.keys() == simulated.keys()
    # All contexts lie in the window of the tiny model's attention, so that nothing varies.
    for name in ("tpot_ms_mean", "tgs", "t_a_layer_us", "t_f_layer_us", "t_a2f_layer_us"):
        assert figures[name] == pytest.approx(simulated[name], rel=1e-6), name
    for name in ("calibrated_share", "extrapolated_share", "uncalibrated_share"):
        assert figures[name] == pytest.approx(simulated[name], abs=1e-6), name
    for pool, share in figures["utilisation"].items():
        assert share == pytest.approx(simulated["utilisation"][pool], rel=0.02), pool


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(0, 900), st.integers(-5, 99)
)
def test_the_largest_number_that_meets_a_limit(gains: list[int], limit: int, guess: int) -> None:
    values = [1 + sum(gains[: n + 1]) for n in range(len(gains))]
    expected = sum(value <= limit for value in values)
    asked: list[int] = []

    def value(number: int) -> float:
        asked.append(number)
        return values[number - 1]

    assert largest(value, limit, len(values), guess) == expected
    assert len(asked) == len(set(asked))
    assert largest(value, limit, 0, guess) == 0


@pytest.mark.parametrize("variety", ["ring", "two batches"])
def test_the_largest_batch_is_the_last_one_that_meets_the_target(
    tiny_model: Path, variety: str
) -> None:
    site = site_of(tiny_model, variety, 60)
    tpot_ms = float(under_load(site, 50 * site.lanes).step_ns) / NS_PER_MS
    each, gpus = int(fullest(site, tpot_ms).requests) // site.attention_gpus, site.attention_gpus
    assert each >= 50 * site.micro_batches
    assert under_load(site, each * gpus).step_ns <= tpot_ms * NS_PER_MS
    assert under_load(site, (each + 1) * gpus).step_ns > tpot_ms * NS_PER_MS
    assert fullest(site, 1e-6).requests == gpus


def test_the_largest_batch_fits_in_memory(tiny_model: Path) -> None:
    site = site_of(tiny_model, "two batches", 60)
    each = fullest(site, 1e9).requests // site.attention_gpus
    held = each * site.expected.reserved_bytes
    capacity = site.kv_memory().kv_capacity_bytes()
    assert held <= capacity < held + site.expected.reserved_bytes

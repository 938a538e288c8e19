"""The figures of a run, counted again from its tables token by token (DESIGN §7)."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
import pytest

from sim.decoding.run import Run, simulate
from sim.deployments import compile_deployment
from sim.deployments.batch import Batch
from sim.foundation.units import NS_PER_MS
from sim.metrics import summary
from tests import tiny

VARIED = (
    "workload.lengths.prompt={kind: lognormal, mean: 300, cv: 1.0, max_tokens: 4000}",
    "workload.lengths.output={kind: geometric, mean: 12, max_tokens: 60}",
)
POISSON = "workload.arrivals={kind: poisson, requests_per_s: 1500, requests: 150}"


@pytest.fixture(scope="module", params=["step3-2a2f", "dsv3-ep128"])
def poisson(request: pytest.FixtureRequest, tiny_model: Path) -> Run:
    return simulate(tiny.load(tiny_model, request.param, *VARIED, POISSON))


def token_times(run: Run) -> dict[int, list[int]]:
    """Return when each request emitted its tokens: at the ends of its micro-batch's steps."""
    steps, found = run.steps, {}
    for row in range(len(run.requests["request"])):
        request = {name: int(values[row]) for name, values in run.requests.items()}
        ends = steps["end_ns"][steps["micro_batch"] == request["micro_batch"]]
        lived = (ends >= request["first_token_ns"]) & (ends <= request["last_token_ns"])
        found[request["request"]] = sorted(ends[lived].tolist())
    return found


def test_a_request_emits_one_token_a_step(poisson: Run) -> None:
    outputs = dict(zip(poisson.requests["request"], poisson.requests["output_tokens"], strict=True))
    assert {r: len(times) for r, times in token_times(poisson).items()} == outputs


def test_tpot_is_last_minus_first_over_the_tokens_between(poisson: Run) -> None:
    expected = [
        (times[-1] - times[0]) / (len(times) - 1) / NS_PER_MS
        for times in token_times(poisson).values()
        if len(times) > 1
    ]
    found = summary.request_tpot_ms(poisson, 0)
    assert sorted(found) == pytest.approx(sorted(expected), rel=1e-12)


def test_itl_is_the_distribution_of_the_gaps(poisson: Run) -> None:
    steps = poisson.steps
    measured = summary.measured_steps(poisson, summary.cut_steps(poisson))
    counted = {
        (int(steps["micro_batch"][row]), int(steps["end_ns"][row]))
        for row in np.flatnonzero(measured)
    }
    home = dict(zip(poisson.requests["request"], poisson.requests["micro_batch"], strict=True))
    gaps = sorted(
        times[k] - times[k - 1]
        for request, times in token_times(poisson).items()
        for k in range(1, len(times))
        if (home[request], times[k]) in counted
    )
    figures = summary.summary(poisson)
    for percent in (50, 99):
        expected = gaps[ceil(percent / 100 * len(gaps)) - 1] / NS_PER_MS
        assert figures[f"itl_ms_p{percent}"] == pytest.approx(expected, rel=1e-12)


def test_queueing_is_from_arrival_to_admission(poisson: Run) -> None:
    waits = poisson.requests["admitted_ns"] - poisson.requests["arrival_ns"]
    assert (waits >= 0).all()
    figures = summary.summary(poisson)
    assert figures["queue_ms_mean"] == pytest.approx(waits.mean() / NS_PER_MS)
    # An arrival waits for the next boundary of a micro-batch with room, and no longer than a step.
    longest = (poisson.steps["end_ns"] - poisson.steps["start_ns"]).max()
    assert waits.max() <= 2 * longest


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
def test_utilisation_and_cost_of_a_steady_loop(base: str, tiny_model: Path) -> None:
    scenario = tiny.load(tiny_model, base)
    figures = summary.summary(simulate(scenario))
    site = compile_deployment(scenario)
    program = site.program
    each = np.full(site.attention_gpus, 24 // site.attention_gpus // program.micro_batches)
    times = site.times(Batch(each, {None: 100 * each, tiny.WINDOW: tiny.WINDOW * each}))
    busy, first = program.busy_ns(times), 0
    step_ns = figures["tpot_ms_mean"] * NS_PER_MS
    for pool in program.pools:
        worked = program.micro_batches * busy[first : first + pool.servers].mean()
        assert figures["utilisation"][pool.name] == pytest.approx(worked / step_ns, rel=1e-6)
        first += pool.servers
    # An H800 rents at 2 USD an hour (Step-3 report, table 4).
    tokens_per_hour = figures["tgs"] * figures["gpus"] * 3600
    assert figures["usd_per_1m_tokens"] == pytest.approx(
        figures["gpus"] * 2 / tokens_per_hour * 1e6
    )
    assert figures["slo_met"] == (figures["tpot_ms_mean"] <= 50)

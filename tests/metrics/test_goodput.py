"""SLOs: which requests met their targets, counted again one by one, and what the verdict asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.decoding.run import Run, simulate
from sim.foundation.units import NS_PER_MS, NS_PER_S
from sim.inputs.scenario import Slo
from sim.metrics import requests, summary
from sim.metrics.slo import verdict
from tests import tiny

VARIED = (
    "workload.lengths.prompt={kind: lognormal, mean: 300, cv: 1.0, max_tokens: 4000}",
    "workload.lengths.output={kind: geometric, mean: 12, max_tokens: 60}",
)
POISSON = "workload.arrivals={kind: poisson, requests_per_s: 2500, requests: 200}"


@pytest.fixture(scope="module", params=["step3-2a2f", "dsv3-ep128"])
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run_with(model: Path, base: str, slo: str, *settings: str) -> Run:
    return simulate(tiny.load(model, base, *VARIED, POISSON, f"slo={slo}", *settings))


@pytest.fixture(scope="module")
def middling(base: str, tiny_model: Path) -> Run:
    """A run whose targets are the medians of what its requests saw."""
    run = run_with(tiny_model, base, "{tpot_ms: 1000}")
    tpot, queue = requests.tpot_ms(run, summary.cut_steps(run)), requests.queue_ms(run)
    slo = f"{{tpot_ms: {np.nanmedian(tpot)!s}, queue_ms: {np.nanmedian(queue)!s}}}"
    return run_with(tiny_model, base, slo.replace("np.float64", ""))


def counted(run: Run) -> dict[int, tuple[bool, int, int]]:
    """Return, by request, whether it met its targets, its tokens in measured steps, its output."""
    cut, slo = summary.cut_steps(run), run.scenario.slo
    measured = summary.measured_steps(run, cut)
    found = {}
    for row in range(len(run.requests["request"])):
        of = {name: int(values[row]) for name, values in run.requests.items()}
        mine = run.steps["micro_batch"] == of["micro_batch"]
        ends = run.steps["end_ns"]
        lived = mine & (ends >= of["first_token_ns"]) & (ends <= of["last_token_ns"])
        # Requests that come from outside are judged over their whole life.
        first = max(cut - 1, 0) if run.is_closed() else 0
        seen = sorted(ends[lived & (run.steps["step"] >= first)].tolist())
        met = (of["admitted_ns"] - of["arrival_ns"]) / NS_PER_MS <= (slo.queue_ms or np.inf)
        if len(seen) > 1:
            met &= (seen[-1] - seen[0]) / (len(seen) - 1) / NS_PER_MS <= slo.tpot_ms
        tokens = int((lived & measured).sum())
        if tokens and (len(seen) > 1 or of["output_tokens"] == 1):
            found[of["request"]] = met, tokens, of["output_tokens"]
    return found


def test_attainment_is_the_share_of_requests_within_all_targets(middling: Run) -> None:
    requests, steps = middling.requests, middling.steps
    warm_up = steps["step"] < summary.cut_steps(middling)
    late = requests["arrival_ns"] >= max(steps["end_ns"][warm_up], default=0)
    assert late.sum() > 50
    slo, met = middling.scenario.slo, []
    for row in np.flatnonzero(late):
        of = {name: int(values[row]) for name, values in requests.items()}
        gaps_ns = (of["last_token_ns"] - of["first_token_ns"]) / max(of["output_tokens"] - 1, 1)
        queue_ms = (of["admitted_ns"] - of["arrival_ns"]) / NS_PER_MS
        met.append(gaps_ns / NS_PER_MS <= slo.tpot_ms and queue_ms <= (slo.queue_ms or 0))
    figures = summary.summary(middling)
    assert figures["slo_attainment"] == pytest.approx(np.mean(met), rel=1e-12)
    assert 0.05 < figures["slo_attainment"] < 0.6


def test_goodput_is_the_work_of_requests_that_met_their_targets(middling: Run) -> None:
    steps, cut = middling.steps, summary.cut_steps(middling)
    measured = summary.measured_steps(middling, cut)
    requests_per_s = tokens_per_s = 0.0
    home = dict(zip(middling.requests["request"], middling.requests["micro_batch"], strict=True))
    for micro_batch in range(middling.program.micro_batches):
        mine = measured & (steps["micro_batch"] == micro_batch)
        span_s = (steps["end_ns"][mine].max() - steps["start_ns"][mine].min()) / NS_PER_S
        for request, (met, tokens, output) in counted(middling).items():
            if met and home[request] == micro_batch:
                tokens_per_s += tokens / span_s
                requests_per_s += tokens / output / span_s
    figures = summary.summary(middling)
    assert figures["goodput_requests_per_s"] == pytest.approx(requests_per_s, rel=1e-9)
    assert figures["goodput_tgs"] * figures["gpus"] == pytest.approx(tokens_per_s, rel=1e-9)


@pytest.mark.parametrize("arrivals", ["{kind: closed, concurrency: 24}", POISSON.partition("=")[2]])
def test_targets_that_all_meet_make_goodput_throughput(
    arrivals: str, base: str, tiny_model: Path
) -> None:
    settings = (
        f"workload.arrivals={arrivals}",
        "workload.lengths.output={kind: uniform, low: 2, high: 40}",
    )
    figures = summary.summary(run_with(tiny_model, base, "{tpot_ms: 1000}", *settings))
    assert figures["slo_attainment"] == 1
    assert figures["goodput_tgs"] == pytest.approx(figures["tgs"], rel=1e-12)
    none = summary.summary(run_with(tiny_model, base, "{tpot_ms: 0.0001}", *settings))
    assert (none["slo_attainment"], none["goodput_tgs"]) == (0, 0)
    assert none["tgs"] == figures["tgs"]


def test_a_closed_loop_serves_one_request_per_mean_output(base: str, tiny_model: Path) -> None:
    # Fixed outputs of 40 tokens: whatever part of them a run sees, 40 tokens are a request.
    scenario = tiny.load(tiny_model, base, "slo={tpot_ms: 1000}")
    figures = summary.summary(simulate(scenario))
    per_s = figures["goodput_tgs"] * figures["gpus"]
    assert figures["goodput_requests_per_s"] == pytest.approx(per_s / 40, rel=1e-12)
    # Every step takes the same time: there is nothing to be unsure of.
    assert figures["tgs_ci95"] == pytest.approx(0, abs=1e-9 * figures["tgs"])


@pytest.mark.parametrize(
    ("slo", "tpot", "queue", "attainment", "missed"),
    [
        ({"tpot_ms": 50}, 50.0, 9e9, 0.0, ""),
        ({"tpot_ms": 50}, 50.04, None, 1.0, "TPOT 50.0 ms exceeds 50 ms"),
        ({"tpot_ms": 50}, None, None, None, "no TPOT"),
        ({"tpot_ms": 50, "tpot_percentile": 99}, 61.0, 0.0, 1.0, "p99 TPOT 61.0 ms exceeds 50 ms"),
        ({"tpot_ms": 50, "queue_ms": 5}, 40.0, 7.0, 1.0, "queueing 7.0 ms exceeds 5 ms"),
        (
            {"tpot_ms": 50, "queue_ms": 5, "queue_percentile": 90},
            51.0,
            7.0,
            1.0,
            "TPOT 51.0 ms exceeds 50 ms; p90 queueing 7.0 ms exceeds 5 ms",
        ),
        ({"tpot_ms": 50, "queue_ms": 5}, 40.0, None, 1.0, ""),
        ({"tpot_ms": 50, "attainment": 0.99}, 40.0, 0.0, 0.98, "attainment 0.98 is below 0.99"),
        ({"tpot_ms": 50, "attainment": 0.99}, 40.0, 0.0, 0.99, ""),
    ],
)
def test_the_verdict_is_of_what_the_slo_asks_for(
    slo: dict[str, float],
    tpot: float | None,
    queue: float | None,
    attainment: float | None,
    missed: str,
) -> None:
    found = verdict(Slo.model_validate(slo), tpot, queue, attainment)
    assert (found["slo_missed"], found["slo_met"]) == (missed, not missed)


def test_a_percentile_is_that_of_the_requests(base: str, tiny_model: Path) -> None:
    loose = summary.summary(run_with(tiny_model, base, "{tpot_ms: 1000}"))
    mean, tail = loose["tpot_ms_mean"], loose["tpot_ms_p99"]
    between = (mean + tail) / 2
    assert mean < between < tail
    assert summary.summary(run_with(tiny_model, base, f"{{tpot_ms: {between}}}"))["slo_met"]
    strict = f"{{tpot_ms: {between}, tpot_percentile: 99}}"
    assert not summary.summary(run_with(tiny_model, base, strict))["slo_met"]

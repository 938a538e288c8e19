"""Capacity: the search finds a known limit, says how sure it is, and finds it again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sim.experiments import capacity as search
from sim.experiments.capacity import capacity
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.inputs.arrivals import Gamma, Poisson, at_rate
from sim.inputs.scenario import Scenario, load
from sim.metrics.stability import offered_load
from tests import tiny

OPEN = (
    *tiny.SLOWED,
    "deployment.gpus=2",
    "workload.lengths.prompt={kind: geometric, mean: 2000, max_tokens: 100000}",
    "workload.lengths.output={kind: geometric, mean: 20, max_tokens: 1000}",
    "workload.arrivals={kind: poisson, requests_per_s: 700, requests: 200}",
)


def loaded(model: Path, *settings: str) -> Scenario:
    return tiny.load(model, "dsv3-ep128", *OPEN, *settings)


def test_the_limit_is_found_again_within_its_interval(loaded_model: Path) -> None:
    slo = "slo={tpot_ms: 0.6, queue_ms: 5}"
    scenarios = [loaded(loaded_model, slo, f"simulation.seed={seed}") for seed in range(3)]
    found = [capacity(scenario, 0.95, 0.05, 4) for scenario in scenarios]
    # The intervals of independent draws have a part in common, and it is not all rates there are.
    assert max(one.low for one in found) < min(one.high for one in found)
    assert max(one.rate for one in found) < 1.3 * min(one.rate for one in found)
    for one in found:
        assert one.of == "requests_per_s"
        assert one.low <= one.rate < one.high < 2.5 * one.low
        # More arrivals are never better, up to what one late request is.
        assert all(a.attainment >= b.attainment - 0.02 for a, b in pairwise(one.trials))


class Saturating:
    """Stands for runs: attainment falls from 1 at a rate that each seed shifts a little."""

    def __init__(self, limit: float, spread: float) -> None:
        self.limit, self.spread, self.calls = limit, spread, 0

    def run_all(self, scenarios: Sequence[Scenario], _workers: object) -> list[dict[str, float]]:
        self.calls += len(scenarios)
        found = []
        for scenario in scenarios:
            shift = np.random.default_rng(scenario.simulation.seed).normal(0, self.spread)
            rate = scenario.workload.arrivals.requests_per_s  # type: ignore[union-attr]
            attainment = 0.99 - 2 * (rate / self.limit - 1) + shift
            found.append({"slo_attainment": min(max(attainment, 0.0), 1.0), "stable": True})
        return found


@pytest.mark.parametrize("limit", [0.5, 60.0, 699.9, 700.0, 5000.0, 123456.0])
def test_a_known_limit_is_found(
    limit: float, loaded_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Saturating(limit, 0.0)
    monkeypatch.setattr(search, "run_all", runs.run_all)
    monkeypatch.setattr(search, "offered_load", lambda _scenario: 0.0)
    told: list[search.Attempt] = []
    found = capacity(loaded(loaded_model), 0.99, 0.01, 4, ahead=told.append)
    assert limit / 1.0101 < found.rate <= limit * (1 + 1e-9)
    assert found.low == found.rate
    assert found.high == pytest.approx(found.rate * 1.01)
    # Strides of 10, 20, 40 … steps from the first rate to the limit, and bisections of the last.
    strides = 1 + np.ceil(np.log2(1 + abs(np.log(limit / told[0].rate)) / np.log(1.01) / 10))
    assert len(found.trials) <= 2 + strides + np.log2(10 * 2**strides)
    assert runs.calls == 4 * len(found.trials)
    assert capacity(loaded(loaded_model), 0.99, 0.01, 4) == found


def test_the_interval_holds_the_limit_at_its_rate(
    loaded_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "run_all", Saturating(1000.0, 0.02).run_all)
    monkeypatch.setattr(search, "offered_load", lambda _scenario: 0.0)
    monkeypatch.setattr(search, "_doubt", lambda _scenario: (1.0, 1.0))  # chance alone is tried
    held = 0
    for seed in range(300):
        found = capacity(loaded(loaded_model, f"simulation.seed={seed}"), 0.9, 0.002, 5)
        # 90 % are met at 1000·(1 + 0.09/2).
        held += found.low <= 1045 <= found.high
    # 285 are expected, with a standard deviation of 4; ends lie up to one step further out.
    assert 273 <= held <= 297


def test_a_trace_is_replayed_faster_and_faster(loaded_model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times_s = np.cumsum(rng.exponential(1 / 100, 200))
    prompts, outputs = rng.geometric(1 / 2000, 200), rng.geometric(1 / 20, 200)
    rows = zip(times_s, prompts, outputs, strict=True)
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    lines += [f"{at:.9f},{prompt},{output}" for at, prompt, output in rows]
    (tmp_path / "trace.csv").write_text("\n".join(lines) + "\n")
    scenario = loaded(
        loaded_model,
        f"workload={{arrivals: {{kind: trace, path: {tmp_path / 'trace.csv'}}}}}",
        "slo={tpot_ms: 0.6, queue_ms: 5}",
    )
    found = capacity(scenario, 0.95, 0.1, 2)
    assert found.of == "rate_scale"
    # The same lengths at 100 requests per second; the limit of Poisson arrivals is about 700.
    assert 4 < found.rate < 12
    # A trace leaves nothing to draw.
    assert {trial.half_width for trial in found.trials} == {0}


@pytest.mark.parametrize(
    "arrivals",
    [
        Poisson(kind="poisson", requests_per_s=50, requests=9),
        Gamma(kind="gamma", requests_per_s=50, cv=3, requests=9),
    ],
)
def test_arrivals_of_another_rate_are_the_same_draws(arrivals: Poisson | Gamma) -> None:
    faster = at_rate(arrivals, 200.0)
    assert isinstance(faster, Poisson | Gamma)
    slow, fast = next(arrivals.blocks_ns(5)), next(faster.blocks_ns(5))
    # Gaps are rounded to whole nanoseconds one by one.
    assert np.abs(slow / 4 - fast).max() <= len(slow)


def test_a_closed_loop_has_no_rate(loaded_model: Path) -> None:
    closed = loaded(loaded_model, "workload.arrivals={kind: closed, concurrency: 24}")
    with pytest.raises(ScenarioError, match="kind closed has no rate"):
        capacity(closed, 0.99, 0.05, 2)


def test_a_rate_beyond_what_can_be_served_is_told_without_a_run(
    loaded_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = loaded(loaded_model, "slo={tpot_ms: 1000}")
    least = 700 / offered_load(scenario)
    runs = Saturating(1e9, 0.0)
    monkeypatch.setattr(search, "run_all", runs.run_all)
    found = capacity(scenario, 0.9, 0.05, 2)
    assert found.rate <= least < found.high
    for trial in found.trials:
        assert trial.stable == (trial.rate <= least)
        assert trial.stable or trial.attainment == 0
    assert runs.calls == 2 * sum(trial.stable for trial in found.trials)


def test_progress_is_told_before_each_rate_and_narrows(loaded_model: Path) -> None:
    told: list[search.Attempt | search.Trial] = []
    scenario = loaded(loaded_model, "slo={tpot_ms: 0.6, queue_ms: 5}")
    found = capacity(scenario, 0.95, 0.1, 2, ahead=told.append, tell=told.append)
    attempts, trials = told[::2], told[1::2]
    assert [trial.rate for trial in trials] == [attempt.rate for attempt in attempts]
    assert sorted(trials, key=lambda trial: trial.rate) == list(found.trials)
    narrowed = [each for each in attempts if isinstance(each, search.Attempt) and each.left]
    assert narrowed
    for attempt in narrowed:
        assert attempt.low is not None
        assert attempt.high is not None
        assert attempt.low < attempt.high


def test_targets_that_no_rate_meets_and_such_that_all_do_are_refused(
    loaded_model: Path, tmp_path: Path
) -> None:
    few = "workload.arrivals={kind: poisson, requests_per_s: 5000, requests: 20}"
    with pytest.raises(
        InfeasibleError, match=r"only \d+\.\d% of the requests .* loosen slo\.tpot_ms"
    ):
        capacity(loaded(loaded_model, few, "slo={tpot_ms: 0.001}"), 0.4, 1.0, 2)
    # Twenty requests find room however close they come.
    rows = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    rows += [f"{second},100,20" for second in range(20)]
    (tmp_path / "trace.csv").write_text("\n".join(rows) + "\n")
    trace = f"workload={{arrivals: {{kind: trace, path: {tmp_path / 'trace.csv'}}}}}"
    with pytest.raises(InfeasibleError, match=r"4,096 times .* 100\.0% .* give slo\.queue_ms"):
        capacity(loaded(loaded_model, trace, "slo={tpot_ms: 1000}"), 0.99, 1.0, 2)


def test_a_target_that_a_lone_request_misses_is_refused_without_a_run() -> None:
    hopeless = load("poisson-example", ["slo.tpot_ms=1"])
    rates: list[float] = []
    with pytest.raises(InfeasibleError, match="one request alone takes"):
        capacity(hopeless, ahead=lambda attempt: rates.append(attempt.rate))
    assert rates == []

"""Replications: seeds of their own, means, and intervals that hold the truth at their rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.experiments.replications import combined, replicated, replication, run_all
from sim.foundation.errors import InfeasibleError
from sim.inputs.scenario import Scenario
from sim.metrics import summary
from sim.parallel import processes
from tests import tiny

NOISY = (
    *tiny.SLOWED,
    "workload.lengths.prompt={kind: geometric, mean: 2000, max_tokens: 100000}",
    "workload.lengths.output={kind: geometric, mean: 20, max_tokens: 1000}",
    "workload.arrivals={kind: closed, concurrency: 96}",
)


def noisy(model: Path, *settings: str) -> Scenario:
    return tiny.load(model, "dsv3-ep128", *NOISY, *settings)


def test_each_has_a_seed_of_its_own_and_the_first_that_of_the_scenario(loaded_model: Path) -> None:
    scenario = noisy(loaded_model, "simulation.seed=7", "simulation.replications=3")
    seeds = [replication(scenario, number).simulation.seed for number in range(50)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 50
    other = noisy(loaded_model, "simulation.seed=8")
    assert not set(seeds) & {replication(other, number).simulation.seed for number in range(50)}


def test_one_replication_is_the_run(loaded_model: Path) -> None:
    scenario = noisy(loaded_model)
    assert replicated(scenario) == summary.summary(simulate(scenario))


def test_figures_are_means_over_replications(loaded_model: Path) -> None:
    slo = "slo={tpot_ms: 0.6, tpot_percentile: 90, attainment: 0.5}"
    scenario = noisy(loaded_model, slo, "simulation.replications=4")
    runs = [summary.summary(simulate(replication(scenario, number))) for number in range(4)]
    figures = replicated(scenario)
    assert figures["replications"] == 4
    for name in ("tpot_ms_mean", "tpot_ms_p99", "tgs", "slo_attainment", "usd_per_1m_tokens"):
        assert figures[name] == pytest.approx(np.mean([run[name] for run in runs]), rel=1e-12)
    # Student's t of three degrees of freedom, 97.5 %: 3.182; four runs.
    spread = np.std([run["tpot_ms_p99"] for run in runs], ddof=1) * 3.182 / 2
    assert figures["tpot_ms_p99_high"] - figures["tpot_ms_p99"] == pytest.approx(spread)
    assert figures["tpot_ms_p99"] - figures["tpot_ms_p99_low"] == pytest.approx(spread)
    found = np.mean([run["tpot_ms_requests_p90"] for run in runs])
    assert figures["slo_missed"].startswith(f"p90 TPOT {found:.1f} ms exceeds")


def test_workers_change_nothing(loaded_model: Path) -> None:
    scenarios = [replication(noisy(loaded_model), number) for number in range(4)]
    alone = run_all(scenarios)
    with processes.local(2) as pool:
        assert run_all(scenarios, pool) == alone
        refused = noisy(loaded_model, "workload.arrivals.concurrency=100000")
        with pytest.raises(InfeasibleError, match="lower the batch"):
            run_all([refused], pool)


@pytest.mark.parametrize(
    ("figure", "interval"), [("tpot_ms_mean", "tpot_ci95_ms"), ("tgs", "tgs_ci95")]
)
def test_the_intervals_hold_the_truth_19_times_out_of_20(
    figure: str, interval: str, hundreds: list[dict[str, float]], loaded_model: Path
) -> None:
    truth = np.mean([run[figure] for run in hundreds])
    groups = [hundreds[first : first + 5] for first in range(0, len(hundreds), 5)]
    scenario = noisy(loaded_model)
    found = [combined(scenario, group) for group in groups]
    held = np.mean([abs(each[figure] - truth) <= each[interval] for each in found])
    # Of 40 intervals 38 are expected to, with a standard deviation of 1.4.
    assert 0.85 <= held <= 1


def test_the_interval_of_the_tail_holds_the_truth(
    hundreds: list[dict[str, float]], loaded_model: Path
) -> None:
    truth = np.mean([run["tpot_ms_p99"] for run in hundreds])
    groups = [hundreds[first : first + 5] for first in range(0, len(hundreds), 5)]
    found = [combined(noisy(loaded_model), group) for group in groups]
    ends = [(each["tpot_ms_p99_low"], each["tpot_ms_p99_high"]) for each in found]
    assert 0.85 <= np.mean([low <= truth <= high for low, high in ends]) <= 1


@pytest.fixture(scope="module")
def hundreds(loaded_model: Path) -> list[dict[str, float]]:
    """The figures of 200 replications."""
    return run_all([replication(noisy(loaded_model), number) for number in range(200)])

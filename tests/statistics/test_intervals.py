"""Intervals: the ends of an interval are values that its figure can have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.decoding.run import simulate
from sim.experiments.replications import combined, replication, run_all
from sim.foundation.estimates import percentile_interval
from sim.metrics import summary
from tests import tiny

NOISY = (
    *tiny.SLOWED,
    "workload.lengths.prompt={kind: geometric, mean: 2000, max_tokens: 100000}",
    "workload.lengths.output={kind: geometric, mean: 20, max_tokens: 1000}",
    "workload.arrivals={kind: closed, concurrency: 96}",
)


def test_the_lower_end_of_a_tail_is_no_negative_time(loaded_model: Path) -> None:
    scenario = tiny.load(loaded_model, "dsv3-ep128", *NOISY)
    one, other = run_all([replication(scenario, number) for number in range(2)])
    # As far apart as two short runs may be: the spread is wider than the mean.
    figures = combined(scenario, [one, other | {"tpot_ms_p99": 3 * one["tpot_ms_p99"]}])
    assert figures["tpot_ms_p99_low"] == 0
    assert figures["tpot_ms_p99_high"] > figures["tpot_ms_p99"] > 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=400), st.sampled_from([50.0, 90.0, 99.0]))
def test_an_interval_of_a_percentile_lies_within_the_values(
    values: list[float], percent: float
) -> None:
    found = percentile_interval(np.array(values), percent)
    if found is not None:
        assert min(values) <= found[0] <= found[1] <= max(values)


def test_answers_of_one_token_meet_their_slo_as_their_attainment_says(loaded_model: Path) -> None:
    one = "workload.lengths.output={kind: fixed, tokens: 1}"
    for arrivals in ("{kind: closed, concurrency: 96}",
                     "{kind: poisson, requests_per_s: 10, requests: 50}"):  # fmt: skip
        given_ = (*NOISY, one, f"workload.arrivals={arrivals}", "simulation.replications=2")
        scenario = tiny.load(loaded_model, "dsv3-ep128", *given_)
        runs = [summary.summary(simulate(replication(scenario, number))) for number in range(2)]
        for figures in (*runs, combined(scenario, runs)):
            assert figures["tpot_ms_mean"] is None
            assert figures["slo_attainment"] == 1
            assert figures["slo_met"] is True

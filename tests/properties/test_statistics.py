"""Warm-up, confidence and percentiles (DESIGN §6)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.statistics import half_width, warm_up, weighted_percentile

numbers = st.lists(st.floats(-1e6, 1e6), min_size=50, max_size=200)


def test_the_interval_holds_the_mean_19_times_out_of_20() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        series = rng.normal(3.0, 1.0, 200)
        held += abs(series.mean() - 3.0) <= half_width(series)
    # 950 are expected, with a standard deviation of 7.
    assert 925 <= held <= 975


def test_correlated_steps_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 1.0, 2000)
    slow = np.convolve(noise, np.ones(40) / 40, mode="valid")
    naive = 1.96 * slow.std() / np.sqrt(len(slow))
    assert half_width(slow) > 3 * naive


def test_too_few_steps_promise_nothing() -> None:
    assert half_width(np.arange(9.0)) == np.inf


@pytest.mark.parametrize("transient", [10, 40, 75])
def test_a_transient_is_cut(transient: int) -> None:
    rng = np.random.default_rng(1)
    series = rng.normal(10.0, 0.1, 200)
    series[:transient] += np.linspace(8.0, 1.0, transient)
    assert transient <= warm_up(series) <= transient + 10


@given(numbers)
def test_never_more_than_half_is_cut(values: list[float]) -> None:
    cut = warm_up(np.array(values))
    assert 0 <= cut <= len(values) / 2
    assert cut % 5 == 0


def test_what_is_steady_is_kept() -> None:
    assert warm_up(np.full(100, 7.0)) == 0
    assert warm_up(np.arange(49.0)) == 0


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 5)), min_size=1, max_size=30).filter(
        lambda pairs: any(weight for _, weight in pairs)
    ),
    st.sampled_from([1, 25, 50, 90, 99, 100]),
)
def test_a_weight_counts_as_so_many_values(pairs: list[tuple[int, int]], percent: int) -> None:
    written_out = sorted(value for value, weight in pairs for _ in range(weight))
    values, weights = np.array(pairs, dtype=np.float64).T
    found = weighted_percentile(values, weights, percent)
    # The smallest value at or below which so much of the weight lies.
    below = sum(value <= found for value in written_out)
    less = sum(value < found for value in written_out)
    assert below >= percent / 100 * len(written_out) > less

"""Warm-up, confidence and percentiles (DESIGN §6)."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.foundation.estimates import (
    half_width,
    independent_half_width,
    percentile_interval,
    t_975,
    warm_up,
    weighted_percentile,
)

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


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 9, 17, 29, 30, 31, 40, 99, 1000])
def test_t_leaves_2_5_percent_above(degrees: int) -> None:
    # The density of Student's t, in the angle whose tangent is t/√degrees.
    angles = np.linspace(0, np.pi / 2, 2_000_001)
    density = np.cos(angles) ** (degrees - 1)
    end = int(np.searchsorted(angles, np.arctan(t_975(degrees) / np.sqrt(degrees))))
    inside = np.trapezoid(density[: end + 1]) / np.trapezoid(density)
    assert inside == pytest.approx(0.95, abs=2e-4)


def test_few_independent_values_hold_the_mean_19_times_out_of_20() -> None:
    rng = np.random.default_rng(0)
    held = sum(
        abs(values.mean()) <= independent_half_width(values)
        for values in rng.normal(0, 1, (1000, 4))
    )
    assert 925 <= held <= 975
    assert independent_half_width(np.ones(1)) == np.inf


@pytest.mark.parametrize("percent", [50, 90, 99])
@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_the_interval_of_a_percentile_holds_it(percent: int, memory: float) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, np.sqrt(1 - memory**2), (4000, 400))
    series = np.empty_like(noise)
    series[0] = rng.normal(0, 1, 400)
    for step in range(1, len(noise)):
        series[step] = memory * series[step - 1] + noise[step]
    truth = NormalDist().inv_cdf(percent / 100)
    found = [percentile_interval(column, percent) for column in series.T]
    held = np.mean([ends is not None and ends[0] <= truth <= ends[1] for ends in found])
    assert 0.90 <= held <= 0.99


def test_an_interval_needs_values_beyond_the_percentile() -> None:
    assert percentile_interval(np.arange(9.0), 50) is None
    assert percentile_interval(np.arange(50.0), 99) is None
    assert percentile_interval(np.arange(1000.0), 50) is not None


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

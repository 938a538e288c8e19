"""Arrivals: their mean rate, their spread, and the same times wherever one is asked for them."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from pydantic import ValidationError

from sim.foundation.units import NS_PER_S
from sim.inputs.arrivals import Bursts, Diurnal, Gamma, Poisson, TimesNs
from sim.inputs.lengths import BLOCK

Open = Poisson | Gamma | Bursts | Diurnal

OPEN: dict[str, Open] = {
    "poisson": Poisson(kind="poisson", requests_per_s=50, requests=1),
    "even": Gamma(kind="gamma", requests_per_s=50, cv=0.3, requests=1),
    "uneven": Gamma(kind="gamma", requests_per_s=50, cv=3, requests=1),
    "bursts": Bursts(
        kind="bursts", requests_per_s=50, burst_ratio=8, calm_s=3, burst_s=1, requests=1
    ),
    "diurnal": Diurnal(
        kind="diurnal", requests_per_s=50, profile=[1, 0, 4, 2], period_s=40, requests=1
    ),
}


def times_ns(arrivals: Open, blocks: int = 25, seed: int = 0) -> TimesNs:
    return np.concatenate(list(islice(arrivals.blocks_ns(seed), blocks)))


@pytest.mark.parametrize("name", OPEN)
def test_requests_come_in_order_at_their_mean_rate(name: str) -> None:
    times = times_ns(OPEN[name])
    assert times.dtype == np.int64
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert len(times) / times[-1] * NS_PER_S == pytest.approx(50, rel=0.05)


@pytest.mark.parametrize("name", OPEN)
def test_the_same_seed_gives_the_same_times(name: str) -> None:
    first, again, other = (times_ns(OPEN[name], 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert all(len(block) == BLOCK for block in islice(OPEN[name].blocks_ns(0), 3))


@pytest.mark.parametrize(("name", "cv"), [("poisson", 1), ("even", 0.3), ("uneven", 3)])
def test_gaps_spread_as_they_should(name: str, cv: float) -> None:
    gaps = np.diff(times_ns(OPEN[name])).astype(np.float64)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_poisson_and_bursts_without_bursts_are_alike() -> None:
    even = Bursts(kind="bursts", requests_per_s=50, burst_ratio=1, calm_s=3, burst_s=1, requests=1)
    flat = Diurnal(kind="diurnal", requests_per_s=50, profile=[2.0] * 24, requests=1)
    # Both stretch the same arrivals of rate 1.
    poisson = times_ns(OPEN["poisson"], 2)
    for other in (even, flat):
        assert np.abs(times_ns(other, 2) - poisson).max() < 10_000


def test_bursts_have_two_rates_and_their_sojourns() -> None:
    # Index of dispersion of counts of a two-state process over long windows (Fischer and
    # Meier-Hellstern 1993): 1 + 2·(λ1 − λ2)²·r1·r2 / ((r1 + r2)²·(λ1·r2 + λ2·r1)), r the rates of
    # leaving a state.
    bursts = OPEN["bursts"]
    assert isinstance(bursts, Bursts)
    calm, burst = bursts.rates_per_s()
    assert burst == 8 * calm
    assert (3 * calm + burst) / 4 == pytest.approx(50)
    leave_calm, leave_burst = 1 / 3, 1.0
    both = leave_calm + leave_burst
    expected = 1 + 2 * (calm - burst) ** 2 * leave_calm * leave_burst / (
        both**2 * (calm * leave_burst + burst * leave_calm)
    )
    times = times_ns(bursts, 600)
    window = 200 * NS_PER_S
    counts = np.bincount(times // window)[:-1]
    assert counts.var() / counts.mean() == pytest.approx(expected, rel=0.15)


def test_a_profile_repeats_and_begins_where_it_is_told() -> None:
    def shares(begin_s: float) -> list[float]:
        diurnal = Diurnal(
            kind="diurnal",
            requests_per_s=50,
            profile=[1, 0, 4, 2],
            period_s=40,
            begin_s=begin_s,
            requests=1,
        )
        quarter = times_ns(diurnal) // (10 * NS_PER_S) % 4
        return [float((quarter == part).mean()) for part in range(4)]

    assert shares(0) == pytest.approx([1 / 7, 0, 4 / 7, 2 / 7], abs=0.02)
    assert shares(0)[1] == 0
    assert shares(20) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0], abs=0.02)


def test_counts_within_a_part_of_the_profile_are_poisson() -> None:
    times = times_ns(OPEN["diurnal"], 100) / NS_PER_S
    inside = times[(times % 40 >= 20) & (times % 40 < 30)]
    counts = np.bincount((inside // 40).astype(int))[:-1]
    # 50 a second on average, 4 of 7 of them in a quarter of the time.
    mean = 50 * 40 * 4 / 7
    assert counts.mean() == pytest.approx(mean, rel=0.02)
    assert counts.std() == pytest.approx(math.sqrt(mean), rel=0.2)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Gamma, {"cv": 0}),
        (Gamma, {"cv": float("nan")}),
        (Gamma, {"requests_per_s": 0}),
        (Bursts, {"burst_ratio": 0.5}),
        (Bursts, {"calm_s": -1}),
        (Diurnal, {"profile": []}),
        (Diurnal, {"profile": [0, 0]}),
        (Diurnal, {"profile": [1, -1]}),
        (Diurnal, {"begin_s": 40}),
        (Diurnal, {"period_s": float("inf")}),
    ],
)
def test_wrong_values_are_refused(kind: type[Open], wrong: dict[str, object]) -> None:
    right = next(each for each in OPEN.values() if isinstance(each, kind))
    with pytest.raises(ValidationError):
        kind.model_validate(right.model_dump() | wrong)

"""Workloads: the load of a slot, and draws that depend on nothing but their key."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.foundation.streams import stream
from sim.inputs.arrivals import ClosedLoop, Poisson
from sim.inputs.lengths import (
    BLOCK,
    Bimodal,
    CsvLengths,
    DrawnLengths,
    Fixed,
    Geometric,
    Length,
    Lognormal,
    Tokens,
    Uniform,
    stationary_sample,
)
from sim.inputs.workload import Requests, Workload

FAR = 10**9


def slot_load(prompt_mean: float, output_mean: float, output_square: float) -> float:
    """θ = Σ[D·P + D(D−1)/2]/ΣD for prompts that do not depend on outputs."""
    return prompt_mean + (output_square - output_mean) / 2 / output_mean


def uniform_square(low: int, high: int) -> float:
    return float((np.arange(low, high + 1, dtype=np.float64) ** 2).mean())


@pytest.mark.parametrize(
    ("output", "mean", "square"),
    [
        (Fixed(kind="fixed", tokens=777), 777, 777**2),
        (Uniform(kind="uniform", low=10, high=900), 455, uniform_square(10, 900)),
        # E[D²] = (2 − p)/p² with p = 1/mean.
        (Geometric(kind="geometric", mean=300, max_tokens=FAR), 300, (2 - 1 / 300) * 300**2),
        (Lognormal(kind="lognormal", mean=400, cv=0.8, max_tokens=FAR), 400, 400**2 * 1.64),
        (
            Bimodal(kind="bimodal", short=100, long=1000, long_share=0.2),
            280,
            0.8 * 100**2 + 0.2 * 1000**2,
        ),
    ],
)
@pytest.mark.parametrize(
    "prompt",
    [
        Fixed(kind="fixed", tokens=500),
        Uniform(kind="uniform", low=100, high=900),
        Geometric(kind="geometric", mean=500, max_tokens=FAR),
        Lognormal(kind="lognormal", mean=500, cv=0.5, max_tokens=FAR),
    ],
)
def test_slots_hold_their_stationary_load(
    prompt: Length, output: Length, mean: float, square: float
) -> None:
    lengths = DrawnLengths(kind="drawn", prompt=prompt, output=output)
    prompts, outputs, ages = stationary_sample(lengths, seed=3, count=20_000)
    assert (ages >= 0).all()
    assert (ages < outputs).all()
    assert (prompts + ages).mean() == pytest.approx(slot_load(500, mean, square), rel=0.02)


def test_slots_of_recorded_lengths_hold_their_stationary_load(tmp_path: Path) -> None:
    # Here long prompts come with short answers.
    pairs = [(4000, 10), (2000, 50), (300, 400), (20, 1500)]
    path = tmp_path / "lengths.csv"
    rows = [f"{prompt},{output}" for prompt, output in pairs]
    path.write_text("\n".join(["prompt_tokens,output_tokens", *rows]))
    lengths = CsvLengths(kind="csv", path=str(path))
    drawn = stationary_sample(lengths, seed=3, count=20_000)
    prompts, _outputs, ages = drawn
    expected = sum(d * p + d * (d - 1) / 2 for p, d in pairs) / sum(d for _, d in pairs)
    assert (prompts + ages).mean() == pytest.approx(expected, rel=0.02)


keys = st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 3))


@settings(deadline=None)
@given(st.lists(keys, min_size=2, max_size=8, unique=True))
def test_streams_do_not_depend_on_the_order_in_which_they_are_asked(
    places: list[tuple[int, str, int, int]],
) -> None:
    def draws(order: list[tuple[int, str, int, int]]) -> dict[object, list[float]]:
        return {key: stream(*key).random(4).tolist() for key in order}

    forward, backward = draws(places), draws(places[::-1])
    assert forward == backward
    assert len({tuple(numbers) for numbers in forward.values()}) == len(places)


@given(keys)
def test_a_stream_is_a_philox_generator_with_a_hash_as_its_key(
    key: tuple[int, str, int, int],
) -> None:
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    philox = np.random.Philox(key=int.from_bytes(digest, "little"))
    assert stream(*key).bytes(64) == np.random.Generator(philox).bytes(64)


@given(st.lists(st.integers(0, 9000), min_size=1, max_size=6))
def test_requests_are_the_same_wherever_one_begins(firsts: list[int]) -> None:
    lengths = DrawnLengths(
        kind="drawn",
        prompt=Uniform(kind="uniform", low=1, high=10_000),
        output=Geometric(kind="geometric", mean=100, max_tokens=FAR),
    )
    closed = ClosedLoop(kind="closed", concurrency=1)
    requests = Requests(Workload(arrivals=closed, lengths=lengths), 1)
    for first in firsts:
        whole, rest = requests.block(first // BLOCK * BLOCK), requests.block(first)
        assert whole is not None
        assert rest is not None
        for all_of_it, last_of_it in zip(whole[:2], rest[:2], strict=True):
            assert len(all_of_it) == BLOCK
            assert np.array_equal(all_of_it[first % BLOCK :], last_of_it)


def test_arrivals_come_in_order_at_their_rate() -> None:
    poisson = Poisson(kind="poisson", requests_per_s=250, requests=20_000)
    lengths = DrawnLengths(
        kind="drawn",
        prompt=Fixed(kind="fixed", tokens=1),
        output=Fixed(kind="fixed", tokens=1),
    )
    requests = Requests(Workload(arrivals=poisson, lengths=lengths), 0)
    blocks: list[Tokens] = []
    while (block := requests.block(sum(map(len, blocks)))) is not None:
        assert block[2] is not None
        blocks.append(block[2])
    times = np.concatenate(blocks)
    assert len(times) == 20_000
    gaps = np.diff(np.array(times, dtype=np.float64))
    assert (gaps >= 0).all()
    # Exponential gaps: mean 1/rate and as large a standard deviation.
    assert gaps.mean() == pytest.approx(1e9 / 250, rel=0.03)
    assert gaps.std() == pytest.approx(1e9 / 250, rel=0.03)

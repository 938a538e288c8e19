"""Experts in turn: unequal loads hide less behind each other than equal ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.deployments.ep import EpDeployment
from sim.foundation.nanoseconds import Ns
from sim.inputs import scenario
from sim.inputs.model import MoeFfn
from sim.kernels import ops
from sim.kernels.hottest_rank import draw, hottest_loads
from sim.kernels.in_turn import stretch
from sim.kernels.kernel_table import KernelTable

SHAPE = ("fp8", 7168, 2048)
TILE = 64


def site(*settings: str) -> EpDeployment:
    found = compile_deployment(scenario.load("dsv3-ep128", settings))
    assert isinstance(found, EpDeployment)
    return found


TABLE: KernelTable = site().layer_timer.table


def one(tiles: Ns) -> ops.Op:
    ones = np.ones(len(tiles))
    return ops.moe(*SHAPE, ones, tiles * TILE, 128.0, local_experts=ones)


@pytest.mark.parametrize("experts", [1, 2, 9])
@pytest.mark.parametrize("tiles", [1, 3, 40])
def test_equal_loads_take_as_long_as_measured(experts: int, tiles: int) -> None:
    assert stretch(TABLE, one, np.full((1, experts), tiles)) == pytest.approx([1.0])


@given(st.lists(st.integers(0, 60), min_size=2, max_size=8))
def test_unequal_loads_never_take_less(tiles: list[int]) -> None:
    assert stretch(TABLE, one, np.array([tiles]))[0] >= 1 - 1e-12


def test_the_busy_times_of_experts_add_up() -> None:
    """One expert of 30 tiles, bound by products, beside three of one tile, bound by weights."""
    curve, _own = TABLE.serving(one(np.array([1])))
    assert curve is not None
    compute, memory = (
        work / share
        for work, share in zip(
            TABLE.work_us(one(np.array([1, 30]))), (curve.e_c, curve.e_m), strict=True
        )
    )

    def smooth(c: float, m: float) -> float:
        return float((c**curve.p + m**curve.p) ** (1 / curve.p))

    apart = 3 * smooth(compute[0], memory[0]) + smooth(compute[1], memory[1])
    together = smooth(3 * compute[0] + compute[1], 3 * memory[0] + memory[1])
    wanted = (curve.overhead_us + apart) / (curve.overhead_us + together)
    assert wanted > 1.05
    assert stretch(TABLE, one, np.array([[30, 1, 1, 1]])) == pytest.approx([wanted])


def test_the_hottest_rank_takes_the_mean_of_its_draws() -> None:
    skewed = site("routing={kind: power_law, alpha: 1.01}")
    ffn, timer = skewed.model.ffn["moe"], skewed.layer_timer
    assert isinstance(ffn, MoeFfn)
    spread, tokens = skewed.spread(ffn), 1 << 14
    found = timer.experts.expected(ffn, spread, np.array([tokens])).ns[0]
    loads = hottest_loads("power_law_1.01", tokens, spread.held(ffn), ffn.top_k)
    drawn = timer.experts.drawn(ffn, spread, loads[np.newaxis].astype(np.int64), float(tokens)).ns
    assert found == pytest.approx(drawn.mean(), rel=1e-3)


def test_even_routing_is_as_it_was() -> None:
    even = site("routing={kind: uniform}")
    ffn = even.model.ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    spread, tokens = even.spread(ffn), 1 << 14
    loads = draw("balanced", tokens, spread.copies, ffn.top_k, np.random.default_rng(0))
    ranks = loads.reshape(1, spread.ranks, -1)
    found = even.layer_timer.experts.drawn(ffn, spread, ranks, float(tokens)).ns
    balanced = site("routing={kind: balanced}").layer_timer
    assert found.max() == balanced.experts.expected(ffn, spread, np.array([tokens])).ns.max()

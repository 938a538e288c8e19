"""A look-up: roofline times residual, never faster than the peak, counted by its status."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike

from sim.decoding.run import simulate
from sim.inputs import cards
from sim.inputs.scenario import load
from sim.kernels import cores, kernel_table, ops
from sim.kernels.curve import Curve
from sim.kernels.kernel_table import KernelTable
from sim.kernels.timed import Timed, by_status

CARD = cards.accelerator("h100-sxm")
TILE = float(CARD.gemm_tile_rows)

GEMM = Curve(
    op="gemm",
    kernel="dense",
    dtype="bf16",
    key="",
    overhead_us=5.0,
    e_c=0.8,
    e_m=0.8,
    p=4.0,
    source="made",
    licence="MIT",
    points=4,
    mape=0.0,
    p90=0.0,
    axes=(("m", np.array([1.0, 64.0, 4096.0])), ("n", np.array([1024.0, 8192.0]))),
    residual=np.array([[0.1, 0.1], [0.0, 0.0], [-0.1, -0.2]]),
)


BARE = replace(GEMM, axes=(), residual=np.zeros(()))


def expected_us(m: float, n: float, k: float, residual: float) -> float:
    compute = 2 * m * n * k / 9.89e14 / 0.8 * 1e6
    memory = (n * k + m * (k + n)) * 2 / 3.35e12 / 0.8 * 1e6
    return float((5 + (compute**4 + memory**4) ** 0.25) * np.exp(residual))


@pytest.mark.parametrize(
    ("m", "n", "residual"),
    [(1, 1024, 0.1), (64, 8192, 0.0), (8, 1024, 0.05), (512, 8192, -0.1), (4096, 2048, -2 / 15)],
)
def test_time_is_the_roofline_times_the_residual_between_nodes(
    m: int, n: int, residual: float
) -> None:
    found = KernelTable(CARD, [GEMM]).timed(ops.gemm("bf16", m, n, 4096, TILE)).ns
    if n == 2048:  # a third of the way from 1024 to 8192 in doublings
        residual = -0.1 + (-0.2 - -0.1) / 3
    assert int(found) == pytest.approx(1000 * expected_us(m, n, 4096, residual), abs=1)


def test_no_look_up_beats_the_peak() -> None:
    fast = replace(GEMM, overhead_us=0.0, residual=np.full((3, 2), -3.0))
    op = ops.gemm("bf16", np.array([1, 64, 4096]), 2048, 4096, TILE)
    table = KernelTable(CARD, [fast])
    assert np.array_equal(table.timed(op).ns, np.rint(np.maximum(*table.peak_us(op)) * 1000))


def test_status_is_counted_by_time_and_uses() -> None:
    table = KernelTable(CARD, [GEMM])
    inside = table.timed(ops.gemm("bf16", [64, 64], 2048, 4096, TILE))
    beyond = table.timed(ops.gemm("bf16", 8192, 2048, 4096, TILE))
    borrowed = table.timed(ops.gemm("fp8", 64, 2048, 4096, TILE))
    unknown = table.timed(cores.gqa("bf16", 64, 8, 128, 4, 4096, 64))
    total = inside.on(3) + beyond + borrowed + unknown.on(2)
    assert by_status(total.usage_ns) == {
        "calibrated": 3 * inside.ns.sum(),
        "extrapolated": beyond.ns + borrowed.ns,
        "uncalibrated": 2 * unknown.ns,
    }


def test_the_status_of_many_values_is_that_of_each() -> None:
    table, rows = KernelTable(CARD, [GEMM]), np.array([64.0, 8192.0, 64.0, 0.0])

    def time(m: ArrayLike) -> Timed:
        return table.timed(ops.gemm("bf16", m, 2048, 4096, TILE))

    each = [time(m) for m in rows]
    for _ in range(2):  # asked, then remembered
        found = table.timed_each("gemm", rows, time)
        assert found.ns.tolist() == [int(one.ns) for one in each]
        assert found.usage_ns.tolist() == np.sum([one.usage_ns for one in each], axis=0).tolist()
    assert by_status(found.usage_ns)["calibrated"] == 2 * each[0].ns


def test_runs_that_share_a_table_count_their_own_time_alone() -> None:
    short = load("dsv3-ep8-h200", ["simulation.min_steps=20", "simulation.max_steps=20"])
    first, second = simulate(short), simulate(short)
    assert first.usage_ns["calibrated"] > 0
    assert first.usage_ns == second.usage_ns


def test_more_work_than_measured_is_extrapolated() -> None:
    table = KernelTable(CARD, [replace(GEMM, most_work=128.0)])
    timed = table.timed(ops.gemm("bf16", 256, 2048, 4096, TILE))
    assert by_status(timed.usage_ns)["calibrated"] == 0


def test_no_work_takes_no_time() -> None:
    table = KernelTable(CARD, [GEMM])
    found = table.timed(ops.gemm("bf16", [0, 64], 2048, 4096, TILE)).ns
    assert found[0] == 0 < found[1]


def test_the_nearest_shape_of_a_kernel_is_borrowed() -> None:
    def attention(key: str, e_m: float) -> Curve:
        return replace(
            GEMM,
            op="attention_gqa",
            kernel="fastest",
            key=key,
            e_m=e_m,
            axes=(),
            residual=np.zeros(()),
        )

    near, far = attention("q64kv8d128", 0.9), attention("q8kv1d128", 0.2)
    table = KernelTable(CARD, [far, near])
    curve, exact = table.serving(cores.gqa("bf16", 32, 8, 128, 4, 4096, 64))
    assert (curve, exact) == (near, False)


def test_a_general_name_is_served_by_the_best_measured_kernel() -> None:
    def moe(kernel: str) -> Curve:
        return replace(GEMM, op="moe", kernel=kernel, key="h7168", axes=(), residual=np.zeros(()))

    table = KernelTable(CARD, [moe("sglang_triton"), moe("trtllm_cutlass")])
    curve, exact = table.serving(ops.moe("bf16", 7168, 2048, 8, 64, 64, "fused"))
    assert curve is not None
    assert (curve.kernel, exact) == ("trtllm_cutlass", True)


@pytest.mark.parametrize(
    ("rows", "launched"), [(0, 0), (1, 1), (3, 4), (17, 32), (65, 96), (129, 192), (257, 384)]
)
def test_rows_are_padded_as_engines_do(rows: int, launched: int) -> None:
    assert ops.padded_rows(rows) == launched


def test_masked_experts_are_padded_to_tiles() -> None:
    op = ops.moe("fp8", 7168, 2048, 2, 66, 64, "masked", tile_tokens=64 + 64)
    uneven = ops.moe("fp8", 7168, 2048, 2, 66, 64, "masked", tile_tokens=128 + 64)
    assert uneven.flops == 1.5 * op.flops
    assert uneven.least_flops() == op.least_flops()


def test_a_value_costs_at_most_two_microseconds_in_batches() -> None:
    table = KernelTable(CARD, [GEMM])
    sizes = np.arange(1, 1001)
    best = np.inf
    for _ in range(20):
        op = ops.gemm("bf16", sizes, 2048, 4096, TILE)
        start = time.perf_counter()
        table.timed(op)
        best = min(best, time.perf_counter() - start)
    assert best / len(sizes) < 2e-6


def test_attention_borrows_from_its_own_shape_before_its_own_format() -> None:
    # On H20 nobody measured MFA on an FP8 cache; the one FP8 curve has 4 query heads a KV head.
    card = cards.accelerator("h20")
    table = kernel_table.load(card, cards.calibration("h20"))
    load = 64, 64 * 8192, float(card.query_tile_rows)
    narrow, wide = (cores.gqa(dtype, 64, 1, 256, *load) for dtype in ("fp8", "bf16"))
    curve, own = table.serving(narrow)
    assert curve is not None
    assert (curve.dtype, curve.key, own) == ("bf16", "q64kv1d256", False)
    borrowed = table.timed(narrow)
    assert borrowed.ns < table.timed(wide).ns
    assert by_status(borrowed.usage_ns)["extrapolated"] == borrowed.ns


def test_experts_keep_their_number_format_before_their_kernel() -> None:
    def moe(kernel: str, dtype: str, key: str) -> Curve:
        return replace(BARE, op="moe", kernel=kernel, dtype=dtype, key=key)

    masked = moe("masked", "fp8", "h7168i2048")
    others = moe("sglang_triton", "nvfp4", "h7168"), moe("sglang_triton/grouped", "fp8", "h7168")
    table = KernelTable(CARD, [masked, *others[:1]])
    assert table.serving(ops.moe("fp8", 7168, 2048, 8, 64, 64, "fused")) == (masked, False)
    # A kernel of the same axes comes first, be it under another load.
    table = KernelTable(CARD, [masked, *others])
    assert table.serving(ops.moe("fp8", 7168, 2048, 8, 64, 64, "fused")) == (others[1], False)


@pytest.mark.parametrize("card", ["b200", "gb200", "b300", "gb300"])
@pytest.mark.parametrize("dtype", ["bf16", "fp8", "nvfp4", "mxfp4", "int4"])
def test_blackwell_has_fused_experts_in_every_format(card: str, dtype: str) -> None:
    table = kernel_table.load(cards.accelerator(card), cards.calibration(card))
    for hidden, intermediate in ((7168, 2048), (4096, 1536)):
        op = ops.moe(dtype, hidden, intermediate, 8, 64, TILE, "fused")
        curve, _own = table.serving(op)
        assert curve is not None
        assert curve.dtype == dtype
        assert "/" not in curve.kernel

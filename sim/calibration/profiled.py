"""Kernels of a 910C die as profilers timed them in serving, as curves.

`python -m sim.calibration.profiled` writes them into the shipped table. GLM-5 (W8A8, attention
over 4 dies, experts over 32, two drafts) decodes 10K to 20K of context under vLLM-Ascend 0.18 in
ACL graphs; times are medians of a profiler over thousands of calls
(github.com/hudingyi688/aiconfigurator-npu, docs/profiler_alignment/groundtruth/summary.csv
@11bc0ae8). Few points make few figures: a launch, and shares of compute peak and bandwidth by least
squares on relative errors, which come out at 4 to 9 % (mean of the points fitted; none is held
out). Kernels that ran beside another stream (shared experts) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.inputs import cards
from sim.kernels import cores, ops
from sim.kernels.curve import Curve, work_of
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats, Op
from sim.kernels.table_file import write

CARD = "ascend-910c"
_SOURCE = "vllm-ascend 0.18, GLM-5 decode (hudingyi688/aiconfigurator-npu @11bc0ae8)"
_XCCL = "; slope: XCCL at EP128 (arXiv 2508.02520)"

# m, n, k, µs: QuantBatchMatmulV3, which takes quantised activations.
_INT8 = (
    (3, 4096, 2048, 20.10),
    (9, 4096, 2048, 19.90),
    (15, 4096, 2048, 20.88),
    (27, 4096, 2048, 20.82),
    (114, 4096, 2048, 21.20),
    (256, 4096, 2048, 34.43),
    (3, 6144, 3072, 26.34),
    (9, 6144, 3072, 25.42),
    (27, 6144, 3072, 27.06),
    (3, 6144, 4096, 31.60),
    (9, 6144, 4096, 31.79),
    (15, 6144, 4096, 33.22),
    (27, 6144, 4096, 32.84),
    (3, 6144, 6144, 39.92),
    (9, 6144, 6144, 41.02),
    (15, 6144, 6144, 42.88),
    (27, 6144, 6144, 42.64),
    (114, 2624, 6144, 29.47),
    (256, 2624, 6144, 34.70),
    (114, 16384, 2048, 48.85),
    (256, 16384, 2048, 85.72),
)
# MatMulV2.
_BF16 = (
    (3, 256, 6144, 10.42),
    (9, 256, 6144, 10.22),
    (27, 256, 6144, 11.72),
    (114, 256, 6144, 17.78),
    (3, 6144, 6144, 66.16),
    (9, 6144, 6144, 87.10),
    (256, 6144, 6144, 122.02),
    (3, 6144, 12288, 165.48),
    (9, 6144, 12288, 180.03),
    (114, 6144, 12288, 188.77),
    (256, 6144, 12288, 271.34),
    (3, 38720, 6144, 401.14),
    (9, 38720, 6144, 431.32),
    (24, 38720, 6144, 466.46),
)
# Pairs of 8 experts of 6,144 x 2,048, µs: GroupedMatmulSwigluQuant and GroupedMatmul together.
_EXPERTS = (
    (24, 133.58 + 60.43),
    (704, 225.24 + 98.88),
    (757, 232.48 + 97.74),
    (1584, 367.85 + 141.08),
    (2135, 393.26 + 167.59),
    (3148, 462.25 + 203.95),
    (3552, 525.97 + 211.94),
)
# Queries of 16 heads and 32 index heads, µs: LightningIndexer, SparseFlashAttention, and what is
# around them: LayerNormV3, rope of index queries and keys, AscendQuantV2 of the query latent and of
# the output, ScatterNdUpdate of the key. A core of the 24 takes one query after the other.
_SPARSE = (
    (3, 32.78, 88.40, 5.14 + 2.14 + 3.86 + 10.00 + 12.16 + 13.74),
    (6, 60.28, 90.00, 6.40 + 2.48 + 4.32 + 10.96 + 10.98 + 13.82),
    (9, 67.98, 91.78, 7.40 + 3.20 + 5.10 + 10.02 + 10.02 + 12.36),
    (12, 55.82, 91.64, 8.58 + 3.67 + 5.61 + 10.62 + 10.78 + 13.91),
    (15, 59.61, 93.65, 9.79 + 4.18 + 5.98 + 10.31 + 10.34 + 14.01),
    (18, 52.96, 93.43, 9.11 + 4.68 + 6.54 + 10.87 + 9.95 + 13.79),
    (21, 60.31, 94.95, 11.66 + 5.08 + 7.01 + 10.18 + 10.22 + 14.02),
    (24, 58.88, 93.61, 12.81 + 5.56 + 7.52 + 11.86 + 10.67 + 13.95),
    (27, 64.96, 155.10, 14.62 + 5.56 + 7.52 + 9.86 + 10.12 + 14.14),
)
_CONTEXT = 16384
# Tokens of a rank, µs: floor of MoeDistributeDispatchV2 and MoeDistributeCombineV2 in the same runs
# (medians at 1 to 6 tokens of EP32), and 4 and 128 tokens of hidden 7168 in XCCL's own test.
_EXCHANGES: dict[ops.Direction, tuple[str, float, float, float]] = {
    "dispatch": ("int8", 64.2, 20.0, 100.0),
    "combine": ("bf16", 86.6, 25.0, 120.0),
}


def curves() -> list[Curve]:
    """Return the curves of the card."""
    table = KernelTable(cards.accelerator(CARD))
    tile = table.accelerator.gemm_tile_rows
    made = []
    for dtype, rows in (("int8", _INT8), ("bf16", _BF16)):
        m, n, k, us = np.array(rows, dtype=np.float64).T
        op = ops.gemm(dtype, m, n, k, tile)
        ends = tuple((name, np.unique(op.axes[name])[[0, -1]]) for name in ("m", "n", "k"))
        made.append(_fitted(table, op, us, ends))
    pairs, us = np.array(_EXPERTS).T
    eight = np.full_like(pairs, 8.0)
    experts = ops.moe("int8", 6144, 2048, eight, pairs, tile, "vllm_ascend", eight)
    rows_of = np.unique(experts.axes["rows"])[[0, -1]]
    ends = (
        ("intermediate", np.array([2048.0])),
        ("experts", np.array([8.0])),
        ("rows", rows_of),
    )
    made.append(_fitted(table, experts, us, ends))
    made.append(_sparse(table))
    made += [_exchange(table, direction) for direction in _EXCHANGES]
    return sorted(made, key=lambda each: each.identity)


def _fitted(table: KernelTable, op: Op, us: Floats, axes: Sequence[tuple[str, Floats]]) -> Curve:
    """Return a launch and shares of peak that come closest to `us`; compute and memory add up."""
    compute_us, memory_us = table.work_us(op)

    parts = np.stack([np.ones_like(us), compute_us, memory_us])
    held = np.zeros(3, dtype=bool)
    found = np.ones(3)
    while True:  # a share of a peak is 1 at most, a launch takes no less than nothing
        rest = 1 - (parts[held] / us).T @ found[held]
        found[~held] = np.linalg.lstsq((parts[~held] / us).T, rest, rcond=None)[0]
        beyond = ~held & (found < (0.0, 1.0, 1.0))
        if not beyond.any():
            break
        held |= beyond
        found[beyond] = np.array([0.0, 1.0, 1.0])[beyond]
    overhead, c, m = found[0], 1 / found[1], 1 / found[2]
    most = float(np.max(work_of(op.axes)))
    return _curve(op, (overhead, c, m, 1.0), tuple(axes), len(us), most)


def _curve(
    op: Op,
    figures: tuple[float, float, float, float],
    axes: tuple[tuple[str, Floats], ...],
    points: int,
    most_work: float,
    residual: Floats | None = None,
    source: str = _SOURCE,
) -> Curve:
    overhead, e_c, e_m, p = figures
    return Curve(
        op=op.name,
        kernel=op.kernel,
        dtype=op.dtype,
        key=op.key,
        overhead_us=round(overhead, 2),
        e_c=round(e_c, 3),
        e_m=round(e_m, 3),
        p=p,
        source=source,
        licence="figure",
        points=points,
        mape=float("nan"),
        p90=float("nan"),
        most_work=most_work,
        axes=axes,
        residual=np.zeros([len(at) for _name, at in axes]) if residual is None else residual,
    )


def _sparse(table: KernelTable) -> Curve:
    """Return the sparse core with its indexer: no query is faster than one before it."""
    queries, index, core, around = np.array(_SPARSE).T
    us = np.maximum.accumulate(index + core)
    us = us + np.maximum.accumulate(around)
    tile = table.accelerator.query_tile_rows
    op = cores.dsa("bf16", 16, 512, 64, 32, 128, 2048, 1, queries, queries * _CONTEXT, tile)
    compute_us, memory_us = table.work_us(op)
    overhead, e_c, e_m = float(np.median(around)), 0.65, 0.5
    smooth = overhead + np.hypot(compute_us / e_c, memory_us / e_m)
    axes = (("kv_len", np.array([float(_CONTEXT)])), ("batch", queries))
    residual = np.log(us / smooth)[np.newaxis]
    most = float(queries.max() * _CONTEXT)
    return _curve(op, (overhead, e_c, e_m, 2.0), axes, len(us), most, residual)


def _exchange(table: KernelTable, direction: ops.Direction) -> Curve:
    dtype, floor_us, few_us, many_us = _EXCHANGES[direction]
    domain = table.accelerator.node.scale_up_domain_gpus
    op = ops.a2a(direction, dtype, 128, domain, np.array([4.0, 128.0]), 7168, 8, 256, "mc2")
    _compute, memory_us = table.peak_us(op)
    share = float((memory_us[1] - memory_us[0]) / (many_us - few_us))
    axes = (
        ("ep", np.array([32.0, 128.0])),
        ("tokens", np.array([1.0, 128.0])),
        ("experts", np.array([256.0])),
    )
    source = _SOURCE + _XCCL
    return _curve(op, (floor_us, 1.0, share, 1.0), axes, 4, 128.0, source=source)


def main() -> None:
    """Write the curves into the shipped table."""
    write(curves(), cards.packaged(cards.CALIBRATION) / f"{CARD}.csv")


if __name__ == "__main__":
    main()

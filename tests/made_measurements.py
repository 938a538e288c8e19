"""Measurements made from known rooflines, in the shared form: what a fit has to find again."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path

import numpy as np

from sim.inputs import cards
from sim.kernels import cores, ops
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Op

CARD = cards.accelerator("h100-sxm")
OVERHEAD_US, E_C, E_M = 4.0, 0.8, 0.85
NOISE = 0.01


def time_us(op: Op) -> float:
    """Return a roofline time with a spread of 1 % that depends on the shape alone."""
    compute, memory = (float(part) for part in KernelTable(CARD).peak_us(op))
    smooth = OVERHEAD_US + ((compute / E_C) ** 3 + (memory / E_M) ** 3) ** (1 / 3)
    seed = zlib.crc32(repr(sorted((name, float(at)) for name, at in op.axes.items())).encode())
    return float(smooth * np.exp(np.random.default_rng(seed).normal(0, NOISE)))


def gemm(path: Path) -> Path:
    rows = ["gpu,dtype,m,n,k,latency_us,source"]
    sizes = (1024, 2048, 4096, 8192)
    for n, k, m in itertools.product(sizes, sizes, (1, 16, 64, 128, 256, 1024, 4096)):
        op = ops.gemm("bf16", m, n, k, CARD.gemm_tile_rows)
        rows.append(f"h100_sxm,bfloat16,{m},{n},{k},{time_us(op):.4f},afdsim:synthetic")
    return written(path, rows)


def attention(path: Path) -> Path:
    rows = ["gpu,n_q_heads,n_kv_heads,head_dim,kv_dtype,batch,kv_len,latency_us,regime,source"]
    for (q, kv, dim), batch, kv_len in itertools.product(
        ((64, 1, 256), (64, 8, 128)), (1, 4, 16, 64, 256), (128, 512, 2048, 8192, 32768)
    ):
        tile = CARD.query_tile_rows
        op = cores.gqa("bf16", q, kv, dim, batch, batch * kv_len, tile)
        shape = f"{q},{kv},{dim},bfloat16,{batch},{kv_len}"
        rows.append(f"h100_sxm,{shape},{time_us(op):.4f},hbm,afdsim:synthetic")
    return written(path, rows)


def collective(path: Path) -> Path:
    rows = ["gpu,impl,op,dtype,num_gpus,bytes,latency_us,source"]
    for name, gpus, power in itertools.product(
        ("all_gather", "reduce_scatter"), (2, 4, 8), range(10, 28, 2)
    ):
        op = ops.collective(name, "bf16", gpus, 2**power)  # type: ignore[arg-type]  # a literal
        rows.append(f"h100_sxm,nccl,{name},half,{gpus},{2**power},{time_us(op):.4f},made")
    return written(path, rows)


def written(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path

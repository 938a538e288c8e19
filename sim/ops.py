"""Kernels as the roofline sees them: an operation's FLOPs, bytes, medium and shape (DESIGN §3).

Each function returns one `Op`. Its quantities may be numbers or NumPy arrays of one shape: one
value per GPU. Zero work (no tokens) stays zero, so that an empty micro-batch takes no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.units import DTYPE_BYTES

Floats = NDArray[np.float64]
Medium = Literal["hbm", "scale_up", "nic"]
Direction = Literal["dispatch", "combine"]

# One FP32 scale for every 128 FP8 activations, as DeepSeek-V3 and DeepEP quantise (DeepSeek-V3
# technical report, §3.3.2).
SCALE_BLOCK = 128
SCALE_BYTES = 4


@dataclass(frozen=True)
class Op:
    """One kernel launch (or, in arrays, the same kernel on several GPUs)."""

    name: str
    """Operation of the calibration table: gemm, attention_gqa, a2a_dispatch…"""
    dtype: str
    """Number format that the operation computes in or moves."""
    key: str
    """The part of the shape that selects a kernel; empty where one kernel serves all shapes."""
    flops: Floats
    """FLOPs executed, tile padding included."""
    bytes: Floats
    """Bytes moved through `medium`."""
    medium: Medium
    axes: Mapping[str, Floats]
    """Shape coordinates along which a calibration table interpolates."""


def _floats(value: ArrayLike) -> Floats:
    return np.asarray(value, dtype=np.float64)


def padded(rows: ArrayLike, tile: float) -> Floats:
    """Return `rows` rounded up to whole tensor-core tiles."""
    return np.ceil(_floats(rows) / tile) * tile


def activation_bytes(hidden: int, dtype: str) -> float:
    """Return bytes of one token's activations on a wire; FP8 and INT8 carry block scales."""
    scales = hidden / SCALE_BLOCK * SCALE_BYTES if dtype in ("fp8", "int8") else 0.0
    return hidden * DTYPE_BYTES[dtype] + scales


def gemm(dtype: str, m: ArrayLike, n: float, k: float, tile_rows: float) -> Op:
    """Return an (m×k)·(k×n) product: weights in `dtype` read once, BF16 in and out.

    `n` and `k` may be fractional where they stand for a sum of several projections.
    """
    rows = _floats(m)
    weights = np.where(rows > 0, n * k * DTYPE_BYTES[dtype], 0.0)
    traffic = weights + rows * (k * DTYPE_BYTES[dtype] + n * DTYPE_BYTES["bf16"])
    axes = {"m": rows, "n": _floats(n), "k": _floats(k)}
    flops = 2 * padded(rows, tile_rows) * n * k
    return Op("gemm", dtype, "", flops, traffic, "hbm", axes)


def attention_gqa(
    dtype: str,
    query_heads: int,
    kv_heads: int,
    head_dim: int,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return grouped-query decode attention over `kv_tokens` cached tokens in all.

    The query heads of one KV head are padded to a tile of `tile_rows`; MFA is the case of 64
    query heads on one KV head of 256.
    """
    group = query_heads // kv_heads
    tokens, requests = _floats(kv_tokens), _floats(batch)
    flops = kv_heads * padded(group, tile_rows) * head_dim * 4 * tokens
    traffic = kv_heads * 2 * head_dim * tokens * DTYPE_BYTES[dtype]
    traffic = traffic + requests * 2 * query_heads * head_dim * DTYPE_BYTES["bf16"]
    axes = {"batch": requests, "kv_tokens": tokens, "kv_heads": _floats(kv_heads)}
    return Op("attention_gqa", dtype, f"g{group}d{head_dim}", flops, traffic, "hbm", axes)


def attention_mla(
    dtype: str,
    query_heads: int,
    kv_lora: int,
    rope: int,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return absorbed multi-head latent attention: QKᵀ over kv_lora + rope, PV over kv_lora."""
    tokens, requests = _floats(kv_tokens), _floats(batch)
    flops = padded(query_heads, tile_rows) * 2 * (2 * kv_lora + rope) * tokens
    traffic = (kv_lora + rope) * tokens * DTYPE_BYTES[dtype]
    traffic = traffic + requests * query_heads * (2 * kv_lora + rope) * DTYPE_BYTES["bf16"]
    axes = {"batch": requests, "kv_tokens": tokens, "heads": _floats(query_heads)}
    return Op("attention_mla", dtype, f"h{query_heads}", flops, traffic, "hbm", axes)


def attention_linear(dtype: str, state_elements: int, flops: float, batch: ArrayLike) -> Op:
    """Return linear attention: each request's state is read and written once (lightning)."""
    requests = _floats(batch)
    traffic = 2 * state_elements * DTYPE_BYTES[dtype] * requests
    axes = {"batch": requests}
    return Op("attention_linear", dtype, "", flops * requests, traffic, "hbm", axes)


def moe(
    dtype: str,
    hidden: int,
    intermediate: float,
    active_experts: ArrayLike,
    expert_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return a masked grouped FFN: up, gate, activation and down of the experts on one GPU.

    `active_experts` experts hold at least one of the `expert_tokens` (token, expert) pairs; only
    their weights are read, and each is padded to whole row tiles.
    """
    experts, tokens = _floats(active_experts), _floats(expert_tokens)
    per_expert = np.divide(tokens, experts, out=np.zeros_like(tokens + experts), where=experts > 0)
    rows = experts * padded(per_expert, tile_rows)
    weights = 3 * hidden * intermediate
    traffic = experts * weights * DTYPE_BYTES[dtype]
    traffic = traffic + tokens * (hidden * (DTYPE_BYTES[dtype] + DTYPE_BYTES["bf16"]))
    traffic = traffic + tokens * 2 * intermediate * DTYPE_BYTES["bf16"]
    axes = {
        "experts": experts,
        "expert_tokens": tokens,
        "hidden": _floats(hidden),
        "intermediate": _floats(intermediate),
    }
    return Op("moe", dtype, "masked", 2 * rows * weights, traffic, "hbm", axes)


def a2a(
    direction: Direction,
    dtype: str,
    ep: int,
    domain_gpus: int,
    tokens_per_rank: ArrayLike,
    hidden: int,
    top_k: int,
) -> Op:
    """Return one direction of the EP all-to-all: every (token, expert) pair is one message.

    Under uniform routing (EP − domain)/EP of the pairs leave the scale-up domain and cross the
    NIC; inside one domain (EP − 1)/EP of them cross the scale-up link (DeepEP low latency).
    """
    tokens = _floats(tokens_per_rank)
    pairs = tokens * top_k * activation_bytes(hidden, dtype)
    inside = ep <= domain_gpus
    share = (ep - 1) / ep if inside else (ep - domain_gpus) / ep
    axes = {"ep": _floats(ep), "tokens_per_rank": tokens}
    return Op(
        f"a2a_{direction}",
        dtype,
        f"h{hidden}k{top_k}",
        np.zeros_like(pairs),
        pairs * share,
        "scale_up" if inside else "nic",
        axes,
    )


def collective(
    name: Literal["all_gather", "reduce_scatter", "all_to_all"],
    dtype: str,
    gpus: int,
    full_bytes: ArrayLike,
) -> Op:
    """Return a collective inside a scale-up domain: each GPU moves (gpus − 1)/gpus of the buffer.

    For an all-to-all the full buffer is what one GPU sends, its own part included.
    """
    moved = _floats(full_bytes) * (gpus - 1) / gpus
    axes = {"gpus": _floats(gpus), "bytes": _floats(full_bytes)}
    return Op("collective", dtype, name, np.zeros_like(moved), moved, "scale_up", axes)

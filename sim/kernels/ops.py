"""Kernels as the roofline sees them: an operation's FLOPs, bytes, medium and shape (DESIGN §3).

Each function returns one `Op`. Its quantities may be numbers or NumPy arrays of one shape: one
value per GPU. Zero work (no tokens) stays zero, so that an empty micro-batch takes no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.foundation.units import DTYPE_BYTES
from sim.inputs.model import matrices
from sim.kernels import served

Floats = NDArray[np.float64]
Medium = Literal["hbm", "scale_up", "nic"]
Direction = Literal["prepare", "dispatch", "combine"]
Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]

# One FP32 scale for every 128 FP8 activations, as DeepSeek-V3 and DeepEP quantise (DeepSeek-V3
# technical report, §3.3.2).
SCALE_BLOCK = 128
SCALE_BYTES = 4

# Rows to which serving engines pad M before they launch a GEMM: powers of two up to 32, then
# these, then whole tiles of 128 (measured: M = 129 and 257 cost a tile more, 17 and 65 do not).
_ROW_LADDER = np.array([0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256], dtype=np.float64)
_ROW_TILE = 128

# Rows to which DeepGEMM's masked kernels pad each expert, on Hopper and on Blackwell.
MASKED_TILE_ROWS = 64.0

# Formats that kernels compute in where weights alone are narrower: DeepGEMM and FlashInfer multiply
# MXFP4 by FP8, Marlin and its like INT4 by BF16.
_ACTIVATIONS = {
    "mxfp4": "fp8",
    "mxfp4_bf16": "bf16",
    "int4": "bf16",
    "int4_fp8": "fp8",
    "int4_group32": "bf16",
}

# Formats whose products are those of another one, to which they are widened or scaled.
WIDENED = {
    "fp8_tensor": "fp8",
    "mxfp4_bf16": "bf16",
    "int4": "bf16",
    "int4_fp8": "fp8",
    "int4_group32": "bf16",
}

# End of the key of experts without a gate: no measured kernel is of such.
UNGATED = "ungated"

_EXPERT_ID_BYTES = 4

# The widest expert parallelism for which DeepEP's kernels over NVLink were measured; wider
# scale-up domains run the all-to-all of TensorRT-LLM.
_DEEPEP_NVLINK_GPUS = 8


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
    kernel: str = ""
    """Implementation of the operation, as calibration tables name it."""
    needed_flops: Floats | None = None
    """FLOPs of the rows that were launched, where `flops` includes padding to tiles."""
    computes: str = ""
    """Number format that is multiplied, where weights or a cache are widened to it first."""

    def least_flops(self) -> Floats:
        """Return the FLOPs that no kernel can save: those without padding to tiles."""
        return self.flops if self.needed_flops is None else self.needed_flops


def multiplied_as(dtype: str) -> tuple[str, ...]:
    """Return the formats of weights that are narrower than `dtype` and multiplied in it."""
    return tuple(weights for weights, taken in _ACTIVATIONS.items() if taken == dtype)


def floats(value: ArrayLike) -> Floats:
    return np.asarray(value, dtype=np.float64)


def per(total: Floats, parts: Floats) -> Floats:
    """Return total / parts, 0 where there are no parts."""
    return np.divide(total, parts, out=np.zeros_like(total + parts), where=parts > 0)


def padded(rows: ArrayLike, tile: float) -> Floats:
    """Return `rows` rounded up to whole tensor-core tiles."""
    return np.ceil(floats(rows) / tile) * tile


def padded_rows(rows: ArrayLike) -> Floats:
    """Return `rows` rounded up to the M that serving engines launch a GEMM with."""
    exact = floats(rows)
    step = np.searchsorted(_ROW_LADDER, np.minimum(exact, _ROW_LADDER[-1]))
    return np.where(exact > _ROW_LADDER[-1], padded(exact, _ROW_TILE), _ROW_LADDER[step])


def expert_tile_rows(kernel: str, tile_rows: float) -> float:
    """Return the rows to which a kernel pads each expert; `tile_rows` are those of the card."""
    return MASKED_TILE_ROWS if kernel == served.MASKED else tile_rows


def activation_bytes(hidden: ArrayLike, dtype: str) -> Floats:
    """Return bytes of one token's activations on a wire; FP8 and INT8 carry block scales."""
    elements = floats(hidden)
    scales = elements / SCALE_BLOCK * SCALE_BYTES if dtype in ("fp8", "int8") else 0.0
    return elements * DTYPE_BYTES[dtype] + scales


def gemm(
    dtype: str,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    tile_rows: float,
    kernel: str = "",
    groups: int = 1,
) -> Op:
    """Return an (m×k)·(k×n) product: weights in `dtype` read once, BF16 in and out.

    M is padded as serving engines do, and in `flops` to whole tiles of the card besides.
    `n` and `k` may be fractional where they stand for a sum of several projections. FP8 is
    quantised in blocks of 128, as DeepSeek-V3 does, unless `kernel` says "rowwise". `groups` such
    products side by side (MLA's absorbed projections, one a head) are looked up as one of
    `groups`·n columns.
    """
    rows, columns, depth = padded_rows(m), floats(n) * groups, floats(k)
    elements = columns * depth
    weights = np.where(rows > 0, elements * DTYPE_BYTES[dtype], 0.0)
    taken = DTYPE_BYTES[_ACTIVATIONS.get(dtype, dtype)]
    moved = groups * depth * taken + columns * DTYPE_BYTES["bf16"]
    traffic = weights + rows * moved
    return Op(
        "gemm",
        "fp8" if dtype == "fp8_tensor" else dtype,
        "",
        2 * padded(rows, tile_rows) * elements,
        traffic,
        "hbm",
        {"m": rows, "n": columns, "k": depth},
        kernel or served.gemm_kernel(dtype),
        2 * rows * elements,
        WIDENED.get(dtype, ""),
    )


def moe(
    dtype: str,
    hidden: int,
    intermediate: ArrayLike,
    active_experts: ArrayLike,
    expert_tokens: ArrayLike,
    tile_rows: float,
    kernel: str = served.MASKED,
    local_experts: ArrayLike | None = None,
    tile_tokens: ArrayLike | None = None,
    gated: bool = True,
) -> Op:
    """Return a grouped FFN: up, gate (if any), activation and down of the experts on one GPU.

    `active_experts` of the `local_experts` (default: those) hold at least one of the
    `expert_tokens` (token, expert) pairs; only their weights are read. The masked kernel pads
    each to 64 rows, others to `tile_rows`: `tile_tokens` are the padded rows where the loads
    are known, otherwise they are taken as equal. A fused kernel ("fused", or an engine's by
    name) also permutes and sums the tokens; "NAME/power_law_1.01" is one measured under that skew.
    """
    active, tokens = floats(active_experts), floats(expert_tokens)
    experts = active if local_experts is None else floats(local_experts)
    per_active = per(tokens, active)
    masked = kernel == served.MASKED
    tile = expert_tile_rows(kernel, tile_rows)
    rows = active * padded(per_active, tile) if tile_tokens is None else floats(tile_tokens)
    columns = floats(intermediate)
    weights = matrices(gated) * hidden * columns
    launched = per(rows, active)
    tiles = np.where(launched > tile, launched, per_active)
    # The masked kernel moves whole tiles; up to one, it was measured at every count of rows.
    moved = active * tiles if masked else tokens
    traffic = active * weights * DTYPE_BYTES[dtype]
    taken = DTYPE_BYTES[_ACTIVATIONS.get(dtype, dtype)]
    traffic = traffic + moved * (hidden * (taken + DTYPE_BYTES["bf16"]))
    traffic = traffic + moved * 2 * columns * DTYPE_BYTES["bf16"]
    axes = {"experts": experts, "active": active, "rows": tiles}
    if not masked:
        axes = {
            "intermediate": columns,
            "experts": experts,
            "rows": per(tokens, experts),
        }
    return Op(
        "moe",
        served.measured_as(dtype),
        (f"h{hidden}i{float(columns):g}" if masked else f"h{hidden}") + ("" if gated else UNGATED),
        2 * rows * weights,
        traffic,
        "hbm",
        axes,
        kernel,
        2 * tokens * weights,
        WIDENED.get(dtype, ""),
    )


def moe_fused_ep(
    experts: Op,
    hidden: int,
    pairs: ArrayLike,
    ep: ArrayLike,
    memory_per_link: float,
    elsewhere: bool = False,
) -> Op:
    """Return one kernel that dispatches tokens, runs `experts` and combines (DeepGEMM's MegaMoE).

    It hides the exchange behind weights and products as far as that goes: where the `pairs` of
    (token, expert) of a GPU load its link for longer than its memory, of `memory_per_link` times
    the link's rate, the bytes are those of the link, in terms of memory. Waiting for peers is in
    the overhead and the residual. Tokens are the ranks' own, so that one direction of a link
    carries pairs both to experts and back; or all come from GPUs `elsewhere` (AFD), one way each.
    """
    ranks = floats(ep)
    sent = activation_bytes(hidden, _ACTIVATIONS.get(experts.dtype, experts.dtype))
    back = activation_bytes(hidden, "bf16")
    away = np.maximum(sent, back) if elsewhere else (ranks - 1) / ranks * (sent + back)
    wire = floats(pairs) * away
    moved = np.maximum(experts.bytes, wire * memory_per_link)
    return replace(experts, name="moe_fused_ep", bytes=moved)


def exchange_kernel(named: str, ep: float, domain_gpus: int) -> str:
    """Return the kernel of an all-to-all: the `named` one where there is a name.

    DeepEP's low-latency kernels go over NICs where the group leaves the scale-up domain.
    """
    if named == served.DEEPEP_NVLINK and ep > domain_gpus:
        return served.DEEPEP_RDMA
    over_nvlink = served.DEEPEP_NVLINK if ep <= _DEEPEP_NVLINK_GPUS else served.TRTLLM_NVLINK
    return named or (over_nvlink if ep <= domain_gpus else served.DEEPEP_RDMA)


def a2a(
    direction: Direction,
    dtype: str,
    ep: ArrayLike,
    domain_gpus: int,
    tokens_per_rank: ArrayLike,
    hidden: int,
    top_k: float,
    experts: ArrayLike = 256,
    kernel: str = "",
    balanced: bool = False,
) -> Op:
    """Return one direction of the EP all-to-all: every (token, expert) pair is one message.

    Under uniform routing (EP − domain)/EP of the pairs leave the scale-up domain and cross the
    NIC; inside one domain (EP − 1)/EP of them cross the scale-up link (DeepEP low latency).
    TensorRT-LLM sends a token once to each of the ranks that host its experts: where routing is
    `balanced`, these are as many as can be. Its two-sided kernels first `prepare`: all ranks tell
    each other the experts of their tokens.
    """
    tokens, ranks = floats(tokens_per_rank), floats(ep)
    widest = float(ranks.max())
    inside = widest <= domain_gpus
    served_by = exchange_kernel(kernel, widest, domain_gpus)
    messages = top_k * ((ranks - 1) / ranks if inside else (ranks - domain_gpus) / ranks)
    if served_by.startswith("trtllm"):
        met = 1 - (1 - 1 / ranks) ** top_k
        messages = (ranks - 1) * (np.minimum(top_k / ranks, 1.0) if balanced else met)
    if direction == "prepare":
        sent = tokens * (ranks - 1) * top_k * _EXPERT_ID_BYTES
    else:
        sent = tokens * messages * activation_bytes(hidden, dtype)
    return Op(
        f"a2a_{direction}",
        dtype,
        f"h{hidden}k{top_k:g}",
        np.zeros_like(sent),
        sent,
        "scale_up" if inside else "nic",
        {"ep": ranks, "tokens": tokens, "experts": floats(experts)},
        served_by,
    )


def collective(
    name: Collective,
    dtype: str,
    gpus: ArrayLike,
    full_bytes: ArrayLike,
    kernel: str = served.NCCL,
) -> Op:
    """Return a collective inside a scale-up domain: each GPU moves (gpus − 1)/gpus of the buffer.

    So does an all-reduce that is summed in the switch; a ring moves twice that, which is then
    its efficiency. For an all-to-all the full buffer is what one GPU sends, its own part
    included.
    """
    full, ranks = floats(full_bytes), floats(gpus)
    moved = full * (ranks - 1) / ranks
    axes = {"gpus": ranks, "bytes": full}
    return Op("collective", dtype, name, np.zeros_like(moved), moved, "scale_up", axes, kernel)

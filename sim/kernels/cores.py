"""Cores: the attention kernels as the roofline sees them, one `Op` for each (DESIGN §3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sim.foundation.errors import InfeasibleError
from sim.foundation.units import DTYPE_BYTES
from sim.inputs.attention import compressed
from sim.kernels import served, state_cores
from sim.kernels.index_logits import index_logits
from sim.kernels.ops import Floats, Op, floats, padded, per

# Caches that a core widens before it multiplies (TensorRT-LLM dequantises NVFP4 KV to FP8).
WIDENED = {"nvfp4": "fp8"}

# An FP8 index key has one FP32 scale, and the score of a key is written and read as FP32.
_INDEX_SCALE_BYTES = 4
_SCORE_BYTES = 4


def gqa(
    dtype: str,
    query_heads: int,
    kv_heads: int,
    head_dim: float,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return grouped-query decode attention over `kv_tokens` cached tokens in all.

    The query heads of one KV head are padded to a tile of `tile_rows`; MFA is the case of 64
    query heads on one KV head of 256. Keys and values of two widths count with their mean
    `head_dim`. Sinks are a number a head in the sum of a softmax, and cost nothing.
    """
    tokens, requests = floats(kv_tokens), floats(batch)
    needed = query_heads * head_dim * 4 * tokens
    group = query_heads / kv_heads
    traffic = kv_heads * 2 * head_dim * tokens * DTYPE_BYTES[dtype]
    traffic = traffic + requests * 2 * query_heads * head_dim * DTYPE_BYTES["bf16"]
    work = needed * padded(group, tile_rows) / group, needed, traffic
    return _over_context(
        "attention_gqa", dtype, f"q{query_heads}kv{kv_heads}d{head_dim:g}", work, requests, tokens
    )


def block_sparse(
    dtype: str,
    query_heads: int,
    kv_heads: int,
    head_dim: float,
    index_heads: int,
    index_dim: int,
    top_k: int,
    positions: int,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return grouped-query attention over the blocks of the best scores, `top_k` tokens in all.

    Heads are those of all `positions`. Each position chooses for itself: together they read at
    most all of the context. Up to `top_k` tokens of context nothing is scored, and the operation
    is `gqa`'s. Beyond, each index head scores a BF16 key of every context token, once for all
    positions. A block keeps its best score: those are too few to count. The mean context of a GPU
    decides.
    """
    tokens, requests = floats(kv_tokens), floats(batch)
    attended = np.minimum(tokens, requests * top_k)
    dense = gqa(dtype, query_heads, kv_heads, head_dim, requests, attended, tile_rows)
    scored = np.where(tokens > attended, tokens, 0.0)
    score_flops = index_heads * index_dim * 2 * scored
    more = np.minimum(tokens, attended * positions) - attended
    cache = kv_heads * 2 * head_dim * DTYPE_BYTES[dtype] * more
    work = (
        dense.flops + score_flops,
        dense.least_flops() + score_flops,
        dense.bytes + cache + scored * index_dim * DTYPE_BYTES["bf16"],
    )
    return _over_context(
        "attention_block_sparse",
        dtype,
        f"q{query_heads}kv{kv_heads}d{head_dim:g}i{index_heads}",
        work,
        requests,
        tokens,
    )


def mla(
    dtype: str,
    query_heads: int,
    kv_lora: int,
    rope: int,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return absorbed multi-head latent attention: QKᵀ over kv_lora + rope, PV over kv_lora."""
    tokens, requests = floats(kv_tokens), floats(batch)
    needed = query_heads * 2 * (2 * kv_lora + rope) * tokens
    traffic = (kv_lora + rope) * tokens * DTYPE_BYTES[dtype]
    traffic = traffic + requests * query_heads * (2 * kv_lora + rope) * DTYPE_BYTES["bf16"]
    work = needed * padded(query_heads, tile_rows) / query_heads, needed, traffic
    return _over_context("attention_mla", dtype, f"h{query_heads}", work, requests, tokens)


def dsa(
    dtype: str,
    query_heads: int,
    kv_lora: int,
    rope: int,
    index_heads: int,
    index_dim: int,
    top_k: int,
    positions: int,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return sparse multi-head latent attention: MLA over the `top_k` tokens of the best scores.

    Heads are those of all `positions`. Each position chooses for itself: together they read at
    most all of the context. Up to `top_k` tokens of context nothing is scored, and the operation
    is `mla`'s. Beyond, each index head scores an FP8 key of every context token, once for all
    positions; the selection writes and reads a score of each token and position. Without index
    heads the choice of an earlier layer is taken. The mean context of a GPU decides.
    """
    tokens, requests = floats(kv_tokens), floats(batch)
    attended = np.minimum(tokens, requests * top_k)
    dense = mla(dtype, query_heads, kv_lora, rope, requests, attended, tile_rows)
    scored = np.where((tokens > attended) & (index_heads > 0), tokens, 0.0)
    score_flops = index_heads * index_dim * 2 * scored
    score_bytes = index_dim * DTYPE_BYTES["fp8"] + _INDEX_SCALE_BYTES + 2 * _SCORE_BYTES * positions
    more = np.minimum(tokens, attended * positions) - attended
    latents = (kv_lora + rope) * DTYPE_BYTES[dtype] * more
    work = (
        dense.flops + score_flops,
        dense.least_flops() + score_flops,
        dense.bytes + latents + scored * score_bytes,
    )
    return _over_context(
        "attention_dsa",
        dtype,
        f"h{query_heads}i{index_heads}" if index_heads else f"h{query_heads}reused",
        work,
        requests,
        tokens,
    )


def hca(
    dtype: str,
    query_heads: int,
    head_dim: int,
    rope: int,
    window: int,
    ratio: int,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return DeepSeek-V4's attention over a window and all entries, each of `ratio` tokens.

    Ratio 0: no entries. Every head reads the same entries, once for keys and values. What
    compressors read and write for a new token is left out. Whether the window is full is decided
    by the mean context of a GPU.
    """
    tokens, requests = floats(kv_tokens), floats(batch)
    entries = tokens / ratio if ratio else 0.0
    read = np.minimum(tokens, requests * window) + entries
    needed = query_heads * head_dim * 4 * read
    traffic = compressed.entry_bytes(dtype, head_dim, rope) * read
    traffic = traffic + requests * 2 * query_heads * head_dim * DTYPE_BYTES["bf16"]
    work = needed * padded(query_heads, tile_rows) / query_heads, needed, traffic
    return _over_context("attention_hca", dtype, f"h{query_heads}", work, requests, tokens)


def csa(
    dtype: str,
    query_heads: int,
    head_dim: int,
    rope: int,
    window: int,
    ratio: int,
    index_heads: int,
    index_dim: int,
    top_k: int,
    positions: int,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    tile_rows: float,
) -> Op:
    """Return DeepSeek-V4's attention over a window and the `top_k` entries of the best scores.

    It is to `hca` what `dsa` is to `mla`: up to `top_k` entries nothing is scored and all are read;
    beyond, each index head scores an FP8 key of every entry, and each position chooses for itself.
    What is chosen stands for no fewer tokens than the window.
    """
    tokens, requests = floats(kv_tokens), floats(batch)
    attended = np.minimum(tokens, requests * top_k * ratio)
    sizes = query_heads, head_dim, rope, window, ratio
    dense = hca(dtype, *sizes, requests, attended, tile_rows)
    scored = np.where(tokens > attended, tokens, 0.0) / ratio
    score_flops = index_heads * index_dim * 2 * scored
    score_bytes = index_dim * DTYPE_BYTES["fp8"] + _INDEX_SCALE_BYTES + 2 * _SCORE_BYTES * positions
    more = (np.minimum(tokens, attended * positions) - attended) / ratio
    entries = compressed.entry_bytes(dtype, head_dim, rope) * more
    work = (
        dense.flops + score_flops,
        dense.least_flops() + score_flops,
        dense.bytes + entries + scored * score_bytes,
    )
    return _over_context(
        "attention_csa", dtype, f"h{query_heads}i{index_heads}k{top_k}", work, requests, tokens
    )


def _over_context(
    name: str,
    dtype: str,
    key: str,
    work: tuple[Floats, Floats, Floats],
    requests: Floats,
    tokens: Floats,
) -> Op:
    """Return a core over `tokens` cached tokens in all; `work`: FLOPs, those needed, and bytes."""
    flops, needed, traffic = work
    axes = {"batch": requests, "kv_len": per(tokens, requests)}
    widened = WIDENED.get(dtype, "")
    return Op(name, dtype, key, flops, traffic, "hbm", axes, served.FASTEST, needed, widened)


def linear(
    dtype: str,
    state_elements: float,
    flops: float,
    positions: int,
    batch: ArrayLike,
    _kv_tokens: ArrayLike,
    _tile_rows: float,
) -> Op:
    """Return linear attention (lightning): a state that is read once and written by each token."""
    requests = floats(batch)
    traffic = (1 + positions) * state_elements * DTYPE_BYTES[dtype] * requests
    axes = {"batch": requests}
    return Op("attention_linear", dtype, "", flops * positions * requests, traffic, "hbm", axes)


class CoreOp(NamedTuple):
    """An operation that attention cores name."""

    build: Callable[..., Op]
    """From number format, sizes, requests, context tokens in all and the rows of a query tile."""
    sizes: tuple[str, ...] = ()
    """Columns of measurement files that hold its sizes; empty: no file holds the operation."""
    linear: bool = True
    """Whether its work grows by as much with every context token."""


CORES: dict[str, CoreOp] = {
    "attention_gqa": CoreOp(gqa, ("n_q_heads", "n_kv_heads", "head_dim")),
    "attention_block_sparse": CoreOp(
        block_sparse,
        (
            *("n_q_heads", "n_kv_heads", "head_dim"),
            *("index_heads", "index_dim", "top_k", "positions"),
        ),
        linear=False,
    ),
    "attention_mla": CoreOp(mla, ("n_q_heads", "kv_lora", "rope")),
    "attention_dsa": CoreOp(
        dsa,
        (
            *("n_q_heads", "kv_lora", "rope"),
            *("index_heads", "index_dim", "top_k", "positions"),
        ),
        linear=False,
    ),
    "attention_hca": CoreOp(
        hca, ("n_q_heads", "head_dim", "rope", "window", "ratio"), linear=False
    ),
    "attention_csa": CoreOp(
        csa,
        (
            *("n_q_heads", "head_dim", "rope", "window", "ratio"),
            *("index_heads", "index_dim", "top_k", "positions"),
        ),
        linear=False,
    ),
    "index_logits": CoreOp(index_logits, ("index_heads", "index_dim", "ratio")),
    "attention_linear": CoreOp(linear),
    "attention_gdn": CoreOp(state_cores.gdn, linear=False),
    "attention_kda": CoreOp(state_cores.kda, linear=False),
    "attention_mamba2": CoreOp(state_cores.mamba2, linear=False),
}


def core_op(name: str) -> CoreOp:
    """Return what is known of an operation. Raises InfeasibleError for one without a kernel."""
    if name not in CORES:
        raise InfeasibleError(f"{name}: afdsim knows no kernel of this attention yet")
    return CORES[name]


def is_linear(name: str) -> bool:
    """Return whether the work of an operation grows by as much with every context token."""
    return name not in CORES or CORES[name].linear


MEASURED = {name: core.sizes for name, core in CORES.items() if core.sizes}

"""Block files: attention blocks as a framework runs them whole, projections included.

Their cores are what the card's own projections leave of them (`sim.calibration.attention.blocks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sim.calibration.measurements import DTYPES, Fixed, Measurement, MeasurementLine, columns
from sim.inputs.attention import Attention, BlockSparseGqa, CompressedAttention, Dsa
from sim.inputs.attention.compressed import Compression, EntryIndex
from sim.kernels import cores

# Hidden size, heads and the rest of the attention by the model's name in files (config.json of
# deepseek-ai/DeepSeek-V3.2 and zai-org/GLM-5.2).
_SPARSE: dict[str, tuple[int, int, dict[str, Any]]] = {
    "DeepSeek-V3.2": (7168, 128, {"q_lora": 1536, "nope": 128, "v": 128, "index_heads": 64}),
    "GLM-5": (6144, 64, {"q_lora": 2048, "nope": 192, "v": 256, "index_heads": 32}),
}
# kv_lora_rank, qk_rope_head_dim, index_head_dim and index_topk of both.
_SPARSE_ALIKE: dict[str, Any] = {"kv_lora": 512, "rope": 64, "index_dim": 128, "top_k": 2048}

# The same of DeepSeek-V4, with index_topk.
_COMPRESSED: dict[str, tuple[int, int, int]] = {
    "DeepSeek-V4-Flash": (4096, 1024, 512),
    "DeepSeek-V4-Pro": (7168, 1536, 1024),
}
_COMPRESSED_ALIKE: dict[str, Any] = {"head_dim": 512, "rope": 64, "o_lora": 1024, "window": 128}
_HEADS_OF_A_GROUP = 8
_FOUR = Compression(tokens=4, overlap=True, state_rows=8)
_MANY = Compression(tokens=128, overlap=False, state_rows=128)

# The same of MiniMax-M3.
_BLOCK_SPARSE_HIDDEN = 6144
_BLOCK_SPARSE = BlockSparseGqa(
    kind="block_sparse",
    query_heads=64,
    kv_heads=4,
    head_dim=128,
    block_tokens=128,
    top_blocks=16,
    index_heads=4,
    index_dim=128,
    kv_dtype="bf16",
    source="a measurement",
)

# Norms as no server runs them, one kernel after the other; what was measured so is named so.
_UNFUSED = ("native_unfused", "native_unfused?")


# Contexts at which time falls, by framework.
_FASTER_BEYOND = {"sglang": 65_537}
_SLOWER_AT = {"trtllm": 8_193}


def _dsa(row: MeasurementLine) -> Iterator[Measurement]:
    """Read a block of DeepSeek sparse attention; one that reuses a choice is a kernel of its own.

    The heads of a row are those of one GPU, no more than the model has; its indexer is whole.
    """
    name = row.text("model")
    known = next((known for known in _SPARSE if name.startswith(known)), None)
    hidden, most_heads, shape = _SPARSE[known or row.one_of("model", _SPARSE)]
    heads = row.count("n_q_heads")
    if heads > most_heads:
        return
    indexes = row.one_of("op", ("dsa", "dsa_skip_indexer")) == "dsa"
    attention = Dsa(
        kind="dsa",
        query_heads=heads,
        indexes=indexes,
        kv_dtype="bf16",
        source="a measurement",
        **shape,
        **_SPARSE_ALIKE,
    )
    yield _block(row, hidden, attention, (("choice", "own" if indexes else "reused"),))


def _compressed(row: MeasurementLine) -> Iterator[Measurement]:
    """Read a block of DeepSeek-V4; nothing where time falls with the context.

    There engines choose entries by another kernel, which no curve that rises can hold: SGLang is
    faster beyond 65,537 tokens, by a third; TensorRT-LLM at 8,193 is slower than at 16,385, by 1.7.
    """
    framework, ctx = row.text("framework"), row.count("kv_len")
    hidden, q_lora, top_k = _COMPRESSED[row.one_of("model", _COMPRESSED)]
    chooses = row.text("op") == "dsv4_csa"
    if chooses and (ctx > _FASTER_BEYOND.get(framework, ctx) or ctx == _SLOWER_AT.get(framework)):
        return
    heads = row.count("n_q_heads")
    attention = CompressedAttention(
        kind="compressed",
        query_heads=heads,
        q_lora=q_lora,
        o_groups=max(1, heads // _HEADS_OF_A_GROUP),
        compression=_FOUR if chooses else _MANY,
        index=EntryIndex(heads=64, dim=128, top_k=top_k) if chooses else None,
        kv_dtype="fp8",
        source="a measurement",
        **_COMPRESSED_ALIKE,
    )
    yield _block(row, hidden, attention)


def _block_sparse(row: MeasurementLine) -> Iterator[Measurement]:
    """Read a block of MiniMax-M3 with a share of its heads.

    TensorRT-LLM takes several times as long for one KV head as for four: another kernel.
    """
    attention = _BLOCK_SPARSE.cut(_BLOCK_SPARSE.query_heads // row.count("n_q_heads"))
    alone = row.text("framework") == "trtllm" and attention.kv_heads == 1
    more = (("kv_heads", "one"),) if alone else ()
    yield _block(row, _BLOCK_SPARSE_HIDDEN, attention, more)


def _block(
    row: MeasurementLine, hidden: int, attention: Attention, more: Fixed = ()
) -> Measurement:
    """Return the block of a line, whose core has `more` besides its sizes."""
    weights, kv = row.one_of("gemm_dtype", DTYPES), row.one_of("kv_dtype", DTYPES)
    core = attention.core(1)
    sizes = zip(cores.CORES[core.op].sizes, map(float, core.sizes), strict=True)
    suffix = "_unfused" if row.text("norm_path") in _UNFUSED else ""
    return row.measurement(
        core.op,
        f"{row.text('framework')}{suffix}/{DTYPES[weights]}",
        dtype=DTYPES[kv],
        label=kv,
        fixed=(*sizes, *more),
        at=tuple((axis, float(row.count(axis))) for axis in ("batch", "kv_len")),
        regime=f"block, projections in {weights}",
        projections=(*attention.before_core(hidden), *attention.after_core(hidden)),
        weights=DTYPES[weights],
    )


def _any(row: MeasurementLine) -> Iterator[Measurement]:
    return _BY_OP[row.one_of("op", _BY_OP)](row)


_BY_OP: dict[str, Callable[[MeasurementLine], Iterator[Measurement]]] = {
    "dsa": _dsa,
    "dsa_skip_indexer": _dsa,
    "msa": _block_sparse,
    "dsv4_csa": _compressed,
    "dsv4_hca": _compressed,
}

BLOCK_FORMS: dict[tuple[str, ...], Callable[[MeasurementLine], Iterator[Measurement]]] = {
    columns(
        "gpu op model n_q_heads tp gemm_dtype kv_dtype batch kv_len latency_us framework norm_path"
        " source"
    ): _any,
}

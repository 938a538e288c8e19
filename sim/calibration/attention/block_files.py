"""Block files: attention blocks as a framework runs them whole, projections included.

Their cores are what the card's own projections leave of them (`sim.calibration.attention.blocks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sim.calibration.measurements import DTYPES, Measurement, MeasurementLine, columns
from sim.inputs.attention import Dsa
from sim.kernels import cores

# Hidden size, heads and the rest of the attention by the model's name in files (config.json of
# deepseek-ai/DeepSeek-V3.2 and zai-org/GLM-5.2).
_SPARSE: dict[str, tuple[int, int, dict[str, Any]]] = {
    "DeepSeek-V3.2": (7168, 128, {"q_lora": 1536, "nope": 128, "v": 128, "index_heads": 64}),
    "GLM-5": (6144, 64, {"q_lora": 2048, "nope": 192, "v": 256, "index_heads": 32}),
}
# kv_lora_rank, qk_rope_head_dim, index_head_dim and index_topk of both.
_SPARSE_ALIKE: dict[str, Any] = {"kv_lora": 512, "rope": 64, "index_dim": 128, "top_k": 2048}

# Norms as no server runs them, one kernel after the other; what was measured so is named so.
_UNFUSED = "native_unfused"


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
    weights, kv = row.one_of("gemm_dtype", DTYPES), row.one_of("kv_dtype", DTYPES)
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
    core = attention.core(1)
    sizes = zip(cores.CORES[core.op].sizes, map(float, core.sizes), strict=True)
    suffix = "_unfused" if row.text("norm_path") == _UNFUSED else ""
    yield row.measurement(
        core.op,
        f"{row.text('framework')}{suffix}/{DTYPES[weights]}",
        dtype=DTYPES[kv],
        label=kv,
        fixed=(*sizes, ("choice", "own" if indexes else "reused")),
        at=tuple((axis, float(row.count(axis))) for axis in ("batch", "kv_len")),
        regime=f"block, projections in {weights}",
        projections=(*attention.before_core(hidden), *attention.after_core(hidden)),
        weights=DTYPES[weights],
    )


BLOCK_FORMS: dict[tuple[str, ...], Callable[[MeasurementLine], Iterator[Measurement]]] = {
    columns(
        "gpu op model n_q_heads tp gemm_dtype kv_dtype batch kv_len latency_us framework norm_path"
        " source"
    ): _dsa,
}

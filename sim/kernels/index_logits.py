"""Index logits: the kernel that scores index keys, as engines run it inside of sparse attention."""

from __future__ import annotations

from numpy.typing import ArrayLike

from sim.foundation.units import DTYPE_BYTES
from sim.inputs.attention.latent import INDEX_SCALE_BYTES
from sim.kernels import served
from sim.kernels.ops import Op, floats, per


def index_logits(
    dtype: str,
    index_heads: int,
    index_dim: int,
    ratio: int,
    batch: ArrayLike,
    kv_tokens: ArrayLike,
    _tile_rows: float,
) -> Op:
    """Return the scores of all keys, each of which stands for `ratio` tokens: FP32, written once.

    Runs look up cores that contain it; alone it is a check of their roofline.
    """
    tokens, requests = floats(kv_tokens), floats(batch)
    keys = tokens / ratio
    key_bytes = index_dim * DTYPE_BYTES[dtype] + INDEX_SCALE_BYTES
    queries = requests * index_heads * index_dim * DTYPE_BYTES[dtype]
    return Op(
        "index_logits",
        dtype,
        f"h{index_heads}r{ratio}",
        index_heads * index_dim * 2 * keys,
        (key_bytes + DTYPE_BYTES["fp32"]) * keys + queries,
        "hbm",
        {"batch": requests, "kv_len": per(tokens, requests)},
        served.FASTEST,
    )

"""Mixing: the kernels of hyper-connections, which keep several residual streams (DeepSeek-V4)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sim.foundation.units import DTYPE_BYTES
from sim.kernels import served
from sim.kernels.ops import Op, floats

Side = Literal["pre", "post"]
OPS: dict[str, Side] = {"mhc_pre": "pre", "mhc_post": "post"}

# A layer mixes around its attention and around its FFN.
SITES = 2
# Number format of streams.
STREAM = "bf16"


def vectors(side: Side, streams: int) -> int:
    """Return vectors of the hidden size that a layer reads and writes for a token.

    Before attention and FFN: all streams in, their weighted sum out. After: streams and result in,
    streams out.
    """
    return SITES * (streams + 1 if side == "pre" else 2 * streams + 1)


def mixing(
    side: Side, hidden: int, streams: int, rows: ArrayLike, kernel: str = served.FASTEST
) -> Op:
    """Return what mixes the streams of `rows` tokens on one side of attention and FFN, both sites.

    Before, a projection of all streams gives the weights of sum and mixing (FP32); after,
    each stream is a sum of all and of the result.
    """
    tokens = floats(rows)
    moved = tokens * vectors(side, streams) * hidden * DTYPE_BYTES[STREAM]
    if side == "pre":
        weights = SITES * streams * hidden * (streams * streams + 2 * streams)
        moved = moved + np.where(tokens > 0, weights * DTYPE_BYTES["fp32"], 0.0)
        flops = 2 * tokens * (weights + SITES * streams * hidden)
    else:
        flops = 2 * tokens * SITES * streams * (streams + 1) * hidden
    key = f"d{hidden}s{streams}"
    return Op(f"mhc_{side}", STREAM, key, flops, moved, "hbm", {"rows": tokens}, kernel)

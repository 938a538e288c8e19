"""Published layer times as curves, for cards on which no kernel of that shape was measured.

`python -m sim.calibration.published` writes them into the shipped tables. The Step-3 report's
table 9 times a whole attention layer (context 8K, BF16 cache, 64 requests per GPU; GQA cut over 4
GPUs, 256 requests): the core is what the calibrated projections leave of it. One point makes no
law, so only that very shape counts as calibrated; the efficiency holds elsewhere as extrapolation.
"""

from __future__ import annotations

import numpy as np

from sim.foundation.units import NS_PER_US
from sim.inputs import cards
from sim.inputs.attention import Projection
from sim.kernels import cores, kernel_table, ops
from sim.kernels.curve import Curve, work_of
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Op
from sim.kernels.table_file import read, write

_CONTEXT = 8192
# Attention kernels take 9-25 µs with next to no work (public measurements of seven cards).
_OVERHEAD_US = 15.0
_SHARP = 12.0

# Layer µs by card and model; the projections are FP8, on A800 INT8. Cells of shapes that others
# measured as kernels (all of H800's, H20's MLA and GQA) stay out: there they check the tables.
_TABLE_9 = {
    ("h20", "step3"): 438.0,
    ("a800", "step3"): 531.0,
    ("a800", "qwen3-235b-a22b"): 791.0,
}


def curve(table: KernelTable, model: str, layer_us: float) -> Curve:
    """Return the curve of the attention core whose layer takes `layer_us` on the table's card."""
    op, projections_us = _parts(table, model)
    core_us = layer_us - projections_us
    compute_us, memory_us = (float(part) for part in table.peak_us(op))
    padded_us = float(op.flops / op.least_flops()) * compute_us
    efficiency = max(padded_us, memory_us) / (core_us - _OVERHEAD_US)
    axes = tuple((name, np.atleast_1d(op.axes[name])) for name in ("kv_len", "batch"))
    return Curve(
        op=op.name,
        kernel=op.kernel,
        dtype=op.dtype,
        key=op.key,
        overhead_us=_OVERHEAD_US,
        e_c=min(efficiency * compute_us / padded_us, 1.0),
        e_m=min(efficiency, 1.0),
        p=_SHARP,
        source=f"Step-3 report, table 9: layer {layer_us:g} us less its projections",
        licence="figure",
        points=1,
        mape=float("nan"),
        p90=float("nan"),
        most_work=float(work_of(op.axes)),
        axes=axes,
        residual=np.zeros((1, 1)),
    )


def _parts(table: KernelTable, model: str) -> tuple[Op, float]:
    """Return the core of a layer as table 9 ran it, and the time of its projections, µs."""
    accelerator = table.accelerator
    card = cards.model(model)
    (attention,) = card.attention.values()
    ways, requests = (4, 256) if attention.kind == "gqa" else (1, 64)
    projections = [
        *(p._replace(n=p.n // ways) for p in attention.before_core(card.hidden)),
        *(p._replace(k=p.k // ways) for p in attention.after_core(card.hidden)),
    ]
    tokens = requests * _CONTEXT
    tile = accelerator.query_tile_rows
    if attention.kind == "mla":
        sizes = (attention.query_heads, attention.kv_lora, attention.rope)
        op = cores.mla("bf16", *sizes, requests, tokens, tile)
    else:
        assert attention.kind in ("gqa", "mfa")
        heads, kv_heads = attention.query_heads // ways, max(attention.kv_heads // ways, 1)
        op = cores.gqa("bf16", heads, kv_heads, attention.head_dim, requests, tokens, tile)
    return op, sum(_gemm_us(table, projection, requests) for projection in projections)


def _gemm_us(table: KernelTable, projection: Projection, requests: int) -> float:
    dtype = "fp8" if "fp8" in table.accelerator.flops_per_s else "int8"
    n, k, groups = projection
    tile = table.accelerator.gemm_tile_rows
    op = ops.gemm(dtype, requests, n, k, tile, groups=groups)
    return float(table.timed(op).ns) / NS_PER_US


def main() -> None:
    """Write the curves into the shipped tables."""
    for name in sorted({card for card, _ in _TABLE_9}):
        path = cards.packaged(cards.CALIBRATION) / f"{name}.csv"
        curves, _sha256 = read(path)
        table = kernel_table.load(cards.accelerator(name), path)
        known = {each.identity: each for each in curves}
        for (card, model), layer_us in _TABLE_9.items():
            if card == name:
                made = curve(table, model, layer_us)
                known[made.identity] = made
        write(sorted(known.values(), key=lambda each: each.identity), path)


if __name__ == "__main__":
    main()

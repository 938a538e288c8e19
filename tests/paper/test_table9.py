"""Step-3 report (arXiv 2507.19427), table 9: attention layers at 8K, from the shipped tables.

BF16 attention, FP8 projections (INT8 on A800), projections included, no glue; 256 requests on 4
GPUs: MFA and MLA data-parallel, 64 a GPU, GQA tensor-parallel, 16 query heads and 1 KV head a GPU.
"""

from __future__ import annotations

import pytest

from sim.foundation.units import NS_PER_US
from sim.inputs import cards
from sim.inputs.attention import Projection
from sim.kernels import cores, kernel_table, ops
from sim.kernels.kernel_table import KernelTable

CONTEXT = 8192
GPUS = 4
BATCH = 256

# Public kernels of these shapes were measured on H20 and disagree with the report; the tables
# keep to the measurements. docs/validation.md tells more.
DISAGREES = pytest.mark.xfail(strict=True, reason="measured kernels on H20 disagree with table 9")
CELLS = [
    ("h800", "step3", 281),
    ("h20", "step3", 438),
    ("a800", "step3", 531),
    ("h800", "deepseek-v3", 372),
    pytest.param("h20", "deepseek-v3", 1252, marks=DISAGREES),
    ("h800", "qwen3-235b-a22b", 382),
    pytest.param("h20", "qwen3-235b-a22b", 812, marks=DISAGREES),
    ("a800", "qwen3-235b-a22b", 791),
]


def layer_us(card: str, model_name: str) -> float:
    accelerator = cards.accelerator(card)
    table = kernel_table.load(accelerator, cards.calibration(card))
    model = cards.model(model_name)
    (attention,) = model.attention.values()
    tp = GPUS if attention.kind == "gqa" else 1
    requests = BATCH * tp // GPUS
    tokens = requests * CONTEXT
    tile = accelerator.query_tile_rows
    if attention.kind == "mla":
        sizes = attention.query_heads, attention.kv_lora, attention.rope
        core = cores.mla("bf16", *sizes, requests, tokens, tile)
    else:
        assert attention.kind in ("gqa", "mfa")
        heads, kv_heads = attention.query_heads // tp, max(attention.kv_heads // tp, 1)
        size = attention.head_dim
        core = cores.gqa("bf16", heads, kv_heads, size, requests, tokens, tile)
    before = [_columns_cut(p, tp) for p in attention.before_core(model.hidden)]
    after = [p._replace(k=p.k // tp) for p in attention.after_core(model.hidden)]
    time_ns = int(table.timed(core).ns)
    time_ns += sum(_gemm_ns(table, projection, requests) for projection in (*before, *after))
    return time_ns / NS_PER_US


def _columns_cut(projection: Projection, tp: int) -> Projection:
    return projection._replace(n=projection.n // tp)


def _gemm_ns(table: KernelTable, projection: Projection, rows: int) -> int:
    dtype = "fp8" if "fp8" in table.accelerator.flops_per_s else "int8"
    tile = table.accelerator.gemm_tile_rows
    op = ops.gemm(dtype, rows, projection.n, projection.k, tile, groups=projection.groups)
    return int(table.timed(op).ns)


@pytest.mark.parametrize(("card", "model", "published_us"), CELLS)
def test_attention_layers_at_8k(card: str, model: str, published_us: float) -> None:
    assert layer_us(card, model) == pytest.approx(published_us, rel=0.15)


def test_the_order_of_the_three_models_is_the_reports() -> None:
    # On every card MFA is the fastest of the three, and on H20 MLA the slowest by far.
    h800 = {model: layer_us("h800", model) for model in ("step3", "deepseek-v3", "qwen3-235b-a22b")}
    assert min(h800, key=h800.__getitem__) == "step3"
    assert layer_us("h20", "deepseek-v3") > 2 * layer_us("h20", "step3")

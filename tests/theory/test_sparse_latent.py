"""DeepSeek sparse attention: bytes and FLOPs in closed form; dense up to the threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.inputs import cards
from sim.inputs.attention.latent import Dsa, Mla
from sim.inputs.hardware import Accelerator
from sim.inputs.scenario import load
from sim.kernels import cores
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Op

HIDDEN = 7168
TOP_K = 2048
LATENT = 512 + 64
SHAPE = {
    "query_heads": 128, "q_lora": 1536, "kv_lora": 512, "rope": 64, "nope": 128, "v": 128,
    "kv_dtype": "fp8", "source": "test",
}  # fmt: skip
INDEX = {"index_heads": 64, "index_dim": 128, "top_k": TOP_K}
V32 = Dsa.model_validate({"kind": "dsa", **SHAPE, **INDEX})
REUSED = V32.replaced(indexes=False)
DENSE = Mla.model_validate({"kind": "mla", **SHAPE})

contexts = st.integers(1, 200_000)
counts = st.integers(1, 512)
positions = st.integers(1, 4)


def op(attention: Dsa | Mla, requests: int, ctx: int, tokens: int = 1, kv: str = "fp8") -> Op:
    core = attention.core(tokens)
    return cores.CORES[core.op].build(kv, *core.sizes, requests, requests * ctx, 64.0)


def test_what_the_layer_projects_and_keeps() -> None:
    mla = DENSE.weights(HIDDEN)
    assert V32.weights(HIDDEN) == mla + 1536 * 64 * 128 + HIDDEN * (128 + 64)
    assert REUSED.weights(HIDDEN) == mla
    # An FP8 latent of 576 and an index key of 128 with an FP32 scale, in every layer.
    assert V32.kept_bytes("fp8") == REUSED.kept_bytes("fp8") == {None: LATENT + 128 + 4}
    assert V32.kept_bytes("bf16") == {None: 2 * LATENT + 128 + 4}


@given(contexts)
def test_what_a_token_reads_and_computes(ctx: int) -> None:
    read, scored = min(ctx, TOP_K), ctx if ctx > TOP_K else 0
    assert V32.read_bytes("fp8", ctx) == LATENT * read + 132 * scored
    assert V32.core_flops(ctx) == 128 * 4 * LATENT * read + 64 * 128 * 2 * scored
    assert REUSED.read_bytes("fp8", ctx) == LATENT * read
    assert REUSED.core_flops(ctx) == 128 * 4 * LATENT * read


@given(counts, contexts, positions)
def test_the_kernel_in_closed_form(requests: int, ctx: int, tokens: int) -> None:
    found, read, scored = op(V32, requests, ctx, tokens), min(ctx, TOP_K), max(ctx > TOP_K, 0) * ctx
    heads = 128 * tokens
    flops = requests * heads * 2 * (2 * 512 + 64) * read
    flops += requests * 64 * tokens * 128 * 2 * scored
    assert found.least_flops() == flops
    # Each position reads its own choice, at most the context; index keys are read once.
    latents = LATENT * min(ctx, read * tokens)
    scores = (132 + 2 * 4 * tokens) * scored
    assert found.bytes == requests * (latents + scores + heads * (2 * 512 + 64) * 2)


@given(counts, st.integers(1, TOP_K), positions, st.sampled_from(["bf16", "fp8"]))
def test_up_to_the_threshold_it_is_dense(requests: int, ctx: int, tokens: int, kv: str) -> None:
    dense = op(DENSE, requests, ctx, tokens, kv)
    for sparse in (V32, REUSED):
        found = op(sparse, requests, ctx, tokens, kv)
        assert found.flops == dense.flops
        assert found.least_flops() == dense.least_flops()
        assert found.bytes == dense.bytes
        assert {name: float(at) for name, at in found.axes.items()} == {
            name: float(at) for name, at in dense.axes.items()
        }


@given(counts, contexts, contexts, positions)
def test_more_context_is_no_less_work(requests: int, ctx: int, other: int, tokens: int) -> None:
    less, more = (op(V32, requests, each, tokens) for each in sorted((ctx, other)))
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


@given(counts, counts, contexts)
def test_more_requests_are_more_work(requests: int, other: int, ctx: int) -> None:
    less, more = (op(V32, each, ctx) for each in sorted((requests, other)))
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


@given(st.integers(1, 8192), st.integers(1, 8192), st.integers(8193, 200_000))
def test_a_larger_choice_is_more_work(top_k: int, other: int, ctx: int) -> None:
    less, more = (op(V32.replaced(top_k=each), 8, ctx) for each in sorted((top_k, other)))
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


def test_without_requests_there_is_no_work() -> None:
    assert op(V32, 0, 0).flops == op(V32, 0, 0).bytes == 0


def test_heads_are_divided_and_the_indexer_is_not() -> None:
    part = V32.cut(4)
    assert (part.query_heads, part.index_heads) == (32, 64)
    assert part.kept_bytes("fp8") == V32.kept_bytes("fp8")
    assert part.core(2).sizes == (64, 512, 64, 128, 128, TOP_K, 2)


@pytest.mark.parametrize("base", ["dsv3-ep8-h200", "dsv3-afd"])
@pytest.mark.parametrize("ctx", [1024, 32_768])
def test_without_a_curve_its_roofline_times_it(tmp_path: Path, base: str, ctx: int) -> None:
    model = tmp_path / "sparse.yaml"
    text = (cards.packaged(cards.MODELS) / "deepseek-v3.yaml").read_text()
    index = "\n    ".join(f"{name}: {value}" for name, value in INDEX.items())
    model.write_text(text.replace("kind: mla", f"kind: dsa\n    {index}", 1))
    site = compile_deployment(load(base, [f"model={model}", "precision.kv=fp8"]))

    def without_curves(_side: str, table: KernelTable) -> KernelTable:
        return KernelTable(table.accelerator)

    timer = site.with_tables(without_curves).core_timer
    window, core = timer.core_line("mla", 1)
    found, card = op(V32, 16, ctx), timer.table.accelerator
    assert window is None
    timed = core.timed(np.array([16, 0]), np.array([16 * ctx, 0]))
    expected_s = roofline_s(card, found) / float(card.default_efficiency)
    assert timed.ns.tolist() == [pytest.approx(expected_s * 1e9, abs=1), 0]


def roofline_s(card: Accelerator, op: Op) -> float:
    compute_s = op.flops / float(card.peak_flops_per_s("fp8"))
    return float(max(compute_s, op.bytes / float(card.hbm_bytes_per_s)))

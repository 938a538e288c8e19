"""Compressed attention (DeepSeek-V4): bytes and FLOPs; all entries are read up to the choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.deployments import compile_deployment
from sim.inputs import cards
from sim.inputs.attention import CompressedAttention
from sim.inputs.scenario import load
from sim.kernels import cores
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Op

HIDDEN = 4096
HEADS, DIM, WINDOW, TOP_K, INDEX_HEADS = 64, 512, 128, 512, 64
# 448 FP8 elements, 64 BF16 ones and 8 bytes of scales; an index key of 128 with an FP32 scale.
ENTRY, KEY = 448 + 2 * 64 + 8, 132
V4 = {
    "kind": "compressed", "query_heads": HEADS, "q_lora": 1024, "head_dim": DIM, "rope": 64,
    "o_groups": 8, "o_lora": 1024, "window": WINDOW, "kv_dtype": "fp8", "source": "test",
}  # fmt: skip
INDEX = {"heads": INDEX_HEADS, "dim": 128, "top_k": TOP_K}
FOUR = {"tokens": 4, "overlap": True, "state_rows": 8}
ALONE = CompressedAttention.model_validate(V4)
CSA = ALONE.replaced(compression=FOUR, index=INDEX)
DENSE = ALONE.replaced(compression=FOUR)
HCA = ALONE.replaced(compression={"tokens": 128, "overlap": False, "state_rows": 128})

contexts = st.integers(1, 200_000)
counts = st.integers(1, 512)
positions = st.integers(1, 4)
kinds = st.sampled_from([ALONE, CSA, DENSE, HCA])


def op(
    attention: CompressedAttention, requests: int, ctx: int, tokens: int = 1, kv: str = "fp8"
) -> Op:
    core = attention.core(tokens)
    seen = ctx if core.window is None else min(ctx, core.window)
    return cores.CORES[core.op].build(kv, *core.sizes, requests, requests * seen, 64.0)


def test_what_the_layer_projects_and_keeps() -> None:
    alone = HIDDEN * (1024 + DIM) + 1024 * HEADS * DIM + HEADS * DIM * 1024 + 8 * 1024 * HIDDEN
    assert ALONE.weights(HIDDEN) == alone
    assert HCA.weights(HIDDEN) == alone + HIDDEN * 2 * DIM
    indexer = 1024 * INDEX_HEADS * 128 + HIDDEN * INDEX_HEADS
    assert CSA.weights(HIDDEN) == alone + HIDDEN * 4 * (DIM + 128) + indexer
    assert CSA.kept_bytes("fp8") == {None: (ENTRY + KEY) / 4, WINDOW: ENTRY}
    assert HCA.kept_bytes("fp8") == {None: ENTRY / 128, WINDOW: ENTRY}
    assert ALONE.kept_bytes("bf16") == {None: 0, WINDOW: 2 * DIM}


@given(contexts)
def test_what_a_token_reads_and_computes(ctx: int) -> None:
    window, entries = min(ctx, WINDOW), ctx / 4
    read, scored = window + min(entries, TOP_K), entries if entries > TOP_K else 0
    assert CSA.read_bytes("fp8", ctx) == ENTRY * read + KEY * scored
    assert CSA.core_flops(ctx) == HEADS * DIM * 4 * read + INDEX_HEADS * 128 * 2 * scored
    assert HCA.read_bytes("fp8", ctx) == ENTRY * (window + ctx / 128)
    assert HCA.core_flops(ctx) == HEADS * DIM * 4 * (window + ctx / 128)
    assert ALONE.read_bytes("fp8", ctx) == ENTRY * window


@given(counts, contexts, positions)
def test_the_kernels_in_closed_form(requests: int, ctx: int, tokens: int) -> None:
    heads, window, entries = HEADS * tokens, min(ctx, WINDOW), ctx / 4
    in_and_out = heads * 2 * DIM * 2
    # All heads and positions read an entry once; positions choose among entries for themselves.
    for attention, read in ((HCA, window + ctx / 128), (ALONE, window)):
        found = op(attention, requests, ctx, tokens)
        assert float(found.least_flops()) == pytest.approx(requests * heads * DIM * 4 * read)
        assert float(found.bytes) == pytest.approx(requests * (ENTRY * read + in_and_out))
    found, chosen = op(CSA, requests, ctx, tokens), min(entries, TOP_K)
    scored = entries if entries > TOP_K else 0
    flops = heads * DIM * 4 * (window + chosen) + INDEX_HEADS * tokens * 128 * 2 * scored
    assert float(found.least_flops()) == pytest.approx(requests * flops)
    each = ENTRY * (window + min(entries, chosen * tokens)) + (KEY + 2 * 4 * tokens) * scored
    assert float(found.bytes) == pytest.approx(requests * (each + in_and_out))


@given(counts, st.integers(1, 4 * TOP_K), positions, st.sampled_from(["bf16", "fp8"]))
def test_up_to_the_choice_all_entries_are_read(
    requests: int, ctx: int, tokens: int, kv: str
) -> None:
    found, dense = (op(each, requests, ctx, tokens, kv) for each in (CSA, DENSE))
    assert found.flops == dense.flops
    assert found.least_flops() == dense.least_flops()
    assert found.bytes == dense.bytes


@given(kinds, counts, contexts, contexts, positions)
def test_more_context_is_no_less_work(
    attention: CompressedAttention, requests: int, ctx: int, other: int, tokens: int
) -> None:
    less, more = (op(attention, requests, each, tokens) for each in sorted((ctx, other)))
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


@given(kinds, counts, counts, contexts)
def test_more_requests_are_more_work(
    attention: CompressedAttention, requests: int, other: int, ctx: int
) -> None:
    less, more = (op(attention, each, ctx) for each in sorted((requests, other)))
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


@given(st.integers(32, 8192), st.integers(32, 8192), st.integers(32_769, 200_000))
def test_a_larger_choice_is_more_work(top_k: int, other: int, ctx: int) -> None:
    less, more = (
        op(CSA.replaced(index=INDEX | {"top_k": each}), 8, ctx) for each in sorted((top_k, other))
    )
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


@given(counts, contexts)
def test_scores_of_an_indexer_are_those_of_its_core(requests: int, ctx: int) -> None:
    build = cores.CORES["index_logits"].build
    found = build("fp8", INDEX_HEADS, 128, 4, requests, requests * ctx, 64.0)
    keys = requests * ctx / 4
    assert found.flops == pytest.approx(INDEX_HEADS * 128 * 2 * keys)
    assert found.bytes == pytest.approx((KEY + 4) * keys + requests * INDEX_HEADS * 128)
    if ctx > 4 * TOP_K:
        assert found.flops <= op(CSA, requests, ctx).flops
        assert found.bytes <= op(CSA, requests, ctx).bytes


def test_without_requests_there_is_no_work() -> None:
    for attention in (ALONE, CSA, HCA):
        assert op(attention, 0, 0).flops == op(attention, 0, 0).bytes == 0


def test_heads_and_groups_are_divided_and_the_indexer_is_not() -> None:
    part = CSA.cut(4)
    assert (part.query_heads, part.o_groups) == (16, 2)
    assert part.kept_bytes("fp8") == CSA.kept_bytes("fp8")
    assert part.core(2).sizes == (32, DIM, 64, WINDOW, 4, 2 * INDEX_HEADS, 128, TOP_K, 2)


def test_a_choice_holds_the_window() -> None:
    with pytest.raises(ValidationError, match="fewer tokens than the window"):
        CSA.replaced(index=INDEX | {"top_k": 31})
    with pytest.raises(ValidationError, match="no compression"):
        ALONE.replaced(index=INDEX)


@pytest.mark.parametrize("base", ["dsv3-ep8-h200", "dsv3-afd"])
@pytest.mark.parametrize("kind", ["csa", "hca"])
@pytest.mark.parametrize("ctx", [1024, 32_768])
def test_without_a_curve_its_roofline_times_it(
    tmp_path: Path, base: str, kind: str, ctx: int
) -> None:
    attention = {"csa": CSA, "hca": HCA}[kind]
    model = tmp_path / "compressed.yaml"
    text = (cards.packaged(cards.MODELS) / "deepseek-v3.yaml").read_text()
    start, end = text.index("attention:"), text.index("ffn:")
    fields = attention.model_dump(mode="json", exclude_none=True)
    model.write_text(f"{text[:start]}attention:\n  mla: {fields}\n{text[end:]}")
    site = compile_deployment(load(base, [f"model={model}", "precision.kv=fp8"]))

    def without_curves(_side: str, table: KernelTable) -> KernelTable:
        return KernelTable(table.accelerator)

    timer = site.with_tables(without_curves).core_timer
    window, core = timer.core_line("mla", 1)
    found, card = op(attention, 16, ctx), timer.table.accelerator
    assert window is None
    timed = core.timed(np.array([16, 0]), np.array([16 * ctx, 0]))
    compute_s = float(found.flops) / float(card.peak_flops_per_s("fp8"))
    least_s = max(compute_s, float(found.bytes) / float(card.hbm_bytes_per_s))
    assert timed.ns.tolist() == [
        pytest.approx(least_s / float(card.default_efficiency) * 1e9, abs=1),
        0,
    ]

"""Block-sparse GQA of MiniMax-M3: bytes and FLOPs in closed form; dense up to the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.attention.softmax import BlockSparseGqa, Gqa
from sim.kernels import cores
from sim.kernels.ops import Op

HIDDEN = 6144
READ = 16 * 128
SHAPE = {
    "query_heads": 64, "kv_heads": 4, "head_dim": 128, "kv_dtype": "bf16", "source": "test",
}  # fmt: skip
INDEX = {"block_tokens": 128, "top_blocks": 16, "index_heads": 4, "index_dim": 128}
M3 = BlockSparseGqa.model_validate({"kind": "block_sparse", **SHAPE, **INDEX})
DENSE = Gqa.model_validate({"kind": "gqa", **SHAPE})

contexts = st.integers(1, 200_000)
counts = st.integers(1, 512)
positions = st.integers(1, 4)


def op(attention: Gqa | BlockSparseGqa, requests: int, ctx: int, tokens: int = 1) -> Op:
    core = attention.core(tokens)
    return cores.CORES[core.op].build("fp8", *core.sizes, requests, requests * ctx, 64.0)


def test_what_the_layer_projects_and_keeps() -> None:
    assert M3.weights(HIDDEN) == DENSE.weights(HIDDEN) + HIDDEN * (4 + 1) * 128
    # Keys and values of four heads in the format of the cache, and a BF16 index key.
    assert M3.kept_bytes("fp8") == {None: 2 * 4 * 128 + 2 * 128}
    assert M3.kept_bytes("bf16") == {None: 2 * 4 * 128 * 2 + 2 * 128}


@given(contexts)
def test_what_a_token_reads_and_computes(ctx: int) -> None:
    read, scored = min(ctx, READ), ctx if ctx > READ else 0
    assert M3.read_bytes("fp8", ctx) == 1024 * read + 256 * scored
    assert M3.core_flops(ctx) == 64 * 128 * 4 * read + 4 * 128 * 2 * scored


@given(counts, contexts, positions)
def test_the_kernel_in_closed_form(requests: int, ctx: int, tokens: int) -> None:
    found, read, scored = op(M3, requests, ctx, tokens), min(ctx, READ), max(ctx > READ, 0) * ctx
    flops = 64 * tokens * 128 * 4 * read + 4 * tokens * 128 * 2 * scored
    assert found.least_flops() == requests * flops
    # Each position reads its own choice, at most the context; index keys are read once.
    cache = 1024 * min(ctx, read * tokens)
    queries = 64 * tokens * 2 * 128 * 2
    assert found.bytes == requests * (cache + 256 * scored + queries)


@given(counts, st.integers(1, READ), positions)
def test_up_to_the_threshold_it_is_dense(requests: int, ctx: int, tokens: int) -> None:
    dense, found = op(DENSE, requests, ctx, tokens), op(M3, requests, ctx, tokens)
    assert found.flops == dense.flops
    assert found.least_flops() == dense.least_flops()
    assert found.bytes == dense.bytes


@given(counts, contexts, contexts, positions)
def test_more_context_is_no_less_work(requests: int, ctx: int, other: int, tokens: int) -> None:
    less, more = (op(M3, requests, each, tokens) for each in sorted((ctx, other)))
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


@given(counts, counts, contexts)
def test_more_requests_are_more_work(requests: int, other: int, ctx: int) -> None:
    less, more = (op(M3, each, ctx) for each in sorted((requests, other)))
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(8193, 200_000))
def test_more_blocks_are_more_work(blocks: int, other: int, ctx: int) -> None:
    less, more = (op(M3.replaced(top_blocks=each), 8, ctx) for each in sorted((blocks, other)))
    assert (less.flops <= more.flops) & (less.bytes <= more.bytes)


def test_without_requests_there_is_no_work() -> None:
    assert op(M3, 0, 0).flops == op(M3, 0, 0).bytes == 0


@pytest.mark.parametrize(("ways", "heads", "kv_heads"), [(2, 32, 2), (4, 16, 1), (8, 8, 1)])
def test_index_heads_are_divided_and_their_key_is_not(ways: int, heads: int, kv_heads: int) -> None:
    part = M3.cut(ways)
    assert part.core(1).sizes == (heads, kv_heads, 128, kv_heads, 128, READ, 1)
    assert part.index_bytes() == M3.index_bytes()


def test_keys_and_values_of_two_widths_are_twice_their_mean() -> None:
    mimo = DENSE.replaced(head_dim=192, value_dim=128)
    found, wide = op(mimo, 3, 5000), op(DENSE.replaced(head_dim=160), 3, 5000)
    assert found.key == wide.key == "q64kv4d160"
    assert found.flops == wide.flops
    assert found.bytes == wide.bytes
    assert mimo.kept_bytes("fp8") == {None: 4 * (192 + 128)}
    assert mimo.after_core(HIDDEN)[0].k == 64 * 128


def test_values_by_the_keys_weights_are_kept_all_the_same() -> None:
    same = DENSE.replaced(k_is_v=True)
    assert DENSE.weights(HIDDEN) - same.weights(HIDDEN) == HIDDEN * 4 * 128
    assert same.kept_bytes("fp8") == DENSE.kept_bytes("fp8")
    assert np.array_equal(op(same, 2, 700).bytes, op(DENSE, 2, 700).bytes)

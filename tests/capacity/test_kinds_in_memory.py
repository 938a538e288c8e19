"""Kinds of attention and FFN in memory: what requests and weights take, and when it is too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.deployments import compile_deployment
from sim.deployments.ep import EpDeployment
from sim.foundation.errors import InfeasibleError
from sim.inputs.scenario import load
from tests import tiny

# gpt-oss-120b: 36 layers of 8 KV heads of 64, a window of 128 in every other one.
HIDDEN, LAYERS, EXPERTS = 2880, 36, 128
KEPT = 2 * 8 * 64


def gpt_oss(*sets: str) -> EpDeployment:
    site = compile_deployment(load("gpt-oss-120b-ep4-gb200", sets))
    assert isinstance(site, EpDeployment)
    return site


@pytest.mark.parametrize(
    ("ctx", "windows", "whole"), [(5, 64, 64), (100, 128, 128), (5000, 128, 5056)]
)
def test_windows_and_whole_contexts_take_their_own_blocks(
    ctx: int, windows: int, whole: int
) -> None:
    site = gpt_oss()
    assert site.layout.block_tokens == 64
    assert site.layout.request_bytes(ctx) == LAYERS // 2 * KEPT * (windows + whole)


def test_a_stated_capacity_counts_the_whole_contexts_alone() -> None:
    site = gpt_oss("memory.kv_tokens=2000000")
    assert site.layout.request_bytes(5000) == LAYERS // 2 * KEPT * 5056


def test_weights_of_mxfp4_experts_beside_bf16_attention() -> None:
    site = gpt_oss()
    attention = HIDDEN * (64 + 2 * 8) * 64 + 64 * 64 * HIDDEN
    router, vocab = EXPERTS * HIDDEN, 2 * 201_088 * HIDDEN
    experts = EXPERTS // 4 * 3 * HIDDEN * HIDDEN * (4 + 8 / 32) / 8
    held = LAYERS * (attention * 2 + router * 2 + experts) + vocab * 2
    assert site.kv_memory().weights_bytes == pytest.approx(held)


def block_sparse(folder: Path, requests: int) -> EpDeployment:
    """Return the tiny model with block-sparse attention, a context of 120,000 in each request."""
    path = folder / "sparse.yaml"
    chosen = "    block_tokens: 128\n    top_blocks: 16\n    index_heads: 1\n    index_dim: 128\n"
    text = tiny.MODEL.replace("    window: 64\n", chosen).replace("kind: gqa", "kind: block_sparse")
    path.write_text(text)
    site = compile_deployment(
        tiny.load(
            path,
            "dsv3-ep128",
            f"workload.arrivals.concurrency={requests}",
            "workload.lengths.prompt={kind: fixed, tokens: 119960}",
        )
    )
    assert isinstance(site, EpDeployment)
    return site


def test_a_batch_fits_up_to_its_index_keys(tmp_path: Path) -> None:
    site = block_sparse(tmp_path, 4)
    # Keys and values of one head in BF16 and a BF16 index key, in each of three layers.
    each = tiny.LAYERS * (2 * 128 * 2 + 128 * 2)
    blocks = -(-120_000 // site.layout.block_tokens) * site.layout.block_tokens
    assert site.layout.request_bytes(120_000) == blocks * each
    fits = int(site.kv_memory().kv_capacity_bytes() // (blocks * each))
    block_sparse(tmp_path, 4 * fits).check_memory()
    with pytest.raises(InfeasibleError):
        block_sparse(tmp_path, 4 * (fits + 1)).check_memory()

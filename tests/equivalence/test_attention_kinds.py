"""Each kind of attention under each engine: the same bytes, and the bound is their steady state."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.engines.bound import BoundEngine
from sim.inputs.scenario import load
from tests.equivalence.test_bound import steady_ns
from tests.equivalence.test_scenarios import compare

LATENT = (
    "query_heads: 16, q_lora: 256, kv_lora: 512, rope: 64, nope: 128, v: 128, kv_dtype: fp8, "
    "source: test"
)
SPARSE = f"kind: dsa, {LATENT}, index_heads: 8, index_dim: 128, top_k: 256"
ENTRIES = (
    "kind: compressed, query_heads: 16, q_lora: 256, head_dim: 512, rope: 64, o_groups: 4, "
    "o_lora: 256, window: 64, kv_dtype: fp8, source: test"
)
CHOSEN = (
    f"{ENTRIES}, compression: {{tokens: 4, overlap: true, state_rows: 8}}, "
    "index: {heads: 8, dim: 128, top_k: 64}"
)
ALL = f"{ENTRIES}, compression: {{tokens: 128, overlap: false, state_rows: 128}}"
DELTA = "key_heads: 4, value_heads: 8, key_dim: 64, value_dim: 128, conv: 4, source: test"
MAMBA2 = "kind: mamba2, heads: 16, head_dim: 64, state: 128, groups: 4, conv: 4, source: test"
GQA = "kind: gqa, query_heads: 16, kv_heads: 2, head_dim: 128, kv_dtype: fp8, source: test"
BLOCKS = GQA.replace("kind: gqa", "kind: block_sparse")
# Attentions that take turns in the layers of a model.
KINDS = {
    "delta": (
        f"{{kind: gdn, {DELTA}, state_dtype: fp32}}",
        f"{{{GQA}}}",
        f"{{kind: kda, {DELTA}, state_dtype: bf16}}",
    ),
    "mamba2": (f"{{{GQA}}}", f"{{{MAMBA2}, state_dtype: bf16}}"),
    "block_sparse": (
        f"{{{BLOCKS}, block_tokens: 64, top_blocks: 4, index_heads: 2, index_dim: 128}}",
        f"{{{GQA}, value_dim: 64, window: 128}}",
    ),
    "dsa": (f"{{{SPARSE}}}", f"{{{SPARSE}, indexes: false}}"),
    "compressed": (f"{{{ENTRIES}}}", f"{{{CHOSEN}}}", f"{{{ALL}}}"),
}
# Contexts on both sides of what is read.
LENGTHS = (
    "workload.lengths={kind: drawn, prompt: {kind: uniform, low: 1, high: 900}, "
    "output: {kind: geometric, mean: 12, max_tokens: 60}}"
)
SMALL = {
    "step3-2a2f": (
        "deployment.attention.gpus_per_instance=2",
        "deployment.attention.lm_head_tp=1",
        "deployment.ffn.gpus_per_instance=2",
    ),
    "dsv3-ep128": ("deployment.gpus=4", "deployment.lm_head_tp=1"),
}
DRAFTS = (
    "speculation={drafts: 2, draft_layer: {attention: a0, ffn: moe}, "
    "acceptance: {kind: constant, p: {value: 0.6, source: test}}}"
)


def card(folder: Path, kind: str) -> Path:
    """Write a model of two dense and four MoE layers into `folder`, two of each attention."""
    kinds = range(len(KINDS[kind]))
    attention = "".join(f"\n  a{each}: {KINDS[kind][each]}" for each in kinds)
    dense, moe = (
        ", ".join(f"{{attention: a{each}, ffn: {ffn}}}" for each in kinds)
        for ffn in ("dense", "moe")
    )
    streams = "\nhyper_connections: 4" if kind == "compressed" else ""
    path = folder / f"{kind}.yaml"
    path.write_text(f"""
kind: model
name: {kind}
title: {kind}
hidden: 1024
vocab: 4096{streams}
source: test
attention:{attention}
ffn:
  dense: {{kind: dense, intermediate: 4096, source: test}}
  moe:
    kind: moe
    experts: 8
    top_k: 2
    expert_intermediate: 512
    shared: 1
    shared_intermediate: 512
    source: test
layers:
  - {{repeat: 1, pattern: [{dense}]}}
  - {{repeat: 2, pattern: [{moe}]}}
""")
    return path


def sets(folder: Path, kind: str, base: str, *more: str) -> list[str]:
    closed = "workload.arrivals={kind: closed, concurrency: 40}"
    few = "simulation.max_steps=20"
    model = f"model={card(folder, kind)}"
    return [model, "routing={kind: balanced}", closed, few, LENGTHS, *SMALL[base], *more]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", SMALL)
@pytest.mark.parametrize("more", [(), (DRAFTS,)])
def test_both_engines_agree_to_the_byte(
    tmp_path: Path, base: str, kind: str, more: tuple[str, ...]
) -> None:
    assert compare(base, sets(tmp_path, kind, base, *more)) is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", SMALL)
def test_the_bound_is_the_steady_state(tmp_path: Path, base: str, kind: str) -> None:
    site = compile_deployment(load(base, sets(tmp_path, kind, base)))
    times = [site.times(site.expected.batch_of(20)) for _ in range(site.micro_batches)]
    assert BoundEngine(site.program).step_ns(times) == steady_ns(site.program, times)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_counts_all_kernel_time(tmp_path: Path, kind: str) -> None:
    run = simulate(load("dsv3-ep128", sets(tmp_path, kind, "dsv3-ep128")))
    assert sum(run.usage_ns.values()) > 0

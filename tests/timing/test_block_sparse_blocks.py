"""Block-sparse attention on calibrated cards: blocks of the profile's engine, as measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.batch import GpuTokens
from sim.deployments.deployment import Deployment
from sim.inputs import cards
from sim.inputs.scenario import load

ALONE = "workload.arrivals={kind: closed, concurrency: 8}"


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model with the layers of MiniMax-M3 (hidden size, attention, experts)."""
    path = tmp_path_factory.mktemp("m3") / "m3.yaml"
    text = (cards.packaged(cards.MODELS) / "minimax-m2.5.yaml").read_text()
    before, after = text.index("attention:\n"), text.index("ffn:\n")
    shape = "query_heads: 64, kv_heads: 4, head_dim: 128, kv_dtype: bf16, source: test"
    index = "block_tokens: 128, top_blocks: 16, index_heads: 4, index_dim: 128"
    attention = f"attention:\n  full: {{kind: block_sparse, {shape}, {index}}}\n"
    text = text[:before] + attention + text[after:]
    path.write_text(text.replace("hidden: 3072", "hidden: 6144"))
    return path


def site(model: Path, card: str, software: str, *more: str) -> Deployment:
    sets = [f"model={model}", f"deployment.accelerator={card}", f"software={software}", ALONE]
    return compile_deployment(load("minimax-m2.5-ep8-h200", [*sets, *more]))


def core_us(made: Deployment, requests: int, ctx: int) -> float:
    _, line = made.core_timer.core_line("full", 1)
    each = np.array([requests])
    return float(line.timed(each, each * ctx).ns[0]) / 1e3


def block_us(made: Deployment, requests: int, ctx: int) -> float:
    timer, tokens = made.core_timer, GpuTokens(np.array([requests]))
    around = timer.before_core("full", tokens) + timer.output("full", tokens, 1)
    return core_us(made, requests, ctx) + float(around.ns[0]) / 1e3


# Whole blocks of MiniMax-M3 with all heads (aiconfigurator 0.12.0).
@pytest.mark.parametrize(
    ("card", "software", "formats", "requests", "ctx", "measured_us"),
    [
        ("h200-sxm", "vllm", "{gemm: fp8, kv: fp8, lm_head: bf16}", 64, 32_768, 259.7),
        ("h200-sxm", "vllm", "{gemm: fp8, kv: fp8, lm_head: bf16}", 1, 131_072, 66.5),
        ("h200-sxm", "vllm", "{gemm: fp8, kv: fp8, lm_head: bf16}", 128, 1024, 156.6),
        ("b200", "vllm", "{gemm: nvfp4, kv: fp8, lm_head: bf16}", 128, 65_536, 504.7),
        ("b200", "sglang", "{gemm: bf16, kv: fp8, lm_head: bf16}", 128, 8193, 335.8),
        ("b200", "trtllm", "{gemm: nvfp4, kv: bf16, lm_head: bf16}", 32, 65_536, 380.3),
    ],
)
def test_a_profile_takes_the_block_of_its_engine(
    m3: Path, card: str, software: str, formats: str, requests: int, ctx: int, measured_us: float
) -> None:
    made = site(m3, card, software, f"precision={formats}")
    # TensorRT-LLM's blocks with one KV head take several times as long, and blur those with four.
    near = 0.08 if software == "trtllm" else 0.04
    assert block_us(made, requests, ctx) == pytest.approx(measured_us, rel=near)


@pytest.mark.parametrize("software", ["sglang", "trtllm", "vllm"])
def test_time_rises_with_context_and_requests(m3: Path, software: str) -> None:
    made = site(m3, "b200", software)
    for requests in (1, 8, 48, 256, 1024):
        times = [core_us(made, requests, round(ctx)) for ctx in np.geomspace(256, 262_144, 60)]
        assert (np.diff(times) >= -0.02 * np.array(times[1:])).all(), requests
    for ctx in (512, 2048, 4096, 32_768, 163_840):
        times = [core_us(made, requests, ctx) for requests in range(1, 400, 7)]
        assert (np.diff(times) >= -0.02 * np.array(times[1:])).all(), ctx


@pytest.mark.parametrize("ctx", [2048, 131_072])
def test_no_core_beats_the_memory(m3: Path, ctx: int) -> None:
    made = site(m3, "h200-sxm", "vllm", "precision.kv=fp8")
    attention = made.model.attention["full"]
    least_us = 256 * attention.read_bytes("fp8", ctx) / 4.8e12 * 1e6
    assert core_us(made, 256, ctx) >= least_us
